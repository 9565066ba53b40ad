"""One table of the methods that the demo shows; a row added here appears there."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from . import (
    contrastive_excitation_backprop,
    deconvnet,
    excitation_backprop,
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    input_x_gradient,
    linear_approx,
    lrp,
    maps,
    rules,
)
from .demo.digits import LAYER

CONTRAST = "pool"
"""Site between `LAYER` and the classifier of `DigitNet`."""
_GAMMA_BOX = rules.epsilon_gamma_box(low=0.0, high=1.0)  # pixels are in 0..1


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
    Row("excitation_backprop", partial(excitation_backprop, layer=LAYER), maps.sum),
    Row("contrastive_ebp", partial(contrastive_excitation_backprop, layer=LAYER, contrast_layer=CONTRAST), maps.sum),
    Row("lrp_epsilon", partial(lrp, rules="epsilon", seed="logit"), maps.sum, completeness=True),
    Row("lrp_epsilon_plus", partial(lrp, rules="epsilon_plus", seed="logit"), maps.sum, completeness=True),
    Row("lrp_gamma_box", partial(lrp, rules=_GAMMA_BOX, seed="logit"), maps.sum, completeness=True),
)
"""Every method of the demo, in the order of its columns."""
