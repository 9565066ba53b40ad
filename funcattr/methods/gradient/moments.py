"""Statistics over samples that come chunk by chunk, example by example: mean, mean square, variance."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ..._torch import pytree

Kind = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]


def _sum(carry: Any, each: Any, index: Tensor) -> Any:
    chunk = pytree.tree_map(lambda a: a.sum(1), each)
    return chunk if carry is None else pytree.tree_map(torch.add, carry, chunk)


def _sum_of_squares(carry: Any, each: Any, index: Tensor) -> Any:
    return _sum(carry, pytree.tree_map(torch.square, each), index)


def _moments(carry: Any, each: Any, index: Tensor) -> Any:
    """First sample, mean and sum of squared deviations, chunk by chunk (Chan et al., 1979), which is never negative.

    The mean is that of the differences from the first sample: far from zero, a mean itself moves in coarse steps.
    """
    if carry is None:
        nothing = pytree.tree_map(lambda a: torch.zeros_like(a[:, 0]), each)
        carry = nothing, nothing, nothing
    now, before = len(index), index[0]
    first = pytree.tree_map(lambda f, a: torch.where(before == 0, a[:, 0], f), carry[0], each)
    each = pytree.tree_map(lambda a, f: a - f.unsqueeze(1), each, first)
    mean = pytree.tree_map(lambda a: a.mean(1), each)
    squares = pytree.tree_map(lambda a, m: (a - m.unsqueeze(1)).square().sum(1), each, mean)
    gap = pytree.tree_map(torch.sub, mean, carry[1])
    share = pytree.tree_map(lambda g: now / (before.to(g.dtype) + now), gap)
    mean_of_both = pytree.tree_map(lambda m, g, w: m + g * w, carry[1], gap, share)
    between = pytree.tree_map(lambda g, w: g.square() * (before * w), gap, share)
    squares_of_both = pytree.tree_map(lambda s, t, b: s + t + b, carry[2], squares, between)
    return first, mean_of_both, squares_of_both


UPDATES: dict[str, Callable[[Any, Any, Tensor], Any]] = {
    "smoothgrad": _sum,
    "smoothgrad_sq": _sum_of_squares,
    "vargrad": _moments,
}
"""`(carry or None, a tree of [N, c, ...], sample numbers [c]) -> carry`."""


def finished(carry: Any, kind: Kind, count: int) -> Any:
    """The statistic over all `count` samples."""
    return pytree.tree_map(lambda total: total / count, carry[2] if kind == "vargrad" else carry)
