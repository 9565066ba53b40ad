"""Linear approximation at a layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Layer, Model, ask_at_layers
from ...attribution.targets import Target
from ..features import of_features


@at_layers
def linear_approx(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer,
    channel_dim: int | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """A layer's features times their gradient, summed over channels.

    A_u = sum_c h_cu (d y_t / d h_cu)

    Args:
        model, x, target, layer, channel_dim, output, args, kwargs, example_dims: As in `grad_cam`.

    Returns:
        Map [N, 1, *spatial] at the layer's size, signed, in units of y. Where the model is positively homogeneous
        after the layer (relu, max-pooling, no biases) it sums to y_t exactly.

    Raises:
        ValueError, TypeError, UntrackedPathError: As in `grad_cam`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3, bias=False))
        >>> x = torch.randn(5, 1, 4, 4)
        >>> torch.allclose(funcattr.linear_approx(model, x, 2, layer="0").sum((1, 2, 3)), model(x)[:, 2], atol=1e-5)
        True

    References:
        TorchRay's `linear_approx` (Fong et al., 2019, arXiv:1910.08485); at the input it is gradient times input.
    """
    question = ask_at_layers(
        "linear_approx",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    return question.as_given(of_features(question, channel_dim, lambda h, g: (h * g).sum(1, keepdim=True)))
