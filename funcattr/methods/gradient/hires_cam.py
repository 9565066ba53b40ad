"""HiResCAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import activation_map, of_features


@at_layers
def hires_cam(
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
    """Class activation map with a weight for each value, its gradient: no mean over positions.

    A_u = max(0, sum_c (d y_t / d h_cu) h_cu)

    It is `linear_approx`, rectified.

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Without it the map sums to y_t exactly where
        the model is positively homogeneous after the layer, and at its last layer but for the bias of the classifier.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.hires_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Draelos & Carin, 2020, arXiv:2011.08891 (there without the rectification).
    """
    question = ask_at_layers(
        "hires_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(of_features(question, channel_dim, lambda h, g: activation_map(h, g, relu)))
