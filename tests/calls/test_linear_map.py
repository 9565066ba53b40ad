"""A large weight is used in blocks: the same relevance, whatever the rule."""

from typing import Any

import pytest
import torch

import funcattr
from funcattr import rules
from funcattr.calls import linear_map

from ..contract import assert_equal

RULES = (
    rules.epsilon,
    rules.epsilon(bias="ignore"),
    rules.z_plus,
    rules.alpha_beta,
    rules.gamma,
    rules.gamma(bias="ignore"),
    rules.w_square,
    rules.flat,
    rules.e_rule(p=2),
    rules.b_rule,
    rules.z_box(low=-3.0, high=3.0),
    rules.winning_probability,
)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_change_nothing(rule: Any, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(5, 7, bias=bias).double()
    x, relevance = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 7).double()

    def pulled() -> torch.Tensor:
        return funcattr.vjp(layer, x, rules={"dense": rule})[1](relevance)[0]

    whole = pulled()
    cut: list[int] = []
    blocks = linear_map.LinearMap.blocks
    monkeypatch.setattr(linear_map, "_BLOCK", 10)
    monkeypatch.setattr(linear_map.LinearMap, "blocks", lambda self: (cut.append(len(found := blocks(self))), found)[1])
    assert_equal(pulled(), whole)
    if rule != rules.flat:  # not made of shares of the layer's own weight
        assert cut == [3]
