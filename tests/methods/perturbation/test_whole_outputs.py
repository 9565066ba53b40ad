"""Models that return integers or booleans, under methods that take no derivative."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr.testing.seeding import uniform

X = uniform(3, 4)
METHODS: dict[str, Any] = {
    "feature_ablation": funcattr.feature_ablation,
    "occlusion": partial(funcattr.occlusion, window=(2,)),
    "shapley_values": funcattr.shapley_values,
    "shapley_sampling": partial(funcattr.shapley_sampling, samples=3),
    "kernel_shap": funcattr.kernel_shap,
    "lime": partial(funcattr.lime, regression="linear"),
}


def counted(x: Tensor) -> Tensor:
    """How many values are above zero, beside twice as many."""
    count = (x > 0).sum(1)
    return torch.stack([count, 2 * count], 1)


@pytest.mark.parametrize("name", METHODS)
def test_integers_are_numbers(name: str) -> None:
    found = METHODS[name](counted, X, 1)
    torch.testing.assert_close(found, METHODS[name](lambda x: counted(x).double(), X, 1))
    assert found.dtype == X.dtype and found.any()


@pytest.mark.parametrize("name", METHODS)
def test_booleans_are_zero_and_one(name: str) -> None:
    found = METHODS[name](lambda x: (x > 0).any(1), X)
    torch.testing.assert_close(found, METHODS[name](lambda x: (x > 0).any(1).float(), X))


def test_ablation_counts() -> None:
    torch.testing.assert_close(funcattr.feature_ablation(counted, X, 1), 2 * (X > 0).to(X))


def test_a_derivative_still_wants_floats() -> None:
    with pytest.raises(
        TypeError, match=r"gradient: expected a floating-point output, got torch.int64: it has no deriv"
    ):
        funcattr.gradient(counted, X, 1)


def test_integers_beyond_single_precision_keep_their_differences() -> None:
    x = torch.tensor([[1, 0, 1]])
    found = funcattr.feature_ablation(lambda x: 2**40 + x.sum(1, keepdim=True), x, 0)
    assert found.tolist() == [[1, 0, 1]]
