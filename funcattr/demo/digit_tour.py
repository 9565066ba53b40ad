"""Where is the digit? A network trained for the demo, canvases whose digits are known, and every method of maps."""

from functools import cache, partial
from typing import Any

import torch
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
from ..metrics.datasets.digits import LAYER, Canvases, DigitNet, load_canvases, load_model
from .digits import AskedDigitNet, load_readout, missed
from .tour import Questions, Row, Tour

CONTRAST = "pool"
"""Site between `LAYER` and the classifier of `DigitNet`."""
_GAMMA_BOX = rules.epsilon_gamma_box(low=0.0, high=1.0)  # pixels are in 0..1


def _smoothgrad(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return noise_tunnel(partial(gradient, model), x, target, samples=20, sigma=0.05)


@cache
def _readout() -> bottleneck.ReadoutBottleneck:
    return load_readout()


def _iba(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return iba(model, x, target, statistics=_readout().statistics, loss=missed)


def _readout_iba(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    assert isinstance(model, DigitNet)
    return readout_iba(AskedDigitNet(model).eval(), (x, target), readout=_readout())


def _extremal(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """The masks are smooth on the scale of the digits, and cover about one of them. A mirrored digit is another one."""
    options: dict[str, Any] = {"spacing": 4, "radius": 8.0, "perturbation": "fade", "steps": 60, "jitter": False}
    return extremal_perturbation(model, x, target, areas=0.06, lr=0.03, smooth=0.08, **options)


ROWS: tuple[Row, ...] = (
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
    Row(
        "integrated_gradients",
        partial(integrated_gradients, steps=20),
        maps.sum,
        completeness=True,
        asked=50,
        passes=60,
    ),
    Row("smoothgrad", _smoothgrad, maps.max_abs, asked=60, passes=60),
    Row("iba", _iba, maps.sum, asked=30, passes=300),
    Row("readout_iba", _readout_iba, maps.sum),
    Row("occlusion", partial(occlusion, window=(12, 12), stride=4), maps.sum, asked=20, passes=200),
    # No value of RISE's stands for nothing, so the least does.
    Row("rise", partial(rise, samples=300, cells=8, activation=None), maps.normalize, asked=12, passes=300),
    Row("extremal_perturbation", _extremal, maps.sum, asked=20, passes=180),
)
"""Every method of maps, in the order of its columns; a row added here appears in the table and in the picture."""

_NOTES = """\
Boxes are small, so methods that draw the surroundings have little energy in them. RISE has no zero: each value is a
mean of outputs under random masks, so pixels that do not matter get the mean output; its map begins at its least value.
SmoothGrad's noise is a twentieth of the range of pixels; with a tenth the network misses digits in the noisy copies.
Extremal perturbation looks without mirroring, for a mirrored digit is another one."""


def digit_tour(canvases: int) -> Tour:
    """Where is the digit?

    Args:
        canvases: How many of the packaged canvases to ask about.
    """
    data = Canvases(*(field[:canvases] for field in load_canvases()))
    questions = all_questions(data)
    head = f"Where is the digit? {len(questions.things)} questions on {len(data.images)} held-out canvases."
    title = "Where does the network see the digit?"
    return Tour("digits", title, load_model(), questions, ROWS, 6, 50, (0.0, 1.0), head, _NOTES)


def all_questions(data: Canvases) -> Questions:
    """One question for each digit of each canvas: first those of a canvas with a 7, the 7 in front, then in any order.

    The order is the same each time. Methods of many passes are asked the first questions only.
    """
    canvas, digit = data.present.nonzero().unbind(1)
    boxes = data.boxes[canvas, digit]
    drawn = torch.randperm(len(digit), generator=torch.Generator().manual_seed(0)).tolist()
    sevens = [i for i in drawn if digit[i] == 7][:1]
    beside = [i for i in drawn if sevens and canvas[i] == canvas[sevens[0]] and i not in sevens]
    order = [*sevens, *beside, *(i for i in drawn if i not in {*sevens, *beside})]
    return Questions(data.images[canvas], digit, boxes, tuple(map(str, digit.tolist()))).in_order(order)
