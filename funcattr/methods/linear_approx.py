"""Linear approximation at a layer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..engine.attribution import Model
from ..engine.features import layer_features
from ..engine.targets import Target


def linear_approx(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: str,
    channel_dim: int = 1,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """A layer's features times their gradient, summed over channels.

    A_u = sum_c h_cu (d y_t / d h_cu)

    Args:
        model, x, target, layer, channel_dim, output, args, kwargs: As in `grad_cam`.

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
    options: dict[str, Any] = {"output": output, "args": args, "kwargs": kwargs}
    features, g = layer_features("linear_approx", model, x, target, layer=layer, channel_dim=channel_dim, **options)
    return (features * g).sum(1, keepdim=True)
