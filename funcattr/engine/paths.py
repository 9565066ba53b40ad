"""Integrals of the gradient along straight lines between a start and an end, at the input or at a site."""

from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .attribution import Attribution, attribute
from .baselines import distribution
from .examples import merged, parted, repeated, repeated_target
from .loops import loop, wide
from .parts import values_at
from .passes import call_arguments
from .scores import Scores


class Points(NamedTuple):
    """The points start + alpha (end - start) of a chunk of c samples, in the space of the root.

    Attributes:
        start, end: Structured as the root, each [N or 1, c or 1, ...].
        alpha: Positions on the lines. [c]
        weight: What each point counts in the integral. [c]
    """

    start: Any
    end: Any
    alpha: Tensor
    weight: Tensor

    def values(self, examples: int) -> Any:
        """The points as one batch. Structured as the root, each [N * c, ...]"""

        def leaf(start: Tensor, end: Tensor) -> Tensor:
            alpha = self.alpha.reshape(1, -1, *[1] * (end.ndim - 2))
            return (start + alpha * (end - start)).to(end.dtype)

        return batch(pytree.tree_map(leaf, self.start, self.end), examples, len(self.alpha))


def line_integral(scores: Scores, x: Any, root: Any, points: Points, layer: str | None) -> Any:
    """sum_s weight_s (end_s - start_s) grad f(point_s). Structured as the root, each [N, ...]

    At a site the model runs on x, whose value there (`root`) is shifted to the point.
    """
    count, examples = len(points.alpha), scores.examples
    values = points.values(examples)
    if layer is None:
        g = pulled(scores, values, count).cotangent
    else:
        shift = values - batch(root.unsqueeze(1), examples, count)
        g = pulled(scores, repeated(x, examples, count), count, layer, {layer: shift}).cotangent

    def leaf(start: Tensor, end: Tensor, g: Tensor) -> Tensor:
        return weighted_sum(parted(g, count) * (end - start), points.weight)

    return pytree.tree_map(leaf, points.start, points.end, g)


def pulled(
    scores: Scores,
    x: Any,
    times: int,
    layer: str | None = None,
    shifts: dict[str, Tensor] | None = None,
    **options: Any,
) -> Attribution:
    """A reverse pass for copies of the batch, to the input or a site; `options` are those of `attribute`."""
    args, kwargs = repeated((scores.args, scores.kwargs), scores.examples, times)
    target = repeated_target(scores.call, scores.target, scores.examples, times)
    model = scores.model.shifted(shifts) if shifts else scores.model
    told: dict[str, Any] = {"layer": layer, "output": scores.output, "args": args, "kwargs": kwargs, **options}
    return attribute(model, x, target, call=scores.call, **told)


def root_value(scores: Scores, x: Any, layer: str | None) -> Any:
    """What the method attributes to, for copies of the batch: the inputs, or the value at a site. Each [N * c, ...]"""
    if layer is None:
        return x
    if not isinstance(layer, str):
        raise TypeError(f"{scores.call}(layer=...): expected the name of a site, got {type(layer).__name__}.")
    times = len(pytree.tree_leaves(x)[0]) // scores.examples
    args, kwargs = repeated((scores.args, scores.kwargs), scores.examples, times)
    positional, keyword = call_arguments(x, args, kwargs)
    value = values_at(f"{scores.call}(layer={layer!r})", scores.model, (layer,), (positional, keyword))[layer]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{scores.call}(layer={layer!r}): expected a floating-point tensor as the site's value.")
    return value


def each_copy(values: Any) -> Any:
    """Values of the batch as those of any number of samples. [N, ...] -> [N, 1, ...]"""
    return pytree.tree_map(lambda v: v.unsqueeze(1), values)


def root_of(scores: Scores, inputs: Any, layer: str | None) -> Any:
    """What the method attributes to, at inputs [N or 1, c or 1, ...]; [N, c or 1, ...] at a site."""
    if layer is None:
        return inputs
    count = pytree.tree_leaves(inputs)[0].shape[1]
    return parted(root_value(scores, batch(inputs, scores.examples, count), layer), count)


def rows_at(rows: distribution, index: Tensor) -> Any:
    """Rows of a distribution as inputs of samples. [c] -> each [1, c, ...]"""
    return pytree.tree_map(lambda row: row.unsqueeze(0), rows.at(index))


def weighted_sum(values: Tensor, weight: Tensor) -> Tensor:
    """sum_s weight_s values_s, in single precision at least. [N, c, ...] -> [N, ...]"""
    values = values.to(wide(values.dtype))
    return (values * weight.to(values.dtype).reshape(1, -1, *[1] * (values.ndim - 2))).sum(1)


def in_dtype_of(root: Any, sums: Any) -> Any:
    """Sums in the dtypes of the root."""
    return pytree.tree_map(lambda r, s: s.to(r.dtype), root, sums)


def mean_score(scores: Scores, x: Any, rows: distribution, chunk: int) -> Tensor:
    """The mean over a distribution's rows of the target's number, with each example's target. [N]"""

    def body(carry: Any, index: Tensor) -> Any:
        copies = batch(rows_at(rows, index), scores.examples, len(index))
        part = scores(copies).reshape(scores.examples, -1).sum(1)
        return part if carry is None else carry + part, ()

    sums: Any = loop(scores.call, body, None, rows.count, chunk, device=pytree.tree_leaves(x)[0].device)[0]
    return sums / rows.count


def total(attributions: Any) -> Tensor:
    """The sum of each example's attributions, over all inputs. [N]"""
    return torch.stack([a.flatten(1).sum(1) for a in pytree.tree_leaves(attributions)]).sum(0)


def batch(values: Any, examples: int, count: int) -> Any:
    """Values of examples and samples as one batch. Each [N or 1, c or 1, ...] -> [N * c, ...]"""
    return pytree.tree_map(lambda v: merged(v.expand(examples, count, *v.shape[2:])), values)
