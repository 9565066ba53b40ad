"""The flow through a layer along the path from a baseline to the input: conductance and internal influence."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.contribution import contribution
from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, Question, ask
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import parted
from ...rules.twice import WrittenOut
from ...sampling.baselines import Baseline, as_batch, baseline_like, distribution
from ...sampling.loops import chunk_for, loop, positive, wide
from ..features import require_layer
from .lines import Points, each_copy, in_dtype_of, weighted_sum
from .quadrature import Quadrature, nodes_and_weights

_ENDS = {"riemann_left": (1.0, 0.0), "riemann_right": (0.0, 1.0), "riemann_trapezoid": (0.5, 0.5)}
"""Weights of an interval's ends in a sum over the layer's values."""


@for_each_layer
def layer_conductance(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer,
    baseline: Baseline | distribution = 0.0,
    steps: int = 50,
    quadrature: Quadrature = "riemann_trapezoid",
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """How much of the output's rise from a baseline to the input flows through each unit of a layer.

    C_u = int_0^1 (d y_t / d h_u) (d h_u / d alpha) d alpha = int (d y_t / d h_u) d h_u,  along x' + alpha (x - x')

    "riemann_trapezoid", "riemann_left" and "riemann_right" are sums over the values h that the layer takes, such as
    sum_k (g_k + g_k+1) / 2 (h_k+1 - h_k); "riemann_middle" and "gausslegendre" take d h / d alpha at their nodes, by a
    forward derivative of the model up to the layer (attention is written out there, for torch's kernel has none).

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.
        baseline: x', as in `integrated_gradients`.
        steps: Intervals of a sum, which takes steps + 1 points, or nodes.
        quadrature: As above.
        chunk_size: Points that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Conductance in units of y, shaped as the layer's value. Where all paths go through the layer it sums to
        y_t(x) - y_t(x') up to the error of the integration.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `integrated_gradients`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> c = funcattr.layer_conductance(model, x, target=1, layer="1")
        >>> rise = model(x)[:, 1] - model(0 * x)[:, 1]
        >>> torch.allclose(c.sum(1), rise, atol=1e-5)
        True

    References:
        Dhamdhere et al., 2018, arXiv:1805.12233, eq. 2 and its sum over all inputs.
    """
    question = _ask("layer_conductance", model, x, target, layer, output, args, kwargs, example_dims)
    start, root = _start(question, baseline), question.root()
    if quadrature not in _ENDS:
        return _by_derivative(question, start, root, steps, quadrature, chunk_size, progress)
    lower, upper = _ENDS[quadrature]
    points = positive(question.call, "steps", steps) + 1

    def body(carry: Any, index: Tensor) -> Any:
        alpha = (index % points).to(wide(root.dtype)) / steps
        h, g, _ = _at_layer(question, start, alpha, index // points)
        # The first point of a line has none before it: whatever is there counts nothing.
        last_h, last_g, before = (h[:, 0], g[:, 0], None) if carry is None else carry
        hs, gs = torch.cat([last_h.unsqueeze(1), h], 1), torch.cat([last_g.unsqueeze(1), g], 1)
        weight = (index % points != 0).to(alpha) / start.count
        part = weighted_sum(contribution(hs[:, 1:] - hs[:, :-1], lower * gs[:, :-1] + upper * gs[:, 1:]), weight)
        return (h[:, -1].clone(), g[:, -1].clone(), part if before is None else before + part), ()

    count = points * start.count
    chunk = chunk_for(question, chunk_size, count)
    carry: Any = loop(question.call, body, None, count, chunk, device=root.device, progress=progress)[0]
    return question.as_given(in_dtype_of(root, carry[2]))


@for_each_layer
def internal_influence(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer,
    baseline: Baseline | distribution = 0.0,
    steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """A layer's gradient, averaged along the straight line from a baseline to the input.

    I_u = int_0^1 d y_t / d h_u (x' + alpha (x - x')) d alpha

    Args:
        model, x, target, layer, output, args, kwargs, example_dims: As in `gradient`.
        baseline, steps, quadrature, chunk_size, progress: As in `integrated_gradients`.

    Returns:
        Influence in units of y per unit of h, shaped as the layer's value. There is no conserved quantity.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `integrated_gradients`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> i = funcattr.internal_influence(model, torch.ones(5, 3), target=1, layer="1")
        >>> torch.allclose(i[0], model[2].weight[1])
        True

    References:
        Leino et al., 2018, arXiv:1802.03788, definition 1, with the uniform distribution on the line.
    """
    question = _ask("internal_influence", model, x, target, layer, output, args, kwargs, example_dims)
    start, root = _start(question, baseline), question.root()
    nodes, weights = nodes_and_weights(question.call, quadrature, steps, root)

    def body(carry: Any, index: Tensor) -> Any:
        _, g, _ = _at_layer(question, start, nodes[index % steps], index // steps)
        part = weighted_sum(g, weights[index % steps] / start.count)
        return part if carry is None else carry + part, ()

    count = steps * start.count
    chunk = chunk_for(question, chunk_size, count)
    summed = loop(question.call, body, None, count, chunk, device=root.device, progress=progress)[0]
    return question.as_given(in_dtype_of(root, summed))


def _by_derivative(
    question: Question,
    start: "_Start",
    root: Tensor,
    steps: int,
    quadrature: Quadrature,
    chunk_size: int | None,
    progress: bool,
) -> Tensor:
    """sum_k w_k g(a_k) h'(a_k)."""
    nodes, weights = nodes_and_weights(question.call, quadrature, steps, root)

    def body(carry: Any, index: Tensor) -> Any:
        _, g, points = _at_layer(question, start, nodes[index % steps], index // steps)
        way = pytree.tree_map(torch.sub, points.end, points.start)
        way = pytree.tree_map(lambda v, like: v.to(like.dtype), way, question.x)
        count, examples = len(index), question.examples

        def value(inputs: Any) -> Tensor:
            with nullcontext() if torch.compiler.is_compiling() else WrittenOut():
                return copies_of(question, inputs).root()

        found: Any = torch.func.jvp(value, (points.values(examples),), (as_batch(way, examples, count),))
        part = weighted_sum(contribution(parted(found[1], count), g), weights[index % steps] / start.count)
        return part if carry is None else carry + part, ()

    count = steps * start.count
    chunk = chunk_for(question, chunk_size, count)
    summed = loop(question.call, body, None, count, chunk, device=root.device, progress=progress)[0]
    return question.as_given(in_dtype_of(root, summed))


class _Start:
    """Where the lines begin: at one baseline for all points, or at the rows of a distribution, one after the other."""

    def __init__(self, fixed: Any, rows: distribution | None) -> None:
        self.fixed, self.rows, self.count = fixed, rows, 1 if rows is None else rows.count

    def of(self, row: Tensor) -> Any:
        """The starts of some points. [c] -> structured as x, each [N or 1, 1 or c, ...]"""
        return each_copy(self.fixed) if self.rows is None else self.rows.samples(row)


def _start(question: Question, baseline: Baseline | distribution) -> _Start:
    if isinstance(baseline, distribution):
        return _Start(None, baseline.like(question.call, question.x))
    return _Start(baseline_like(question.call, question.x, question.laid(baseline)), None)


def _ask(
    call: str,
    model: Any,
    x: Any,
    target: Any,
    layer: Any,
    output: Any,
    args: Any,
    kwargs: Any,
    example_dims: ExampleDims,
) -> Question:
    question = ask(
        call, model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_layer(question)
    for value in pytree.tree_leaves(question.x):
        if not (value.is_floating_point() or value.is_complex()):
            raise TypeError(
                f"{call}(x=...): expected floating-point inputs, got {value.dtype}: there is no line between "
                "token ids. Give inputs_embeds as x, or use integrated_gradients(layer=...)."
            )
    return question


def _at_layer(question: Question, start: _Start, alpha: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Points]:
    """The layer's value and its gradient at points of the lines, each [N, c, ...], and the points."""
    points = Points(start.of(row), each_copy(question.x), alpha, alpha)
    found = pulled(copies_of(question, points.values(question.examples)))
    return parted(found.root, len(alpha)), parted(found.cotangent, len(alpha)), points
