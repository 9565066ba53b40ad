"""The features of a layer beside their gradient, channels in dimension 1; and the maps that weights make of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attribution.attribute import pulled
from ..attribution.question import Question
from ..sampling.loops import wide


def of_features(question: Question, channel_dim: int | None, formula: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """What a formula makes of a layer's features and their gradient, both [N, C, *spatial]; by site, with several.

    Examples are in front.

    Raises:
        TypeError: If no layer is given, or its value is complex.
        ValueError: If the layer's value has no such dimension, or not one row for each example.
    """
    require_layer(question)
    found = pulled(question)

    def at_one(question: Question, features: Tensor, g: Tensor) -> Tensor:
        question.require_rows(features)
        if features.is_complex():
            raise TypeError(
                f"{question.call}(layer={question.layer!r}): expected real features, got {features.dtype}. "
                "input_x_gradient(layer=...) has a real number for each complex one."
            )
        return formula(*(channels_first(value, question, channel_dim) for value in (features, g)))

    return question.at_each(at_one, found.root, found.cotangent)


def activation_map(features: Tensor, weights: Tensor, relu: bool) -> Tensor:
    """sum_c w_cu h_cu, rectified if `relu`. [N, C, *spatial] -> [N, 1, *spatial]

    Args:
        weights: One for each channel, [N, C], or for each value, [N, C, *spatial].
    """
    weights = weights.reshape(*weights.shape, *[1] * (features.ndim - weights.ndim)).to(features.dtype)
    summed = (weights * features).sum(1, keepdim=True)
    return summed.clamp(min=0) if relu else summed


def over_positions(values: Tensor) -> Tensor:
    """The positions in one dimension, in a dtype to sum many of them. [N, C, *spatial] -> [N, C, positions]"""
    return values.reshape(*values.shape[:2], -1).to(wide(values.dtype))


def quotient(over: Tensor, under: Tensor, terms: Tensor, dtype: torch.dtype) -> Tensor:
    """Over / under, and 0 where `under` is a sum that cancels up to rounding.

    Args:
        terms: The sum of the absolute values of what `under` sums.
        dtype: Of the values that are summed, which says how large their rounding is.
    """
    cancels = under.abs() <= 4 * torch.finfo(dtype).eps * terms
    return torch.where(cancels, 0, over / torch.where(cancels, 1, under))


def require_layer(question: Question) -> None:
    """Raise without a layer, which this method cannot do without."""
    if not question.begins:
        raise TypeError(f"{question.call}(layer=None): expected the name of a site or a module of the model.")


def channels_first(value: Tensor, question: Question, channel_dim: int | None) -> Tensor:
    """The value of a layer with its channels moved to dimension 1. [N, C, *spatial]

    Without a `channel_dim` they are there, but for three dimensions: these may be [N, C, T] or tokens [N, T, C].
    """
    rank = value.ndim
    if channel_dim is None:
        if rank == 3:
            raise ValueError(
                f"{question.call}(layer={question.layer!r}): expected channel_dim= for features of shape "
                f"{list(value.shape)}: say channel_dim=-1 for tokens [N, T, C], or channel_dim=1 for signals [N, C, T]."
            )
        channel_dim = 1
    if not (1 <= channel_dim < rank or -rank < channel_dim < 0):
        raise ValueError(
            f"{question.call}(layer={question.layer!r}, channel_dim={channel_dim}): expected features with the batch "
            f"first and a channel dimension, got shape {list(value.shape)}."
        )
    return value.movedim(channel_dim, 1)


def spatial_size(call: str, x: Tensor) -> tuple[int, ...]:
    """The spatial size of an input that must be one tensor [N, C, *spatial]."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{call}(x=...): expected one floating-point tensor [N, C, *spatial], got {got}.")
    if x.ndim < 3:
        raise ValueError(f"{call}(x=...): expected a shape [N, C, *spatial], got {list(x.shape)}.")
    return tuple(x.shape[2:])
