"""Shapley values, exactly: the score of every coalition of the features."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, distribution
from .coalitions import coalition_scores, feature_groups

MOST_FEATURES = 20


def shapley_values(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    feature_mask: Any = None,
    baseline: Baseline | distribution = 0.0,
    features: int | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Shapley values: what each feature adds to those present before it, in the mean over all orders.

    A_j = sum_{S without j} |S|! (F - |S| - 1)! / F!  (f(S and j) - f(S))

    f(S) is the score with the features of S present and the others at the baseline. All 2^F coalitions run, once each:
    for more than some ten features take `shapley_sampling` or `kernel_shap`.

    Args:
        model, x, target, feature_mask, baseline, features, output, args, kwargs, example_dims: As in
            `feature_ablation`. At most 20 features.
        chunk_size: Coalitions that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of the score, structured and shaped as `x`; the values of a feature all get its number.
        The features' numbers sum to f(x) - f(baseline).

    Raises:
        ValueError, TypeError: As in `feature_ablation`, or if there are more than 20 features.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double()
        >>> x = torch.ones(1, 4).double()
        >>> a = funcattr.shapley_values(model, x, 1)
        >>> torch.allclose(a.sum(), (model(x) - model(0 * x))[0, 1])
        True

    References:
        Shapley, 1953, doi:10.1515/9781400881970-018.
    """
    question = ask(
        "shapley_values",
        model,
        x,
        target,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
        forward_only=True,
    )
    groups = feature_groups(question, feature_mask, baseline, features)
    count = groups.features
    if count > MOST_FEATURES:
        raise ValueError(
            f"shapley_values(feature_mask=...): expected at most {MOST_FEATURES} features, got {count}, whose "
            f"2^{count} coalitions would all run. Group values by feature_mask=, or take shapley_sampling."
        )
    bits = torch.arange(count, device=groups.device)

    def members(index: Tensor) -> Tensor:
        return (index.unsqueeze(1) >> bits) % 2 == 1

    scores = coalition_scores(question, groups, members, 2**count, chunk_size, progress)
    weights = shapley_weights(members(torch.arange(2**count, device=groups.device)))
    return question.as_given(groups.spread(scores @ weights.to(scores)))


def shapley_weights(present: Tensor) -> Tensor:
    """What a coalition's score counts for each feature: as one of its members, or as one that could join. [2^F, F]"""
    count = present.shape[1]
    share = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
    joining = present.new_tensor([*share, 0.0], dtype=torch.float64)
    size = present.sum(1, keepdim=True)
    return torch.where(present, joining[(size - 1).clamp(min=0)], -joining[size])
