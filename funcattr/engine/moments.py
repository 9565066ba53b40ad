"""Statistics over samples that come chunk by chunk, example by example: mean, mean square, variance."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Kind = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]


def _sum(carry: Any, each: Any, index: Tensor) -> Any:
    chunk = pytree.tree_map(lambda a: a.sum(1), each)
    return chunk if carry is None else pytree.tree_map(torch.add, carry, chunk)


def _sum_of_squares(carry: Any, each: Any, index: Tensor) -> Any:
    return _sum(carry, pytree.tree_map(torch.square, each), index)


def _moments(carry: Any, each: Any, index: Tensor) -> Any:
    """Mean and sum of squared deviations from it, chunk by chunk (Chan et al., 1979), which is never negative."""
    mean = pytree.tree_map(lambda a: a.mean(1), each)
    squares = pytree.tree_map(lambda a, m: (a - m.unsqueeze(1)).square().sum(1), each, mean)
    if carry is None:
        return mean, squares
    now = len(index)
    gap = pytree.tree_map(torch.sub, mean, carry[0])
    share = pytree.tree_map(lambda g: now / (index[0].to(g.dtype) + now), gap)
    mean_of_both = pytree.tree_map(lambda m, g, w: m + g * w, carry[0], gap, share)
    between = pytree.tree_map(lambda g, w: g.square() * (index[0] * w), gap, share)
    squares_of_both = pytree.tree_map(lambda s, t, b: s + t + b, carry[1], squares, between)
    return mean_of_both, squares_of_both


UPDATES: dict[str, Callable[[Any, Any, Tensor], Any]] = {
    "smoothgrad": _sum,
    "smoothgrad_sq": _sum_of_squares,
    "vargrad": _moments,
}
"""`(carry or None, a tree of [N, c, ...], sample numbers [c]) -> carry`."""


def finished(carry: Any, kind: Kind, count: int, dtype: torch.dtype) -> Any:
    """The statistic over all `count` samples, in `dtype`."""
    return pytree.tree_map(lambda total: (total / count).to(dtype), carry[1] if kind == "vargrad" else carry)
