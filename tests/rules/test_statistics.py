"""Statistics in simpler operations: the same values in every spelling, and exact sums."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import funcattr
from funcattr.rules import statistics
from funcattr.testing.seeding import uniform

from ..contract import assert_equal
from .slopes import Function, assert_sums_to_delta, multipliers, pairs

X = uniform(3, 4, 5)

# What a model calls, and what a decomposition gets.
SPELLINGS: dict[str, tuple[Function, Function]] = {
    "var": (lambda x: x.var().reshape(1), lambda x: statistics.var(x).reshape(1)),
    "var(1)": (lambda x: x.var(1), lambda x: statistics.var(x, 1)),
    "var(False)": (lambda x: torch.var(x, False).reshape(1), lambda x: statistics.var(x, False).reshape(1)),
    "var(1, False)": (lambda x: torch.var(x, 1, False), lambda x: statistics.var(x, 1, False)),
    "var([0, 2], True, True)": (
        lambda x: x.var([0, 2], True, True),
        lambda x: statistics.var(x, [0, 2], True, True),
    ),
    "var(correction=2)": (
        lambda x: torch.var(x, (-1,), correction=2, keepdim=True),
        lambda x: statistics.var(x, (-1,), correction=2, keepdim=True),
    ),
    "var(axis=1)": (lambda x: torch.var(x, axis=1), lambda x: statistics.var(x, axis=1)),  # pyright: ignore[reportCallIssue]
    "std": (lambda x: x.std(-1), lambda x: statistics.std(x, -1)),
    "std(unbiased=False)": (
        lambda x: x.std(dim=1, unbiased=False, keepdim=True),
        lambda x: statistics.std(x, dim=1, unbiased=False, keepdim=True),
    ),
    "vector_norm": (torch.linalg.vector_norm, statistics.vector_norm),
    "vector_norm(3, 1)": (
        lambda x: torch.linalg.vector_norm(x, 3, 1, True),
        lambda x: statistics.vector_norm(x, 3, 1, True),
    ),
    "vector_norm(inf)": (
        lambda x: torch.linalg.vector_norm(x, math.inf, (0, 2)),
        lambda x: statistics.vector_norm(x, math.inf, (0, 2)),
    ),
    "vector_norm(dtype)": (
        lambda x: torch.linalg.vector_norm(x, 1, dtype=torch.float64),
        lambda x: statistics.vector_norm(x, 1, dtype=torch.float64),
    ),
    "norm": (lambda x: x.norm().reshape(1), lambda x: statistics.norm(x).reshape(1)),
    "norm(1, 1)": (lambda x: torch.norm(x, 1, 1), lambda x: statistics.norm(x, 1, 1)),
    "norm(p=None)": (lambda x: torch.norm(x, p=None, dim=2), lambda x: statistics.norm(x, None, 2)),
    "norm(fro)": (
        lambda x: x.norm(p="fro", dim=(1, 2), keepdim=True),
        lambda x: statistics.norm(x, "fro", (1, 2), True),
    ),
    "normalize": (F.normalize, statistics.normalize),
    "normalize(1, -1)": (lambda x: F.normalize(x, 1.0, -1), lambda x: statistics.normalize(x, 1.0, -1)),
    "local_response_norm": (
        lambda x: F.local_response_norm(x, 3, 0.1, 0.5, 2.0),
        lambda x: statistics.local_response_norm(x, 3, 0.1, 0.5, 2.0),
    ),
    "local_response_norm(2)": (
        lambda x: F.local_response_norm(x[..., None], 2, alpha=1.0),
        lambda x: statistics.local_response_norm(x[..., None], 2, alpha=1.0),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_parts_give_the_same_values(name: str) -> None:
    original, written_out = SPELLINGS[name]
    assert_equal(written_out(X), original(X), tolerance=1e-12)


@settings(max_examples=80)
@given(data=st.data(), name=st.sampled_from(list(SPELLINGS)))
def test_statistics_sum_to_delta(data: st.DataObject, name: str) -> None:
    x, x0 = data.draw(pairs(3, 4, 5))
    f = SPELLINGS[name][0]
    assert_sums_to_delta(lambda x: f(x).reshape(-1), (x,), (x0,), tolerance=1e-10)


@pytest.mark.parametrize("name", SPELLINGS)
def test_statistics_of_equal_operands_give_the_plain_gradient(name: str) -> None:
    f = SPELLINGS[name][0]
    expected: Any = torch.func.vjp(f, X)[1](torch.ones_like(f(X)))
    (m,) = multipliers(lambda x: f(x).reshape(-1), (X,), (X.clone(),))
    assert_equal(m, expected[0], tolerance=1e-12)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.norm(dim=1),
        F.normalize,
        lambda x: torch.linalg.vector_norm(x, dim=1),
        lambda x: torch.linalg.vector_norm(x, 3, dim=1),
        lambda x: (x * x).sum(1).pow(0.25),
        lambda x: F.normalize(x, 1.5),
        lambda x: x.std(1),
    ],
)
def test_a_norm_of_nothing_has_finite_multipliers(f: Function) -> None:
    """Of padding, or of an image that is its own baseline."""
    zeros, x = torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    for a, a0 in ((zeros, zeros), (x, zeros), (zeros, x)):
        (m,) = multipliers(f, (a,), (a0,))
        assert m.isfinite().all()
        assert_sums_to_delta(f, (a,), (a0,), tolerance=1e-6)


def test_a_norm_by_hand() -> None:
    """The difference of squares over the sum of the norms."""
    x, x0 = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])
    assert multipliers(lambda x: x.norm(dim=1), (x,), (x0,))[0].tolist() == [pytest.approx([3 / 6, 5 / 6])]


@pytest.mark.parametrize("order", [0, -math.inf, "nuc"])
def test_a_norm_without_parts_says_so(order: Any) -> None:
    with pytest.raises(NotImplementedError, match=rf"^vector_norm\(ord={order!r}\): no decomposition. Give it a rule"):
        multipliers(lambda x: torch.norm(x, p=order, dim=(0, 1)).reshape(1), (X[0],), (X[1],))


def test_statistics_that_are_not_known_are_named() -> None:
    with pytest.raises(funcattr.UnsupportedOperationError, match=r"no rule for\s+linalg_norm"):
        multipliers(lambda x: torch.linalg.norm(x, dim=1), (X,), (X + 1,))


def _squared(sd: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return sd**2, mean


WITH_MEAN: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "keyword": lambda x: torch.var_mean(x, 1, keepdim=True, correction=0),
    "named dim": lambda x: torch.var_mean(x, dim=[1], unbiased=False, keepdim=True),
    "by position": lambda x: torch.var_mean(x, (-1,), False, True),
    "without the dimension": lambda x: tuple(t[:, None] for t in torch.var_mean(x, 1, unbiased=False)),
    "all of it": lambda x: tuple(
        torch.stack(t)[:, None] for t in zip(*(torch.var_mean(row, False) for row in x), strict=True)
    ),
    "std_mean": lambda x: _squared(*torch.std_mean(x, 1, unbiased=False, keepdim=True)),
}


@pytest.mark.parametrize("name", WITH_MEAN)
@pytest.mark.parametrize("book", ["epsilon", "attnlrp", "cp_lrp", "deep_lift"])
def test_a_mean_that_comes_with_a_variance_is_a_mean(name: str, book: str) -> None:
    """It is a sum of the values and takes its share; the variance alone is a scale."""
    x = X[:, 0]
    weight = torch.linspace(-1, 1, x.shape[1]).to(x)

    def together(x: Tensor) -> Tensor:
        var, mean = WITH_MEAN[name](x)
        return (x - mean) * (var + 1e-5).rsqrt() * weight

    def apart(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) * (x.var(1, unbiased=False, keepdim=True) + 1e-5).rsqrt() * weight

    baseline = x.flip(0) / 2 if book == "deep_lift" else None
    found: list[Any] = [funcattr.attribute(f, x, 1, rules=book, baseline=baseline).cotangent for f in (together, apart)]
    assert_equal(*found, tolerance=1e-6)


def test_the_comparison_of_values_can_fail() -> None:
    with pytest.raises(AssertionError):
        assert_equal(statistics.var(X, 1, False), X.var(1))


def test_a_model_that_ends_with_a_scale_is_told_what_is_a_constant() -> None:
    def distance(x: Tensor) -> Tensor:
        return -(x[..., None] - X[0]).norm(dim=1)

    told = (
        r"does not depend on the input .* The rulebook makes a constant of norm in '': rules \| {'<operation>': rule}"
    )
    with pytest.raises(funcattr.UntrackedPathError, match=told):
        funcattr.attnlrp(distance, X[:, 0, :4], 1)


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("quantile", [torch.quantile, torch.nanquantile])
@pytest.mark.parametrize("share", [0.5, 0.4])
def test_a_quantile_between_two_values_is_their_weighted_mean(quantile: Function, share: float, book: str) -> None:
    x = torch.tensor([[100.0, 1.0, 8.0, 2.0]]).double()
    weight = 3 * share - 1
    expected = torch.tensor([[0.0, 0.0, weight * 8, (1 - weight) * 2]]).double()
    found = funcattr.lrp(lambda x: quantile(x, share, 1, keepdim=True), x, 0, rules=book)
    assert_equal(found, expected, tolerance=1e-5)
