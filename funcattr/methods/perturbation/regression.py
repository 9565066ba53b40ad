"""Linear regression of scores on coalitions, by scikit-learn, as operators that transforms and compilers step over."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..._torch import assume_constant_result, inside_derivative
from ...extras import needed

COLUMNS = 256
NO_DERIVATIVE = (
    "a Lasso fit cannot be differentiated, nor can it run inside torch.func.grad, vjp or jvp. "
    "Take regression='ridge' or 'linear', or call it outside."
)


def solution_operator(
    call: str, design: Tensor, weights: Tensor, *, ridge: float | None = None, intercept: bool = False
) -> Tensor:
    """The linear map from scores to the coefficients of their weighted regression.

    y P = argmin_beta sum_s w_s (y_s - z_s . beta)^2 + ridge |beta|^2, of all solutions the one with the smallest norm

    Args:
        call: First words of errors.
        design: What is regressed on, z. [S, F]
        weights: One for each row, w. [S]
        ridge: The penalty, if any.
        intercept: Whether a constant is fitted as well, which is not returned.

    Returns:
        P, in double precision. [S, F]

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    require_scikit_learn(call)
    return _solution_operator(design, weights, ridge, intercept)


def lasso(call: str, design: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """The coefficients of weighted Lasso regressions with an intercept.

    argmin_beta min_b 1 / (2 sum_s w_s) sum_s w_s (y_s - z_s . beta - b)^2 + alpha |beta|_1

    Args:
        call: First words of errors.
        design: What is regressed on, z. [S, F]
        scores: The values of each regression, y. [N, S]
        weights: One for each row of the design, w. [S]
        alpha: The penalty.

    Returns:
        beta, of the scores' dtype; NaN where a score is not finite. [N, F]

    Raises:
        ImportError: If scikit-learn is not installed.
        NotImplementedError: If it is differentiated.
    """
    require_scikit_learn(call)
    # What runs backwards through the operator raises there. Other derivatives would find zeros, and say nothing.
    if inside_derivative() or _has_tangent(scores):
        raise NotImplementedError(f"{call}: {NO_DERIVATIVE}")
    return _lasso(call, design, scores, weights, alpha)


@assume_constant_result
def require_scikit_learn(call: str) -> None:
    """Raise where scikit-learn is missing, before the model runs for nothing."""
    needed(call, "sklearn.linear_model", ".[regression]", "scikit-learn")


def _has_tangent(values: Tensor) -> bool:
    return not torch.compiler.is_compiling() and forward_ad.unpack_dual(values).tangent is not None


@torch.library.custom_op("funcattr::solution_operator", mutates_args=())
def _solution_operator(design: Tensor, weights: Tensor, ridge: float | None, intercept: bool) -> Tensor:
    from sklearn.linear_model import LinearRegression, Ridge

    model = LinearRegression(fit_intercept=intercept) if ridge is None else Ridge(ridge, fit_intercept=intercept)
    rows, weight = _array(design), _array(weights)
    # The image of each unit vector; some at a time, so that memory stays linear in their number.
    found = []
    for start in range(0, len(rows), COLUMNS):
        units = np.eye(len(rows), min(COLUMNS, len(rows) - start), -start)
        # Of one regression a Ridge gives a vector.
        found.append(model.fit(rows, units, sample_weight=weight).coef_.reshape(units.shape[1], -1))
    return torch.from_numpy(np.concatenate(found)).to(design.device).contiguous()


@_solution_operator.register_fake
def _(design: Tensor, weights: Tensor, ridge: float | None, intercept: bool) -> Tensor:
    return design.new_empty(design.shape, dtype=torch.float64)


@torch.library.custom_op("funcattr::lasso", mutates_args=())
def _lasso(call: str, design: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    from sklearn.linear_model import Lasso

    # Of the duality gap; coefficients are as exact as its root.
    model = Lasso(alpha, tol=1e-10, max_iter=10_000)
    rows, weight = _array(design), _array(weights)
    result = np.full((len(scores), rows.shape[1]), np.nan)
    for coefficients, values in zip(result, _array(scores), strict=True):
        if np.isfinite(values).all():
            coefficients[:] = model.fit(rows, values, sample_weight=weight).coef_
    return torch.from_numpy(result).to(scores)


@_lasso.register_fake
def _(call: str, design: Tensor, scores: Tensor, weights: Tensor, alpha: float) -> Tensor:
    return scores.new_empty(len(scores), design.shape[1])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.call = inputs[0]


def _refuse(ctx: Any, cotangent: Tensor) -> Any:
    raise NotImplementedError(f"{ctx.call}: {NO_DERIVATIVE}")


_lasso.register_autograd(_refuse, setup_context=_remember)


def _fit_by_fit(operator: Any) -> Any:
    """The batching rule of an operator of independent fits: one after the other."""

    def mapped(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        def at(i: int) -> list[Any]:
            return [a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]

        return torch.stack([operator(*at(i)) for i in range(info.batch_size)]), 0

    return mapped


for _operator in (_solution_operator, _lasso):
    _operator.register_vmap(_fit_by_fit(_operator))


def _array(values: Tensor) -> Any:
    return values.detach().cpu().double().numpy()
