"""DeepLIFT and DeepSHAP."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..engine.attribution import WithDelta
from ..engine.baselines import Baseline, baseline_like, distribution
from ..engine.examples import parted, repeated
from ..engine.loops import apart, chunk_of, loop, wide
from ..engine.paths import batch, mean_score, pulled, rows_at, total
from ..engine.rulebook import Rulebook
from ..engine.scores import Model, Scores, example_size, scores_of
from ..engine.targets import Target
from ..rules.reference_based import deep_lift as rescale

_RESCALE = rescale()  # made once: compiled code cannot make a rulebook


class Options(TypedDict, total=False):
    """The options that do not change what is returned."""

    baseline: Baseline | distribution
    rules: Rulebook
    layer: str | None
    chunk_size: int | None
    progress: bool
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None


@overload
def deep_lift(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    return_delta: Literal[False] = False,
    **options: Unpack[Options],
) -> Any: ...
@overload
def deep_lift(
    model: Model, x: Any, target: Target = None, *, return_delta: Literal[True], **options: Unpack[Options]
) -> WithDelta: ...
def deep_lift(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    rules: Rulebook = _RESCALE,
    layer: str | None = None,
    chunk_size: int | None = None,
    return_delta: bool = False,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """DeepLIFT: the output's difference to that of a reference, handed back by the slopes between both passes.

    A = (x - x') m,  m the product of the slopes dy / dx of all operations, in place of their derivatives

    With `baseline=distribution(rows)` it is DeepSHAP: the mean over the rows.

    Args:
        model, x, target, output, args, kwargs: As in `gradient`. A function as the target is a part of the model.
        baseline: x', the reference: a number, a tensor of x's shape or broadcast to it, for several inputs a structure
            of them; or a distribution.
        rules: The rulebook; `rules.deep_lift() | {...}` gives rules to operations that it does not know.
        layer: Site to attribute to, whose value at x' is its reference.
        chunk_size: Rows of a distribution that run at once; by default so many that 16 examples do.
        return_delta: Whether to return by how much the sum misses the output's difference.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        y_t(x) - y_t(x') exactly, up to rounding. With `return_delta`, `WithDelta(attributions, delta)`.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if the baseline does not fit the input.
        UnsupportedOperationError: If the model calls an operation without a multiplier (all are listed), or does not
            do the same at the input and at the reference.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> a = funcattr.deep_lift(model, x, target=1, baseline=0.5)
        >>> rise = model(x)[:, 1] - model(torch.full_like(x, 0.5))[:, 1]
        >>> torch.allclose(a.sum(1), rise, atol=1e-5)
        True

    References:
        Shrikumar et al., 2017, arXiv:1704.02685 (Rescale rule); Lundberg and Lee, 2017, arXiv:1705.07874, section 4.2.
    """
    call = "deep_lift"
    if not isinstance(rules, Rulebook):
        raise TypeError(
            f"{call}(rules=...): expected a rulebook such as rules.deep_lift() | {{...}}, got {type(rules).__name__}."
        )
    x, target, baseline, args, kwargs = apart((x, target, baseline, args, kwargs))
    scores = scores_of(call, model, x, target, output, args, kwargs)
    if not isinstance(baseline, distribution):
        start = baseline_like(call, x, baseline)
        attributions = _difference(scores, x, start, 1, layer, rules)
        of_reference = scores(start) if return_delta else None
    else:
        baseline.check(call, x)
        chunk = chunk_of(call, chunk_size, baseline.count, example_size(x), scores.examples)
        attributions = _mean_over_rows(scores, x, baseline, layer, rules, chunk, progress)
        of_reference = mean_score(scores, x, baseline, chunk) if return_delta else None
    if of_reference is None:
        return attributions
    return WithDelta(attributions, total(attributions) - (scores(x) - of_reference))


def _difference(scores: Scores, x: Any, reference: Any, times: int, layer: str | None, rules: Rulebook) -> Any:
    """(x - x') m for copies of the batch. Structured as the root, each [N * times, ...]"""
    found = pulled(scores, repeated(x, scores.examples, times), times, layer, rules=rules, reference=reference)
    return pytree.tree_map(lambda x, x0, m: (x - x0) * m, found.root, found.reference, found.cotangent)


def _mean_over_rows(
    scores: Scores, x: Any, rows: distribution, layer: str | None, rules: Rulebook, chunk: int, progress: bool
) -> Any:
    def body(carry: Any, index: Tensor) -> Any:
        times = len(index)
        reference = batch(rows_at(rows, index), scores.examples, times)
        each = _difference(scores, x, reference, times, layer, rules)
        part = pytree.tree_map(lambda a: parted(a, times).sum(1, dtype=wide(a.dtype)), each)
        dtypes = tuple(a.new_zeros(times) for a in pytree.tree_leaves(each))  # nothing else tells that of a site
        return part if carry is None else pytree.tree_map(torch.add, carry, part), dtypes

    device = pytree.tree_leaves(x)[0].device
    summed, dtypes = loop(scores.call, body, None, rows.count, chunk, device=device, progress=progress)
    sums, structure = pytree.tree_flatten(summed)
    means = [(s / rows.count).to(like.dtype) for s, like in zip(sums, dtypes, strict=True)]
    return pytree.tree_unflatten(means, structure)
