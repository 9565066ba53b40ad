"""What rules and actions of a rulebook do to the reverse pass."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import UnsupportedOperationError, UntrackedPathError

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.STOP})


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_unlisted_operations_are_listed_all_at_once_with_their_paths() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.GELU(), nn.Softplus()))
    book = funcattr.Rulebook({"linear": funcattr.rules.GRADIENT}, unlisted="raise", name="strict")
    with pytest.raises(
        UnsupportedOperationError, match=r"no rule for\n  gelu in '1.0'\n  softplus in '1.1'\nGive each"
    ):
        funcattr.vjp(funcattr.functionalize(model), torch.randn(2, 3), rules=book)
    full = book | {"gelu": funcattr.rules.GRADIENT, "softplus": funcattr.rules.STOP}
    with pytest.raises(UntrackedPathError, match="does not depend"):
        funcattr.vjp(funcattr.functionalize(model), torch.randn(2, 3), rules=full)


class First(torch.nn.Module):
    """Its first input, doubled."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize("model", [First(), lambda x, other: x * 2], ids=["module", "function"])
@pytest.mark.parametrize("rules", [None, RECORDED], ids=["plain", "on record"])
def test_an_input_that_nothing_depends_on_has_the_cotangent_zero(model: Any, rules: Any) -> None:
    x, other = torch.randn(2, 3), torch.randn(2, 4, dtype=torch.float64)
    found = funcattr.attribute(model, (x, other), 1, **({} if rules is None else {"rules": rules})).cotangent
    assert_equal(found[0], torch.tensor([0.0, 2.0, 0.0]).expand(2, 3))
    assert_equal(found[1], torch.zeros_like(other))


@pytest.mark.parametrize("rules", [None, RECORDED], ids=["plain", "on record"])
def test_a_layer_of_several_tensors_is_refused(rules: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0][:, -1]

    with pytest.raises(ValueError, match=r"\(layer='rnn'\): expected a site with one floating-point tensor, got 3"):
        funcattr.attribute(Recurrent(), torch.randn(2, 4, 3), 0, layer="rnn", rules=rules)


def test_stop_makes_a_constant() -> None:
    x = _double(3)
    _, pull = funcattr.vjp(lambda x: x * x.exp(), x, rules={"exp": funcattr.rules.STOP})
    assert_equal(pull(torch.ones_like(x))[0], x.exp())


def test_decompose_records_the_simpler_functions() -> None:
    def softmax(x: Tensor, dim: int, **_: Any) -> Tensor:
        e = torch.exp(x)
        return e / e.sum(dim, keepdim=True)

    x = _double(2, 3)
    rules = {"softmax": funcattr.rules.decompose(softmax), "sum": funcattr.rules.STOP}
    out, pull = funcattr.vjp(lambda x: F.softmax(x, dim=1), x, rules=rules)
    assert_equal(out, x.softmax(1))
    assert_equal(pull(torch.ones_like(x))[0], x.softmax(1))  # the normaliser is a constant


def test_a_decomposition_into_itself_is_refused() -> None:
    rules = {"softmax": funcattr.rules.decompose(lambda x, dim, **_: torch.softmax(x, dim))}
    with pytest.raises(ValueError, match=r"decompose\(\.\.\.\) for 'softmax' calls softmax itself, without end"):
        funcattr.vjp(lambda x: x.softmax(1), torch.ones(2, 3), rules=rules)


def test_a_module_is_functionalised_so_that_paths_match() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU()), torch.randn(4, 3)
    book = funcattr.Rulebook((funcattr.rules.Entry("relu", funcattr.rules.STOP, "2"),))
    with pytest.raises(UntrackedPathError, match="does not depend"):
        funcattr.vjp(model, x, rules=book)


def test_a_wrong_cotangent_is_named_with_and_without_rules() -> None:
    for rules in (None, RECORDED):
        _, pull = funcattr.vjp(torch.relu, torch.ones(2, 3), rules=rules)
        with pytest.raises(ValueError, match=r"vjp: expected a cotangent with the output's structure and shapes"):
            pull(torch.ones(3))


def test_a_rule_that_returns_the_wrong_thing_is_named() -> None:
    for rule in (lambda call, p: (p, p), lambda call, p: p[0], lambda call, p: (None, p), lambda call, p: ()):
        _, pull = funcattr.vjp(torch.relu, torch.ones(2, 3), rules={"relu": rule})
        with pytest.raises(ValueError, match=r"the rule for 'relu' in '' returned cotangents of shapes"):
            pull(torch.ones(2, 3))


def test_nothing_flows_where_a_rule_returns_none() -> None:
    x, y = _double(2, 3), _double(2, 3)
    _, pull = funcattr.vjp(torch.mul, x, y, rules={"mul": lambda call, p: (None, p)})
    assert [g.tolist() for g in pull(torch.ones_like(x))] == [[[0.0] * 3] * 2, [[1.0] * 3] * 2]
    _, pull = funcattr.vjp(lambda x: torch.relu(x) + x, x, rules={"relu": lambda call, p: (None,)})
    assert_equal(pull(torch.ones_like(x))[0], torch.ones_like(x))
