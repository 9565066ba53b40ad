"""How a model's score falls or rises as an input's features are removed or shown in the order of attributions."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.activation import Activation, activated
from ..attribution.example_dims import ExampleDims
from ..attribution.question import Model, Question, ask
from ..attribution.separate_copies import copies_of
from ..attribution.targets import Target, score
from ..batch import parted
from ..methods.perturbation.coalitions import precise
from ..sampling.loops import chunk_for, loop, positive
from .players import Filling, Players, players

First = Literal["highest", "lowest"]
MOST_STEPS = 50


class Curve(NamedTuple):
    """Scores along a path from one input to another.

    Attributes:
        shares: The share of the features that has been removed, or shown. [T + 1], from 0 to 1
        scores: There. [N, T + 1]
        area: Under the scores, by the trapezoidal rule. [N]
    """

    shares: Tensor
    scores: Tensor
    area: Tensor


def deletion(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    first: First = "highest",
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    steps: int | None = None,
    activation: Activation | None = "softmax",
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Curve:
    """Scores as features are replaced by the baseline, the most important ones first: small areas are good.

    s_t = y(x without the first F t / T features);  area = sum_t (s_t + s_{t+1}) / 2 * (share_{t+1} - share_t)

    With `first="highest"` it is MoRF, with "lowest" LeRF, of which large areas are good. Equal attributions go in
    reading order.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions: What is measured: a map [N, 1, H, W], whose pixels are the features; or structured as x, each
            with its shape or with 1 in place of some dimensions. Of a feature of several, the sum.
        first: Which features go first, those with the "highest" or the "lowest" attributions.
        baseline: What stands for a removed value: a number, or tensors that broadcast to x. The mean colour is
            `x.mean((2, 3), keepdim=True)`, a blur `maps.smooth(x, 5)`. Or a function (rows, removed) -> filled that
            computes it from what is kept, such as `metrics.impute`: of copies of the examples [M, ...], and which of
            their values are removed, bool, of the same shape. What it returns counts at removed values only. It is
            called for each input by itself, with examples in dimension 0, whatever `example_dims` says.
        feature_mask: The feature of each value, integers from 0 that broadcast to x; `masks.patches(x, 8)` for squares.
        features: The number of features, where it cannot be read from the mask.
        steps: T, at most F; by default 50, or F if that is less.
        activation: Of the output, before the target is read: "softmax", "sigmoid", or None for the output itself.
        chunk_size: Steps that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        A `Curve`: shares [T + 1], scores [N, T + 1], area [N]. The first score is that of the input itself. Not a
        number for an example whose attributions have a NaN.

    Raises:
        ValueError, TypeError: As in `gradient`; and if the attributions, the baseline or the mask do not fit x, an
            option is out of its range, pixels would be removed channel by channel, or a function fills an example by
            what lies beside it.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: x.sum(1)
        >>> x = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
        >>> funcattr.metrics.deletion(model, x, None, x, activation=None).scores
        tensor([[10.,  6.,  3.,  1.,  0.]])

    References:
        Samek et al., 2017, arXiv:1509.06321 (MoRF, LeRF); Petsiuk et al., 2018, arXiv:1806.07421 (deletion); Rong et
        al., 2022, arXiv:2202.00449 (ROAD).
    """
    question = ask("deletion", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    given = players(question, attributions, feature_mask, baseline, features)
    return _curve(question, given, first, False, steps, activation, chunk_size, progress)


def insertion(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    first: First = "highest",
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    steps: int | None = None,
    activation: Activation | None = "softmax",
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Curve:
    """Scores as features are put into the baseline, the most important ones first: large areas are good.

    s_t = y(x' with the first F t / T features of x)

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions, first, feature_mask, features, steps, activation, chunk_size, progress: As in `deletion`.
        baseline: The input to start from, as in `deletion`; as published a blur, `maps.smooth(x, 5)`. What a function
            fills is what is not shown yet.

    Returns:
        A `Curve`, as of `deletion`. The first score is that of the baseline, the last one that of the input.

    Raises:
        ValueError, TypeError: As in `deletion`.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: x.sum(1)
        >>> x = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
        >>> funcattr.metrics.insertion(model, x, None, x, activation=None).scores
        tensor([[ 0.,  4.,  7.,  9., 10.]])

    References:
        Petsiuk et al., 2018, arXiv:1806.07421 (insertion).
    """
    question = ask("insertion", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    given = players(question, attributions, feature_mask, baseline, features)
    return _curve(question, given, first, True, steps, activation, chunk_size, progress)


def area_between(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    steps: int | None = None,
    activation: Activation | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """The area between the perturbation curves (ABPC): least important first, less most important first.

    ABPC = area of deletion(first="lowest") - area of deletion(first="highest")

    0 for an order by chance, on average; it does not depend on how far the baseline is from what the model knows, as
    long as that is alike for both orders.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions, baseline, feature_mask, features, steps, chunk_size, progress: As in `deletion`.
        activation: As there; by default the output itself, so that the area has its unit.

    Returns:
        The area, in units of the score. [N]

    Raises:
        ValueError, TypeError: As in `deletion`.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
        >>> funcattr.metrics.area_between(lambda x: x.sum(1), x, None, x)
        tensor([2.5000])

    References:
        Samek et al., 2017, arXiv:1509.06321; Schulz et al., 2020, arXiv:2001.00396.
    """
    question = ask("area_between", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    given = players(question, attributions, feature_mask, baseline, features)
    options = (False, steps, activation, chunk_size, progress)
    lowest, highest = (_curve(question, given, first, *options).area for first in ("lowest", "highest"))
    return lowest - highest


def _curve(
    question: Question,
    given: Players,
    first: First,
    inserts: bool,
    steps: int | None,
    activation: Activation | None,
    chunk_size: int | None,
    progress: bool,
) -> Curve:
    call, groups = question.call, given.groups
    count = _steps(call, steps, groups.features)
    ranks = _ranks(call, given, first)

    def body(done: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        reached = _features_at(index, count, groups.features)

        def leaf(rank: Tensor) -> Tensor:
            changed = rank.unsqueeze(1) < reached.reshape(-1, *[1] * (rank.ndim - 1))
            return ~changed if inserts else changed

        asked = copies_of(question, given.without(pytree.tree_map(leaf, ranks)))
        found = precise(score(call, activated(call, asked.outputs(), activation), asked.target))
        return done + len(index), (parted(found, len(index)).transpose(0, 1).clone(),)

    done = torch.zeros((), dtype=torch.long, device=groups.device)
    chunk = chunk_for(question, chunk_size, count + 1)
    _, (found,) = loop(call, body, done, count + 1, chunk, device=groups.device, progress=progress)
    unknown = given.attributions.isnan().any(1, keepdim=True)
    scores = torch.where(unknown, torch.nan, found.transpose(0, 1))
    every = torch.arange(count + 1, device=groups.device)
    shares = _features_at(every, count, groups.features).to(scores.dtype) / groups.features
    return Curve(shares, scores, torch.trapezoid(scores, shares, dim=1))


def _steps(call: str, steps: int | None, features: int) -> int:
    if steps is None:
        return min(MOST_STEPS, features)
    if positive(call, "steps", steps) > features:
        raise ValueError(f"{call}(steps={steps}): expected no more than there are features, {features}.")
    return steps


def _features_at(index: Tensor, steps: int, features: int) -> Tensor:
    """How many features have been changed at some steps: F t / T, to the nearest integer, halves up. [c]"""
    return (2 * index * features + steps).div(2 * steps, rounding_mode="floor")


def _ranks(call: str, given: Players, first: First) -> Any:
    """The place in the order of the feature of each value; structured as x, each [N, ...]."""
    if first not in ("highest", "lowest"):
        raise ValueError(f"{call}(first={first!r}): expected 'highest' or 'lowest'.")
    order = given.attributions.argsort(dim=1, descending=first == "highest", stable=True)
    ranks = order.argsort(dim=1)

    def leaf(ids: Tensor) -> Tensor:
        index = ids.reshape(len(ids), -1).expand(len(ranks), -1)
        return ranks.gather(1, index).reshape(len(ranks), *ids.shape[1:])

    return pytree.tree_map(leaf, given.groups.ids)
