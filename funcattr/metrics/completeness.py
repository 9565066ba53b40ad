"""By how much attributions miss the output's rise from a baseline."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.example_dims import ExampleDims
from ..attribution.question import Model, Question, ask
from ..attribution.separate_copies import copies_of
from ..attribution.targets import Target
from ..batch import parted
from ..sampling.baselines import Baseline, as_batch, baseline_like, distribution
from ..sampling.draws import seed_from
from ..sampling.ends import SampledEnds
from ..sampling.loops import chunk_for, loop, positive, wide
from ..sampling.noise import Sigma


def completeness(
    model: Model,
    x: Any,
    target: Target,
    attributions: Any,
    *,
    baseline: Baseline | distribution = 0.0,
    samples: int | None = None,
    sigma: Sigma = 0.0,
    generator: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """The sum of an example's attributions less the output's rise from the baseline: 0 for a complete method.

    delta = sum(A) - (y_t(x) - y_t(x'))

    Args:
        model, x, target, output, args, kwargs, example_dims: As the method was given them.
        attributions: As the method returned them, at the input or at a layer. [N, ...], or a tuple or dict of them
        baseline: As the method was given it; the rise from a distribution is that from the mean over its rows.
        samples, sigma, generator: As `expected_gradients` was given them: the rise is then that of the ends that it
            drew, with two forward passes a sample. A `torch.Generator` has moved on since: give a seed to both.
        chunk_size: Samples or rows that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        delta, in units of y and in the dtype of the attributions. [N]

    Raises:
        ValueError, TypeError: As in `expected_gradients`; and if the attributions have not one row for each
            example, or `sigma` is given without `samples`.

    Example:
        >>> import torch, funcattr
        >>> model, x = torch.nn.Linear(3, 2).double(), torch.randn(5, 3).double()
        >>> a = funcattr.integrated_gradients(model, x, 1, baseline=0.5)
        >>> completeness(model, x, 1, a, baseline=0.5).abs().max() < 1e-12
        tensor(True)

    References:
        Sundararajan et al., 2017, arXiv:1703.01365, section 3 (completeness).
    """
    question = ask("completeness", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    if isinstance(generator, torch.Generator):
        raise TypeError(
            "completeness(generator=...): expected a seed, got a Generator, whose state has moved on since the method "
            "drew from it. Give the same seed to both."
        )
    seed = seed_from(question.call, generator)
    total, dtype = _total(question, question.laid(attributions))
    if samples is not None:
        ends = SampledEnds.of(question, question.laid(baseline), question.laid(sigma), seed)
        count, examples = positive(question.call, "samples", samples), question.examples

        def rises(index: Tensor) -> Tensor:
            first, last = (as_batch(end(index), examples, len(index)) for end in (ends.first, ends.last))
            return copies_of(question, last).scores() - copies_of(question, first).scores()

        return (total - _mean(question, rises, count, chunk_size, progress)).to(dtype)
    if not (isinstance(sigma, int | float) and sigma == 0):
        raise ValueError("completeness(sigma=...): noise moves the ends that are drawn. Give samples= too.")
    return (total - (question.scores() - _before(question, baseline, chunk_size, progress))).to(dtype)


def _total(question: Question, attributions: Any) -> tuple[Tensor, torch.dtype]:
    """The sum of each example's attributions over all inputs, [N], and the attributions' dtype."""
    parts, where = pytree.tree_leaves(attributions), f"{question.call}(attributions=...)"
    for part in parts or [attributions]:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            got = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{where}: expected floating-point tensors, got {got}.")
        if part.shape[:1] != (question.examples,):
            raise ValueError(
                f"{where}: expected one row for each of the {question.examples} examples, got {list(part.shape)}."
            )
    each = [part.to(question.device).reshape(len(part), -1) for part in parts]
    sums = [part.sum(1, dtype=wide(part.dtype)) for part in each]
    return torch.stack(sums).sum(0), reduce(torch.promote_types, (part.dtype for part in parts))


def _before(question: Question, baseline: Baseline | distribution, chunk_size: int | None, progress: bool) -> Tensor:
    """The number that is explained at the baseline, with each example's target. [N]"""
    call, x, examples = question.call, question.x, question.examples
    if not isinstance(baseline, distribution):
        return copies_of(question, baseline_like(call, x, question.laid(baseline))).scores()
    rows = baseline.like(call, x)

    def scores(index: Tensor) -> Tensor:
        return copies_of(question, as_batch(rows.samples(index), examples, len(index))).scores()

    return _mean(question, scores, rows.count, chunk_size, progress)


def _mean(
    question: Question, values: Callable[[Tensor], Tensor], count: int, chunk_size: int | None, progress: bool
) -> Tensor:
    """The mean over `count` samples, in single precision at least; `values` are theirs, [c] -> [N * c]. [N]"""

    def body(carry: Any, index: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        each = parted(values(index), len(index))
        part = each.sum(1, dtype=wide(each.dtype))
        return part if carry is None else carry + part, ()

    chunk = chunk_for(question, chunk_size, count)
    sums: Any = loop(question.call, body, None, count, chunk, device=question.device, progress=progress)[0]
    return sums / count
