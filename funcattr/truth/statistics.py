"""How sure a mean is, how sure a difference is, and how far two measures agree on an order."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..extras import needed

DRAWS = 4000


class Interval(NamedTuple):
    """A mean, and the interval that holds 95 % of the means of samples drawn from the sample."""

    mean: float
    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """Of the questions that have a value; NaN without any."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def bootstrap(values: Sequence[float]) -> Interval:
    """The mean of the questions that have a value, and its 95 % interval (percentiles of the bootstrap).

    Args:
        values: One for each question; NaN where there is none.

    References:
        Efron & Tibshirani, 1993, An Introduction to the Bootstrap.
    """
    known = torch.tensor([v for v in values if v == v], dtype=torch.double)
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = _means(known).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Interval(known.mean().item(), low, high)


def chance_of_more(more: Sequence[float], less: Sequence[float]) -> float:
    """How often the mean of `more` is the greater one, over samples of the questions that both have a value for."""
    pairs = [a - b for a, b in zip(more, less, strict=True) if a == a and b == b]
    if not pairs:
        return float("nan")
    means = _means(torch.tensor(pairs, dtype=torch.double))
    return ((means > 0).double() + 0.5 * (means == 0)).mean().item()


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's tau-b between two measures' values of the same methods; not a number for fewer than three of them."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a == a and b == b]
    if len(pairs) < 3:
        return float("nan")
    a, b = zip(*pairs, strict=True)
    return float(needed("truth", "scipy.stats", ".[demo]").kendalltau(a, b).statistic)


def _means(values: Tensor) -> Tensor:
    """The means of samples with replacement. [N] -> [DRAWS]"""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(len(values), (DRAWS, len(values)), generator=generator)
    return values[index].mean(1)
