"""Whether attributions rank features as the model does, each of which is removed alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..attribution.activation import Activation, activated
from ..attribution.example_dims import ExampleDims
from ..attribution.question import Model, Question, ask
from ..attribution.separate_copies import copies_of
from ..attribution.targets import Target, score
from ..batch import parted
from ..methods.perturbation.coalitions import precise
from ..sampling.loops import chunk_for, loop
from .correlation import spearman
from .players import Filling, Players, players


def single_deletion(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    activation: Activation | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """The rank correlation of attributions with what the model loses without each feature alone.

    r = spearman_i (A_i, y(x) - y(x without feature i)),  i = 1 .. F

    1 where the map puts the features in the order of their losses. Published for a grid of 4 x 4 patches and for
    models that were trained to see images with a patch removed, so that these are not new to them: then it is the
    in-domain single deletion score (IDSDS). Each example has its own correlation. Unlike `sensitivity_n(n=1)`, it
    takes every feature once and asks for their order only.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions, baseline, features, chunk_size, progress: As in `deletion`.
        feature_mask: As in `deletion`; `masks.patches(x, 56)` for 4 x 4 patches of an image of 224 x 224 pixels.
        activation: Of the output, as in `deletion`; by default the output itself.

    Returns:
        Spearman correlations, in -1..1. [N] What differs by no more than rounding shares a rank. Not a number where
        the attributions or the losses are all equal, or an attribution is a NaN.

    Raises:
        ValueError, TypeError: As in `deletion`; and if there are fewer than 3 features.

    Example:
        >>> import torch, funcattr
        >>> model, x = torch.nn.Linear(5, 3).double(), torch.randn(2, 5).double()
        >>> a = funcattr.input_x_gradient(model, x, 1)
        >>> r = funcattr.metrics.single_deletion(model, x, 1, a)
        >>> torch.allclose(r, torch.ones_like(r))
        True

    References:
        Hesse et al., 2024, arXiv:2407.11910 (IDSDS).
    """
    question = ask(
        "single_deletion", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    given = players(question, attributions, feature_mask, baseline, features)
    call, count = question.call, given.groups.features
    if count < 3:
        raise ValueError(f"{call}: expected at least 3 features, got {count}: two points always lie on a line.")
    whole = precise(score(call, activated(call, question.outputs(), activation), question.target)).unsqueeze(1)
    scores = _scores(question, given, activation, chunk_size, progress)
    largest = torch.cat([whole, scores], 1).abs().amax(1, keepdim=True)
    size = given.attributions.abs().amax(1, keepdim=True)
    return spearman(_without_rounding(given.attributions, size), _without_rounding(whole - scores, largest))


def _scores(
    question: Question, given: Players, activation: Activation | None, chunk_size: int | None, progress: bool
) -> Tensor:
    """The score without each feature. [N, F]"""
    call, groups = question.call, given.groups

    def body(done: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        removed = index.unsqueeze(1) == torch.arange(groups.features, device=groups.device)  # [c, F]
        asked = copies_of(question, given.without(given.values_of(removed)))
        found = precise(score(call, activated(call, asked.outputs(), activation), asked.target))
        return done + len(index), (parted(found, len(index)).transpose(0, 1).clone(),)

    done = torch.zeros((), dtype=torch.long, device=groups.device)
    chunk = chunk_for(question, chunk_size, groups.features)
    _, (scores,) = loop(call, body, done, groups.features, chunk, device=groups.device, progress=progress)
    return scores.T


def _without_rounding(values: Tensor, size: Tensor) -> Tensor:
    """Numbers in the order of values, the same for values next to each other that differ by rounding. [N, F]

    A value of no influence would otherwise have the rank of its rounding.

    Args:
        values: [N, F]
        size: Of the numbers that they were computed from. [N, 1]
    """
    ordered, order = values.sort(1)
    apart = ordered.diff(dim=1) > 32 * torch.finfo(values.dtype).eps * size
    places = torch.nn.functional.pad(apart.cumsum(1), (1, 0)).to(values.dtype)
    found = torch.zeros_like(values).scatter(1, order, places)
    return torch.where(values.isnan(), torch.nan, found)
