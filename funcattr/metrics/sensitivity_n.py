"""Whether sums of attributions go with what the model loses, over random subsets of n features."""

from collections.abc import Mapping, Sequence
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
from ..sampling.draws import Generator, permutations, seed_from
from ..sampling.loops import chunk_for, loop, positive
from .correlation import pearson
from .players import Filling, Players, players


def sensitivity_n(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    n: int | Sequence[int],
    samples: int = 100,
    baseline: Filling = 0.0,
    feature_mask: Any = None,
    features: int | None = None,
    activation: Activation | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """The correlation of attributions with what the model loses, over random subsets S of n features.

    r_n = corr_S (sum_{i in S} A_i, y(x) - y(x without S)),  |S| = n

    1 for the exact attributions of a linear model, at every n below F. Each example has its own correlation; the
    subsets are the same for all. At one n it is faithfulness correlation.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        attributions, baseline, feature_mask, features, chunk_size, progress: As in `deletion`.
        n: How many features are removed: one size or several, each from 1 to F - 1. The papers take sizes that are
            spaced evenly on a logarithmic scale up to 0.8 F.
        samples: Subsets for each n, at least 3.
        activation: Of the output, as in `deletion`; by default the output itself.
        generator: A seed, or a `torch.Generator` from which one is drawn. The subsets do not depend on `chunk_size`.

    Returns:
        Pearson correlations, in -1..1, for each n. [N, n], or [N] for one n. Not a number where the attributions' sums
        or the losses are all equal, or an attribution is a NaN.

    Raises:
        ValueError, TypeError: As in `deletion`; and if an n or `samples` is out of its range.

    Example:
        >>> import torch, funcattr
        >>> model, x = torch.nn.Linear(5, 3).double(), torch.randn(2, 5).double()
        >>> a = funcattr.input_x_gradient(model, x, 1)
        >>> r = funcattr.metrics.sensitivity_n(model, x, 1, a, n=[1, 2, 4])
        >>> r.shape, torch.allclose(r, torch.ones_like(r))
        (torch.Size([2, 3]), True)

    References:
        Ancona et al., 2018, arXiv:1711.06104; Bhatt et al., 2020, arXiv:2005.00631 (faithfulness correlation).
    """
    question = ask(
        "sensitivity_n", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    given = players(question, attributions, feature_mask, baseline, features)
    call, count = question.call, positive(question.call, "samples", samples)
    if count < 3:
        raise ValueError(f"{call}(samples={count}): expected at least 3, for two points always lie on a line.")
    sizes = [_size(call, size, given.groups.features) for size in (n if isinstance(n, Sequence) else [n])]
    if not sizes:
        raise ValueError(f"{call}(n={n!r}): expected a number of features, or several.")
    seed = seed_from(call, generator)
    whole = precise(score(call, activated(call, question.outputs(), activation), question.target)).unsqueeze(1)
    found = []
    for size in sizes:
        sums, scores = _removed(question, given, size, count, activation, seed, chunk_size, progress)
        # What is lost is a difference: its rounding is that of the scores.
        same = (scores - scores[:, :1]).abs().amax(1) <= 32 * torch.finfo(scores.dtype).eps * whole.abs().amax(1)
        found.append(torch.where(same, torch.nan, pearson(sums, whole - scores)))
    return torch.stack(found, 1) if isinstance(n, Sequence) else found[0]


def _size(call: str, size: Any, features: int) -> int:
    if not 0 < positive(call, "n", size) < features:
        raise ValueError(f"{call}(n={size}): expected 1 to {features - 1}, less than the {features} features.")
    return size


def _removed(
    question: Question,
    given: Players,
    size: int,
    count: int,
    activation: Activation | None,
    seed: int,
    chunk_size: int | None,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """The sum of the attributions of each subset, and the score without it. Two of [N, S]"""
    call, groups = question.call, given.groups

    def body(done: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # A feature is removed if its place in a random order is among the first n.
        removed = permutations(index, groups.features, seed=seed, stream=size) < size  # [c, F]
        asked = copies_of(question, given.without(given.values_of(removed)))
        found = precise(score(call, activated(call, asked.outputs(), activation), asked.target))
        sums = removed.to(given.attributions.dtype) @ given.attributions.T
        return done + len(index), (sums, parted(found, len(index)).transpose(0, 1).clone())

    done = torch.zeros((), dtype=torch.long, device=groups.device)
    chunk = chunk_for(question, chunk_size, count)
    _, (sums, scores) = loop(call, body, done, count, chunk, device=groups.device, progress=progress)
    return sums.T, scores.T
