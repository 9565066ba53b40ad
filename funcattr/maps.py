"""From attributions to maps: channel reduction, resizing, smoothing and normalisation, each a pure function.

Attributions are [N, C, *spatial] with any number of spatial dimensions; maps are [N, 1, *spatial].
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def max_abs(attributions: Tensor) -> Tensor:
    """Largest magnitude over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> max_abs(torch.tensor([[[1.0], [-3.0]]]))
        tensor([[[3.]]])

    References:
        Simonyan et al., 2014, arXiv:1312.6034, section 3.1.
    """
    return _features("max_abs", attributions).abs().amax(1, keepdim=True)


def sum(attributions: Tensor) -> Tensor:
    """Sum over channels; keeps the total of each example. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> sum(torch.tensor([[[1.0], [-3.0]]]))
        tensor([[[-2.]]])
    """
    return _features("sum", attributions).sum(1, keepdim=True)


def abs_sum(attributions: Tensor) -> Tensor:
    """Sum of magnitudes over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> abs_sum(torch.tensor([[[1.0], [-3.0]]]))
        tensor([[[4.]]])
    """
    return _features("abs_sum", attributions).abs().sum(1, keepdim=True)


def l2(attributions: Tensor) -> Tensor:
    """Euclidean norm over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> l2(torch.tensor([[[3.0], [-4.0]]]))
        tensor([[[5.]]])
    """
    return torch.linalg.vector_norm(_features("l2", attributions), dim=1, keepdim=True)


def positive(attributions: Tensor) -> Tensor:
    """Positive part of the sum over channels: evidence for the target. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> positive(torch.tensor([[[1.0], [-3.0]]]))
        tensor([[[0.]]])
    """
    return sum(attributions).clamp(min=0)


def negative(attributions: Tensor) -> Tensor:
    """Negative part of the sum over channels, as a magnitude. [N, C, *spatial] -> [N, 1, *spatial]

    Example:
        >>> negative(torch.tensor([[[1.0], [-3.0]]]))
        tensor([[[2.]]])
    """
    return (-sum(attributions)).clamp(min=0)


_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_MODES = ("nearest", "nearest-exact", "area", "bicubic", *_LINEAR.values())
_PADDINGS = ("replicate", "reflect", "circular", "constant")


def resize(maps: Tensor, size: int | Sequence[int] | Tensor, *, mode: str = "bilinear") -> Tensor:
    """Interpolate maps to a size, or to the size of a tensor.

    Args:
        maps: [N, C, *spatial] with one to three spatial dimensions.
        size: New spatial size in pixels, (height, width) for images; one number for all dimensions; or a tensor
            [N, C', *spatial] whose spatial size is taken.
        mode: `"nearest"`, `"bilinear"` (linear in any number of dimensions), `"bicubic"` or `"area"`.
            Corners are not aligned.

    Returns:
        [N, C, *size]

    Raises:
        ValueError: If the mode is another, or the number of dimensions does not fit.

    Example:
        >>> resize(torch.eye(2)[None, None], 4, mode="nearest").shape
        torch.Size([1, 1, 4, 4])
    """
    rank = _features("resize", maps).ndim - 2
    if isinstance(size, Tensor):
        size = size.shape[2:]
    size = [size] * rank if isinstance(size, int) else list(size)
    if len(size) != rank or not 1 <= rank <= 3:
        raise ValueError(f"resize(size={size}): expected {rank} numbers (1 to 3) for maps of shape {list(maps.shape)}.")
    if mode not in _MODES or (mode == "bicubic" and rank != 2):
        raise ValueError(
            f"resize(mode={mode!r}): expected 'nearest', 'bilinear', 'area', or for two dimensions 'bicubic'; "
            f"the maps have shape {list(maps.shape)}."
        )
    if mode in _LINEAR.values():
        mode = _LINEAR[rank]
    corners = None if mode in ("nearest", "nearest-exact", "area") else False
    return F.interpolate(maps, size=size, mode=mode, align_corners=corners)


def smooth(maps: Tensor, sigma: float, *, padding: str = "replicate") -> Tensor:
    """Gaussian smoothing over the spatial dimensions.

    f_i = exp(-(i / (sqrt(2) sigma + 1.19e-7))^2), i = -w..w, w = ceil(4 sigma), normalised to sum 1

    Args:
        maps: [N, C, *spatial]
        sigma: Standard deviation in pixels; 0 is the identity. TorchRay's `smooth=s` is `sigma=s * max(H, W)`.
        padding: `"replicate"`, `"reflect"`, `"circular"`, or `"constant"` for zeros.

    Returns:
        [N, C, *spatial]; a constant map stays as it is, but for zero padding.

    Raises:
        ValueError: If `sigma` is negative, or `padding` is another.

    Example:
        >>> smooth(torch.ones(1, 1, 5, 5), sigma=1.0).sum().round()
        tensor(25.)

    References:
        TorchRay's `imsmooth` (Fong et al., 2019, arXiv:1910.08485).
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"smooth(sigma={sigma}): expected a standard deviation >= 0.")
    if padding not in _PADDINGS:
        raise ValueError(f"smooth(padding={padding!r}): expected one of {', '.join(map(repr, _PADDINGS))}.")
    _features("smooth", maps)
    if sigma == 0:
        return maps
    # Half precision is too coarse for the taps: in bfloat16, 257 is not a number and the weights do not sum to 1.
    smoothed = maps.to(torch.promote_types(maps.dtype, torch.float32))
    width = math.ceil(4 * sigma)
    taps = torch.arange(-width, width + 1, dtype=smoothed.dtype, device=maps.device)
    kernel = torch.exp(-((taps / (math.sqrt(2) * sigma + 1.19e-7)) ** 2))
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(2, maps.ndim):
        lines = smoothed.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (width, width), mode=padding)
        smoothed = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return smoothed.to(maps.dtype)


def normalize(maps: Tensor, *, scale: str = "range") -> Tensor:
    """Scale each example's map for display.

    Args:
        maps: [N, C, *spatial]
        scale: `"range"`: (m - min) / (max - min), in 0..1. `"max"`: m / max |m|, in -1..1, zero stays zero.

    Returns:
        [N, C, *spatial]; a constant map (`"range"`) or a zero map (`"max"`) becomes zeros.

    Raises:
        ValueError: If `scale` is another.

    Example:
        >>> normalize(torch.tensor([[[2.0, 4.0]]]))
        tensor([[[0., 1.]]])
    """
    dims = tuple(range(1, _features("normalize", maps).ndim))
    if scale == "range":
        low = maps.amin(dims, keepdim=True)
        maps, size = maps - low, maps.amax(dims, keepdim=True) - low
    elif scale == "max":
        size = maps.abs().amax(dims, keepdim=True)
    else:
        raise ValueError(f"normalize(scale={scale!r}): expected 'range' or 'max'.")
    return maps / torch.where(size == 0, 1, size)


def _features(call: str, values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise ValueError(f"{call}: expected a shape [N, C, *spatial], got {list(values.shape)}.")
    return values
