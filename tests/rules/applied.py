"""The rules under test, applied to linear maps."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import GRADIENT

from . import closed_forms
from .linear_maps import LinearMap

DEFAULTS: dict[str, dict[str, Any]] = {name: {} for name in closed_forms.RULES} | {"z_box": {"low": -1.5, "high": 2.0}}


def rule_of(name: str, options: dict[str, Any]) -> Any:
    rule = getattr(rules, name)
    return rule(**options) if options else rule


def book(rule: Any) -> Rulebook:
    """The rule at every linear operation, alone with what passes relevance on."""
    return Rulebook({"convolution": rule, "dense": rule, "relu": rules.pass_through, "pad": GRADIENT})


def relevance(model: Callable[[Tensor], Tensor], x: Tensor, r: Tensor, rule: Any) -> Tensor:
    return funcattr.vjp(model, x, rules=book(rule))[1](r)[0]


def found(m: LinearMap, name: str, options: dict[str, Any]) -> Tensor:
    return relevance(m.model, m.x, m.relevance, rule_of(name, options)).detach()
