"""What passes through a layer along the path from a baseline to the input: conductance and internal influence."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..engine.attribution import Model
from ..engine.baselines import Baseline, baseline_like
from ..engine.examples import parted
from ..engine.loops import apart, chunk_of, loop, positive, wide
from ..engine.paths import Points, each_copy, in_dtype_of, pulled, root_value, weighted_sum
from ..engine.quadrature import Quadrature, nodes_and_weights
from ..engine.scores import Scores, example_size, scores_of
from ..engine.targets import Target


def layer_conductance(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: str,
    baseline: Baseline = 0.0,
    steps: int = 50,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """How much of the output's rise from a baseline to the input flows through each unit of a layer.

    C_u = int_0^1 (d y_t / d h_u) (d h_u / d alpha) d alpha = int (d y_t / d h_u) d h_u,  along x' + alpha (x - x')

    as the trapezoidal sum over the values h that the layer takes: sum_k (g_k + g_k+1) / 2 (h_k+1 - h_k).

    Args:
        model, x, target, layer, output, args, kwargs: As in `gradient`.
        baseline: x', as in `integrated_gradients`.
        steps: Intervals of the numerical integration, which takes steps + 1 points.
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
    call = "layer_conductance"
    x, target, baseline, args, kwargs = apart((x, target, baseline, args, kwargs))
    scores = scores_of(call, model, x, target, output, args, kwargs)
    start, root = _ends(scores, x, baseline, layer)
    count = positive(call, "steps", steps) + 1

    def body(carry: Any, index: Tensor) -> Any:
        points = Points(each_copy(start), each_copy(x), index.to(wide(root.dtype)) / steps, index)
        h, g = _at_layer(scores, points, layer)
        # The first point has none before it: it is put beside itself.
        last_h, last_g, before = (h[:, 0], g[:, 0], None) if carry is None else carry
        is_first = index[0] == 0
        last_h, last_g = torch.where(is_first, h[:, 0], last_h), torch.where(is_first, g[:, 0], last_g)
        hs, gs = torch.cat([last_h.unsqueeze(1), h], 1), torch.cat([last_g.unsqueeze(1), g], 1)
        part = weighted_sum((gs[:, 1:] + gs[:, :-1]) * (hs[:, 1:] - hs[:, :-1]), torch.full_like(points.alpha, 0.5))
        return (h[:, -1].clone(), g[:, -1].clone(), part if before is None else before + part), ()

    chunk = chunk_of(call, chunk_size, count, example_size(x), scores.examples)
    carry: Any = loop(call, body, None, count, chunk, device=root.device, progress=progress)[0]
    return in_dtype_of(root, carry[2])


def internal_influence(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: str,
    baseline: Baseline = 0.0,
    steps: int = 50,
    quadrature: Quadrature = "gausslegendre",
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """A layer's gradient, averaged along the straight line from a baseline to the input.

    I_u = int_0^1 d y_t / d h_u (x' + alpha (x - x')) d alpha

    Args:
        model, x, target, layer, output, args, kwargs: As in `gradient`.
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
    call = "internal_influence"
    x, target, baseline, args, kwargs = apart((x, target, baseline, args, kwargs))
    scores = scores_of(call, model, x, target, output, args, kwargs)
    start, root = _ends(scores, x, baseline, layer)
    nodes, weights = nodes_and_weights(call, quadrature, steps, root)

    def body(carry: Any, index: Tensor) -> Any:
        points = Points(each_copy(start), each_copy(x), nodes[index], weights[index])
        part = weighted_sum(_at_layer(scores, points, layer)[1], points.weight)
        return part if carry is None else carry + part, ()

    chunk = chunk_of(call, chunk_size, steps, example_size(x), scores.examples)
    return in_dtype_of(root, loop(call, body, None, steps, chunk, device=root.device, progress=progress)[0])


def _ends(scores: Scores, x: Any, baseline: Baseline, layer: str) -> tuple[Any, Tensor]:
    """The baseline's inputs, and the layer's value at x."""
    for value in pytree.tree_leaves(x):
        if not value.is_floating_point():
            raise TypeError(
                f"{scores.call}(x=...): expected floating-point inputs, got {value.dtype}: there is no line between "
                "token ids. Give inputs_embeds as x, or use integrated_gradients(layer=...)."
            )
    start = baseline_like(scores.call, x, baseline)
    return start, root_value(scores, x, layer)


def _at_layer(scores: Scores, points: Points, layer: str) -> tuple[Tensor, Tensor]:
    """The layer's value and its gradient at the points. Two of [N, c, ...]"""
    count = len(points.alpha)
    found = pulled(scores, points.values(scores.examples), count, layer)
    return parted(found.root, count), parted(found.cotangent, count)
