"""Expected gradients, also known as GradientSHAP."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..engine.attribution import WithDelta
from ..engine.baselines import Baseline, baseline_like, distribution
from ..engine.draws import Generator, integers, seed_from, uniform
from ..engine.examples import parted
from ..engine.loops import apart, chunk_of, loop, positive, wide
from ..engine.noise import Stdev, scaled_noise, spread_of
from ..engine.paths import Points, batch, each_copy, in_dtype_of, line_integral, root_of, root_value, rows_at, total
from ..engine.scores import Model, example_size, scores_of
from ..engine.targets import Target


class Options(TypedDict, total=False):
    """The options that do not change what is returned."""

    baseline: Baseline | distribution
    samples: int
    stdev: Stdev
    layer: str | None
    generator: Generator
    chunk_size: int | None
    progress: bool
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None


@overload
def expected_gradients(
    model: Model, x: Any, target: Target = None, *, return_delta: Literal[False] = False, **options: Unpack[Options]
) -> Any: ...
@overload
def expected_gradients(
    model: Model, x: Any, target: Target = None, *, return_delta: Literal[True], **options: Unpack[Options]
) -> WithDelta: ...
def expected_gradients(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    samples: int = 50,
    stdev: Stdev = 0.0,
    layer: str | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    return_delta: bool = False,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Integrated gradients in expectation, over random baselines and random points of the way from them to the input.

    A = E_{x' ~ D, alpha ~ U(0, 1)} (x - x') * d y_t / d x (x' + alpha (x - x'))

    This is GradientSHAP; an estimate of Shapley values where the model is near linear and features are independent.
    Examples of a batch share the draws, so that what an example gets does not depend on the others.

    Args:
        model, x, target, output, args, kwargs: As in `gradient`.
        baseline: D: `distribution(rows)`, of which each sample draws a row with replacement; or one baseline, as in
            `integrated_gradients`.
        samples: Number of draws.
        stdev: Standard deviation of normal noise on the input, in units of x; structured as x, or one for all.
        layer: Site to attribute to: the lines are then between its values.
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Samples that run at once; by default so many that 16 examples do. It changes no draw.
        return_delta: Whether to return by how much the sum misses completeness (two more forward passes a sample).
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        E[y_t(x) - y_t(x')] up to the error of sampling. With `return_delta`, `WithDelta(attributions, delta)`:
        delta = sum(attributions) - mean_s (y_t(x) - y_t(x'_s)), [N].

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if `samples` < 1, `stdev` is negative, or the
            baseline does not fit the input.

    Example:
        >>> import torch, funcattr
        >>> data = torch.randn(100, 3)
        >>> model = torch.nn.Linear(3, 2)
        >>> a = funcattr.expected_gradients(model, data[:5], 1, baseline=funcattr.distribution(data))
        >>> a.shape
        torch.Size([5, 3])

    References:
        Erion et al., 2021, arXiv:1906.10670, eq. 3; Lundberg and Lee, 2017, arXiv:1705.07874.
    """
    call = "expected_gradients"
    x, target, baseline, args, kwargs = apart((x, target, baseline, args, kwargs))
    scores = scores_of(call, model, x, target, output, args, kwargs)
    seed, count = seed_from(call, generator), positive(call, "samples", samples)
    rows = baseline if isinstance(baseline, distribution) else None
    spread = None if isinstance(stdev, int | float) and stdev == 0 else spread_of(call, x, stdev, relative=False)
    if rows is not None:
        rows.check(call, x)
    start = x if rows is not None else baseline_like(call, x, baseline)
    root = root_value(scores, x, layer)
    like = pytree.tree_leaves(root)[0]
    # What is the same for all samples is computed once.
    fixed_start = None if rows is not None else root_value(scores, start, layer)

    def inputs(index: Tensor) -> tuple[Any, Any]:
        """Both ends of the samples' lines, each [N or 1, c or 1, ...]."""
        drawn = each_copy(start)
        if rows is not None:
            drawn = rows_at(rows, integers(index, rows.count, seed=seed, stream=-1))
        if spread is None:
            return drawn, each_copy(x)
        e = pytree.tree_map(lambda e: parted(e, len(index)), scaled_noise(x, None, spread, index, seed))
        return drawn, pytree.tree_map(torch.add, each_copy(x), e)

    def body(carry: Any, index: Tensor) -> Any:
        first, last = inputs(index)
        begin = root_of(scores, first, layer) if fixed_start is None else each_copy(fixed_start)
        end = root_of(scores, last, layer) if spread is not None else each_copy(root)
        weight = torch.full_like(index, 1 / count, dtype=wide(like.dtype))
        points = Points(begin, end, uniform(index, (), weight, seed, stream=-2), weight)
        part = line_integral(scores, x, root, points, layer)
        outputs = (rise_of(first, last, len(index)),) if return_delta else ()
        return part if carry is None else pytree.tree_map(torch.add, carry, part), outputs

    def rise_of(first: Any, last: Any, times: int) -> Tensor:
        """y_t(x) - y_t(x') of the samples. [c, N]"""
        ends = (scores(batch(inputs, scores.examples, times)) for inputs in (last, first))
        return parted(next(ends) - next(ends), times).transpose(0, 1).clone()

    chunk = chunk_of(call, chunk_size, count, example_size(x), scores.examples)
    summed, rises = loop(call, body, None, count, chunk, device=like.device, progress=progress)
    attributions = in_dtype_of(root, summed)
    return WithDelta(attributions, total(attributions) - rises[0].mean(0)) if return_delta else attributions
