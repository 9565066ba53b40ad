"""What Captum's Lime is made of: a linear model, and a kernel that weighs perturbed inputs by their distance."""

import math
from typing import Any

import torch
from torch import Tensor

import funcattr

from .attribution import as_tuple

_REGRESSIONS = {
    "linear_model.Lasso": "lasso",
    "linear_model.Ridge": "ridge",
    "linear_model.LinearRegression": "linear",
}
"""Regressions of `funcattr.lime`, by the name of the scikit-learn class that Captum's models hold."""


class SkLearnLinearModel:
    """A linear model of scikit-learn.

    Args:
        sklearn_module: Its name: "linear_model.Lasso", ...
        kwargs: Its arguments.
    """

    def __init__(self, sklearn_module: str, **kwargs: Any) -> None:
        self.sklearn_module, self.construct_kwargs = sklearn_module, kwargs


class SkLearnLasso(SkLearnLinearModel):
    """A Lasso fit, with a penalty `alpha`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Lasso", **kwargs)


class SkLearnRidge(SkLearnLinearModel):
    """A ridge regression, with a penalty `alpha`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Ridge", **kwargs)


class SkLearnLinearRegression(SkLearnLinearModel):
    """A linear regression without a penalty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.LinearRegression", **kwargs)


class ExponentialKernel:
    """The weight exp(-D^2 / (2 width^2)) of a perturbed input at a distance D of the original one."""

    def __init__(self, distance_mode: str, kernel_width: float) -> None:
        self.distance_mode, self.kernel_width = distance_mode, kernel_width

    def __call__(self, original: Any, perturbed: Any, _: Any = None, **kwargs: Any) -> float:
        """The weight of one input."""
        a, b = (torch.cat([part.flatten().double() for part in as_tuple(x)]) for x in (original, perturbed))
        is_cosine = self.distance_mode == "cosine"
        distance: Tensor = 1 - torch.cosine_similarity(a, b, dim=0) if is_cosine else torch.linalg.vector_norm(a - b)
        return math.exp(-(float(distance) ** 2) / (2 * self.kernel_width**2))


def get_exp_kernel_similarity_function(distance_mode: str = "cosine", kernel_width: float = 1.0) -> ExponentialKernel:
    """The kernel that weighs perturbed inputs by their "cosine" or "euclidean" distance."""
    if distance_mode not in ("cosine", "euclidean"):
        raise ValueError(f"get_exp_kernel_similarity_function({distance_mode!r}): expected 'cosine' or 'euclidean'.")
    return ExponentialKernel(distance_mode, kernel_width)


def regression_of(model: Any) -> dict[str, Any]:
    """The options of `funcattr.lime` for a model of this module or of Captum's; None is Captum's default."""
    if model is None:
        return {"regression": "lasso", "penalty": 0.01}
    name, given = getattr(model, "sklearn_module", None), getattr(model, "construct_kwargs", {})
    regression = _REGRESSIONS.get(name) if isinstance(name, str) else None
    if regression is None or not set(given) <= ({"alpha"} if regression != "linear" else set()):
        raise funcattr.FuncattrError(
            f"Lime(interpretable_model={type(model).__name__}): expected SkLearnLasso(alpha=...), "
            "SkLearnRidge(alpha=...) or SkLearnLinearRegression(). Use funcattr.lime(regression=..., penalty=..., "
            "coalitions=...), or your own model on coalitions of your own."
        )
    return {"regression": regression} | ({} if regression == "linear" else {"penalty": given.get("alpha", 1.0)})


def width_of(kernel: Any) -> float:
    """The width of a cosine kernel; None is Captum's default."""
    if kernel is None:
        return 1.0
    if not isinstance(kernel, ExponentialKernel) or kernel.distance_mode != "cosine":
        raise funcattr.FuncattrError(
            "Lime(similarity_func=...): expected funcattr.compat.captum.attr.get_exp_kernel_similarity_function("
            '"cosine", width): funcattr.lime(kernel_width=...) weighs coalitions by their cosine distance.'
        )
    return kernel.kernel_width
