"""One table of the methods that the demo shows; a row added here appears there."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from .. import (
    bottleneck,
    contrastive_excitation_backprop,
    deconvnet,
    deep_lift,
    excitation_backprop,
    extremal_perturbation,
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    iba,
    input_x_gradient,
    integrated_gradients,
    linear_approx,
    lrp,
    maps,
    noise_tunnel,
    occlusion,
    readout_iba,
    rise,
    rules,
)
from .digits import LAYER, AskedDigitNet, DigitNet, load_readout, missed

CONTRAST = "pool"
"""Site between `LAYER` and the classifier of `DigitNet`."""
_GAMMA_BOX = rules.epsilon_gamma_box(low=0.0, high=1.0)  # pixels are in 0..1


def _smoothgrad(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return noise_tunnel(partial(gradient, model), x, target, samples=20, sigma=0.1)


@cache
def _readout() -> bottleneck.ReadoutBottleneck:
    return load_readout()


def _iba(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return iba(model, x, target, statistics=_readout().statistics, loss=missed)


def _readout_iba(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    assert isinstance(model, DigitNet)
    return readout_iba(AskedDigitNet(model).eval(), (x, target), readout=_readout())


def _extremal(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """The masks are smooth on the scale of the digits, and cover about one of them."""
    options: dict[str, Any] = {"spacing": 4, "radius": 8.0, "perturbation": "fade", "steps": 60}
    return extremal_perturbation(model, x, target, areas=0.06, lr=0.03, smooth=0.05, **options)


class Row(NamedTuple):
    """A method as the demo calls it."""

    name: str
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(model, x [N, C, H, W], target [N]) -> attributions, of x's shape or the layer's."""
    reduction: Callable[[Tensor], Tensor]
    """Attributions -> maps [N, 1, h, w]."""
    completeness: bool = False
    """Whether the attributions of an example are meant to sum to the target's output."""
    asked: int | None = None
    """Of how many of the demo's questions it is asked, for methods of many passes; None for all."""


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
    Row("lrp_epsilon", partial(lrp, rules="epsilon"), maps.sum, completeness=True),
    Row("lrp_epsilon_plus", partial(lrp, rules="epsilon_plus"), maps.sum, completeness=True),
    Row("lrp_gamma_box", partial(lrp, rules=_GAMMA_BOX), maps.sum, completeness=True),
    # The network is silent on an empty image, so what sums to the rise from it sums to the logit.
    Row("deep_lift", deep_lift, maps.sum, completeness=True),
    Row("integrated_gradients", partial(integrated_gradients, steps=20), maps.sum, completeness=True, asked=100),
    Row("smoothgrad", _smoothgrad, maps.max_abs, asked=100),
    Row("iba", _iba, maps.sum, asked=100),
    Row("readout_iba", _readout_iba, maps.sum),
    Row("occlusion", partial(occlusion, window=(12, 12), stride=4), maps.sum, asked=30),
    # No value of RISE's stands for nothing, so the least does.
    Row("rise", partial(rise, samples=300, cells=8, activation=None), maps.normalize, asked=30),
    Row("extremal_perturbation", _extremal, maps.sum, asked=30),
)
"""Every method of the demo, in the order of its columns."""
