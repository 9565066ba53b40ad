"""XGrad-CAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import activation_map, of_features, over_positions, quotient


@at_layers
def xgrad_cam(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer,
    channel_dim: int | None = None,
    relu: bool = True,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """Class activation map whose weights are mean gradients, each position counted by its share of the channel.

    A_u = max(0, sum_c w_c h_cu);  w_c = sum_u (h_cu / sum_v h_cv) (d y_t / d h_cu)

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Without it the map sums to that of
        `linear_approx`: to y_t where the model is positively homogeneous after the layer. A channel whose values sum to
        0, all zero or up to rounding, has no shares: its weight is 0.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.xgrad_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Fu et al., 2020, arXiv:2008.02312.
    """
    question = ask_at_layers(
        "xgrad_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )

    def cam(features: Tensor, g: Tensor) -> Tensor:
        h = over_positions(features)
        weights = quotient((h * over_positions(g)).sum(2), h.sum(2), h.abs().sum(2), features.dtype)
        return activation_map(features, weights, relu)

    return question.as_given(of_features(question, channel_dim, cam))
