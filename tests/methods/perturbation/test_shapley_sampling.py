"""Shapley sampling: exact over all orders, a fair estimate over some, and complete over any."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from funcattr.methods.perturbation.shapley_sampling import shapley_sampling
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal

few = settings(max_examples=15)


def net(dtype: torch.dtype = torch.float64) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), dtype=dtype)


@given(st.data())
@few
def test_equals_the_sum_over_orders(data: st.DataObject) -> None:
    features = data.draw(st.integers(1, 5))
    ids = data.draw(st.lists(st.integers(0, features - 1), min_size=6, max_size=6))
    mask = torch.tensor([*ids[:5], features - 1])[None]
    orders = data.draw(st.lists(st.permutations(range(features)), min_size=1, max_size=4))
    options: Any = {"feature_mask": mask, "permutations": torch.tensor(orders), "baseline": uniform(1, 6, seed=3)}
    chunk_size = data.draw(st.sampled_from([None, 1, 3]))
    # Orders of all numbers, also of those that no value has.
    actual = shapley_sampling(net(), uniform(2, 6), [0, 2], **options, features=features, chunk_size=chunk_size)
    assert_equal(actual, references.shapley_sampling(net(), uniform(2, 6), [0, 2], **options))


def test_all_orders_give_the_exact_values() -> None:
    mask, orders = torch.tensor([[0, 1, 2, 3, 1, 0]]), torch.tensor(list(itertools.permutations(range(4))))
    exact = references.shapley_values(net(), uniform(2, 6), 1, feature_mask=mask)
    assert_equal(shapley_sampling(net(), uniform(2, 6), 1, feature_mask=mask, permutations=orders), exact)


def test_many_orders_come_near_the_exact_values() -> None:
    x = uniform(2, 6)
    exact = references.shapley_values(net(), x, 1)
    errors = [
        (shapley_sampling(net(), x, 1, samples=samples, chunk_size=500) - exact).norm() / exact.norm()
        for samples in (10, 1000)
    ]
    assert errors[1] < 0.05 and errors[1] < errors[0] / 3
    other = shapley_sampling(net(), x, 1, samples=1000, generator=1, chunk_size=500)
    assert ((other - exact).norm() / exact.norm()) < 0.05


@given(st.integers(1, 7), st.sampled_from([torch.float64, torch.float32]), st.integers(0, 99))
@few
def test_any_number_of_orders_is_complete(samples: int, dtype: torch.dtype, seed: int) -> None:
    model, x, baseline = net(dtype), uniform(2, 6, dtype=dtype), uniform(1, 6, dtype=dtype, seed=3)
    a = shapley_sampling(model, x, 1, samples=samples, baseline=baseline, generator=seed)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_equal(a.sum(1), (model(x) - model(baseline))[:, 1].detach(), tolerance=tolerance)


def test_what_does_nothing_gets_nothing_and_twins_the_same() -> None:
    x = torch.tensor([[1.5, 1.5, -0.7, 2.0]]).double()
    orders = torch.tensor(list(itertools.permutations(range(4))))
    a = shapley_sampling(lambda x: (x[:, 0] * x[:, 1]).tanh() + x[:, 3] ** 2, x, permutations=orders)
    assert a[0, 2] == 0
    assert_equal(a[0, 0], a[0, 1], tolerance=1e-12)


def test_orders_may_be_mapped() -> None:
    orders = torch.stack([torch.stack([torch.randperm(6) for _ in range(3)]) for _ in range(2)])
    x = uniform(2, 6)
    many = torch.vmap(lambda orders: shapley_sampling(NET, x, 1, permutations=orders, chunk_size=4))(orders)
    for a, given_orders in zip(many, orders, strict=True):
        assert_equal(a, references.shapley_sampling(NET, x, 1, permutations=given_orders))


NET = net()
ORDERS = torch.tensor([[0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize(
    ("permutations", "kind", "message"),
    [
        (ORDERS.double(), TypeError, r"expected a tensor of torch.int64, got torch.float64"),
        (ORDERS.tolist(), TypeError, r"expected a tensor of torch.int64, got list"),
        (ORDERS[0], ValueError, r"expected shape \['S', 6\], one order of the 6 features a row, got \[6\]"),
        (ORDERS[:, :5], ValueError, r"expected shape \['S', 6\], .* got \[1, 5\]"),
        (ORDERS[:0], ValueError, r"expected shape \['S', 6\], .* got \[0, 6\]"),
        (ORDERS.clamp(max=4), ValueError, r"expected each row to hold each of 0 to 5 once"),
        (ORDERS + 1, ValueError, r"expected each row to hold each of 0 to 5 once"),
    ],
)
def test_bad_orders(permutations: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^shapley_sampling\(permutations=...\): {message}"):
        shapley_sampling(NET, uniform(2, 6), 1, permutations=permutations)
