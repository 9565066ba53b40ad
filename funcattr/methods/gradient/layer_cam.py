"""LayerCAM."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import activation_map, of_features


@at_layers
def layer_cam(
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
    """Class activation map with a weight for each position: its positive gradient. Works at early layers too.

    A_u = max(0, sum_c max(0, d y_t / d h_cu) h_cu)

    Args:
        model, x, target, layer, channel_dim, relu, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, non-negative with `relu`. Nothing is conserved.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3))
        >>> funcattr.layer_cam(model, torch.randn(5, 1, 4, 4), target=2, layer="0").shape
        torch.Size([5, 1, 2, 2])

    References:
        Jiang et al., 2021, doi:10.1109/TIP.2021.3089943.
    """
    question = ask_at_layers(
        "layer_cam", model, x, target, layer=layer, output=output, args=args, kwargs=kwargs, example_dims=example_dims
    )
    return question.as_given(of_features(question, channel_dim, lambda h, g: activation_map(h, g.clamp(min=0), relu)))
