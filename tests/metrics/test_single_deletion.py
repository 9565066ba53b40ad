"""The single deletion score: exactly known values, a slow reference, ranks that rounding must not decide, bad input."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import masks
from funcattr.metrics import sensitivity_n, single_deletion
from funcattr.testing.seeding import uniform

from ..sweeps import long
from .test_faithfulness import BASE, CLASSES, DOUBLE, MAP, MODEL, X, linear, score

W = torch.tensor([3.0, -1.0, 2.0, 0.5, -4.0], dtype=DOUBLE)


def ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])


# --- known values ----------------------------------------------------------------------------------------------------


def test_the_order_of_an_additive_model_is_perfect_in_any_unit() -> None:
    x = uniform(2, 5, seed=1)
    model = lambda x: (x @ W + (x[:, 0] ** 2) * 3)[:, None]  # noqa: E731
    exact = x * W + torch.nn.functional.pad(3 * x[:, :1] ** 2, (0, 4))
    torch.testing.assert_close(single_deletion(model, x, 0, exact), torch.ones(2, dtype=DOUBLE))
    torch.testing.assert_close(single_deletion(model, x, 0, exact.exp()), torch.ones(2, dtype=DOUBLE))
    torch.testing.assert_close(single_deletion(model, x, 0, -exact), -torch.ones(2, dtype=DOUBLE))


def test_two_places_that_change_cost_what_spearman_says() -> None:
    x = torch.ones(1, 5, dtype=DOUBLE)
    found = single_deletion(linear, x, 0, torch.tensor([[2.0, -1.0, 3.0, 0.5, -4.0]]).double())
    torch.testing.assert_close(found, torch.tensor([1 - 6 * 2 / (5 * 24)]).double())


def test_a_product_loses_all_with_either_factor() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0, 7.0]], dtype=DOUBLE)
    model = lambda x: x[:, :2].prod(1, keepdim=True)  # noqa: E731
    right, wrong = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).double(), torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double()
    torch.testing.assert_close(single_deletion(model, x, 0, right), torch.ones(1, dtype=DOUBLE))
    torch.testing.assert_close(single_deletion(model, x, 0, wrong), -torch.ones(1, dtype=DOUBLE))


def test_one_pixel_decides() -> None:
    x, right = torch.ones(1, 3, 8, 8, dtype=DOUBLE), torch.zeros(1, 1, 8, 8, dtype=DOUBLE)
    right[..., 5, 2] = 1
    model = lambda x: x[:, :, 5, 2].mean(1, keepdim=True)  # noqa: E731
    for ids in (None, masks.patches(x, 2), masks.patches(x, 3)):
        torch.testing.assert_close(single_deletion(model, x, 0, right, feature_mask=ids).item(), 1.0)


# --- the slow reference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_it_equals_a_loop(activation: Any, chunk_size: int | None) -> None:
    ids = masks.patches(X, 2)
    found = single_deletion(
        MODEL, X, CLASSES, MAP, baseline=BASE, feature_mask=ids, activation=activation, chunk_size=chunk_size
    )
    for n in range(3):
        f = score(n, softmax=activation == "softmax")
        a, lost = np.zeros(9), np.zeros(9)
        for i in range(9):
            patch = ids[0, 0] == i
            a[i] = MAP[n, 0][patch].sum()
            lost[i] = (f(X[n : n + 1]) - f(torch.where(patch, BASE, X[n : n + 1]))).item()
        expected = np.corrcoef(ranks(a), ranks(lost))[0, 1]
        torch.testing.assert_close(found[n].item(), float(expected), rtol=1e-9, atol=1e-9)


def test_it_asks_for_the_order_alone_where_sensitivity_asks_for_values() -> None:
    x = torch.arange(1.0, 6.0, dtype=DOUBLE)[None]
    model = lambda x: x.sum(1, keepdim=True)  # noqa: E731
    assert single_deletion(model, x, 0, x**3).item() == pytest.approx(1)
    assert 0 < sensitivity_n(model, x, 0, x**3, n=1).item() < 0.99


# --- pitfalls --------------------------------------------------------------------------------------------------------


def test_features_without_influence_share_a_rank_though_rounding_differs() -> None:
    x = uniform(1, 40, seed=3).float()
    weights = torch.zeros(40)
    weights[:4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    x[:, :4] = 1

    def model(x: Tensor) -> Tensor:  # each other feature is added, and taken off again
        return ((x * weights).sum(1) + x[:, 4:].sum(1) - x[:, 4:].flip(1).sum(1))[:, None]

    lost = torch.stack([model(x) - model(x * (torch.arange(40) != i)) for i in range(4, 40)])
    assert lost.unique().numel() > 2  # rounding
    torch.testing.assert_close(single_deletion(model, x, 0, x * weights).item(), 1.0)


def test_constant_maps_and_constant_models_have_no_order() -> None:
    x = uniform(2, 5, seed=1)
    assert single_deletion(linear, x, 0, torch.full((2, 5), 0.1).double()).isnan().all()
    assert single_deletion(lambda x: 0 * x[:, :1] + 3, x, 0, x).isnan().all()
    flat = torch.full((1, 1, 9, 9), 0.1)
    found = single_deletion(
        lambda x: x.flatten(1), uniform(1, 1, 9, 9).float(), 3, flat, feature_mask=masks.patches(flat, 3)
    )
    assert found.isnan().all()


def test_a_nan_is_of_its_example() -> None:
    broken = MAP.clone()
    broken[1, 0, 2, 3] = torch.nan
    assert single_deletion(MODEL, X, CLASSES, broken).isnan().tolist() == [False, True, False]


def test_each_feature_is_removed_alone_and_once() -> None:
    gone: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        gone.append(x == 0)
        return x.sum(1, keepdim=True)

    single_deletion(model, torch.ones(1, 8), 0, torch.rand(1, 8), chunk_size=3)
    rows = torch.cat([copies for copies in gone[1:] if copies.any()])
    assert sorted(rows.long().argmax(1).tolist()) == list(range(8)) and rows.sum() == 8


def test_a_batch_equals_a_loop_and_examples_may_be_elsewhere() -> None:
    found = single_deletion(MODEL, X, CLASSES, MAP)
    alone = torch.cat([single_deletion(MODEL, X[n : n + 1], CLASSES[n], MAP[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(found, alone)
    turned = lambda x: MODEL(x.transpose(0, 1))  # noqa: E731
    dims: Any = {"x": 1, "output": 0}
    a, ids = MAP.expand_as(X).transpose(0, 1), masks.patches(X, 2)
    around = single_deletion(turned, X.transpose(0, 1), CLASSES, a, feature_mask=ids.transpose(0, 1), example_dims=dims)
    torch.testing.assert_close(around, single_deletion(MODEL, X, CLASSES, MAP, feature_mask=ids))


@pytest.mark.parametrize("how", [pytest.param("all", marks=long), "vmap"])
def test_mapped_over_classes_and_compiled(how: str, fresh_dynamo: None) -> None:
    ids = masks.patches(X, 2)
    measure = lambda x, k, a: single_deletion(MODEL, x, k, a, feature_mask=ids, features=9)  # noqa: E731
    each = torch.stack([measure(X, k, MAP) for k in range(4)])
    torch.testing.assert_close(torch.vmap(lambda k: measure(X, k, MAP))(torch.arange(4)), each)
    if how == "all":
        compiled = torch.compile(lambda x, a: measure(x, 1, a), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(X, MAP), each[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_mask": torch.tensor([[0, 0, 1, 1, 1]])}, r"single_deletion: expected at least 3 features, got 2"),
        ({"features": 3}, r"single_deletion\(features=3\): without a feature_mask there are 5"),
        ({"activation": "relu"}, r"single_deletion\(activation='relu'\)"),
    ],
)
def test_bad_input_is_named(options: Any, message: str) -> None:
    x = uniform(2, 5, seed=1)
    with pytest.raises(ValueError, match=message):
        single_deletion(linear, x, 0, x * W, **options)


def test_imputed_patches() -> None:
    found = single_deletion(
        MODEL, X, CLASSES, MAP, feature_mask=masks.patches(X, 2), baseline=partial(funcattr.metrics.impute, sigma=0.0)
    )
    assert found.shape == (3,) and found.isfinite().all()
