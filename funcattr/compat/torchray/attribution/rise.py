"""RISE, as `torchray.attribution.rise`."""

from typing import Any

from torch import Tensor, nn

from .... import FuncattrError
from .... import rise as masked
from .seeds import resize_saliency


def rise(
    model: nn.Module,
    input: Tensor,
    target: Any = None,
    seed: int = 0,
    num_masks: int = 8000,
    num_cells: int = 7,
    filter_masks: Tensor | None = None,
    batch_size: int = 32,
    p: float = 0.5,
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
) -> Tensor:
    """Maps of all classes: the mean of random masks, each weighted by the sigmoid of the model's output under it.

    Args:
        model: A module whose output is [N, K].
        input: [N, C, H, W]
        target: None; the maps of given classes are those of `rise_class`.
        seed: Of the masks. It draws other masks than TorchRay's, of the same distribution.
        num_masks: How many random masks.
        num_cells: Cells of the random grid along each side.
        filter_masks: The masks themselves, [n, 1, H, W] or [n, H, W]; `num_masks` and `num_cells` then mean nothing.
        batch_size: How many masks run at once.
        p: The probability that a cell is kept.
        resize, resize_mode: As in `common.saliency`.

    Returns:
        [N, K, H, W]

    Raises:
        FuncattrError: If a target is given.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
        >>> rise(model, torch.rand(1, 3, 8, 8), num_masks=20, num_cells=3).shape
        torch.Size([1, 5, 8, 8])
    """
    if target is not None:
        raise FuncattrError(f"rise(target={target!r}): it gives the maps of all classes. Take rise_class.")
    options = (seed, num_masks, num_cells, filter_masks, batch_size, p, resize, resize_mode)
    return _maps(model, input, None, *options)


def rise_class(*args: Any, target: Any, **kwargs: Any) -> Tensor:
    """The map of a class for all examples, or one for each, by the arguments of `rise`. [N, 1, H, W]

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
        >>> rise_class(model, torch.rand(2, 3, 8, 8), target=[1, 3], num_masks=20).shape
        torch.Size([2, 1, 8, 8])
    """
    return _maps(*args, target=target, **kwargs)


def _maps(
    model: nn.Module,
    input: Tensor,
    target: Any,
    seed: int = 0,
    num_masks: int = 8000,
    num_cells: int = 7,
    filter_masks: Tensor | None = None,
    batch_size: int = 32,
    p: float = 0.5,
    resize: bool | tuple[int, int] = False,
    resize_mode: str = "bilinear",
) -> Tensor:
    masks = filter_masks
    if masks is not None and masks.ndim == 4:
        masks = masks.squeeze(1)
    map = masked(
        model,
        input,
        target,
        samples=num_masks,
        cells=num_cells,
        p=p,
        masks=masks,
        generator=seed,
        chunk_size=batch_size,
    )
    return resize_saliency(input, map, resize, resize_mode)
