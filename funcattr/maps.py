"""From attributions to maps: channel reduction, resizing, smoothing and normalisation, each a pure function.

Attributions are [N, C, *spatial] with any number of spatial dimensions; maps are [N, 1, *spatial]. Of three dimensions
it cannot be seen whether they are those of signals, [N, C, T], or of one image without its batch, [C, H, W]: say
`rank=1` for signals. [N, 1, T] are maps of signals, for no image has one row.
"""

import math
from collections.abc import Sequence
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor


def max_abs(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Largest magnitude over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions: [N, C, *spatial]
        rank: How many spatial dimensions they have; needed for signals only, 1.

    Raises:
        ValueError: If the shape is another, or of three dimensions and nothing says which.

    Example:
        >>> max_abs(torch.tensor([[1.0, -3.0]]))
        tensor([[3.]])

    References:
        Simonyan et al., 2014, arXiv:1312.6034, section 3.1.
    """
    return _features("max_abs", attributions, rank).abs().amax(1, keepdim=True)


def sum(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Sum over channels; keeps the total of each example. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions, rank: As in `max_abs`.

    Raises:
        ValueError: As in `max_abs`.

    Example:
        >>> sum(torch.tensor([[1.0, -3.0]]))
        tensor([[-2.]])
    """
    return _features("sum", attributions, rank).sum(1, keepdim=True)


def abs_sum(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Sum of magnitudes over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions, rank: As in `max_abs`.

    Raises:
        ValueError: As in `max_abs`.

    Example:
        >>> abs_sum(torch.tensor([[1.0, -3.0]]))
        tensor([[4.]])
    """
    return _features("abs_sum", attributions, rank).abs().sum(1, keepdim=True)


def l2(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Euclidean norm over channels. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions, rank: As in `max_abs`.

    Raises:
        ValueError: As in `max_abs`.

    Example:
        >>> l2(torch.tensor([[3.0, -4.0]]))
        tensor([[5.]])
    """
    return torch.linalg.vector_norm(_floating("l2", _features("l2", attributions, rank)), dim=1, keepdim=True)


def positive(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Positive part of the sum over channels: evidence for the target. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions, rank: As in `max_abs`.

    Raises:
        ValueError: As in `max_abs`.

    Example:
        >>> positive(torch.tensor([[1.0, -3.0]]))
        tensor([[0.]])
    """
    return _features("positive", attributions, rank).sum(1, keepdim=True).clamp(min=0)


def negative(attributions: Tensor, *, rank: int | None = None) -> Tensor:
    """Negative part of the sum over channels, as a magnitude. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        attributions, rank: As in `max_abs`.

    Raises:
        ValueError: As in `max_abs`.

    Example:
        >>> negative(torch.tensor([[1.0, -3.0]]))
        tensor([[2.]])
    """
    return (-_features("negative", attributions, rank).sum(1, keepdim=True)).clamp(min=0)


_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_MODES = ("nearest", "nearest-exact", "area", "bicubic", *_LINEAR.values())
LEAST_SIGMA = 0.1
"""In pixels: the weight of a neighbour is then exp(-50), and nothing is smoothed."""
_PADDINGS = ("replicate", "reflect", "circular", "constant")


def resize(
    maps: Tensor, size: int | Sequence[int] | Tensor, *, mode: str = "bilinear", rank: int | None = None
) -> Tensor:
    """Interpolate maps to a size, or to the size of a tensor.

    Args:
        maps: [N, C, *spatial] with one to three spatial dimensions.
        size: New spatial size in pixels, (height, width) for images; one number for all dimensions; or a tensor
            [N, C', *spatial] whose spatial size is taken.
        mode: `"nearest"`, `"bilinear"` (linear in any number of dimensions), `"bicubic"` or `"area"`.
            Corners are not aligned.
        rank: As in `max_abs`; a size of several numbers says it too.

    Returns:
        [N, C, *size]

    Raises:
        TypeError: If the maps are not of floating point.
        ValueError: If the mode is another, a size is below 1, or the dimensions do not fit or are not told apart.

    Example:
        >>> resize(torch.eye(2)[None, None], 4, mode="nearest").shape
        torch.Size([1, 1, 4, 4])
    """
    # Several numbers say how many dimensions are spatial; a tensor of three may lack its batch as the maps do.
    if rank is None and (isinstance(size, Sequence) or (isinstance(size, Tensor) and size.ndim != 3)):
        rank = maps.ndim - 2
    rank = _floating("resize", _features("resize", maps, rank)).ndim - 2
    if isinstance(size, Tensor):
        size = size.shape[2:]
    size = _pixels(size) if isinstance(size, Sequence) else _pixels([size]) * rank
    if len(size) != rank or not 1 <= rank <= 3:
        batch = " Is the batch missing? Give maps[None]." if len(size) == rank + 1 else ""
        raise ValueError(
            f"resize(size={size}): expected {rank} numbers (1 to 3) for maps of shape {list(maps.shape)}.{batch}"
        )
    if any(n < 1 for n in (*size, *maps.shape[2:])):
        raise ValueError(
            f"resize(size={size}): expected a pixel or more in each dimension, for maps of shape {list(maps.shape)}."
        )
    if mode not in _MODES or (mode == "bicubic" and rank != 2):
        raise ValueError(
            f"resize(mode={mode!r}): expected 'nearest', 'bilinear', 'area', or for two dimensions 'bicubic'; "
            f"the maps have shape {list(maps.shape)}."
        )
    if mode in _LINEAR.values():
        mode = _LINEAR[rank]
    corners = None if mode in ("nearest", "nearest-exact", "area") else False
    return F.interpolate(maps, size=size, mode=mode, align_corners=corners)


def smooth(maps: Tensor, sigma: float, *, padding: str = "replicate", rank: int | None = None) -> Tensor:
    """Gaussian smoothing over the spatial dimensions.

    f_i = exp(-(i / (sqrt(2) sigma + 1.19e-7))^2), i = -w..w, w = ceil(4 sigma), normalised to sum 1

    Args:
        maps: [N, C, *spatial]
        sigma: Standard deviation in pixels; 0 is the identity. TorchRay's `smooth=s` is `sigma=s * max(H, W)`.
        padding: `"replicate"`, `"reflect"`, `"circular"`, or `"constant"` for zeros.
        rank: As in `max_abs`.

    Returns:
        [N, C, *spatial]; a constant map stays as it is, but for zero padding.

    Raises:
        TypeError: If the maps are not of floating point.
        ValueError: If `sigma` is negative, so small that it can only be meant as a share of the image, or so large that
            "reflect" or "circular" would have to repeat; `padding` is another; or the shape is another, or of three
            dimensions and nothing says which.

    Example:
        >>> smooth(torch.ones(1, 1, 5, 5), sigma=1.0).sum().round()
        tensor(25.)

    References:
        TorchRay's `imsmooth` (Fong et al., 2019, arXiv:1910.08485).
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"smooth(sigma={sigma}): expected a standard deviation >= 0.")
    if 0 < sigma < LEAST_SIGMA:
        raise ValueError(
            f"smooth(sigma={sigma}): expected pixels, and at least {LEAST_SIGMA} of one, for less smooths nothing. For "
            "a share of the image give sigma=share * max(H, W); 0 leaves the maps as they are."
        )
    if padding not in _PADDINGS:
        raise ValueError(f"smooth(padding={padding!r}): expected one of {', '.join(map(repr, _PADDINGS))}.")
    _floating("smooth", _features("smooth", maps, rank))
    if sigma == 0:
        return maps
    # Half precision is too coarse for the taps: in bfloat16, 257 is not a number and the weights do not sum to 1.
    smoothed = maps.to(torch.promote_types(maps.dtype, torch.float32))
    width = math.ceil(4 * sigma)
    least = {"reflect": width + 1, "circular": width}.get(padding, 0)
    if any(length < least for length in maps.shape[2:]):
        raise ValueError(
            f"smooth(sigma={sigma}, padding={padding!r}): expected maps of {least} pixels or more in each dimension, "
            f"for neighbours go {width} pixels far, 4 sigma; got shape {list(maps.shape)}. Take a smaller sigma, or "
            "padding='replicate'."
        )
    taps = torch.arange(-width, width + 1, dtype=smoothed.dtype, device=maps.device)
    kernel = torch.exp(-((taps / (math.sqrt(2) * sigma + 1.19e-7)) ** 2))
    kernel = (kernel / kernel.sum())[None, None]
    for axis in range(2, maps.ndim):
        lines = smoothed.movedim(axis, -1)
        flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (width, width), mode=padding)
        smoothed = F.conv1d(flat, kernel).reshape(lines.shape).movedim(-1, axis)
    return smoothed.to(maps.dtype)


def normalize(maps: Tensor, *, scale: str = "range", rank: int | None = None) -> Tensor:
    """Scale each example's map for display.

    Args:
        maps: [N, C, *spatial]
        scale: `"range"`: (m - min) / (max - min), in 0..1. `"max"`: m / max |m|, in -1..1, zero stays zero.
        rank: As in `max_abs`.

    Returns:
        [N, C, *spatial], of floating point; a constant map (`"range"`) or a zero map (`"max"`) becomes zeros.

    Raises:
        ValueError: If `scale` is another; or as in `max_abs`.

    Example:
        >>> normalize(torch.tensor([[[2.0, 4.0]]]))
        tensor([[[0., 1.]]])
    """
    dims = tuple(range(1, _features("normalize", maps, rank).ndim))
    # The difference of two numbers in half precision, or of two small integers, may be none.
    values = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if scale == "range":
        low = values.amin(dims, keepdim=True)
        values, size = values - low, values.amax(dims, keepdim=True) - low
    elif scale == "max":
        size = values.abs().amax(dims, keepdim=True)
    else:
        raise ValueError(f"normalize(scale={scale!r}): expected 'range' or 'max'.")
    found = values / torch.where(size == 0, 1, size)
    return found.to(maps.dtype) if maps.is_floating_point() else found


def from_tokens(maps: Tensor, *, skip: int, like: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
    """Maps of tokens as maps of the image's patches: drop the first tokens, and lay out the rest row by row.

    Args:
        maps: One number for each token, [N, T] or [N, 1, T], as `grad_cam(channel_dim=-1)` returns them.
        skip: How many tokens at the beginning are of no patch: class and register tokens. 1 for most ViTs.
        like: Images whose proportions say how many rows and columns there are. [N, C, H, W]
        grid: (rows, columns), in place of `like`.

    Returns:
        [N, 1, rows, columns]; `resize` brings it to the image's size.

    Raises:
        ValueError: If no grid of the image's proportions has T - skip patches, the grid has another number of them,
            the shape is another, or not one of `like` and `grid` is given.

    Example:
        >>> from_tokens(torch.arange(9.0)[None], like=torch.zeros(1, 3, 32, 64), skip=1)
        tensor([[[[1., 2., 3., 4.],
                  [5., 6., 7., 8.]]]])
    """
    shape = list(maps.shape)
    if not (maps.ndim == 2 or (maps.ndim == 3 and shape[1] == 1)):
        raise ValueError(
            f"from_tokens(maps=...): expected one number for each token, [N, T] or [N, 1, T], got {shape}. Of "
            "attributions [N, T, D] take the sum over D first: attributions.sum(-1)."
        )
    if isinstance(skip, bool) or not isinstance(skip, int):
        raise TypeError(f"from_tokens(skip={skip!r}): expected a number of tokens, an int.")
    patches = shape[-1] - skip
    if not 0 <= skip < shape[-1]:
        raise ValueError(f"from_tokens(skip={skip}): expected 0 to {shape[-1] - 1}, for there are {shape[-1]} tokens.")
    if (like is None) == (grid is None):
        raise ValueError("from_tokens(like=..., grid=...): expected one of them, the images or (rows, columns).")
    if like is not None:
        if like.ndim != 4:
            raise ValueError(f"from_tokens(like=...): expected images [N, C, H, W], got {list(like.shape)}.")
        height, width = like.shape[2:]
        rows = math.isqrt(patches * height // width) if width else 0
        columns = patches // rows if rows else 0
        if rows * columns != patches or rows * width != columns * height:
            raise ValueError(
                f"from_tokens(like=..., skip={skip}): expected so many patches that they make a grid of the "
                f"proportions {height} x {width}, got {shape[-1]} tokens - {skip} = {patches}. Count the class and "
                "register tokens, or give grid=(rows, columns)."
            )
    else:
        if not isinstance(grid, Sequence) or len(grid) != 2:
            raise TypeError(f"from_tokens(grid={grid!r}): expected (rows, columns).")
        rows, columns = grid
        if rows * columns != patches or rows < 1:
            raise ValueError(
                f"from_tokens(grid=({rows}, {columns}), skip={skip}): expected rows * columns = {shape[-1]} tokens - "
                f"{skip} = {patches}."
            )
    return maps.reshape(shape[0], 1, shape[-1])[..., skip:].reshape(shape[0], 1, rows, columns)


def _features(call: str, values: Tensor, rank: int | None) -> Tensor:
    """The values, once their shape is known to be [N, C, *spatial]."""
    shape = list(values.shape)
    if values.ndim < 2:
        raise ValueError(f"{call}: expected a shape [N, C, *spatial], got {shape}.")
    if rank is not None and values.ndim != rank + 2:
        raise ValueError(
            f"{call}(rank={rank}): expected a shape [N, C, *spatial] with {rank} spatial dimensions, got {shape}."
        )
    if rank is None and values.ndim == 3 and shape[1] != 1:
        raise ValueError(
            f"{call}: expected a shape [N, C, *spatial], got {shape}. If this is one image [C, H, W], its batch is "
            f"missing: give it as [None]. If these are signals [N, C, T], say {call}(..., rank=1)."
        )
    return values


def _pixels(size: Sequence[int]) -> list[int]:
    """Numbers of pixels, NumPy's too, as ints."""
    try:
        # Compiled code has numbers of its own, which would become constants.
        return [n if isinstance(n, int | torch.SymInt) else index(n) for n in size]
    except TypeError as error:
        raise TypeError(f"resize(size={size!r}): expected ints, the pixels of each dimension, or a tensor.") from error


def _floating(call: str, values: Tensor) -> Tensor:
    """The values, which may be others afterwards than integers hold."""
    if not (values.is_floating_point() or values.is_complex()):
        raise TypeError(f"{call}: expected floating-point numbers, got {values.dtype}. Give maps.float(), say.")
    return values
