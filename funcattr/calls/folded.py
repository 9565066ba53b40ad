"""A linear operation and the eval-mode batch norm beside it, as one affine map.

Batch norm is y = s x + t per channel. After a linear operation s scales that one's output channels; before one, its
input channels.
"""

from torch import Tensor


def scaled_outputs(weight: Tensor, scale: Tensor, groups: int, transposed: bool) -> Tensor:
    """The weight of a linear operation whose output channels are multiplied by `scale` [outputs]."""
    # A transposed convolution's is [inputs, outputs / groups, ...], the inputs group by group.
    return weight * (_of_groups(scale, weight, groups) if transposed else _of_rows(scale, weight))


def scaled_inputs(weight: Tensor, scale: Tensor, groups: int, transposed: bool) -> Tensor:
    """The weight of a linear operation whose input channels are multiplied by `scale` [inputs]."""
    # A convolution's is [outputs, inputs / groups, ...], the outputs group by group.
    return weight * (_of_rows(scale, weight) if transposed else _of_groups(scale, weight, groups))


def bias_after(bias: Tensor | None, scale: Tensor, shift: Tensor) -> Tensor:
    """The bias of a linear operation with a batch norm after it: s b + t."""
    return shift if bias is None else bias * scale + shift


def _of_rows(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.ndim - 1))


def _of_groups(scale: Tensor, weight: Tensor, groups: int) -> Tensor:
    rows = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(*weight.shape[:2], *[1] * (weight.ndim - 2))
