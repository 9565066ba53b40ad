"""Masks that are smooth by construction: each pixel is a smooth maximum of the parameters around it."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

On = Literal["image", "canvas"]
Pooling = Literal["softmax", "sum"]

# exp(20 s) as 2^(SHARPNESS s): powers of two are the faster ones.
SHARPNESS = 20 / math.log(2)
# Values of one piece of the work: what a CPU's cache holds, and what keeps a GPU busy.
PIECE_ON_CPU, PIECE = 2**18, 2**26


def smooth_mask(
    parameters: Tensor,
    size: tuple[int, int],
    *,
    spacing: int = 7,
    radius: float = 21.0,
    on: On = "image",
    pooling: Pooling = "softmax",
    clamp: bool = True,
) -> Tensor:
    """The smooth mask of a grid of parameters, by max-convolution.

    m(u) = sum_i s_i softmax_i(20 s_i);  s_i = k(|u - u_i| / radius) p_i;  k(z) = exp(-2 max(z - 1/2, 0)^2)

    The parameters lie `spacing` pixels apart, from the image's first pixel on; each pixel sees the (2r + 1)^2 around
    it, r = 1 + ceil(radius / spacing). Those outside the image are 0, so the canvas, which reaches about `radius`
    beyond the image on each side, fades out.

    Args:
        parameters: Values in [0, 1] (further out, the exponential may overflow).
            [..., ceil(H / spacing), ceil(W / spacing)]
        size: The image's, (H, W).
        spacing: Pixels between parameters.
        radius: Of the kernel, in pixels.
        on: What is computed: the mask of the "image", or of the "canvas" around it (`crop` cuts the image out).
        pooling: "softmax" for the smooth maximum of the s_i as above, or their "sum".
        clamp: Whether values outside [0, 1] become 0 or 1; there are none for the smooth maximum of parameters in
            [0, 1].

    Returns:
        Masks in [0, 1] (if `clamp`), in the parameters' dtype. [..., H, W], or the canvas [..., H + about 2 radius,
        W + ...]: 224 pixels have 32 parameters and a canvas of 260.

    Raises:
        ValueError: If the parameters are not of that shape, `spacing` < 1, `radius` <= 0, or `on` or `pooling` is
            another word.
        TypeError: If the parameters are not of floating point.

    Example:
        >>> smooth_mask(torch.ones(32, 32), (224, 224)).shape
        torch.Size([224, 224])
        >>> smooth_mask(torch.ones(32, 32), (224, 224), on="canvas").shape
        torch.Size([260, 260])

    References:
        Fong et al., 2019, arXiv:1910.08485, equation 5 and appendix A.
    """
    check_kernel("smooth_mask", spacing, radius)
    if on not in ("image", "canvas"):
        raise ValueError(f"smooth_mask(on={on!r}): expected 'image' or 'canvas'.")
    if pooling not in ("softmax", "sum"):
        raise ValueError(f"smooth_mask(pooling={pooling!r}): expected 'softmax' or 'sum'.")
    if not parameters.is_floating_point():
        raise TypeError(f"smooth_mask(parameters=...): expected a floating-point tensor, got {parameters.dtype}.")
    expected = parameters_size(size, spacing)
    if tuple(parameters.shape[-2:]) != expected:
        raise ValueError(
            f"smooth_mask(parameters=...): a mask of {size[0]} x {size[1]} pixels with spacing={spacing} has "
            f"parameters [..., {expected[0]}, {expected[1]}], got shape {list(parameters.shape)}."
        )
    grid = mask_grid(parameters, size, spacing, radius, on)
    seen = _seen(parameters, grid)[1]
    groups = _groups(seen, grid.weights)
    if pooling == "sum":
        pooled = [torch.einsum("kp,mkb->mpb", grid.weights, group) for group in groups]
    else:
        pooled = [_pooled(group, grid.weights)[0] for group in groups]
    mask = _to_pixels(torch.cat(pooled), grid.rows, grid.columns).to(parameters.dtype)
    return (mask.clamp(0, 1) if clamp else mask).reshape(*parameters.shape[:-2], *mask.shape[-2:])


def mask_vjp(parameters: Tensor, grid: "MaskGrid") -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`torch.func.vjp` of `smooth_mask` in closed form, which keeps two numbers a pixel in place of 2 (2r + 1)^2.

    dm(u) / dp_i = k_i softmax_i(20 s_i) (1 + 20 (s_i - m(u)))

    Args:
        parameters: As in `smooth_mask`.
        grid: Of the parameters, for the image's size.

    Returns:
        The mask, and `pullback(cotangent of the mask's shape) -> cotangent of the parameters' shape`.

    Example:
        >>> parameters = torch.rand(5, 5)
        >>> mask, pullback = mask_vjp(parameters, mask_grid(parameters, (32, 32)))
        >>> mask.shape, pullback(torch.ones_like(mask)).shape
        (torch.Size([32, 32]), torch.Size([5, 5]))
    """
    rows, columns, weights = grid
    padded, seen = _seen(parameters, grid)
    groups = _groups(seen, weights)
    pairs = [_pooled(group, weights) for group in groups]
    pooled, normaliser = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    mask = _to_pixels(pooled, rows, columns).clamp(0, 1).to(parameters.dtype)

    def pullback(cotangent: Tensor) -> Tensor:
        blocks = _to_blocks(cotangent.to(weights.dtype).reshape(-1, *mask.shape[-2:]), rows, columns)
        parts = [value.split(len(groups[0])) for value in (blocks, seen, pooled, normaliser)]
        of_seen = torch.cat([_pooled_adjoint(*part, weights=weights) for part in zip(*parts, strict=True)])
        of_padded = F.fold(of_seen, (padded.shape[-2], padded.shape[-1]), (rows.taps, columns.taps))
        return F.pad(of_padded, tuple(-p for p in _padding(grid))).reshape(parameters.shape).to(parameters.dtype)

    return mask.reshape(*parameters.shape[:-2], *mask.shape[-2:]), pullback


def crop(canvas: Tensor, size: tuple[int, int], *, radius: float = 21.0) -> Tensor:
    """The image's part of a canvas. [..., H', W'] -> [..., H, W]

    Args:
        canvas: Of `smooth_mask(..., on="canvas")`.
        size: The image's, (H, W).
        radius: As there.

    Returns:
        The masks on the image, a view. [..., H, W]

    Raises:
        ValueError: If the canvas is too small for the image and its margin.

    Example:
        >>> crop(torch.ones(260, 260), (224, 224)).shape
        torch.Size([224, 224])
    """
    margin = round(radius)
    if canvas.ndim < 2 or any(there < margin + wanted for there, wanted in zip(canvas.shape[-2:], size)):
        raise ValueError(
            f"crop(size={size}): expected a canvas with the image behind a margin of {margin} pixels, "
            f"got shape {list(canvas.shape)}."
        )
    return canvas[..., margin : margin + size[0], margin : margin + size[1]]


def check_kernel(call: str, spacing: int, radius: float) -> None:
    """Raise unless `spacing` is a number of pixels and `radius` above zero."""
    if isinstance(spacing, bool) or not isinstance(spacing, int) or spacing < 1:
        raise ValueError(f"{call}(spacing={spacing!r}): expected a number of pixels, 1 or more.")
    if not 0 < radius < math.inf:
        raise ValueError(f"{call}(radius={radius}): expected a radius in pixels above 0.")


def parameters_size(size: tuple[int, int], spacing: int = 7) -> tuple[int, int]:
    """The shape of the parameters of a mask of `size` = (H, W): one for each `spacing` pixels.

    Example:
        >>> parameters_size((224, 220))
        (32, 32)
    """
    return -(-size[0] // spacing), -(-size[1] // spacing)


class Axis(NamedTuple):
    """The pixels of one axis that are computed: in blocks of `spacing`, to which parameters have the same distances.

    Attributes:
        blocks, spacing: Number and length of the blocks.
        skipped: Pixels of the first block that are not asked for.
        length: Pixels asked for.
        taps: Parameters that a block sees: those from b to b + taps - 1, for block b.
        before, after: Zeros around the parameters, so that there are as many.
        origin: Place of a block's first parameter, relative to its first pixel.
    """

    blocks: int
    spacing: int
    skipped: int
    length: int
    taps: int
    before: int
    after: int
    origin: float


class MaskGrid(NamedTuple):
    """How the pixels of smooth masks lie to their parameters; weights k(distance). [taps, pixels of a block]"""

    rows: Axis
    columns: Axis
    weights: Tensor


def mask_grid(
    like: Tensor, size: tuple[int, int], spacing: int = 7, radius: float = 21.0, on: On = "image"
) -> MaskGrid:
    """The grid of parameters `like` these: on their device, in their dtype, but at least in single precision."""
    rows, columns = (_axis(length, spacing, radius, on) for length in size)
    down, across = (
        (axis.origin + spacing * torch.arange(axis.taps).double()[:, None] - torch.arange(spacing)) / radius
        for axis in (rows, columns)
    )
    distance = torch.hypot(down[:, None, :, None], across[None, :, None, :])
    kernel = torch.exp(-2 * (distance - 0.5).clamp(min=0) ** 2)
    # exp(20) is no number in float16.
    dtype = torch.promote_types(like.dtype, torch.float32)
    return MaskGrid(rows, columns, rearrange(kernel, "k l a b -> (k l) (a b)").to(like.device, dtype))


def _axis(length: int, spacing: int, radius: float, on: On) -> Axis:
    reach, padding = 1 + math.ceil(radius / spacing), 1 + math.ceil(2 * radius / spacing)
    parameters, margin, taps = -(-length // spacing), round(radius), 2 * reach + 1
    # A narrow kernel would leave a canvas without room for the image.
    canvas = max(spacing * (parameters + 2 * (padding - reach) - 1) + 1, margin + length)
    start, stop = (0, canvas) if on == "canvas" else (margin, margin + length)
    first, last = start // spacing, -(-stop // spacing)
    before, after = padding - first, last - 1 + taps - padding - parameters
    origin = radius - spacing * padding
    return Axis(last - first, spacing, start - first * spacing, stop - start, taps, before, after, origin)


def _padding(grid: MaskGrid) -> tuple[int, int, int, int]:
    return grid.columns.before, grid.columns.after, grid.rows.before, grid.rows.after


def _seen(parameters: Tensor, grid: MaskGrid) -> tuple[Tensor, Tensor]:
    """The parameters with zeros around them, and those that each block of pixels sees. [M, taps, blocks]"""
    padded = F.pad(parameters.to(grid.weights.dtype).reshape(-1, 1, *parameters.shape[-2:]), _padding(grid))
    return padded, F.unfold(padded, (grid.rows.taps, grid.columns.taps))


def _groups(seen: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Masks that are worked on together."""
    return seen.split(_at_once(seen, seen[0].numel() * weights.shape[1], len(seen)))


def _pieces(seen: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights [t, pixels, 1] and parameters [M, t, 1, blocks], a few taps at a time, to be multiplied."""
    taps, pixels = weights.shape
    each = _at_once(seen, seen.shape[0] * pixels * seen.shape[2], taps)
    return zip(weights[:, :, None].split(each), seen[:, :, None].split(each, 1), strict=True)


def _at_once(like: Tensor, values: int, count: int) -> int:
    """How many of `count` things that have so many values are worked on together."""
    if torch.compiler.is_compiling():
        return count  # fused, they are never in memory together
    return max(1, min(count, (PIECE_ON_CPU if like.device.type == "cpu" else PIECE) // values))


def _pooled(seen: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth maximum over the taps, and its normaliser sum_i exp(20 s_i). [M, taps, blocks] -> [M, pixels, blocks]"""
    numerator = denominator = seen.new_zeros(())
    for weight, parameter in _pieces(seen, weights * SHARPNESS):
        logit = weight * parameter
        power = logit.exp2()
        denominator = denominator + power.sum(1)
        numerator = numerator + logit.mul_(power).sum(1)
    return numerator / (SHARPNESS * denominator), denominator


def _pooled_adjoint(cotangent: Tensor, seen: Tensor, pooled: Tensor, normaliser: Tensor, weights: Tensor) -> Tensor:
    """Cotangent of `seen`. [M, pixels, blocks] -> [M, taps, blocks]"""
    share = (cotangent / normaliser)[:, None]
    constant, slope = share * (1 - 20 * pooled[:, None]), share * (20 / SHARPNESS)
    found = []
    for weight, parameter in _pieces(seen, weights):
        logit = (weight * SHARPNESS) * parameter
        terms = torch.addcmul(constant, slope, logit).mul_(logit.exp2())
        found.append((weight.mT @ terms).squeeze(2))
    return torch.cat(found, 1)


def _to_pixels(blocks: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """[M, pixels, blocks] -> [M, H, W]"""
    sizes = {"a": rows.spacing, "i": rows.blocks}
    pixels = rearrange(blocks, "m (a b) (i j) -> m (i a) (j b)", **sizes)
    down, across = (slice(axis.skipped, axis.skipped + axis.length) for axis in (rows, columns))
    return pixels[:, down, across]


def _to_blocks(pixels: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The adjoint of `_to_pixels`. [M, H, W] -> [M, pixels, blocks]"""
    ends = [axis.blocks * axis.spacing - axis.skipped - axis.length for axis in (rows, columns)]
    padded = F.pad(pixels, (columns.skipped, ends[1], rows.skipped, ends[0]))
    return rearrange(padded, "m (i a) (j b) -> m (a b) (i j)", a=rows.spacing, b=columns.spacing)
