"""What rules and actions of a rulebook do to the reverse pass."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import UnsupportedOperationError, UntrackedPathError

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": funcattr.STOP})


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_unlisted_operations_are_listed_all_at_once_with_their_paths() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.GELU(), nn.Softplus()))
    book = funcattr.Rulebook({"linear": funcattr.GRADIENT}, unlisted="raise", name="strict")
    with pytest.raises(
        UnsupportedOperationError, match=r"no rule for\n  gelu in '1.0'\n  softplus in '1.1'\nGive each"
    ):
        funcattr.vjp(funcattr.functionalize(model), torch.randn(2, 3), rules=book)
    full = book | {"gelu": funcattr.GRADIENT, "softplus": funcattr.STOP}
    with pytest.raises(UntrackedPathError, match="does not depend"):
        funcattr.vjp(funcattr.functionalize(model), torch.randn(2, 3), rules=full)


def test_stop_makes_a_constant() -> None:
    x = _double(3)
    _, pull = funcattr.vjp(lambda x: x * x.exp(), x, rules={"exp": funcattr.STOP})
    assert_equal(pull(torch.ones_like(x))[0], x.exp())


def test_decompose_records_the_simpler_functions() -> None:
    def softmax(x: Tensor, dim: int, **_: Any) -> Tensor:
        e = torch.exp(x)
        return e / e.sum(dim, keepdim=True)

    x = _double(2, 3)
    rules = {"softmax": funcattr.decompose(softmax), "sum": funcattr.STOP}
    out, pull = funcattr.vjp(lambda x: F.softmax(x, dim=1), x, rules=rules)
    assert_equal(out, x.softmax(1))
    assert_equal(pull(torch.ones_like(x))[0], x.softmax(1))  # the normaliser is a constant


def test_a_decomposition_into_itself_is_refused() -> None:
    rules = {"softmax": funcattr.decompose(lambda x, dim, **_: torch.softmax(x, dim))}
    with pytest.raises(ValueError, match=r"decompose\(\.\.\.\) for 'softmax' calls softmax itself, without end"):
        funcattr.vjp(lambda x: x.softmax(1), torch.ones(2, 3), rules=rules)


def test_a_module_is_functionalised_so_that_paths_match() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.ReLU()), torch.randn(4, 3)
    book = funcattr.Rulebook((funcattr.Entry("relu", funcattr.STOP, "2"),))
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
