"""Examples whose masks have different features: each gets what it gets alone."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal

NET = settle(lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)))
X = uniform(4, 8)
MASKS = {
    "numbers from 0": torch.stack([torch.arange(8) // 2, torch.arange(8), torch.arange(8) // 4, torch.arange(8) // 3]),
    "others for each": torch.stack(
        [torch.arange(8) // 2 + 8, torch.arange(8), torch.arange(8) // 4 + 20, torch.arange(8)]
    ),
    "one feature": torch.stack([torch.zeros(8).long(), torch.arange(8), torch.ones(8).long(), torch.arange(8) // 4]),
    "one feature each": torch.arange(4)[:, None].expand(4, 8),
    "as many": torch.stack(
        [torch.arange(8) // 2, torch.arange(8) // 2 + 1, torch.arange(8) // 2, 3 - torch.arange(8) // 2]
    ),
}
METHODS: dict[str, Any] = {
    "kernel_shap": partial(funcattr.kernel_shap, samples=30),
    "kernel_shap of a few coalitions": partial(funcattr.kernel_shap, samples=9, generator=3),
    "lasso": partial(funcattr.lime, samples=20, penalty=1e-3, kernel_width=1),
    "ridge": partial(funcattr.lime, samples=20, regression="ridge"),
    "linear": partial(funcattr.lime, samples=20, regression="linear", generator=2),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", METHODS)
def test_each_example_gets_what_it_gets_alone(name: str, mask: str) -> None:
    method, ids, targets = METHODS[name], MASKS[mask], [1, 0, 2, 1]
    found = method(NET, X, targets, feature_mask=ids, chunk_size=7)
    alone = [method(NET, X[n : n + 1], targets[n], feature_mask=ids[n : n + 1]) for n in range(4)]
    assert found.abs().max() > 0.01
    assert_equal(found, torch.cat(alone), tolerance=1e-6 if name == "lasso" else 1e-9)


@pytest.mark.parametrize("samples", [8, 20, 300])
@pytest.mark.parametrize("mask", MASKS)
def test_the_numbers_of_an_examples_features_sum_to_its_rise(mask: str, samples: int) -> None:
    ids = MASKS[mask]
    found = funcattr.kernel_shap(NET, X, 1, feature_mask=ids, samples=samples, baseline=0.3)
    rise = (NET(X) - NET(torch.full_like(X, 0.3)))[:, 1]
    for n in range(4):
        first = [(ids[n] == feature).nonzero()[0, 0] for feature in ids[n].unique()]
        assert_equal(found[n, first].sum(), rise[n].detach())


def test_features_may_be_of_one_input_in_some_examples() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return NET(torch.cat([a, b], 1))

    x = (X[:, :5], X[:, 5:])
    ids = (MASKS["numbers from 0"][:, :5], torch.tensor([[0, 1, 9]]))
    for method in METHODS.values():
        found = method(model, x, 1, feature_mask=ids)
        for n in range(4):
            part = tuple(v[n : n + 1] for v in x)
            alone = method(model, part, 1, feature_mask=(ids[0][n : n + 1], ids[1]))
            for a, b in zip(found, alone, strict=True):
                assert_equal(a[n : n + 1], b, tolerance=1e-6)


def test_background_data_go_with_each() -> None:
    rows, ids = funcattr.distribution(uniform(3, 8, seed=5)), MASKS["numbers from 0"]
    for method in METHODS.values():
        found = method(NET, X, 1, feature_mask=ids, baseline=rows)
        alone = [method(NET, X[n : n + 1], 1, feature_mask=ids[n : n + 1], baseline=rows) for n in range(4)]
        assert_equal(found, torch.cat(alone), tolerance=1e-6)


@pytest.mark.parametrize("name", ["kernel_shap", "linear"])
def test_given_coalitions_are_read_for_the_features_that_an_example_has(name: str) -> None:
    method, ids = METHODS[name], MASKS["numbers from 0"]
    coalitions = torch.rand(2, 60, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    found = method(NET, X, 1, feature_mask=ids, coalitions=coalitions[0])
    for n in range(4):
        own = coalitions[0][:, ids[n].unique()]
        assert_equal(found[n : n + 1], method(NET, X[n : n + 1], 1, feature_mask=ids[n : n + 1], coalitions=own))
    mapped = torch.vmap(lambda members: method(NET, X, 1, feature_mask=ids, coalitions=members))(coalitions)
    assert_equal(mapped[0], found)


def test_a_given_number_of_features_counts_for_every_example() -> None:
    ids = MASKS["numbers from 0"]
    for method in METHODS.values():
        found = method(NET, X, 1, feature_mask=ids, features=8)
        alone = method(NET, X[:1], 1, feature_mask=ids[:1], features=8)
        assert_equal(found[:1], alone, tolerance=1e-6)


def test_an_estimate_of_them_is_differentiated() -> None:
    ids = MASKS["numbers from 0"]

    def total(x: Tensor) -> Tensor:
        return funcattr.kernel_shap(NET, x, 1, feature_mask=ids, samples=20).square().sum()

    (found,) = torch.func.vjp(total, X)[1](torch.ones((), dtype=X.dtype))
    ahead = uniform(4, 8, seed=9)
    step = 1e-6
    expected = (total(X + step * ahead) - total(X - step * ahead)) / (2 * step)
    assert_equal((found * ahead).sum(), expected.detach(), tolerance=1e-5)


def test_the_largest_number_of_features_needs_enough_coalitions() -> None:
    with pytest.raises(ValueError, match=r"^kernel_shap\(samples=6\): expected at least 7 coalitions for 8 features"):
        funcattr.kernel_shap(NET, X, 1, feature_mask=MASKS["numbers from 0"], samples=6)
