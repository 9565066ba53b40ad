"""The mean over classes, so that a class with many examples counts no more than one with few."""

import torch
from torch import Tensor


def mean_by_class(values: Tensor, classes: Tensor) -> Tensor:
    """The mean over classes of the mean of each class: the pointing game's accuracy, of hits.

    mean_{k in classes} mean_{n: classes_n = k} values_n

    Args:
        values: A number for each example, or whether it is a hit. [N]
        classes: The class of each example, integers. [N]

    Returns:
        The mean, in the dtype of the values (the default one for bools and integers); NaN if a value is NaN, or there
        is no example. []

    Raises:
        ValueError: If the shapes or dtypes are others.

    Example:
        >>> hits = torch.tensor([True, True, True, False])  # three cats and a dog
        >>> mean_by_class(hits, torch.tensor([285, 285, 285, 207]))
        tensor(0.5000)

    References:
        Zhang et al., 2016, arXiv:1608.00507; Fong et al., 2019, arXiv:1910.08485 (TorchRay).
    """
    if values.ndim != 1 or values.is_complex():
        raise ValueError(
            f"mean_by_class(values=...): expected a real number for each example, [N], got {list(values.shape)} "
            f"of {values.dtype}."
        )
    if classes.shape != values.shape or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"mean_by_class(classes=...): expected an integer for each value, {list(values.shape)}, "
            f"got {list(classes.shape)} of {classes.dtype}."
        )
    dtype = values.dtype if values.is_floating_point() else torch.get_default_dtype()
    precise = torch.promote_types(dtype, torch.float32)  # half precision cannot count that far

    ordered, order = classes.to(values.device).sort()
    is_first = torch.cat([torch.ones_like(ordered[:1], dtype=torch.bool), ordered[1:] != ordered[:-1]])
    group = is_first.cumsum(0) - 1  # classes numbered from 0 by their order. [N]
    sums = torch.zeros_like(values, dtype=precise).scatter_add(0, group, values[order].to(precise))
    counts = torch.zeros_like(group).scatter_add(0, group, torch.ones_like(group))
    means = sums / counts.clamp(min=1)  # 0 behind the last class
    return (means.sum() / is_first.sum()).to(dtype)
