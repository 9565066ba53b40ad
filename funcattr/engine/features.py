"""The features of a layer beside their gradient, for methods that make a map of the two."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .attribution import Model, attribute
from .targets import Target


def layer_features(
    call: str,
    model: Model,
    x: Any,
    target: Target,
    *,
    layer: str,
    channel_dim: int,
    output: str | int | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
) -> tuple[Tensor, Tensor]:
    """A layer's features and their gradient, channels moved to dimension 1. Two of [N, C, *spatial]"""
    if not isinstance(layer, str):
        raise TypeError(f"{call}(layer=...): expected the name of a site, got {type(layer).__name__}.")
    found = attribute(model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, call=call)
    at_layer = (call, layer, channel_dim)
    return channels_first(found.root, *at_layer), channels_first(found.cotangent, *at_layer)


def channels_first(value: Tensor, call: str, layer: str, channel_dim: int) -> Tensor:
    """The value of a layer with its channels moved to dimension 1. [N, C, *spatial]"""
    rank = value.ndim
    if not (1 <= channel_dim < rank or -rank < channel_dim < 0):
        raise ValueError(
            f"{call}(layer={layer!r}, channel_dim={channel_dim}): expected features with the batch first and a channel "
            f"dimension, got shape {list(value.shape)}."
        )
    return value.movedim(channel_dim, 1)
