"""Kernel SHAP: exact Shapley values of few features, complete for any samples, and better than plain sampling."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from funcattr.methods.perturbation.kernel_shap import kernel_coalitions, kernel_shap
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal

few = settings(max_examples=15)
CPU = torch.device("cpu")


def net(dtype: torch.dtype = torch.float64, values: int = 6) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(values, 5), nn.Tanh(), nn.Linear(5, 3)), dtype=dtype)


# --- values ----------------------------------------------------------------------------------------------------------


@given(st.data())
@few
def test_few_features_get_their_exact_shapley_values(data: st.DataObject) -> None:
    features = data.draw(st.integers(1, 6))
    ids = data.draw(st.lists(st.integers(0, features - 1), min_size=12, max_size=12))
    ids[-1] = features - 1
    mask = torch.tensor(ids).reshape(2, 6)
    options: Any = {"feature_mask": mask, "baseline": uniform(2, 6, seed=data.draw(st.integers(2, 99)))}
    model, x = net(), uniform(2, 6)
    actual = kernel_shap(model, x, [0, 2], **options, samples=data.draw(st.integers(2**features, 9999)))
    assert_equal(actual, references.shapley_values(model, x, [0, 2], **options))


@given(st.integers(3, 7), st.integers(8, 40), st.integers(0, 99))
@few
def test_some_coalitions_solve_the_constrained_regression(features: int, samples: int, seed: int) -> None:
    model, x, mask = net(), uniform(2, 6), torch.arange(6)[None] % min(features, 6)
    features = min(features, 6)
    coalitions, weights = kernel_coalitions(samples, features, seed, CPU)
    options: Any = {"feature_mask": mask, "baseline": 0.2}
    if torch.linalg.matrix_rank(coalitions.double() - coalitions.double()[:, -1:]) == features - 1:
        expected = references.kernel_shap(model, x, 1, **options, coalitions=coalitions, weights=weights)
        assert_equal(kernel_shap(model, x, 1, **options, samples=samples, generator=seed), expected)


def test_given_coalitions_count_alike() -> None:
    model, x = net(), uniform(2, 6)
    coalitions = torch.rand(40, 6) < 0.5
    expected = references.kernel_shap(model, x, 1, coalitions=coalitions)
    assert_equal(kernel_shap(model, x, 1, coalitions=coalitions), expected)
    assert_equal(kernel_shap(model, x, 1, coalitions=coalitions.long(), chunk_size=7), expected)


@given(st.integers(5, 30), st.sampled_from([torch.float64, torch.float32]), st.integers(0, 99))
@few
def test_any_number_of_coalitions_is_complete(samples: int, dtype: torch.dtype, seed: int) -> None:
    model, x, baseline = net(dtype), uniform(2, 6, dtype=dtype), uniform(1, 6, dtype=dtype, seed=3)
    a = kernel_shap(model, x, 1, samples=samples, baseline=baseline, generator=seed)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert_equal(a.sum(1), (model(x) - model(baseline))[:, 1].detach(), tolerance=tolerance)


def test_an_additive_score_is_found_from_any_coalitions_that_suffice() -> None:
    x, weights = uniform(2, 9), uniform(9, seed=2)
    a = kernel_shap(lambda x: x.tanh() @ weights, x, samples=40)
    assert_equal(a, x.tanh() * weights)


def drawn_by_the_kernel(samples: int, features: int, generator: torch.Generator) -> Tensor:
    """Coalitions one by one: a size by its mass, then a subset of that size."""
    mass = torch.tensor([1 / (size * (features - size)) for size in range(1, features)])
    sizes = 1 + torch.multinomial(mass, samples, replacement=True, generator=generator)
    return torch.stack([torch.randperm(features, generator=generator) < size for size in sizes])


def test_the_estimate_is_better_than_that_of_coalitions_drawn_one_by_one() -> None:
    model, x, generator = net(values=8), uniform(4, 8), torch.Generator().manual_seed(0)
    exact = references.shapley_values(model, x, 1)
    ours, plain = [], []
    for seed in range(12):
        ours.append((kernel_shap(model, x, 1, samples=60, generator=seed, chunk_size=60) - exact).square().mean())
        coalitions = drawn_by_the_kernel(60, 8, generator)
        plain.append((kernel_shap(model, x, 1, coalitions=coalitions, chunk_size=60) - exact).square().mean())
    assert torch.stack(ours).mean() < torch.stack(plain).mean() / 2
    assert (torch.stack(ours).mean() / exact.square().mean()).sqrt() < 0.1


# --- coalitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [2, 3, 4, 7, 10])
def test_enough_samples_are_all_coalitions_with_the_weights_of_the_kernel(features: int) -> None:
    for samples in (2**features - 2, 5000):
        coalitions, weights = kernel_coalitions(samples, features, 0, CPU)
        assert {tuple(row) for row in coalitions.tolist()} == {
            tuple(row) for row in references.all_coalitions(features).tolist()
        }
        torch.testing.assert_close(weights, torch.from_numpy(references.shapley_kernel(coalitions)))
        assert len(coalitions) == 2**features - 2


@given(st.integers(2, 12), st.integers(1, 300), st.integers(0, 99))
@few
def test_sizes_are_whole_from_the_border_inwards_and_the_rest_comes_in_pairs(
    features: int, samples: int, seed: int
) -> None:
    coalitions, weights = kernel_coalitions(samples, features, seed, CPU)
    assert len(coalitions) == len(weights) == min(samples, 2**features - 2)
    sizes = coalitions.sum(1)
    assert (sizes > 0).all() and (sizes < features).all()
    total = sum((features - 1) / (size * (features - size)) for size in range(1, features))
    assert float(weights.sum()) == pytest.approx(total)
    inner = 1
    while inner <= features // 2 and len({tuple(r) for r in coalitions[sizes == inner].tolist()}) == math.comb(
        features, inner
    ):
        inner += 1
    drawn = (sizes >= inner) & (sizes <= features - inner)
    whole = coalitions[~drawn]
    assert len({tuple(row) for row in whole.tolist()}) == len(whole)
    pairs = coalitions[drawn]
    pairs = pairs[: len(pairs) // 2 * 2]
    if len(pairs) and not (~drawn)[drawn.nonzero()[0, 0] :].any():
        assert torch.equal(pairs[::2], ~pairs[1::2])


def test_drawn_coalitions_follow_the_kernel() -> None:
    """With weights, the share of each pair of features is that of all coalitions."""
    features = 11  # 2046 coalitions: sizes 1, 2 and their complements are whole, the others drawn
    coalitions, weights = kernel_coalitions(1000, features, 0, CPU)
    everyone = references.all_coalitions(features)
    assert {int(s) for s in coalitions.sum(1)} == set(range(1, features))
    for z, w in ((coalitions.double(), weights),):
        exact = everyone.double()
        expected = exact.T @ (torch.from_numpy(references.shapley_kernel(everyone))[:, None] * exact)
        torch.testing.assert_close(z.T @ (w[:, None] * z), expected, rtol=0.06, atol=0)


def test_a_coalition_depends_on_its_number_and_the_seed_only() -> None:
    few_rows, many = (kernel_coalitions(samples, 40, 3, CPU)[0] for samples in (20, 60))
    assert torch.equal(few_rows, many[:20])
    assert not torch.equal(kernel_coalitions(60, 40, 4, CPU)[0], many)


def test_the_operator_of_coalitions_is_what_torch_expects() -> None:
    torch.library.opcheck(torch.ops.funcattr.kernel_coalitions.default, (torch.arange(3), 5, 4, 0))


def test_coalitions_may_be_mapped() -> None:
    model, x, coalitions = net(), uniform(2, 6), torch.rand(3, 30, 6) < 0.5
    many = torch.vmap(lambda z: kernel_shap(model, x, 1, coalitions=z))(coalitions)
    for a, z in zip(many, coalitions, strict=True):
        assert_equal(a, kernel_shap(model, x, 1, coalitions=z), tolerance=1e-10)


def test_too_few_coalitions_are_refused() -> None:
    message = r"^kernel_shap\(samples=4\): expected at least 5 coalitions for 6 features, or the regression has many"
    for coalitions in (None, torch.ones(4, 6) > 0):
        with pytest.raises(ValueError, match=message):
            kernel_shap(net(), uniform(2, 6), 1, samples=4, coalitions=coalitions)
