"""Relevance through every model family that users bring, unchanged: exact against the slow references."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

import funcattr
from funcattr import rules

from .contract import assert_equal
from .relevance_references import REFERENCES
from .sweeps import sweep
from .zoo import CASES, Case

# Random models are no trained ones: excitation is for positive activations, and alpha-beta and epsilon rules explode.
pytestmark = pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives.*")

COMPOSITES: dict[str, Any] = {
    "epsilon": "epsilon",
    "epsilon_plus": "epsilon_plus",
    "epsilon_plus_flat": "epsilon_plus_flat",
    "epsilon_alpha2_beta1": "epsilon_alpha2_beta1",
    "epsilon_gamma_box": rules.epsilon_gamma_box(low=-2.0, high=2.0),
    "excitation_backprop": "excitation_backprop",
}
METHODS = {
    **{name: partial(funcattr.lrp, rules=book, start="one") for name, book in COMPOSITES.items()},
    "attnlrp": funcattr.attnlrp,
    "cp_lrp": funcattr.cp_lrp,
}
# The bounds of epsilon_gamma_box are those of an image.
PAIRS = [(c, method) for c in CASES for method in METHODS if method != "epsilon_gamma_box" or len(c.shape) == 4]


def relevance(c: Case, method: str) -> Tensor:
    (x,) = c.inputs()
    result: Any = METHODS[method](c.build(), x if c.key is None else {c.key: x}, 1, kwargs=c.kwargs())
    return result if c.key is None else result[c.key]


# Fused attention is one operation more than the eager one; two methods look at it by default.
QUICK = [
    f"{c}-{method}" for c, method in PAIRS if not c.name.endswith("_sdpa") or method in ("epsilon_plus", "attnlrp")
]


def _by_name(model: nn.Module) -> nn.Module:
    """The model with GPT-2's gelu, which is written out, by its name: the references know activations by name only."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "NewGELUActivation":
                setattr(module, name, nn.GELU("tanh"))
    return model


@pytest.mark.parametrize(("c", "method"), sweep(PAIRS, quick=QUICK))
def test_equals_the_slow_reference(c: Case, method: str) -> None:
    expected = REFERENCES[method](partial(c.logits, _by_name(c.build())), c.inputs()[0], 1)
    assert_equal(relevance(c, method), expected, tolerance=1e-5 if c.in_float32 else 1e-9)
