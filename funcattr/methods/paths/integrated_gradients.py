"""Integrated gradients, at the input or at a site."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Inputs, Layer, Model, ask
from ...attribution.targets import Target
from ...sampling.baselines import Baseline, baseline_like, distribution
from ...sampling.loops import chunk_for, loop, positive
from .lines import Points, each_copy, in_dtype_of, line_integral, most_precise, root_at
from .quadrature import Quadrature, nodes_and_weights
from .walk import Path, Walk, require_plain


@for_each_layer
def integrated_gradients(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    baseline: Baseline | distribution = 0.0,
    steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    path: Path | None = None,
    layer: Layer | None = None,
    times_difference: bool = True,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """The gradient, integrated along the straight line from a baseline to the input.

    A = (x - x') * int_0^1 d y_t / d x (x' + alpha (x - x')) d alpha

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`.
        baseline: x', the input that stands for nothing: a number, a tensor of x's shape or broadcast to it, for several
            inputs a structure of them; or `distribution(rows)`, over whose rows the result is averaged.
        steps: Points of the numerical integration, for each row of a distribution.
        quadrature: "gausslegendre", "riemann_left", "riemann_middle", "riemann_right" or "riemann_trapezoid".
        path: The way to x: None for the straight line, or one of `funcattr.paths`: `blur(sigma)`, `guided()`, `idgi()`.
            Those take `steps` steps of a rule of their own.
        layer: Site to attribute to: the line then goes from its value at the baseline to its value at x.
        times_difference: Whether the mean gradient is multiplied by x - x'. False: the mean gradient itself, in units
            of y per unit of x, whose sum is nothing conserved.
        chunk_size: Points that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of y, structured and shaped as `x` (as the site's value with `layer`), which sum to
        y_t(x) - y_t(x') up to the error of the integration; `metrics.completeness` gives that error. They are real for
        a complex x too, Re((x - x') conj(mean gradient)), along the straight line only.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `gradient`; and if the baseline does not fit the input.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> a = funcattr.integrated_gradients(model, x, target=1)
        >>> a.shape, bool(funcattr.metrics.completeness(model, x, 1, a).abs().max() < 1e-5)
        (torch.Size([5, 3]), True)

    References:
        Sundararajan et al., 2017, arXiv:1703.01365, eq. 1 and 3.
    """
    question = ask(
        "integrated_gradients",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    root = question.root()
    if path is not None:
        require_plain(question, path, baseline, quadrature, times_difference)
        start = root_at(question, each_copy(baseline_like(question.call, question.x, question.laid(baseline))))
        chunk = chunk_for(question, chunk_size, positive(question.call, "steps", steps))
        return question.as_given(in_dtype_of(root, path.integral(Walk(question, root, start, steps, chunk, progress))))
    like = most_precise(root)
    nodes, weights = nodes_and_weights(question.call, quadrature, steps, like)
    rows = baseline.like(question.call, question.x) if isinstance(baseline, distribution) else None
    if rows is None:
        start, count = baseline_like(question.call, question.x, question.laid(baseline)), steps
        fixed = root_at(question, each_copy(start))
    else:
        fixed, count, weights = None, steps * rows.count, weights / rows.count

    def body(carry: Any, index: Tensor) -> Any:
        begin = fixed if rows is None else root_at(question, rows.samples(index // steps))
        points = Points(begin, each_copy(root), nodes[index % steps], weights[index % steps])
        part = line_integral(question, root, points, times_difference)
        return part if carry is None else pytree.tree_map(torch.add, carry, part), ()

    chunk = chunk_for(question, chunk_size, count)
    summed: Any = loop(question.call, body, None, count, chunk, device=like.device, progress=progress)[0]
    return question.as_given(in_dtype_of(root, summed))
