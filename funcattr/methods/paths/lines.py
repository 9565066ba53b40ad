"""Integrals of the gradient along straight lines between a start and an end, at the input or at a site."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.attribute import pulled
from ...attribution.contribution import contribution
from ...attribution.question import Question
from ...attribution.separate_copies import copies_of
from ...batch import parted, repeated
from ...sampling.baselines import as_batch
from ...sampling.loops import wide


class Points(NamedTuple):
    """The points start + alpha (end - start) of a chunk of c samples, in the space of the root.

    Attributes:
        start, end: Structured as the root, each [N or 1, c or 1, ...].
        alpha: Positions on the lines. [c]
        weight: Weight of each point in the integral. [c]
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

        return as_batch(pytree.tree_map(leaf, self.start, self.end), examples, len(self.alpha))


def line_integral(question: Question, root: Any, points: Points, times_difference: bool = True) -> Any:
    """sum_s weight_s (end_s - start_s) grad f(point_s). Structured as the root, each [N, ...]

    Without `times_difference` it is sum_s weight_s grad f(point_s).
    """
    count = len(points.alpha)
    g = pulled(at_values(question, root, points.values(question.examples), count)).cotangent

    def leaf(start: Tensor, end: Tensor, g: Tensor) -> Tensor:
        slopes = parted(g, count)
        return weighted_sum(contribution(end - start, slopes) if times_difference else slopes, points.weight)

    return pytree.tree_map(leaf, points.start, points.end, g)


def at_values(question: Question, root: Any, values: Any, count: int) -> Question:
    """The question where the root has other values, `count` for each example. Structured as the root, each [N * c, ...]

    At a site the model runs on x, whose value there (`root`) is shifted to them.
    """
    if question.layer is None:
        return copies_of(question, values)
    shift = values - as_batch(root.unsqueeze(1), question.examples, count)
    copies = copies_of(question, repeated(question.x, question.examples, count))
    return copies._replace(model=question.model.shifted({question.layer: question.layer_as_given(shift)}))


def root_at(question: Question, inputs: Any) -> Any:
    """The root at other inputs, each [N or 1, c or 1, ...]; at a site [N, c or 1, ...]."""
    if question.layer is None:
        return inputs
    count = pytree.tree_leaves(inputs)[0].shape[1]
    return parted(copies_of(question, as_batch(inputs, question.examples, count)).root(), count)


def each_copy(values: Any) -> Any:
    """Values of the batch as those of any number of samples. [N, ...] -> [N, 1, ...]"""
    return pytree.tree_map(lambda v: v.unsqueeze(1), values)


def weighted_sum(values: Tensor, weight: Tensor) -> Tensor:
    """sum_s weight_s values_s, in single precision at least. [N, c, ...] -> [N, ...]"""
    values = values.to(wide(values.dtype))
    return (values * weight.to(values.dtype).reshape(1, -1, *[1] * (values.ndim - 2))).sum(1)


def most_precise(values: Any) -> Tensor:
    """The tensor of the finest dtype: nodes and weights that are as fine spoil none of the others."""
    finest, *others = pytree.tree_leaves(values)
    for other in others:
        own, its = finest.real.dtype, other.real.dtype
        finest = finest if torch.promote_types(own, its) == own else other
    return finest


def in_dtype_of(root: Any, sums: Any) -> Any:
    """Sums in the dtypes of the root, or of its real part: contributions of complex numbers are real."""
    return pytree.tree_map(lambda r, s: s.to((r if s.is_complex() else r.real).dtype), root, sums)
