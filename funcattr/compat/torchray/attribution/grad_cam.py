"""Grad-CAM, as `torchray.attribution.grad_cam`."""

from typing import Any

from torch import Tensor

from .driver import saliency
from .seeds import gradient_of


def gradient_to_grad_cam_saliency(x: Tensor) -> Tensor:
    """max(0, sum_c x_c mean_space(dx_c)) of an activation x with its gradient in `x.grad`. [N, C, *] -> [N, 1, *]"""
    dx = gradient_of("gradient_to_grad_cam_saliency", x)
    weight = dx.mean(tuple(range(2, dx.ndim)), keepdim=True) if dx.ndim > 2 else dx
    return (x.detach() * weight).sum(1, keepdim=True).clamp(min=0)


def grad_cam(
    *args: Any, saliency_layer: Any, gradient_to_saliency: Any = gradient_to_grad_cam_saliency, **kwargs: Any
) -> Any:
    """Grad-CAM, by the arguments of `common.saliency`."""
    return saliency(*args, saliency_layer=saliency_layer, gradient_to_saliency=gradient_to_saliency, **kwargs)
