"""Noisy linear imputation: pixels that were removed are put back as the mean of their neighbours."""

from collections.abc import Callable
from math import comb
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import broadcasts
from ..errors import ConvergenceError
from ..sampling.draws import Generator, normal, seed_from
from ..sampling.loops import loop, positive, wide
from ..torch_state import can_look_at

BLOCK = 8
_POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def impute(
    x: Tensor, removed: Tensor, *, sigma: float = 0.01, generator: Generator = 0, steps: int | None = None
) -> Tensor:
    """Images whose removed pixels are the weighted means of their neighbours, plus noise: the imputation of ROAD.

    u_p = sum_q w_pq u_q / sum_q w_pq + sigma e_p at removed pixels p, over the pixels q around p;  u_q = x_q elsewhere

    The mean is of the solution without noise, which all removed pixels have in common. w is 1/6 for direct neighbours
    and 1/12 for diagonal ones; along one dimension both neighbours count alike, in volumes it goes by the inverse
    square of the distance. Neighbours beyond the border have no weight. What removed pixels had is forgotten, but
    where a whole image is removed.

    It is a baseline of the measures: `deletion(..., baseline=metrics.impute, steps=10)` is ROAD. All images and
    channels are solved at once, by conjugate gradients on their device.

    Args:
        x: Signals, images or volumes. [N, C, W], [N, C, H, W] or [N, C, D, H, W]
        removed: Which pixels to fill, bool; of x's size in space, and of its size or 1 in the other two dimensions.
            [N, 1, H, W]
        sigma: Standard deviation of the noise, in units of x; 0 for none. The noise is the same for each image.
        generator: A seed, or a `torch.Generator` from which one is drawn. As a baseline give a seed: each chunk of a
            measure would draw anew.
        steps: The most iterations; by default 4 for each pixel of height and width. They end when each pixel is the
            mean of its neighbours up to 1e-5 (2e-12 in double precision), in units of the largest difference of a
            kept pixel from their mean. In compiled code, or where x is mapped itself, all of them run: give fewer
            there. The larger the holes, the more it takes.

    Returns:
        x with the removed pixels filled, in its dtype. [N, C, H, W] An image that is removed as a whole leaves nothing
        to go by, and has the mean of each channel. Not a number where a value that is kept is none.

    Raises:
        TypeError: If x is not of floating point, `removed` not bool, or an option of another kind.
        ValueError: If a shape does not fit, an option is out of its range, or a channel is removed as a whole beside
            one that is not: so are words [N, L, D]. Where that cannot be looked at, it is filled with NaN.
        ConvergenceError: If the iterations end too early. Where that cannot be looked at, what is filled is not a
            number then.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[[0.0, 9.0, 9.0, 3.0, 5.0]]])
        >>> funcattr.metrics.impute(x, torch.tensor([[[False, True, True, False, True]]]), sigma=0.0)
        tensor([[[0., 1., 2., 3., 3.]]])

    References:
        Rong et al., 2022, arXiv:2202.00449 (ROAD).
    """
    _check(x, removed, sigma)
    most = _most("impute", steps, x)
    values = x.to(wide(x.dtype))
    space = tuple(range(2, x.ndim))
    removed = removed.to(x.device).expand(*x.shape)

    # From what is kept, moved and scaled: then neither an offset nor a unit costs digits.
    kept = (~removed).sum(space, keepdim=True)
    mean = torch.where(removed, 0, values).sum(space, keepdim=True) / kept.clamp(min=1)
    mean = torch.where(kept > 0, mean, values.mean(space, keepdim=True))
    around = torch.where(removed, 0, values - mean)
    size = around.abs().amax(space, keepdim=True)
    size = torch.where(size == 0, 1, size)

    alone = (kept == 0) & (kept > 0).any(1, keepdim=True)
    found, converged = _solved(around / size, removed, most)
    if can_look_at(removed) and bool(alone.any()):
        raise ValueError(
            "impute(removed=...): a channel is removed as a whole beside one that is not, and has no neighbours to "
            f"take a mean of; x has shape {list(x.shape)}, as images [N, C, H, W]. Remove pixels with all channels."
        )
    if can_look_at(converged):
        if not bool(converged.all()):
            raise ConvergenceError(
                f"impute(steps={most}): {int((~converged).sum())} of {converged.numel()} channels have not converged "
                "within that many iterations. Give more: steps=."
            )
    else:
        found = torch.where(converged & ~alone, found, torch.nan)
    filled = mean + size * found
    if sigma > 0:
        first = torch.zeros(1, dtype=torch.long, device=x.device)
        filled = filled + sigma * normal(first, x.shape[1:], values, seed_from("impute", generator))
    return torch.where(removed, filled.to(x.dtype), x)


def _check(x: Any, removed: Any, sigma: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"impute(x=...): expected a floating-point tensor, got {got}.")
    if not isinstance(removed, Tensor) or removed.dtype != torch.bool:
        got = removed.dtype if isinstance(removed, Tensor) else type(removed).__name__
        raise TypeError(f"impute(removed=...): expected a tensor of bool, got {got}.")
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            f"impute(x=...): expected images [N, C, H, W], signals [N, C, W] or volumes [N, C, D, H, W], got "
            f"{list(x.shape)}. Words and columns have no neighbours to take a mean of."
        )
    if removed.ndim != x.ndim or removed.shape[2:] != x.shape[2:] or not broadcasts(removed.shape, x.shape):
        expected = [f"{x.shape[0]} or 1", f"{x.shape[1]} or 1", *x.shape[2:]]
        raise ValueError(f"impute(removed=...): expected shape {expected}, got {list(removed.shape)}.")
    if isinstance(sigma, bool) or not isinstance(sigma, int | float):
        raise TypeError(f"impute(sigma=...): expected a number, got {type(sigma).__name__}.")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"impute(sigma={sigma}): expected a standard deviation of 0 or more.")


def _most(call: str, steps: int | None, x: Tensor) -> int:
    return 4 * sum(x.shape[2:]) if steps is None else positive(call, "steps", steps)


def _solved(known: Tensor, removed: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The solution at removed pixels, 0 elsewhere; and which channels have converged. [N, C, ...], [N, C, 1, ...]

    With W the sum over neighbours with their weights and D the sum of the weights, (D - W) u = W x_kept at removed
    pixels. That is symmetric, and positive definite where a pixel is kept: each removed one is linked to it.
    """
    space = tuple(range(2, known.ndim))
    within = torch.finfo(known.dtype).eps ** 0.75
    inside, weights = removed.to(known.dtype), _neighbours(torch.ones_like(known[:1, :1]))
    levels = _levels(inside)

    def far(residual: Tensor) -> Tensor:
        # A NaN is no number of iterations away from anything.
        return residual.abs().amax(space, keepdim=True) > within

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(space, keepdim=True)

    def step(state: tuple[Tensor, ...], _: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        filled, residual, direction, size = state
        pushed = inside * (weights * direction - _neighbours(direction))
        # A channel that has converged stays as it is.
        length = torch.where(far(residual), _over(size, dot(direction, pushed)), 0)
        filled = torch.addcmul(filled, length, direction)
        residual = torch.addcmul(residual, -length, pushed)
        scaled = residual / weights + inside * _smooth(residual, levels)
        new = dot(residual, scaled)
        return (filled, residual, torch.addcmul(scaled, _over(new, size), direction), new), ()

    residual = inside * _neighbours(known)
    scaled = residual / weights + inside * _smooth(residual, levels)
    state = (torch.zeros_like(known), residual, scaled, dot(residual, scaled))
    if can_look_at(known) and can_look_at(removed):
        for _ in range(most):
            if not bool(far(state[1]).any()):
                break
            state, _ = step(state, None)
    else:
        state, _ = loop("impute", step, state, most, 1, device=known.device)
    return state[0], ~far(state[1])


def _levels(inside: Tensor) -> list[Tensor]:
    """What a sum over a block of 8, 64, ... pixels a side is multiplied by, for `_smooth`; each [N, C, ...].

    About the inverse of the block's own entry of the system: the weights between its removed pixels and those that
    are kept, and across its border. They change the number of iterations, and not the solution.
    """
    count, linked = inside, inside * _neighbours(1 - inside)
    levels, side = [], 1
    while side < max(inside.shape[2:]):
        count, linked, side = _blocks(count), _blocks(linked), BLOCK * side
        levels.append(_over(torch.ones_like(count), linked + 4 / 3 * count / side))
    return levels


def _smooth(residual: Tensor, levels: list[Tensor]) -> Tensor:
    """The part of a residual's correction that is constant on blocks: it travels far in one step. [N, C, ...]"""
    if not levels:
        return torch.zeros_like(residual)
    sums = _blocks(residual)
    found = F.interpolate(sums * levels[0] + _smooth(sums, levels[1:]), scale_factor=BLOCK, mode="nearest")
    for dim in range(2, residual.ndim):
        found = found.narrow(dim, 0, residual.shape[dim])
    return found


def _blocks(values: Tensor) -> Tensor:
    """The sums over blocks of pixels. [N, C, ...]"""
    rank = values.ndim - 2
    padded = F.pad(values, [n for size in reversed(values.shape[2:]) for n in (0, -size % BLOCK)])
    return _POOLS[rank](padded, BLOCK) * BLOCK**rank


def _over(a: Tensor, b: Tensor) -> Tensor:
    """The quotient, and 0 where the divisor is not above 0."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def _neighbours(values: Tensor) -> Tensor:
    """The sum over each pixel's neighbours with their weights. [N, C, ...]

    A neighbour's weight goes by the inverse square of its distance, which is the number of dimensions that it is a
    step away in. The sums over the neighbours at each such number are built up dimension by dimension: slices cost a
    tenth of a convolution with one channel on a CPU.
    """
    sums = [values]
    for dim in range(2, values.ndim):
        beside = [_beside(part, dim) for part in sums]
        sums = [values, *[a + b for a, b in zip(sums[1:], beside, strict=False)], beside[-1]]
    rank = values.ndim - 2
    total = sum(comb(rank, k) * 2**k / k for k in range(1, rank + 1))
    return sum((part / (k * total) for k, part in enumerate(sums[2:], 2)), sums[1] / total)


def _beside(values: Tensor, dim: int) -> Tensor:
    """The sum of the two neighbours along a dimension, 0 beyond its ends."""
    padded = F.pad(values, [1 if side == dim else 0 for side in reversed(range(2, values.ndim)) for _ in range(2)])
    size = values.shape[dim]
    return padded.narrow(dim, 0, size) + padded.narrow(dim, 2, size)
