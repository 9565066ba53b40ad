"""Every exported rule is in the table, and does what is written there."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules.parametric import Parametric

from ..contract import assert_equal
from .table import ROWS, WITHOUT_BIAS, Row

NO_RULES = {"partner", "no_multiplier", "rulebook_of"}
"""Functions of a call, for rules of one's own, that are no rules."""


def exported() -> set[str]:
    """The names of `funcattr.rules` that are rules: functions of a call first."""
    found = {"reveal_cancel"}
    for name, value in vars(rules).items():
        is_function = inspect.isfunction(value) and list(inspect.signature(value).parameters)[:1] == ["call"]
        if isinstance(value, Parametric) or is_function:
            found.add(name)
    return found - NO_RULES


def test_every_exported_rule_is_in_the_table() -> None:
    assert exported() == set(ROWS)


def pulled(row: Row, rule: Any, m: Tensor) -> tuple[Tensor, ...]:
    book = Rulebook(rule if isinstance(rule, dict) else {row.op: rule})
    return funcattr.attribute(row.call, row.operands, m, rules=book, baseline=row.baseline).cotangent


def cotangent(row: Row) -> Tensor:
    y = row.call(*row.operands)
    return torch.linspace(-1.5, 0.75, y.numel(), dtype=y.dtype).reshape(y.shape)


@pytest.mark.parametrize("name", ROWS)
def test_a_rule_does_what_is_written_down(name: str) -> None:
    row = ROWS[name]
    m = cotangent(row)
    found = pulled(row, getattr(rules, name) if row.rule is None else row.rule, m)
    if row.expected is None:
        assert row.baseline is not None
        rise = m * (row.call(*row.operands) - row.call(*row.baseline))
        passed = [(x - x0) * g for x, x0, g in zip(row.operands, row.baseline, found, strict=True)]
        assert_equal(torch.stack([p.sum() for p in passed]).sum(), rise.sum())
        return
    expected: Any = row.expected(*row.operands, m)
    for actual, wanted in zip(found, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert_equal(actual, wanted, tolerance=1e-12)


@pytest.mark.parametrize("name", WITHOUT_BIAS)
def test_a_rule_without_the_bias_does_what_is_written_down_and_loses_nothing_to_it(name: str) -> None:
    row, rule = WITHOUT_BIAS[name], getattr(rules, name)(bias="ignore")
    m = cotangent(row)
    assert row.expected is not None
    (found,) = pulled(row, rule, m)
    assert_equal(found, row.expected(*row.operands, m), tolerance=1e-12)
    if name != "alpha_beta":  # of which nothing opposes the first output here, so that its part is lost
        assert_equal(found.sum(), m.sum(), tolerance=1e-5)  # but for the stabiliser
    book = Rulebook({"linear": rule}, space="relevance", name="one rule")
    layer = torch.nn.Linear(3, 2).double()
    report = funcattr.conservation(layer, row.operands[0], m, rules=book, start="output")
    assert report.lost["bias"] == 0


def test_every_rule_with_an_option_for_the_bias_is_in_the_table_without_it() -> None:
    assert set(WITHOUT_BIAS) == {name for name in exported() if "bias" in getattr(getattr(rules, name), "options", {})}


def test_gamma_without_the_bias_still_goes_by_the_sign_of_the_output() -> None:
    """z = 1 - 3 < 0 though x W = 1 > 0: the part below zero is favoured, as in zennit, whose NoMod keeps the bias."""
    layer, x = torch.nn.Linear(2, 1).double(), torch.tensor([[2.0, 1.0]]).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.bias.fill_(-3.0)
    (found,) = funcattr.vjp(layer, x, rules={"linear": rules.gamma(gamma=0.5, bias="ignore")})[1](
        torch.ones(1, 1).double()
    )
    w = torch.tensor([[1.0, -1.5]]).double()  # W + gamma W-
    assert_equal(found, x * w / (x * w).sum(), tolerance=1e-5)


def test_the_table_fails_on_a_broken_rule() -> None:
    row = ROWS["epsilon"]
    assert row.expected is not None
    (found,) = pulled(row, rules.epsilon(bias="ignore"), cotangent(row))
    with pytest.raises(AssertionError):
        assert_equal(found, row.expected(*row.operands, cotangent(row)), tolerance=1e-12)
