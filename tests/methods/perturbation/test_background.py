"""Background data: the score without some features is its mean over the rows that stand for them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import funcattr
from funcattr.testing.seeding import settle, uniform

X, ROWS = uniform(2, 4), uniform(5, 4, seed=2)
MASK = torch.tensor([[0, 1, 1, 2]])
net = settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
ORDERS = torch.tensor([[2, 0, 1], [0, 1, 2]])
METHODS: dict[str, Any] = {
    "feature_ablation": funcattr.feature_ablation,
    "shapley_values": funcattr.shapley_values,
    "shapley_sampling": partial(funcattr.shapley_sampling, permutations=ORDERS),
    "kernel_shap": funcattr.kernel_shap,
    "lime": partial(funcattr.lime, regression="linear"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("mask", [None, MASK])
def test_it_is_the_mean_over_the_rows_one_by_one(name: str, chunk_size: Any, mask: Any) -> None:
    """All of these methods are linear in the scores."""
    method = METHODS[name]
    if mask is None and name == "shapley_sampling":
        method = partial(method, permutations=torch.tensor([[3, 0, 2, 1]]))
    found = method(net, X, [0, 2], feature_mask=mask, baseline=funcattr.distribution(ROWS), chunk_size=chunk_size)
    each = [method(net, X, [0, 2], feature_mask=mask, baseline=row.expand(2, 4)) for row in ROWS]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


@pytest.mark.parametrize("name", ["shapley_values", "shapley_sampling", "kernel_shap"])
def test_shapley_values_sum_to_the_rise_from_the_mean_score(name: str) -> None:
    mask = torch.tensor([[0, 1, 2, 2]])
    found = METHODS[name](net, X, 1, feature_mask=mask, baseline=funcattr.distribution(ROWS))
    rise = net(X)[:, 1] - net(ROWS)[:, 1].mean()
    torch.testing.assert_close(found[:, :3].sum(1), rise.detach())


def test_a_single_row_is_a_baseline_and_two_inputs_keep_their_rows_together() -> None:
    def product(a: Any, b: Any) -> Any:
        return (a * b).sum(1)

    rows = funcattr.distribution((ROWS, ROWS**2))
    found = funcattr.shapley_values(product, (X[:, :2], X[:, 2:]), baseline=funcattr.distribution((X[:, :2], X[:, 2:])))
    assert len(found) == 2
    a, b = funcattr.shapley_values(product, (X, X**2), baseline=rows)
    rise = (X**3).sum(1) - (ROWS**3).sum(1).mean()
    torch.testing.assert_close((a + b).sum(1), rise)
    one = funcattr.kernel_shap(net, X, 1, baseline=funcattr.distribution(ROWS[:1]))
    torch.testing.assert_close(one, funcattr.kernel_shap(net, X, 1, baseline=ROWS[:1]))


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kernel_shap\(baseline=distribution\(...\)\): expected rows of shapes"):
        funcattr.kernel_shap(net, X, 1, baseline=funcattr.distribution(ROWS[:, :3]))


@pytest.mark.parametrize("method", ["feature_ablation", "shapley_sampling", "kernel_shap", "shapley_values"])
def test_a_mask_is_laid_out_once_where_examples_are_elsewhere(method: str) -> None:
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    x, mask = torch.randn(3, 3, dtype=torch.float64), torch.tensor([[0], [0], [1]])  # as many features as examples
    rows = funcattr.distribution(torch.zeros(2, 3, dtype=torch.float64))
    model = lambda x: (x * weight[:, None]).sum(0)  # noqa: E731
    run = getattr(funcattr, method)
    one = run(model, x, None, feature_mask=mask, baseline=0, example_dims={"x": 1})
    torch.testing.assert_close(run(model, x, None, feature_mask=mask, baseline=rows, example_dims={"x": 1}), one)


def test_one_mask_for_two_inputs_is_refused_wherever_examples_are() -> None:
    p = torch.randn(5, 3)
    model = lambda p, q: (p * q).sum(0)  # noqa: E731
    with pytest.raises(ValueError, match=r"feature_mask=...\): expected 2 masks structured as x, got 1"):
        funcattr.feature_ablation(model, (p, p), feature_mask=torch.arange(5)[:, None], example_dims={"x": 1})


@pytest.mark.parametrize("baseline", [0.0, funcattr.distribution(ROWS)])
@pytest.mark.parametrize("method", ["feature_ablation", "shapley_values", "shapley_sampling", "kernel_shap", "lime"])
def test_a_number_that_no_value_has_is_no_feature(method: str, baseline: Any) -> None:
    run = getattr(funcattr, method)
    expected = run(net, X, 1, feature_mask=MASK, baseline=baseline)
    for other in (MASK + 3, 5 * MASK, 7 + 2 * MASK):
        torch.testing.assert_close(run(net, X, 1, feature_mask=other, baseline=baseline), expected)
