"""Distances and losses in simpler operations: `decompose` these in a rulebook."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedOperationError
from ..rulebook.actions import decompose
from ..rulebook.rulebook import Entry
from .statistics import vector_norm


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """|x - y|_p over all values"""
    return vector_norm(input - other, p)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """|x - y + eps|_p over the last dimension"""
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """|x_i - y_j|_p of all rows. [..., M, D], [..., N, D] -> [..., M, N]"""
    return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def pdist(input: Tensor, p: float = 2) -> Tensor:
    """|x_i - x_j|_p of all pairs of rows i < j"""
    first, second = torch.triu_indices(len(input), len(input), 1, device=input.device)
    return vector_norm(input[first] - input[second], p, -1)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """X . y / (|x| |y|)"""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    scales = (vector_norm(x, 2, dim, keepdim=True).clamp_min(eps) for x in (x1, x2))
    a, b = (x / scale for x, scale in zip((x1, x2), scales, strict=True))
    return (a * b).sum(dim)


def hypot(input: Tensor, other: Tensor) -> Tensor:
    """sqrt(x^2 + y^2)"""
    return (input * input + other * other).sqrt()


def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """R (cos a + i sin a)"""
    return torch.complex(abs * angle.cos(), abs * angle.sin())


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """The softmax of -x."""
    return F.softmax(-input, dim, dtype=dtype)


def mse_loss(input: Tensor, target: Tensor, *options: Any, **named: Any) -> Tensor:
    """(x - t)^2"""
    gap = input - target
    return _reduced(gap * gap, *options, **named)


def l1_loss(input: Tensor, target: Tensor, *options: Any, **named: Any) -> Tensor:
    """|x - t|"""
    return _reduced((input - target).abs(), *options, **named)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Any = None
) -> Tensor:
    """d^2 / 2 for |d| < delta, else delta (|d| - delta / 2), with d = x - t"""
    gap = (input - target).abs()
    small = gap.clamp(max=delta)
    each = small * (gap - small / 2)
    return _reduced(each if weight is None else each * weight, reduction=reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """`huber_loss` over beta."""
    if beta == 0:
        return l1_loss(input, target, size_average, reduce, reduction)
    return huber_loss(input, target, _reduction(size_average, reduce, reduction), beta) / beta


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-t log sigmoid(x) - (1 - t) log sigmoid(-x)"""
    for_it = target if pos_weight is None else target * pos_weight
    each = -(for_it * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    return _reduced(each if weight is None else each * weight, size_average, reduce, reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The negative log-likelihood of a log-softmax."""
    if target.is_floating_point() or label_smoothing:
        raise UnsupportedOperationError(
            "cross_entropy(label_smoothing=..., probabilities): no rule. Write the sum out."
        )
    logs = input.log_softmax(0 if input.ndim == 1 else 1)
    return F.nll_loss(logs, target, weight, size_average, ignore_index, reduce, reduction)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """T (log t - x)"""
    each = target.exp() * (target - input) if log_target else torch.xlogy(target, target) - target * input
    if reduction == "batchmean":
        return each.sum() / len(each)
    return _reduced(each, size_average, reduce, reduction)


def soft_margin_loss(input: Tensor, target: Tensor, *options: Any, **named: Any) -> Tensor:
    """log(1 + exp(-t x))"""
    return _reduced(F.softplus(-target * input), *options, **named)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0, *options: Any, **named: Any
) -> Tensor:
    """max(0, -t (x - y) + margin)"""
    return _reduced((-target * (input1 - input2) + margin).clamp_min(0), *options, **named)


def _reduction(size_average: Any, reduce: Any, reduction: str) -> str:
    if size_average is None and reduce is None:
        return reduction
    return "none" if reduce is False else "sum" if size_average is False else "mean"


def _reduced(
    each: Tensor,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    each = each if weight is None else each * weight
    how = _reduction(size_average, reduce, reduction)
    return each if how == "none" else each.sum() if how == "sum" else each.mean()


_WRITTEN: tuple[Callable[..., Tensor], ...] = (
    *(dist, pairwise_distance, cdist, pdist, cosine_similarity, hypot, polar, softmin, mse_loss, l1_loss),
    *(huber_loss, smooth_l1_loss, binary_cross_entropy_with_logits, cross_entropy, kl_div, soft_margin_loss),
    margin_ranking_loss,
)
ENTRIES = tuple(Entry(function.__name__, decompose(function)) for function in _WRITTEN)
"""Rows of every rulebook."""
