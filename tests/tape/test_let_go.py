"""What is made again is what it was: no new draws, no other dtype, no later write; and calls look whole to a rule."""

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import AliasedWriteError, rules
from funcattr.calls.declarations import operands_only
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal


def test_a_random_activation_keeps_its_output() -> None:
    x = uniform(2, 3)
    y, pull = funcattr.vjp(lambda x: F.rrelu(x, 0.1, 0.9, training=True), x, rules={"rrelu": rules.ratio})
    assert_equal(pull(torch.ones_like(y))[0], y / x)


def test_a_wrapper_of_a_rule_does_not_inherit_what_the_rule_declares() -> None:
    @functools.wraps(rules.epsilon)
    def identity(call: Any, g: Tensor) -> Tensor:
        return g

    layers = [settle(lambda: nn.Linear(3, 3), seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        y, pull = funcattr.vjp(lambda x: layers[0](x) + layers[1](x), uniform(2, 3), rules={"linear_map": identity})
        g = torch.ones_like(y)
        assert torch.equal(pull(g)[0], 2 * g)
    assert torch.equal(g, torch.ones_like(y))


def test_nor_that_a_rule_reads_no_operands() -> None:
    @functools.wraps(rules.product)
    def mine(call: Any, r: Tensor) -> tuple[Tensor, ...]:
        return tuple(r * x for x in call.operands)

    x = uniform(2, 3)
    y, pull = funcattr.vjp(lambda x: x * x.sigmoid(), x, rules={"mul": mine, "sigmoid": funcattr.rules.STOP})
    assert_equal(pull(torch.ones_like(y))[0], x)


@pytest.mark.parametrize("rule", [rules.product, rules.signal_takes_all, rules.quotient, rules.pass_through])
def test_a_rule_that_reads_nothing_leaves_what_a_reference_is_compared_with(rule: Any) -> None:
    model = lambda x: x * x.sigmoid() / (1 + x.abs())  # noqa: E731
    book = rules.deep_lift() | {"mul": rule, "div": rule}
    assert torch.isfinite(funcattr.deep_lift(model, uniform(2, 3), 0, rules=book)).all()


def test_a_rule_finds_one_operand_by_either_name() -> None:
    same: list[bool] = []

    def look(call: Any, g: Tensor) -> Tensor:
        same.append(call.args[0] is call.operands[0] is call.argument("input"))
        return rules.epsilon(call, g)

    model = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    y, pull = funcattr.vjp(model, uniform(2, 3), rules={"linear": look, "relu": rules.pass_through})
    pull(torch.ones_like(y))
    assert same == [True, True]


def test_a_batch_norm_alone_keeps_its_rule_for_deep_lift() -> None:
    conv, norm = settle(lambda: nn.Conv2d(2, 2, 1)), settle(lambda: nn.BatchNorm2d(2))
    model = lambda x: (torch.relu(norm(h := conv(x))) + h).sum((2, 3))  # noqa: E731
    x, baseline = uniform(1, 2, 3, 3), torch.zeros(1, 2, 3, 3, dtype=torch.float64)
    found = funcattr.deep_lift(model, x, 0, baseline=baseline, rules=rules.deep_lift_reveal_cancel())
    assert_equal(found.sum(), (model(x) - model(baseline))[0, 0].detach())


def chain(w: Tensor) -> Any:
    one = torch.ones(2, dtype=w.dtype)
    return lambda x: F.batch_norm(F.conv2d(torch.relu(F.conv2d(torch.relu(x), w)), w), one, one)


def test_a_write_into_a_weight_between_the_call_and_its_pullback_is_refused() -> None:
    x, w = uniform(1, 2, 3, 3), uniform(2, 2, 1, 1)
    book = rules.composite("z+", convolution=rules.z_plus, dense=rules.z_plus)
    y, pull = funcattr.vjp(chain(w), x, rules=book)
    w.zero_()
    with pytest.raises(AliasedWriteError, match="between the call that read it and the pullback"):
        pull(torch.ones_like(y))


def test_a_write_into_the_input_does_not_reach_the_pullback_that_has_a_copy() -> None:
    x, w = uniform(1, 2, 3, 3).abs(), uniform(2, 2, 1, 1).abs()
    book = rules.composite("z+", convolution=rules.z_plus, dense=rules.z_plus)
    y, pull = funcattr.vjp(chain(w), x, rules=book)
    before = pull(torch.ones_like(y))[0]
    x.zero_()
    assert before.any()
    assert_equal(pull(torch.ones_like(y))[0], before)


def test_autocast_at_the_pullback_does_not_reach_what_is_made_again() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), dtype=torch.float32)
    x = uniform(2, 3, dtype=torch.float32)
    seen: list[Tensor] = []

    def look(call: Any, g: Tensor) -> Tensor:
        seen.append(call.output)
        return g @ call.argument("weight")

    operands_only(look)
    y, pull = funcattr.vjp(model, x, rules={"linear": look, "relu": rules.pass_through})
    with torch.autocast("cpu", torch.bfloat16):
        pull(torch.ones_like(y))
    assert_equal(seen[0], y, tolerance=1e-6)
