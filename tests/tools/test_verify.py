"""`verify` says what holds, and each of its findings can be false."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.rules import decompose


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 2)).double().eval()


X = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).double()


def false(found: Any) -> dict[str, str]:
    return {finding.what: finding.detail for finding in found if finding.holds is False}


@pytest.mark.parametrize("rules", ["epsilon_plus", "attnlrp"])
def test_all_holds_for_a_plain_network(rules: str) -> None:
    found = funcattr.verify(net(), X, 1, rules=rules, layer="0")
    assert found.holds and len(found) == 10
    assert repr(found).startswith("holds what") and repr(found).count("\nyes ") == 10


@pytest.mark.usefixtures("fresh_dynamo")
def test_compiled_code_is_compared_on_request() -> None:
    found = funcattr.verify(net(), X, 1, compiled=True)
    assert found.holds and "compiled code gives the same gradient" in [finding.what for finding in found]


HELD: list[Any] = []


class ByGlobal(nn.Module):
    def __init__(self, write: bool) -> None:
        super().__init__()
        self.linear, self.seen, self.write = nn.Linear(3, 2).double(), [], write
        HELD[:] = [self]

    def forward(self, x: Tensor) -> Tensor:
        if self.write:
            HELD[0].seen.append(1)
        return (self if self.write else HELD[0]).linear(x)


def test_a_tensor_that_is_not_the_copys_is_named() -> None:
    detail = false(funcattr.verify(ByGlobal(write=False), X, 1))["the copy gives the model's own output"]
    assert "reads the tensor 'linear.weight' of the user's model" in detail


def test_a_write_that_no_copy_can_catch_is_named() -> None:
    found = false(funcattr.verify(ByGlobal(write=True), X, 1))
    assert list(found) == ["nothing of yours was written"]
    assert found.popitem()[1].startswith("argument 0.seen: has ['[0]'")


def test_a_stand_in_that_computes_something_else_is_found() -> None:
    rules = funcattr.rules.epsilon_plus() | {"gelu": decompose(lambda x, approximate="none": torch.relu(x))}
    found = false(funcattr.verify(net(), X, 1, rules=rules))
    assert list(found) == ["and so it does with the rules 'epsilon_plus'"]
    assert found.popitem()[1].startswith("largest difference 0.")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return 2 * cotangents[0]


def test_what_the_recorder_cannot_see_through_is_named() -> None:
    model = lambda x: Doubled.apply(x) ** 2  # noqa: E731
    assert "autograd Function" in false(funcattr.verify(model, X, 1))["the recorded gradient is autograd's"]


def test_examples_that_see_each_other_and_missing_rules_and_lost_relevance_are_named() -> None:
    bias = torch.full((3,), 1e6).double()
    found = false(funcattr.verify(lambda x: (torch.cumprod(x - x.mean(0), 1) + 1).abs(), X, 1))
    assert "depends on what else is in the batch" in found["examples of a batch do not see each other"]
    assert found["every call has a rule"] == "none for cumprod (1)"
    assert "compiled code would say as much" not in found  # it says as much: not checked there, which need not hold
    assert "no rule for cumprod" in found["relevance arrives"]
    lost = false(funcattr.verify(lambda x: x + bias, X, 1))
    assert list(lost) == ["relevance arrives"]


def test_draws_are_left_alone_and_training_is_told() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).double()
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="training mode"):
        found = funcattr.verify(model, X, 1)
    assert found.holds and {f.what: f.holds for f in found}["examples of a batch do not see each other"] is None
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_each_call_and_its_rule_are_listed_for_a_rulebook_of_each_space() -> None:
    found = funcattr.verify(net(), X, 1)
    assert list(found.rules) == ["epsilon_plus", "attnlrp", "deep_lift"]
    assert [line.rule for line in found.rules["deep_lift"]] == ["gradient", "norm_slope", "rescale", "gradient"]
    assert list(funcattr.verify(net(), X, 1, rules="attnlrp").rules) == ["attnlrp", "epsilon_plus", "deep_lift"]


def test_a_rule_that_another_rulebook_lacks_is_told_and_need_not_be_there() -> None:
    rules = funcattr.rules.epsilon_plus() | {"cumprod": funcattr.rules.GRADIENT}
    found = {f.what: f for f in funcattr.verify(lambda x: torch.cumprod(x, 1), X, 1, rules=rules)}
    other = found["so it has in other rulebooks"]
    assert other.holds is None and other.detail == "attnlrp: none for cumprod (1); deep_lift: none for cumprod (1)"


def test_what_compiled_code_would_decide_otherwise_or_not_check_is_told() -> None:
    exponent, floor = torch.tensor(2.0).double(), torch.zeros(3).double()
    found = false(funcattr.verify(lambda x: x**exponent, X, 1))
    assert found == {
        "compiled code would say as much": "pow in '' (pass_through) would be pow_by_a_tensor (NO RULE)",
    }
    rectified = lambda x: torch.clamp(x - 0.1, min=floor)  # noqa: E731
    assert funcattr.verify(rectified, X, 1).holds  # a clamp has the rule of a relu
    assert not funcattr.verify(rectified, X, 1, rules="guided").holds
    mixed = {f.what: f for f in funcattr.verify(lambda x: x - x.mean(0), X, 1)}
    assert mixed["compiled code would say as much"].holds is None
    assert "examples of a batch do not see each other" in mixed["compiled code would say as much"].detail
