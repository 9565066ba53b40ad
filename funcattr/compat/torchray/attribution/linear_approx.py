"""Linear approximation, as `torchray.attribution.linear_approx`."""

from typing import Any

from torch import Tensor

from .driver import saliency
from .seeds import gradient_of


def gradient_to_linear_approx_saliency(x: Tensor) -> Tensor:
    """sum_c x_c dx_c of an activation with its gradient in `x.grad`. [N, C, H, W] -> [N, 1, H, W]"""
    return (x.detach() * gradient_of("gradient_to_linear_approx_saliency", x)).sum(1, keepdim=True)


def linear_approx(*args: Any, gradient_to_saliency: Any = gradient_to_linear_approx_saliency, **kwargs: Any) -> Any:
    """Linear approximation, by the arguments of `common.saliency`."""
    return saliency(*args, gradient_to_saliency=gradient_to_saliency, **kwargs)
