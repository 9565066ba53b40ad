"""DeepLIFT and DeepSHAP."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.contribution import contribution
from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions
from ...attribution.question import Inputs, Layer, Model, Question, ask_at_layers
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import parted, repeated
from ...rulebook.rulebook import Rulebook
from ...rules.composites import Rules, rulebook_of
from ...sampling.baselines import Baseline, as_batch, baseline_like, distribution
from ...sampling.loops import chunk_for, loop, wide


@at_layers
def deep_lift(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    rules: Rules = "deep_lift",
    layer: Layer | None = None,
    times_difference: bool = True,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """DeepLIFT: the output's difference to that at a baseline, handed back by the slopes between both passes.

    A = (x - x') m,  m the product of the slopes dy / dx of all operations, in place of their derivatives

    With `baseline=distribution(rows)` it is DeepSHAP: the mean over the rows.

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`. A function as the
            target is a part of the model.
        baseline: x': a number, a tensor of x's shape or broadcast to it, for several inputs a structure
            of them; or a distribution.
        rules: The rulebook or its name; `rules.deep_lift() | {...}` gives rules to operations that it does not know. A
            mapping from operation to rule has to name them all.
        layer: Site to attribute to, whose value at x' is its baseline.
        times_difference: Whether the multipliers are multiplied by x - x'. False: m itself, in units of y per unit of
            x.
        chunk_size: Rows of a distribution that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        y_t(x) - y_t(x') exactly, up to rounding. They are real where x is complex, Re((x - x') conj(m)).

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if the baseline does not fit the input.
        UnsupportedOperationError: If the model calls an operation without a multiplier (all are listed), or does not
            do the same at the input and at the baseline.

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
    book = rulebook_of("deep_lift", rules, unlisted="raise", space="multiplier")
    if book.space != "multiplier":
        raise ValueError(
            f"deep_lift(rules={book.name!r}): expected rules that give multipliers, got space={book.space!r}. "
            "Extend rules.deep_lift(), or give Rulebook(..., space='multiplier')."
        )
    question = ask_at_layers(
        "deep_lift", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    if not isinstance(baseline, distribution):
        start = baseline_like(question.call, question.x, question.laid(baseline))
        return question.as_given(_difference(question, start, book, times_difference))
    rows = baseline.like(question.call, question.x)
    chunk = chunk_for(question, chunk_size, rows.count)
    return question.as_given(_mean_over_rows(question, rows, book, chunk, progress, times_difference))


def _difference(question: Question, baseline: Any, rules: Rulebook, times_difference: bool) -> Any:
    """(x - x') m, or m itself. Structured as the root, each [N, ...]"""
    found = pulled(question, PassOptions(rules, baseline=baseline))
    if not times_difference:
        return found.cotangent
    return pytree.tree_map(lambda x, x0, m: contribution(x - x0, m), found.root, found.baseline, found.cotangent)


def _mean_over_rows(
    question: Question, rows: distribution, book: Rulebook, chunk: int, progress: bool, times_difference: bool
) -> Any:
    examples = question.examples

    def body(carry: Any, index: Tensor) -> Any:
        times = len(index)
        baseline = as_batch(rows.samples(index), examples, times)
        copies = copies_of(question, repeated(question.x, examples, times))
        each = _difference(copies, baseline, book, times_difference)
        part = pytree.tree_map(lambda a: parted(a, times).sum(1, dtype=wide(a.dtype)), each)
        dtypes = tuple(a.new_zeros(times) for a in pytree.tree_leaves(each))  # nothing else tells that of a site
        return part if carry is None else pytree.tree_map(torch.add, carry, part), dtypes

    summed, dtypes = loop(question.call, body, None, rows.count, chunk, device=question.device, progress=progress)
    sums, structure = pytree.tree_flatten(summed)
    means = [(s / rows.count).to(like.dtype) for s, like in zip(sums, dtypes, strict=True)]
    return pytree.tree_unflatten(means, structure)
