"""Eigen-CAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, Question, ask_at_layers
from ...attribution.targets import Target
from ..features import channels_first, require_layer
from .principal_map import principal_map


@at_layers
def eigen_cam(
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
    """Activation map of no class: a layer's features along their first right singular vector.

    A_u = max(0, sum_c v_c h_cu);  v = P 1 / |P 1|,  P the projector on the first right singular vectors of (h_uc)

    A singular vector has no sign, and where singular values tie no direction. This v has both: of the first singular
    vectors it is the one nearest to the plain sum over channels, which it agrees with. For features of at least 0 it is
    the only one of at least 0: take a layer behind its relu. Where all are at right angles to the sum, nothing tells
    the sign: the map is 0.

    Args:
        model, x, layer, channel_dim, relu, args, kwargs, example_dims: As in `grad_cam`.
        target, output: Not read, for the map is of the features alone; there for what takes any method.

    Returns:
        Map [N, 1, *spatial] at the layer's size, in units of h, non-negative with `relu`.

    Raises:
        ValueError, TypeError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
        >>> model = Sequential(Conv2d(1, 2, 3), ReLU(), Flatten(), Linear(8, 3))
        >>> funcattr.eigen_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="1").shape
        torch.Size([5, 1, 2, 2])

    References:
        Muhammad & Yeasin, 2020, arXiv:2008.00299. The features are not centred, as there.
    """
    question = ask_at_layers(
        "eigen_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    require_layer(question)

    def cam(question: Question, value: Tensor) -> Tensor:
        return principal_map(channels_first(value, question, channel_dim), relu)

    return question.as_given(question.at_each(cam, question.root()))
