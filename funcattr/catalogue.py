"""One table of the methods that the demo shows; a row added here appears there."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from . import (
    deconvnet,
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    input_x_gradient,
    linear_approx,
    maps,
)
from .demo.digits import LAYER


class Row(NamedTuple):
    """A method as the demo calls it."""

    name: str
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(model, x [N, C, H, W], target [N]) -> attributions, of x's shape or the layer's."""
    reduction: Callable[[Tensor], Tensor]
    """Attributions -> maps [N, 1, h, w]."""
    completeness: bool = False
    """Whether the attributions of an example are meant to sum to the target's output."""


CATALOGUE: tuple[Row, ...] = (
    Row("gradient", gradient, maps.max_abs),
    Row("input_x_gradient", input_x_gradient, maps.sum, completeness=True),
    Row("guided_backprop", guided_backprop, maps.max_abs),
    Row("deconvnet", deconvnet, maps.max_abs),
    Row("guided_grad_cam", partial(guided_grad_cam, layer=LAYER), maps.max_abs),
    Row("grad_cam", partial(grad_cam, layer=LAYER), maps.sum),
    Row("linear_approx", partial(linear_approx, layer=LAYER), maps.sum, completeness=True),
)
"""Every method of the demo, in the order of its columns."""
