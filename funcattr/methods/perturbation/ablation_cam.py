"""Ablation-CAM."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import merged, parted, repeated
from ...sampling.loops import chunk_for, loop
from ..features import activation_map, channels_first, require_layer
from .coalitions import precise


@for_each_layer
def ablation_cam(
    model: Model,
    x: Any,
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
    """Class activation map without gradients: a channel weighs what the score loses when the channel is 0.

    A_u = max(0, sum_c w_c h_cu);  w_c = y_t - y_t(h_c = 0)

    The paper divides the weights by y_t. That is one factor for an example's map, and would turn it round where the
    score is negative, as logits may be; so it is left out.

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.
        chunk_size: Channels that run at once; by default so many that 16 examples do.
        progress: Whether to show a progress bar.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Nothing is conserved. Take a layer behind
        its relu: a channel that helps by negative values gets a weight above 0, and so a map below.

    Raises:
        ValueError, TypeError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.ablation_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Desai & Ramaswamy, 2020, doi:10.1109/WACV45572.2020.9093360.
    """
    question = ask(
        "ablation_cam",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    require_layer(question)
    features = channels_first(question.root(), question, channel_dim)
    channels, site = features.shape[1], str(question.layer)

    def body(carry: tuple[()], index: Tensor) -> tuple[tuple[()], tuple[Tensor, ...]]:
        ablated = index.unsqueeze(1) == torch.arange(channels, device=index.device)
        ablated = ablated.reshape(len(index), channels, *[1] * (features.ndim - 2))
        shift = merged(torch.where(ablated, -features.unsqueeze(1), 0)).movedim(1, channel_dim or 1)
        model = question.model.shifted({site: question.layer_as_given(shift)})
        copies = copies_of(question, repeated(question.x, question.examples, len(index)))._replace(model=model)
        return carry, (parted(precise(copies.scores()), len(index)).transpose(0, 1).clone(),)

    chunk = chunk_for(question, chunk_size, channels)
    _, (scores,) = loop(question.call, body, (), channels, chunk, device=question.device, progress=progress)
    weights = (precise(question.scores()) - scores).transpose(0, 1)
    return question.as_given(activation_map(features, weights, relu))
