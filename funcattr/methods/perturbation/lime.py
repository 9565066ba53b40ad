"""LIME: a local linear model of the score in terms of who is present."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, distribution
from ...sampling.draws import Generator, seed_from, uniform
from ...sampling.loops import positive
from .coalitions import checked_coalitions, feature_groups
from .own_features import scores_of_shares, shares_of, together
from .regression import lasso, require_scikit_learn, solution_operator

Regression = Literal["lasso", "ridge", "linear"]


def lime(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    samples: int = 50,
    feature_mask: Any = None,
    baseline: Baseline | distribution = 0.0,
    features: int | None = None,
    kernel_width: float = 0.25,
    regression: Regression = "lasso",
    penalty: float = 0.01,
    coalitions: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """LIME: the coefficients of a linear model of the score, fitted where most features are present.

    A = argmin_a min_b sum_z w(z) (f(z) - b - z . a)^2 + penalty |a|;  w(z) = exp(-D(z)^2 / (2 width^2))

    f(z) is the score with the features of the coalition z present and the others at the baseline, each feature with
    probability 1/2. D(z) = 1 - sqrt(|z| / F) is the cosine distance of z to everything present. Examples with the same
    features get the same coalitions; F counts the features that the example has.

    Args:
        model, x, target, feature_mask, baseline, features, output, args, kwargs, example_dims: As in
            `feature_ablation`.
        samples: Number of coalitions, each a forward.
        kernel_width: Width of the weights in D, which lies between 0 and 1.
        regression: "lasso" with penalty 2 sum_z w(z) |a|_1, "ridge" with penalty |a|^2, or "linear" with none
            (of all solutions the one of smallest norm).
        penalty: Its factor, in units of the score for "lasso".
        coalitions: The coalitions themselves, in place of `samples`. Boolean or integer, [S, F]
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Coalitions that run at once; by default so many that 16 examples do. It changes no coalition.
        progress: Whether to show a progress bar.

    Returns:
        Coefficients in units of the score, structured and shaped as `x`; the values of a feature all get its number.
        Nothing is conserved: with the constant b, which is not returned, the features' numbers sum to what the linear
        model makes of x.

    Raises:
        ValueError, TypeError: As in `feature_ablation`, or if an option is not as documented above.
        ImportError: If scikit-learn, which fits the linear model, is not installed.
        NotImplementedError: If a "lasso" is differentiated.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(4, 2)
        >>> a = funcattr.lime(model, torch.ones(1, 4), 1, regression="linear")
        >>> torch.allclose(a[0], model.weight[1], atol=1e-5)
        True

    References:
        Ribeiro et al., 2016, arXiv:1602.04938, equation 2; the kernel is that of its authors' package.
    """
    _check("lime", kernel_width, regression, penalty)
    require_scikit_learn("lime")
    question = ask(
        "lime", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims, forward_only=True
    )
    call = question.call
    groups = feature_groups(question, feature_mask, baseline, features)
    seed, count = seed_from(call, generator), positive(call, "samples", samples)
    shares = shares_of(groups, features)
    if coalitions is None:
        half, index = torch.full((), 0.5, dtype=torch.float32, device=groups.device), torch.arange(count)
        present = [uniform(index.to(groups.device), (len(s.features),), half, seed) < half for s in shares]
    else:
        given = checked_coalitions(call, coalitions, groups)
        present = [given if len(shares) == 1 else given[:, share.features] for share in shares]

    def fit(design: Tensor, scores: Tensor) -> Tensor:
        weights = torch.exp(-((1 - design.mean(1).sqrt()) ** 2) / (2 * kernel_width**2))
        if regression == "lasso":
            return lasso(call, design, scores, weights, penalty)
        ridge = penalty if regression == "ridge" else None
        return scores @ solution_operator(call, design, weights, ridge=ridge, intercept=True).to(scores)

    scored = scores_of_shares(question, groups, shares, present, chunk_size, progress)
    values = [fit(own.double(), scores) for own, scores in zip(present, scored, strict=True)]
    return question.as_given(groups.spread(together(groups, shares, values)))


def _check(call: str, kernel_width: Any, regression: Any, penalty: Any) -> None:
    if regression not in get_args(Regression):
        raise ValueError(f"{call}(regression={regression!r}): expected 'lasso', 'ridge' or 'linear'.")
    for name, value in (("kernel_width", kernel_width), ("penalty", penalty)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{call}({name}=...): expected a number, got {type(value).__name__}.")
        if not 0 < value < math.inf:
            raise ValueError(f"{call}({name}={value}): expected a number above 0.")
