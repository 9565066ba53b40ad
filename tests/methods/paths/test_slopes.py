"""`times_difference=False`: slopes, which times the difference are the attributions."""

from typing import Any

import pytest
import torch
from torch import nn

import funcattr
from funcattr.testing.seeding import settle, uniform

X, X0 = uniform(3, 4), uniform(3, 4, seed=2)
model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)))
METHODS = {
    "integrated_gradients": funcattr.integrated_gradients,
    "expected_gradients": funcattr.expected_gradients,
    "deep_lift": funcattr.deep_lift,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("layer", [None, "1"])
def test_slopes_times_the_difference(name: str, layer: Any) -> None:
    options: Any = {"baseline": X0, "layer": layer}
    whole = METHODS[name](model, X, [0, 1, 0], **options)
    slopes = METHODS[name](model, X, [0, 1, 0], times_difference=False, **options)
    way = X - X0 if layer is None else (model[:2](X) - model[:2](X0)).detach()
    torch.testing.assert_close(slopes * way, whole)


@pytest.mark.parametrize("name", METHODS)
def test_where_there_is_no_difference_the_slope_is_the_gradient(name: str) -> None:
    found = METHODS[name](model, X, 1, baseline=X, times_difference=False)
    torch.testing.assert_close(found, funcattr.gradient(model, X, 1))


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_distribution(name: str) -> None:
    rows = funcattr.distribution(X0)
    weight = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    found = METHODS[name](lambda x: x @ weight, X, baseline=rows, times_difference=False)
    torch.testing.assert_close(found, weight.expand(3, 4))
