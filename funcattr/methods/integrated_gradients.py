"""Integrated gradients, at the input or at a site."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..engine.attribution import WithDelta
from ..engine.baselines import Baseline, baseline_like, distribution
from ..engine.loops import apart, chunk_of, loop
from ..engine.paths import (
    Points,
    each_copy,
    in_dtype_of,
    line_integral,
    mean_score,
    root_of,
    root_value,
    rows_at,
    total,
)
from ..engine.quadrature import Quadrature, nodes_and_weights
from ..engine.scores import Model, example_size, scores_of
from ..engine.targets import Target


class Options(TypedDict, total=False):
    """The options that do not change what is returned."""

    baseline: Baseline | distribution
    steps: int
    quadrature: Quadrature
    layer: str | None
    chunk_size: int | None
    progress: bool
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None


@overload
def integrated_gradients(
    model: Model, x: Any, target: Target = None, *, return_delta: Literal[False] = False, **options: Unpack[Options]
) -> Any: ...
@overload
def integrated_gradients(
    model: Model, x: Any, target: Target = None, *, return_delta: Literal[True], **options: Unpack[Options]
) -> WithDelta: ...
def integrated_gradients(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    layer: str | None = None,
    chunk_size: int | None = None,
    return_delta: bool = False,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """The gradient, integrated along the straight line from a baseline to the input.

    A = (x - x') * int_0^1 d y_t / d x (x' + alpha (x - x')) d alpha

    Args:
        model, x, target, output, args, kwargs: As in `gradient`.
        baseline: x', the input that stands for nothing: a number, a tensor of x's shape or broadcast to it, for several
            inputs a structure of them; or `distribution(rows)`, over whose rows the result is averaged.
        steps: Points of the numerical integration, for each row of a distribution.
        quadrature: "gausslegendre", "riemann_left", "riemann_middle", "riemann_right" or "riemann_trapezoid".
        layer: Site to attribute to: the line then goes from its value at the baseline to its value at x.
        chunk_size: Points that run at once; by default so many that 16 examples do.
        return_delta: Whether to return by how much the sum misses completeness.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        y_t(x) - y_t(x') up to the error of the integration. With `return_delta`, `WithDelta(attributions, delta)`:
        delta = sum(attributions) - (y_t(x) - y_t(x')), [N].

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if the baseline does not fit the input.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> a, delta = funcattr.integrated_gradients(model, x, target=1, return_delta=True)
        >>> a.shape, bool(delta.abs().max() < 1e-5)
        (torch.Size([5, 3]), True)

    References:
        Sundararajan et al., 2017, arXiv:1703.01365, eq. 1 and 3.
    """
    call = "integrated_gradients"
    x, target, baseline, args, kwargs = apart((x, target, baseline, args, kwargs))
    scores = scores_of(call, model, x, target, output, args, kwargs)
    root = root_value(scores, x, layer)
    like = pytree.tree_leaves(root)[0]
    nodes, weights = nodes_and_weights(call, quadrature, steps, like)
    rows = baseline if isinstance(baseline, distribution) else None
    if rows is None:
        start, count = baseline_like(call, x, baseline), steps
        fixed = root_of(scores, each_copy(start), layer)
    else:
        rows.check(call, x)
        start, fixed, count, weights = None, None, steps * rows.count, weights / rows.count

    def body(carry: Any, index: Tensor) -> Any:
        begin = fixed if rows is None else root_of(scores, rows_at(rows, index // steps), layer)
        points = Points(begin, each_copy(root), nodes[index % steps], weights[index % steps])
        part = line_integral(scores, x, root, points, layer)
        return part if carry is None else pytree.tree_map(torch.add, carry, part), ()

    chunk = chunk_of(call, chunk_size, count, example_size(x), scores.examples)
    summed, _ = loop(call, body, None, count, chunk, device=like.device, progress=progress)
    attributions = in_dtype_of(root, summed)
    if not return_delta:
        return attributions
    of_baseline = scores(start) if rows is None else mean_score(scores, x, rows, chunk)
    return WithDelta(attributions, total(attributions) - (scores(x) - of_baseline))
