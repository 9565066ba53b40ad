"""Correlations of rows: of their values, and of their ranks."""

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of two rows of values. Two of [N, P] -> [N]

    Not a number where the values of a row are all equal, but for the rounding of their computation.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    # Rounding alone makes no spread: equal values have no correlation with anything.
    least = 32 * torch.finfo(dtype).eps
    sizes = [(t**2).mean(1).sqrt() for t in (a, b)]
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spreads = [(t**2).mean(1).sqrt() for t in (a, b)]
    known = (spreads[0] > least * sizes[0]) & (spreads[1] > least * sizes[1])
    return torch.where(known, (a * b).mean(1) / (spreads[0] * spreads[1]), torch.nan).clamp(-1, 1)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of the ranks of two rows of values; equal values share the mean of their ranks. [N, P] -> [N]"""
    unknown = a.isnan().any(1) | b.isnan().any(1)
    return torch.where(unknown, torch.nan, pearson(_ranks(a), _ranks(b)))


def _ranks(values: Tensor) -> Tensor:
    values = values.contiguous()
    ordered = values.sort(1)[0]
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto - 1).to(torch.float64) / 2
