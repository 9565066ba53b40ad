"""The regression operators: least squares by their definitions, and steps over which every transform goes."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcattr.methods.perturbation import regression
from funcattr.methods.perturbation.regression import lasso, solution_operator
from funcattr.testing.seeding import uniform

from ...contract import assert_equal

few = settings(max_examples=10)


def problem(rows: int, features: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A design, weights and the values of two regressions."""
    design = (uniform(rows, features, seed=seed) > 0).double()
    return design, uniform(rows, seed=seed + 1).abs() + 0.1, uniform(2, rows, seed=seed + 2)


@given(st.integers(1, 30), st.integers(1, 6), st.sampled_from([None, 0.3]), st.booleans(), st.integers(0, 99))
@few
def test_the_operator_is_the_weighted_pseudoinverse(
    rows: int, features: int, ridge: Any, constant: bool, seed: int
) -> None:
    design, weights, values = (v.numpy() for v in problem(rows, features, seed))
    share = weights / weights.sum()
    z, y = (design - share @ design, values - values @ share[:, None]) if constant else (design, values)
    root = np.sqrt(weights)[:, None]
    if ridge is None:
        expected = np.linalg.pinv(root * z, rcond=1e-10) @ (root * y.T)
    else:
        expected = np.linalg.solve(z.T @ (root**2 * z) + ridge * np.eye(features), z.T @ (root**2 * y.T))
    given = torch.from_numpy(design), torch.from_numpy(weights)
    actual = torch.from_numpy(values) @ solution_operator("lime", *given, ridge=ridge, intercept=constant)
    assert_equal(actual, torch.from_numpy(expected.T), tolerance=1e-8)


@pytest.mark.parametrize("ridge", [None, 0.3])
def test_more_rows_than_are_solved_at_once(monkeypatch: pytest.MonkeyPatch, ridge: Any) -> None:
    design, weights, _ = problem(23, 4)
    expected = solution_operator("lime", design, weights, ridge=ridge)
    for columns in (1, 5, 22):
        monkeypatch.setattr(regression, "COLUMNS", columns)
        assert_equal(solution_operator("lime", design, weights, ridge=ridge), expected, tolerance=1e-12)


def test_one_row() -> None:
    design, weights = torch.ones(1, 3).double(), torch.ones(1).double()
    assert_equal(solution_operator("lime", design, weights, ridge=1.0), torch.full((1, 3), 0.25).double())


def test_a_lasso_is_optimal() -> None:
    """Its slope is -alpha * sign where a coefficient is not 0, and within alpha where it is."""
    design, weights, values = problem(40, 6)
    coefficients = lasso("lime", design, values, weights, 0.1)
    share = weights / weights.sum()
    z, y = design - share @ design, values - (values @ share)[:, None]
    slope = ((y - coefficients @ z.T) * share) @ z
    zero = coefficients == 0
    assert zero.any() and not zero.all()
    assert (slope[zero].abs() <= 0.1 + 1e-6).all()
    torch.testing.assert_close(slope[~zero], 0.1 * coefficients[~zero].sign(), rtol=0, atol=1e-6)


def test_a_regression_of_what_is_no_number_leaves_the_others_alone() -> None:
    design, weights, values = problem(20, 3)
    spoilt = torch.stack([values[0], values[1] * torch.nan, values[1]])
    found = lasso("lime", design, spoilt, weights, 0.01)
    assert found[1].isnan().all()
    assert_equal(found[[0, 2]], lasso("lime", design, values, weights, 0.01), tolerance=1e-12)


def test_operators_are_what_torch_expects_of_them() -> None:
    design, weights, values = problem(9, 3)
    for ridge in (None, 0.1):
        torch.library.opcheck(torch.ops.funcattr.solution_operator.default, (design, weights, ridge, True))
    torch.library.opcheck(torch.ops.funcattr.lasso.default, ("lime", design, values, weights, 0.1))


def test_vmap_fits_one_by_one() -> None:
    problems = [problem(9, 3, seed) for seed in (0, 10)]
    designs, weights, values = (torch.stack(parts) for parts in zip(*problems, strict=True))

    def operator(design: Tensor, weights: Tensor) -> Tensor:
        return solution_operator("lime", design, weights, ridge=0.1)

    def sparse(design: Tensor, values: Tensor, weights: Tensor) -> Tensor:
        return lasso("lime", design, values, weights, 0.05)

    alone = [operator(d, w) for d, w, _ in problems], [sparse(d, v, w) for d, w, v in problems]
    assert_equal(torch.vmap(operator)(designs, weights), torch.stack(alone[0]), tolerance=1e-12)
    assert_equal(torch.vmap(sparse)(designs, values, weights), torch.stack(alone[1]), tolerance=1e-12)
    one_design = torch.vmap(lambda v: sparse(designs[0], v, weights[0]), in_dims=2)(values.movedim(0, 2))
    assert_equal(one_design[0], alone[1][0], tolerance=1e-12)


def derivatives() -> dict[str, Any]:
    design, weights, values = problem(9, 3)

    def total(values: Tensor) -> Tensor:
        return lasso("lime", design, values, weights, 0.05).sum()

    def dual() -> Any:
        with forward_ad.dual_level():
            return total(forward_ad.make_dual(values, values))

    return {
        "backward": lambda: total(values.clone().requires_grad_()).backward(),
        "grad": lambda: torch.func.grad(total)(values),
        "jvp": lambda: torch.func.jvp(total, (values,), (values,)),
        "jacrev": lambda: torch.func.jacrev(total)(values),
        "vmap of grad": lambda: torch.vmap(torch.func.grad(total))(values[None]),
        "dual numbers": dual,
    }


@pytest.mark.parametrize("how", derivatives())
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning", "ignore:Error detected in:UserWarning")
def test_a_lasso_refuses_every_derivative(how: str) -> None:
    with pytest.raises(NotImplementedError, match=r"^lime: a Lasso fit cannot be differentiated, .*regression='ridge'"):
        derivatives()[how]()


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    design, weights, values = problem(9, 3)
    for call in (
        lambda: solution_operator("kernel_shap", design, weights),
        lambda: lasso("kernel_shap", design, values, weights, 0.1),
    ):
        with pytest.raises(
            ImportError, match=r"^kernel_shap: it needs scikit-learn: pip install '.\[regression\]' in a clone"
        ):
            call()
