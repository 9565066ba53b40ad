"""Feature ablation: what the score loses when a feature is at its baseline."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, distribution
from .coalitions import coalition_scores, feature_groups, precise


def feature_ablation(
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
    """Feature ablation: what the score loses when a feature is at its baseline and the others are there.

    A_j = f(x) - f(x with feature j at the baseline)

    Args:
        model: A module, a `FunctionalModel` or a callable; called as `model(*x, *args, **kwargs)`. Not modified. It may
            return integers or booleans.
        x: Input, [N, ...]; a tuple of inputs; or a mapping of inputs that go by keyword. Integers (token ids) will do,
            but beside floating-point inputs in a mapping they are constants.
        target, output, args, kwargs, example_dims: As in `gradient`.
        feature_mask: The feature of each value: integers 0 .. F - 1, structured as x, each of a shape that broadcasts
            to it. Values with the same number, in whichever inputs, are one feature; a number that no value has is
            none. By default each value is one.
        baseline: What stands for an absent feature: a number, or a tensor that broadcasts to x; for several inputs also
            a structure of them. `distribution(rows)`, background data: f is the mean over its rows.
        features: F. It is read from the mask, but for compiled code and a mask that is mapped by `vmap`. Where it is
            given, a number below it that no value has counts as a feature.
        chunk_size: Features that are ablated at once; by default so many that 16 examples run.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of the score, structured and shaped as `x`; the values of a feature all get its number.
        For a score that is a sum of functions of one feature each, the features' numbers sum to f(x) - f(baseline).

    Raises:
        ValueError: If a shape, class or number is not as documented above, or the mask's features cannot be counted.
        TypeError: If a mask is not made of integers, or an argument is of the wrong kind.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Linear(4, 2, bias=False)
        >>> x, halves = torch.ones(1, 4), torch.tensor([[0, 0, 1, 1]])
        >>> a = funcattr.feature_ablation(model, x, 1, feature_mask=halves)
        >>> torch.allclose(a[0, 0], model.weight[1, :2].sum()) and torch.equal(a[0, 0], a[0, 1])
        True

    References:
        Zeiler & Fergus, 2014, arXiv:1311.2901, section 4.2; Li et al., 2016, arXiv:1612.08220.
    """
    question = ask(
        "feature_ablation",
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

    def all_but_one(index: Tensor) -> Tensor:
        return torch.arange(groups.features, device=index.device) != index.unsqueeze(1)

    without = coalition_scores(question, groups, all_but_one, groups.features, chunk_size, progress)
    return question.as_given(groups.spread(precise(question.scores()).unsqueeze(1) - without))
