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
from .table import ROWS, Row

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


def test_the_table_fails_on_a_broken_rule() -> None:
    row = ROWS["epsilon"]
    assert row.expected is not None
    (found,) = pulled(row, rules.epsilon(bias="ignore"), cotangent(row))
    with pytest.raises(AssertionError):
        assert_equal(found, row.expected(*row.operands, cotangent(row)), tolerance=1e-12)
