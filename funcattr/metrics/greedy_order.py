"""The best order of removal that a search finds: what deletion scores can be compared with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.activation import Activation, activated
from ..attribution.example_dims import ExampleDims
from ..attribution.question import Model, Question, ask
from ..attribution.separate_copies import copies_of
from ..attribution.targets import Target, score
from ..batch import parted
from ..methods.perturbation.coalitions import FeatureGroups, precise
from ..sampling.loops import chunk_for, positive, wide, with_bar
from .degradation import First
from .players import Filling, Players, unjudged

STAGES = 8


def greedy_order(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    first: First = "highest",
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    stages: int | None = None,
    activation: Activation | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Any:
    """Attributions whose order of removal a greedy search has found: a ceiling to compare `deletion` scores with.

    S_0 = {};  S_{k+1} = S_k and the F / stages features i with the least y(x without S_k and i)

    With `first="highest"` what makes the score fall goes first, and has the highest attributions; with "lowest" what
    makes it stay, or rise, goes first, and has the lowest. A search sees the score that it is judged by: this is no
    explanation. It finds a good order and not the best one, so that a method may be better.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        first, baseline, feature_mask, features, activation: As in `deletion`, whose score is to be judged.
        stages: How often all remaining features are tried; F is the plain greedy search. By default 8, or F if that is
            less. It takes F (stages + 1) / 2 forward passes an example.
        chunk_size: Features that are tried at once; by default so many that 16 examples are.
        progress: Whether to show a progress bar.

    Returns:
        Numbers 1 .. F, one for each feature, shared out among its values, in single precision or better; structured and
        shaped as x, but images without a mask have one for each pixel, [N, 1, H, W]. `deletion` with the same `first`
        and mask takes them.

    Raises:
        ValueError, TypeError: As in `deletion`.
        NotImplementedError: In compiled code.

    Example:
        >>> import torch, funcattr
        >>> x = torch.tensor([[4.0, 1.0, 2.0, 3.0]])
        >>> funcattr.metrics.greedy_order(lambda x: x.sum(1), x)
        tensor([[4., 1., 2., 3.]])

    References:
        Of deletion's game: Samek et al., 2017, arXiv:1509.06321.
    """
    question = ask("greedy_order", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    call = question.call
    if torch.compiler.is_dynamo_compiling():
        raise NotImplementedError(f"{call}: a search, which compiled code would write out.")
    if first not in ("highest", "lowest"):
        raise ValueError(f"{call}(first={first!r}): expected 'highest' or 'lowest'.")
    given = unjudged(question, feature_mask, baseline, features)
    groups = given.groups
    count = min(STAGES, groups.features) if stages is None else positive(call, "stages", stages)
    if count > groups.features:
        raise ValueError(f"{call}(stages={count}): expected no more than there are features, {groups.features}.")
    chunk = chunk_for(question, chunk_size, groups.features)
    rows = torch.arange(question.examples, device=groups.device).unsqueeze(1)
    place = torch.zeros(question.examples, groups.features, dtype=torch.long, device=groups.device)
    gone = torch.zeros_like(place, dtype=torch.bool)
    taken = 0
    for stage in with_bar(call, range(1, count + 1), progress, unit="stage"):
        left = gone.long().argsort(dim=1, stable=True)[:, : groups.features - taken]  # those that are there. [N, R]
        tried = [_scores(question, given, gone, part, activation) for part in left.split(chunk, 1)]
        best = left.gather(1, torch.cat(tried, 1).argsort(dim=1, descending=first == "lowest", stable=True))
        until = groups.features * stage // count
        chosen = best[:, : until - taken]
        place[rows, chosen] = torch.arange(taken, until, device=groups.device)
        gone[rows, chosen] = True
        taken = until
    values = groups.features - place if first == "highest" else place + 1
    found = groups.spread_precisely(values / _sizes(groups))
    if feature_mask is None:
        found = pytree.tree_map(lambda v: v.sum(1, keepdim=True) if v.ndim > 3 else v, found)
    return question.as_given(pytree.tree_map(lambda x, v: v.to(_dtype(x)), groups.x, found))


def _dtype(x: Tensor) -> torch.dtype:
    """The dtype of an input's numbers: bfloat16 holds integers up to 256 only, and others would share a place."""
    return wide(x.dtype if x.is_floating_point() else torch.get_default_dtype())


def _scores(question: Question, given: Players, gone: Tensor, tried: Tensor, activation: Activation | None) -> Tensor:
    """The scores without what is gone and one feature more. [N, F], [N, c] -> [N, c]"""
    without = gone.unsqueeze(1).repeat(1, tried.shape[1], 1).scatter(2, tried.unsqueeze(2), True)  # [N, c, F]

    def leaf(ids: Tensor) -> Tensor:
        index = ids.reshape(len(ids), 1, -1).expand(*without.shape[:2], -1)
        return without.gather(2, index).reshape(*without.shape[:2], *ids.shape[1:])

    asked = copies_of(question, given.without(pytree.tree_map(leaf, given.groups.ids)))
    found = precise(score(question.call, activated(question.call, asked.outputs(), activation), asked.target))
    return parted(found, tried.shape[1]).detach()


def _sizes(groups: FeatureGroups) -> Tensor:
    """How many values each feature has. [N, F]"""
    leaves = zip(pytree.tree_leaves(groups.x), pytree.tree_leaves(groups.ids), strict=True)
    flat = torch.cat([ids.expand(x.shape).reshape(len(x), -1) for x, ids in leaves], 1)
    sizes = torch.zeros(len(flat), groups.features, dtype=torch.double, device=groups.device)
    return sizes.scatter_add(1, flat, torch.ones_like(flat, dtype=torch.double)).clamp(min=1)
