"""LIME: the regression of its paper against its normal equations, and coordinate descent for the Lasso."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported

import funcattr
from funcattr.methods.perturbation.lime import lime
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal
from ...sweeps import long

few = settings(max_examples=15)
NET = settle(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
X = uniform(2, 6)


@given(st.data())
@few
def test_equals_the_reference(data: st.DataObject) -> None:
    regression: Any = data.draw(st.sampled_from(["lasso", "ridge", "linear"]))
    features, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    coalitions = torch.rand(30, features, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask = torch.arange(6)[None] % features
    options: Any = {"feature_mask": mask, "baseline": 0.3, "coalitions": coalitions}
    penalty = data.draw(st.sampled_from([1e-3, 0.05, 2.0]))
    # The one feature's absence has the distance 1: at a width of 0.1 it would weigh exp(-50), and rounding as much.
    options |= {"kernel_width": data.draw(st.sampled_from([0.1 if features > 1 else 0.2, 0.25, 1]))}
    expected = references.lime(NET, X, [2, 0], **options, kind=regression, alpha=penalty)
    options |= {"regression": regression, "chunk_size": data.draw(st.sampled_from([None, 4]))}
    actual = lime(NET, X, [2, 0], **options, penalty=penalty)
    assert_equal(actual, expected, tolerance=1e-6 if regression == "lasso" else 1e-9)


def test_each_feature_is_present_half_of_the_time() -> None:
    half = torch.full((), 0.5, dtype=torch.float32)
    coalitions = draws.uniform(torch.arange(400), (6,), half, 3) < 0.5
    given_ones = lime(NET, X, 1, coalitions=coalitions, regression="ridge", chunk_size=400)
    assert_equal(lime(NET, X, 1, samples=400, generator=3, regression="ridge"), given_ones, tolerance=1e-12)
    assert (coalitions.double().mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("regression", ["linear", "lasso"])
def test_an_additive_score_is_found(regression: Any) -> None:
    weights = uniform(6, seed=2)
    a = lime(lambda x: x.tanh() @ weights, X, regression=regression, penalty=1e-6)
    assert_equal(a, X.tanh() * weights, tolerance=1e-4 if regression == "lasso" else 1e-9)


def test_the_default_is_sparse_and_nothing_is_left_of_a_large_penalty() -> None:
    weights = torch.tensor([2.0, 0.0, 0.001, -3.0, 0.0, 0.001]).double()
    a = lime(lambda x: x @ weights, torch.ones(1, 6).double())
    assert (a[0] != 0).tolist() == [True, False, False, True, False, False]
    assert not lime(lambda x: x @ weights, torch.ones(1, 6).double(), penalty=10.0).any()


def test_weights_are_of_the_cosine_distance() -> None:
    """Also for the empty coalition, which has no direction: its distance is 1."""
    coalitions = references.all_coalitions(3, proper=False)
    mask = torch.arange(6)[None] % 3
    for width in (0.2, 0.7):
        options: Any = {"feature_mask": mask, "coalitions": coalitions, "kernel_width": width}
        expected = references.lime(NET, X, 1, **options, kind="linear")
        assert_equal(lime(NET, X, 1, **options, regression="linear"), expected)


def test_an_example_that_is_no_number_leaves_the_others_alone() -> None:
    x = torch.cat([X, X[:1] * torch.nan])
    for regression in ("lasso", "ridge"):
        a = lime(NET, x, 1, regression=regression)
        assert_equal(a[:2], lime(NET, X, 1, regression=regression), tolerance=1e-12)
        assert a[2].isnan().all()


def test_coalitions_may_be_mapped() -> None:
    coalitions = torch.rand(3, 20, 6) < 0.5
    for regression in ("lasso", "ridge"):

        def fitted(z: Tensor, regression: Any = regression) -> Tensor:
            return lime(NET, X, 1, coalitions=z, regression=regression)

        for a, z in zip(torch.vmap(fitted)(coalitions), coalitions, strict=True):
            assert_equal(a, fitted(z), tolerance=1e-10)


@pytest.mark.filterwarnings("ignore:Error detected in:UserWarning")
def test_a_lasso_of_an_input_that_requires_a_gradient_raises_only_when_it_is_asked_for() -> None:
    leaf = X.clone().requires_grad_()
    a = lime(NET, leaf, 1, penalty=1e-4)
    assert_equal(a.detach(), lime(NET, X, 1, penalty=1e-4), tolerance=1e-12)
    with pytest.raises(NotImplementedError, match=r"^lime: a Lasso fit cannot be differentiated"):
        a.sum().backward()
    assert leaf.grad is None


def test_a_compiled_lasso_refuses_its_derivative(fresh_dynamo: None) -> None:
    fm = funcattr.functionalize(NET)
    slope = torch.func.grad(lambda x: lime(fm, x, 1, chunk_size=50).sum())
    with pytest.raises(Unsupported, match=r"lime: a Lasso fit cannot be differentiated"):
        torch.compile(slope, fullgraph=True, backend="eager")(X)


@long
def test_inductor_equals_eager(fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(settle(lambda: nn.Linear(3, 2))), uniform(2, 3)

    def run(x: Tensor) -> Tensor:
        return lime(fm, x, 1, samples=4, regression="ridge", chunk_size=2)

    assert_equal(torch.compile(run, fullgraph=True)(x), run(x), tolerance=1e-10)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"regression": "elastic"}, ValueError, r"\(regression='elastic'\): expected 'lasso', 'ridge' or 'linear'"),
        ({"regression": None}, ValueError, r"\(regression=None\): expected"),
        ({"penalty": 0}, ValueError, r"\(penalty=0\): expected a number above 0"),
        ({"penalty": float("nan")}, ValueError, r"\(penalty=nan\): expected a number above 0"),
        ({"penalty": "0.1"}, TypeError, r"\(penalty=...\): expected a number, got str"),
        ({"kernel_width": -1.0}, ValueError, r"\(kernel_width=-1.0\): expected a number above 0"),
        ({"kernel_width": True}, TypeError, r"\(kernel_width=...\): expected a number, got bool"),
    ],
)
def test_bad_options(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^lime{message}"):
        lime(NET, X, 1, **options)
