"""Where is the cat, where is the espresso? A network trained on ImageNet, photographs, and a choice of methods."""

from functools import partial

from torch import Tensor, nn

from .. import (
    deep_lift,
    grad_cam,
    gradient,
    guided_backprop,
    guided_grad_cam,
    integrated_gradients,
    layer_cam,
    lrp,
    maps,
    noise_tunnel,
    occlusion,
    rules,
)
from ..metrics.datasets.photos import HIGH, LAST_LAYER, LOW, load_network
from .photos import load_questions
from .tour import Row, Tour

_GAMMA_BOX = rules.epsilon_gamma_box(low=LOW, high=HIGH)


def _smoothgrad(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    return noise_tunnel(partial(gradient, model), x, target, samples=8, sigma=0.1)


ROWS: tuple[Row, ...] = (
    Row("gradient", gradient, maps.max_abs),
    Row("smoothgrad", _smoothgrad, maps.max_abs, asked=4, passes=24),
    Row("integrated_gradients", partial(integrated_gradients, steps=12), maps.sum, asked=4, passes=36),
    Row("guided_backprop", guided_backprop, maps.max_abs),
    Row("grad_cam", partial(grad_cam, layer=LAST_LAYER), maps.sum, passes=1),
    Row("guided_grad_cam", partial(guided_grad_cam, layer=LAST_LAYER), maps.max_abs, passes=4),
    Row("layer_cam", partial(layer_cam, layer=LAST_LAYER), maps.sum, passes=1),
    Row("lrp_epsilon_plus", partial(lrp, rules="epsilon_plus"), maps.sum, passes=4),
    Row("lrp_gamma_box", partial(lrp, rules=_GAMMA_BOX), maps.sum, passes=8),
    Row("deep_lift", deep_lift, maps.sum, passes=6),
    Row("occlusion", partial(occlusion, window=(48, 48), stride=24), maps.sum, asked=4, passes=56),
)
"""Methods of maps that are quick on a large network, in the order of their columns."""

_NOTES = """\
Two photographs side by side, so half of the image is the right answer: whoever draws both gets 50 % of the energy. The
gradient and guided backpropagation draw both things, whichever is asked for. Class activation maps and LRP by z-plus or
gamma rules keep to the one that is asked for. RISE is not asked: it would need thousands of passes here."""


def photo_tour() -> Tour:
    """Where is the cat, where is the espresso?

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    model, questions = load_network(), load_questions()
    head = f"Where is the cat? The espresso? {len(questions.things)} questions on pairs of photographs."
    title = "Where does a network trained on ImageNet see it?"
    return Tour("photos", title, model, questions, ROWS, 4, 4, (LOW, HIGH), head, _NOTES)
