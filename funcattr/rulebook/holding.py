"""Whether a rule may hold tensors, by which somebody could ask for a derivative of what it gives."""

import sys
from functools import partial
from types import FunctionType
from typing import Any

from ..copies import is_fixed

_PACKAGE = __name__.partition(".")[0]


def may_hold(rule: Any) -> bool:
    """Whether a rule may hold tensors: any but the package's own, with options that hold none.

    A function is the package's if its globals are those of one of the package's modules. What others read is not
    followed: they may find a tensor anywhere.
    """
    if isinstance(rule, partial):
        return not all(map(_holds_none, (rule.func, *rule.args, *rule.keywords.values())))
    if isinstance(rule, FunctionType):
        return not _is_own(rule) or not all(_holds_none(cell.cell_contents) for cell in rule.__closure__ or ())
    applied: Any = type(rule).__call__
    if not isinstance(applied, FunctionType) or not _is_own(applied):
        return True
    if isinstance(rule, tuple):
        return not all(map(_holds_none, rule))
    return not hasattr(rule, "__dict__") or not all(map(_holds_none, vars(rule).values()))


def _holds_none(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_holds_none, value.values()))
    return is_fixed(value) or (callable(value) and not may_hold(value))


def _is_own(function: FunctionType) -> bool:
    name = function.__globals__.get("__name__", "")
    home = sys.modules.get(name)
    return name.partition(".")[0] == _PACKAGE and home is not None and vars(home) is function.__globals__
