"""Grad-CAM++."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import activation_map, of_features, over_positions, quotient


@at_layers
def grad_cam_plus_plus(
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
    """Class activation map whose weights count positive gradients, those at many positions no more than at few.

    A_u = max(0, sum_c w_c h_cu);  w_c = sum_u a_cu max(0, g_cu),  g_cu = d y_t / d h_cu,
    a_cu = g_cu^2 / (2 g_cu^2 + (sum_v h_cv) g_cu^3) = 1 / (2 + (sum_v h_cv) g_cu)

    The paper's score is exp(y_t), which multiplies an example's map by exp(y_t): that factor is left out.

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Nothing is conserved. Take a layer behind
        its relu: for features whose sum is negative a_cu has a pole (0 is taken there), behind which it is negative.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.grad_cam_plus_plus(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Chattopadhay et al., 2018, arXiv:1710.11063.
    """
    question = ask_at_layers(
        "grad_cam_plus_plus",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )

    def cam(features: Tensor, gradients: Tensor) -> Tensor:
        h, g = over_positions(features), over_positions(gradients)
        slope = h.sum(2, keepdim=True) * g
        weights = quotient(g.clamp(min=0), 2 + slope, 2 + slope.abs(), features.dtype).sum(2)
        return activation_map(features, weights, relu)

    return question.as_given(of_features(question, channel_dim, cam))
