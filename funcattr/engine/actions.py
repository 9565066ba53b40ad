"""What a rulebook does with a call: a rule, or an action that needs none."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from .calls import Call

Rule = Callable[[Call, Any], Any]
R = TypeVar("R", bound=Callable[..., Any])


def _declare(rule: R, what: str) -> R:
    # By its id, which functools.wraps copies to a wrapper that may do otherwise.
    vars(rule)[what] = id(rule)
    return rule


def _declares(rule: Rule, what: str) -> bool:
    """Whether a rule, or what a `functools.partial` binds, was declared to do something."""
    rule = rule.func if isinstance(rule, partial) else rule
    return getattr(rule, what, None) == id(rule)


def output_only(rule: R) -> R:
    """Declare that `rule` reads the output of its call and not its operands, which are then freed early.

    Args:
        rule: A rule; `call.operands` and `call.args` raise AttributeError in it.

    Returns:
        The same rule.
    """
    return _declare(rule, "reads_no_operands")


def needs_operands(rule: Rule) -> bool:
    """Whether a rule reads the operands of its call."""
    return not _declares(rule, "reads_no_operands")


def forms_only(rule: R) -> R:
    """Declare that `rule` reads no value of its call, only `call.forms`."""
    return operands_only(output_only(rule))


def operands_only(rule: R) -> R:
    """Declare that `rule` reads the operands of its call; the output is freed early, and made again if asked for."""
    return _declare(rule, "reads_no_output")


def needs_output(rule: Rule) -> bool:
    """Whether a rule reads the output of its call, which else is freed early, and made again if it is asked for."""
    return not _declares(rule, "reads_no_output")


def giving_own(rule: R) -> R:
    """Declare that the cotangents which `rule` gives are new tensors, which may be written over."""
    return _declare(rule, "gives_own")


def gives_own(rule: Callable[..., Any]) -> bool:
    """Whether the cotangents that a rule gives are new tensors, which may be written over."""
    return _declares(rule, "gives_own")


def apply_rule(
    rule: Rule, call: Call, shapes: tuple[torch.Size, ...], caller: str, cotangent: Any
) -> tuple[Tensor, ...]:
    """The cotangents that a rule gives, one for each operand (None where nothing flows), checked for their shapes."""
    result = rule(call.settled(), cotangent)
    if result is None:
        raise ValueError(
            f"{caller}(rules=...): the rule for {call.op!r} in {call.path!r} returned None, expected one cotangent for "
            "each operand (None among them where nothing flows)."
        )
    result = (result,) if isinstance(result, Tensor) else tuple(result)
    given = [shape if r is None else getattr(r, "shape", None) for r, shape in zip(result, shapes, strict=False)]
    if len(result) != len(shapes) or tuple(given) != shapes:
        got = [tuple(getattr(r, "shape", ())) for r in result]
        raise ValueError(
            f"{caller}(rules=...): the rule for {call.op!r} in {call.path!r} returned cotangents of shapes {got}, "
            f"expected one for each operand: {[tuple(s) for s in shapes]} (None where nothing flows)."
        )
    return result


class Action(NamedTuple):
    """What a rulebook does with a call: a `rule`, or one of the kinds that need none."""

    kind: Literal["rule", "gradient", "stop", "decompose", "fold", "join", "unlisted"]
    function: Callable[..., Any] | None = None

    def __repr__(self) -> str:
        if self.function is None:
            return self.kind if self.kind != "unlisted" else "NO RULE"
        name = getattr(self.function, "__name__", None) or repr(self.function)
        return name if self.kind == "rule" else f"{self.kind}({name})"


GRADIENT = Action("gradient")
"""The ordinary adjoint, said on purpose (where the rulebook would otherwise raise)."""
STOP = Action("stop")
"""The output becomes a constant: nothing flows back through the call."""
UNLISTED = Action("unlisted")
"""The rulebook does not know the operation, and wants to raise."""


def decompose(function: Callable[..., Any]) -> Action:
    """An action: run `function`, written in simpler torch functions that are recorded in turn, in place of the call.

    Args:
        function: Takes the call's arguments as the model gave them and returns what the call would.

    Returns:
        The action, for a `Rulebook`. The pass raises ValueError if `function` calls the operation itself.

    Example:
        >>> import torch, funcattr
        >>> rules = {"square": funcattr.decompose(lambda x: x * x), "mul": lambda call, p: (p, p)}
        >>> funcattr.vjp(torch.square, torch.ones(1), rules=rules)[1](torch.ones(1))
        (tensor([2.]),)
    """
    return Action("decompose", function)


def fold(alone: Rule) -> Action:
    """An action for batch norm: it joins the linear operation before or after it, which then gets its rule for both.

    Args:
        alone: The rule of a batch norm that has no such neighbour.

    Returns:
        The action, for a `Rulebook`.

    Example:
        >>> import funcattr
        >>> print(funcattr.Rulebook({"batch_norm": funcattr.fold(funcattr.rules.affine)}))
        Rulebook 'rules'
        operation  where rule
        batch_norm       fold(affine)
        (unlisted)       gradient
    """
    return Action("fold", alone)


def join(alone: Rule) -> Action:
    """An action for activations: one joins the linear map before it, if that has a rule which `takes_activation`.

    Args:
        alone: The rule of an activation that has no such neighbour.

    Returns:
        The action, for a `Rulebook`.

    Example:
        >>> import funcattr
        >>> print(funcattr.Rulebook({"relu": funcattr.join(funcattr.rules.rescale)}))
        Rulebook 'rules'
        operation  where rule
        relu             join(rescale)
        (unlisted)       gradient
    """
    return Action("join", alone)


def takes_activation(together: Callable[[Call, Call, Any], Tensor]) -> Callable[[R], R]:
    """Declare what a rule for linear maps becomes for one whose result goes to an activation, and nowhere else.

    Args:
        together: `(linear call, activation call, cotangent of the activation) -> cotangent of the linear operand`.
    """

    def declared(rule: R) -> R:
        vars(rule)["together"] = together
        return rule

    return declared
