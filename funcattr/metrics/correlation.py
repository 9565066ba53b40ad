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
    """The correlation of the ranks of two rows of values. Two of [N, P] -> [N]"""
    return pearson(ranks(a), ranks(b))


def ranks(values: Tensor) -> Tensor:
    """The place of each value in its row, from 0; equal values share the mean of theirs. [N, P], float64

    Not a number in a row that has a NaN.
    """
    ordered, order = values.sort(1)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    step = ordered[:, 1:] != ordered[:, :-1]
    edge = torch.ones_like(order[:, :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, step], 1), places, 0).cummax(1)[0]
    last = torch.where(torch.cat([step, edge], 1), places, values.shape[1]).flip(1).cummin(1)[0].flip(1)
    found = torch.zeros_like(values, dtype=torch.float64).scatter(1, order, (first + last).to(torch.float64) / 2)
    return torch.where(values.isnan().any(1, keepdim=True), torch.nan, found)
