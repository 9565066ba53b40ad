"""Actions: what a rulebook does with a call, a rule among them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..calls.declarations import Rule
from ..calls.proportional import Relevance
from ..calls.recorded_call import RecordedCall


def apply_rule(
    rule: Rule, call: RecordedCall, forms: tuple[tuple[torch.Size, torch.dtype], ...], caller: str, cotangent: Any
) -> tuple[Tensor, ...]:
    """The cotangents that a rule gives, one for each operand (None where nothing flows), checked for their shapes.

    Each has its operand's dtype, which under autocast is not always the output's.
    """
    result = rule(call.settled(), cotangent)
    if len(forms) == 1 and isinstance(result, Relevance) and result.shape == forms[0][0]:  # nearly always
        return (_of_dtype(result, forms[0][1]),)
    shapes = tuple([shape for shape, _ in forms])
    if result is None:
        raise ValueError(
            f"{caller}(rules=...): the rule for {call.op!r} in {call.path!r} returned None, expected one cotangent for "
            "each operand (None among them where nothing flows)."
        )
    result = (result,) if isinstance(result, Relevance) else tuple(result)
    given = [shape if r is None else getattr(r, "shape", None) for r, shape in zip(result, shapes, strict=False)]
    if len(result) != len(shapes) or tuple(given) != shapes:
        got = [tuple(getattr(r, "shape", ())) for r in result]
        raise ValueError(
            f"{caller}(rules=...): the rule for {call.op!r} in {call.path!r} returned cotangents of shapes {got}, "
            f"expected one for each operand: {[tuple(s) for s in shapes]} (None where nothing flows)."
        )
    return tuple([_of_dtype(r, dtype) for r, (_, dtype) in zip(result, forms, strict=True)])


def _of_dtype(value: Any, dtype: torch.dtype) -> Any:
    if value is None or value.dtype == dtype or not (value.is_floating_point() and dtype.is_floating_point):
        return value
    return value.to(dtype)


class Action(NamedTuple):
    """What a rulebook does with a call: a `rule`, or one of the kinds that need none."""

    kind: Literal["rule", "gradient", "stop", "decompose", "fold", "join", "unlisted"]
    function: Callable[..., Any] | None = None

    @property
    def pulls(self) -> bool:
        """Whether its function is a rule, which runs in the reverse pass; a decomposition runs in the forward pass."""
        return self.function is not None and self.kind != "decompose"

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
        >>> rules = {"square": funcattr.rules.decompose(lambda x: x * x), "mul": lambda call, p: (p, p)}
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
        >>> print(funcattr.Rulebook({"batch_norm": funcattr.rules.fold(funcattr.rules.affine)}))
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
        >>> print(funcattr.Rulebook({"relu": funcattr.rules.join(funcattr.rules.rescale)}))
        Rulebook 'rules'
        operation  where rule
        relu             join(rescale)
        (unlisted)       gradient
    """
    return Action("join", alone)
