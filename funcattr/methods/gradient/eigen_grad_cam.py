"""EigenGrad-CAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import of_features
from .principal_map import principal_map


@at_layers
def eigen_grad_cam(
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
    """Class activation map: a layer's features times their gradient, along their first right singular vector.

    A_u = max(0, sum_c v_c g_cu h_cu);  v as in `eigen_cam`, of (g_uc h_uc);  g_cu = d y_t / d h_cu

    The sum over channels, which v agrees with, is the map of `hires_cam`: positive values speak for the target.

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Nothing is conserved.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.eigen_grad_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        pytorch-grad-cam's `EigenGradCAM` (Gildenblat, 2021), with the sign of v as here; Muhammad & Yeasin, 2020,
        arXiv:2008.00299.
    """
    question = ask_at_layers(
        "eigen_grad_cam",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    return question.as_given(of_features(question, channel_dim, lambda h, g: principal_map(h * g, relu)))
