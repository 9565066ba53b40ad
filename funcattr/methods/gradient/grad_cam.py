"""Grad-CAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, Question, ask_at_layers
from ...attribution.targets import Target
from ..features import activation_map, of_features, over_positions


@at_layers
def grad_cam(
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
    """Class activation map: a layer's channels, weighted by their mean gradient, rectified.

    w_c = mean_u (d y_t / d h_cu);  A_u = max(0, sum_c w_c h_cu)

    Args:
        model, x, target, output, args, kwargs, example_dims: As in `gradient`. `x` may be of any dtype.
        layer: Site of the features h [N, C, *spatial], usually the last convolution. Layers before it run forward only.
        channel_dim: Dimension of the channels in h, with its examples in front: 1 for convolutional features, -1 for
            tokens [N, T, C]. If h has three dimensions, say which; otherwise it is 1.
        relu: Whether values below 0, the evidence against the target, become 0.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Enlarge it with `maps.resize`. With
        `example_dims` it has its examples where the layer has them: [1, *spatial] for one example.

    Raises:
        ValueError: If `layer` is no site, its value has no such dimension, it has three and nothing says where the
            channels are, or not one row for each example.
        TypeError, UntrackedPathError: As in `gradient`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.grad_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="0").shape
        torch.Size([5, 1, 2, 2])

    References:
        Selvaraju et al., 2017, arXiv:1610.02391, equations 1 and 2.
    """
    question = ask_at_layers(
        "grad_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(cam_of(question, channel_dim, relu))


def cam_of(question: Question, channel_dim: int | None, relu: bool = True) -> Any:
    """The class activation map of a question, with its examples in front. [N, 1, *spatial]; by site, with several."""
    return of_features(question, channel_dim, lambda h, g: activation_map(h, over_positions(g).mean(2), relu))
