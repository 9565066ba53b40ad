"""Score-CAM."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import merged, parted
from ...maps import resize
from ...sampling.loops import chunk_for, loop
from ..features import activation_map, channels_first, over_positions, require_layer
from .coalitions import precise
from .rise import spatial_size


@for_each_layer
def score_cam(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    layer: Layer,
    channel_dim: int | None = None,
    relu: bool = True,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Class activation map without gradients: a channel weighs what the model says to the input under its mask.

    A_u = max(0, sum_c w_c h_cu);  w = softmax_c f(x * H_c),  H_c = (up(h_c) - min) / (max - min)

    The paper subtracts the score of an empty input, which the softmax over channels takes out again. The mask of a
    channel that is constant is 0.

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.
            `x` is [N, C, *spatial] once its examples are in front, of as many spatial dimensions as the layer.
        chunk_size: Channels that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Nothing is conserved.

    Raises:
        ValueError: As in `grad_cam`; and if the input has not as many spatial dimensions as the layer.
        TypeError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.score_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Wang et al., 2020, arXiv:1910.01279.
    """
    question = ask(
        "score_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_layer(question)
    size, x = spatial_size(question.call, question.x), question.x
    features = channels_first(question.root(), question, channel_dim)
    require_same_rank(question.call, question.layer, features, size)
    channels = features.shape[1]

    def body(carry: tuple[()], index: Tensor) -> tuple[tuple[()], tuple[Tensor, ...]]:
        masks = between_0_and_1(resize(features[:, index], size)).unsqueeze(2)
        copies = copies_of(question, merged(x.unsqueeze(1) * masks.to(x.dtype)))
        return carry, (parted(precise(copies.scores()), len(index)).transpose(0, 1).clone(),)

    chunk = chunk_for(question, chunk_size, channels)
    _, (scores,) = loop(question.call, body, (), channels, chunk, device=x.device, progress=progress)
    return question.as_given(activation_map(features, scores.softmax(0).transpose(0, 1), relu))


def between_0_and_1(features: Tensor) -> Tensor:
    """(h - min) / (max - min) of each channel, 0 where it is constant. [N, C, *spatial]"""
    h = over_positions(features)
    low, high = h.amin(2, keepdim=True), h.amax(2, keepdim=True)
    return ((h - low) / torch.where(high == low, 1, high - low)).reshape(features.shape)


def require_same_rank(call: str, layer: str | None, features: Tensor, size: tuple[int, ...]) -> None:
    """Raise unless a layer has as many spatial dimensions as the input."""
    if features.ndim - 2 != len(size):
        raise ValueError(
            f"{call}(layer={layer!r}): the layer has {features.ndim - 2} spatial dimensions, the input {len(size)}. "
            "Name a layer whose positions are those of the input, such as a convolution."
        )
