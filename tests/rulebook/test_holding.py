"""Which rules may hold tensors."""

from functools import partial
from typing import Any

import pytest
import torch

from funcattr import Rulebook, rules
from funcattr.rulebook.holding import may_hold


class Applied:
    """A rule that is an object."""

    def __call__(self, call: Any, cotangent: Any) -> Any:
        return cotangent


HELD = torch.ones(())
MAY: dict[str, Any] = {
    "a closure": (lambda held: lambda call, g: g * held)(HELD),
    "a function with globals": lambda call, g: g * HELD,
    "an object": Applied(),
    "a method": Applied().__call__,
    "a class": Applied,
    "a partial": partial(rules.ratio, g=HELD),
    "an option": rules.beta_smooth(beta=HELD),
    "a builtin": HELD.mul,
    "a split of one's own": rules.linear_rule()(lambda layer, *, eps=1e-6: ()),
}


@pytest.mark.parametrize("rule", MAY)
def test_what_may_hold_a_tensor(rule: str) -> None:
    assert may_hold(MAY[rule])
    assert Rulebook({"relu": MAY[rule]}).may_hold
    assert (rules.epsilon_plus() | {"relu": rules.fold(MAY[rule])}).may_hold


def test_the_rules_of_the_package_hold_none() -> None:
    made: Any = [
        rules.guided_backprop(),
        rules.deconvnet_backprop(),
        rules.epsilon_everywhere(),
        rules.epsilon_plus(),
        rules.epsilon_plus_flat(),
        rules.epsilon_alpha2_beta1(),
        rules.epsilon_gamma_box(low=[-1.0, -2.0], high=torch.ones(2)),
        rules.excitation_backprop(),
        rules.attnlrp(),
        rules.cp_lrp(),
        rules.deep_lift(),
        rules.deep_lift_reveal_cancel(),
    ]
    assert not any(book.may_hold for book in made)
    assert not may_hold(partial(rules.ratio)) and not may_hold(rules.beta_smooth(beta=2.0))
    assert not Rulebook({"relu": rules.decompose(MAY["a closure"])}).may_hold  # it runs in the forward pass
