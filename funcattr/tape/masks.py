"""Masks that a model computes from its values: `x * (x > 0)`, `where(x > 0, x, 0)` and `x[x < 0] = 0` are a relu.

A comparison is a constant of the reverse pass, so only its data flow tells what multiplying by it means.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.call import Positions, lookup
from ..calls.operations import Operation, bound, is_argument, is_zero
from .tracked import ByIdentity, Slots

_COMPARISONS = {
    **dict.fromkeys(("gt", "ge", "__gt__", "__ge__", "greater", "greater_equal"), True),
    **dict.fromkeys(("lt", "le", "__lt__", "__le__", "less", "less_equal"), False),
}
_NEGATIONS = frozenset(["logical_not", "__invert__", "bitwise_not"])
_CASTS = frozenset("to type type_as float double half bfloat16 int long bool clone contiguous".split())
_SIGNS = frozenset(["sign", "sgn"])
_OF_SIGNS = _CASTS | {"neg", "mul", "div"}


class Mask(NamedTuple):
    """What a comparison of a tracked value tells.

    Attributes:
        slot: The value's slot.
        is_positive: Whether the mask is true (1) where the value is above zero, and false (0) where it is below; if
            False, the other way round; None if it says something else.
        is_sign: Whether it is the value's sign, or a multiple of that, and what is made of it may be a mask.
    """

    slot: int | None
    is_positive: bool | None
    is_sign: bool = False


class Masks:
    """The masks of a forward pass."""

    def __init__(self, slots: Slots) -> None:
        self._masks = ByIdentity[Mask]()
        self._slots = slots
        self.any = False

    def _slot(self, value: Any) -> int | None:
        found = self._slots.get(value) if isinstance(value, Tensor) else None
        return None if found is None else found.number

    def compared(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Note the result of a query, if it compares a tracked value."""
        if not isinstance(out, Tensor) or not args:
            return
        if out.dtype != torch.bool:
            if name in _SIGNS and (slot := self._slot(args[0])) is not None:
                self._masks[out], self.any = Mask(slot, None, is_sign=True), True
            return
        known = self._passed_on(name, args) if self.any else None
        slot = self._slot(args[0])
        if known is not None:
            self._masks[out] = known
        elif slot is not None or any(self._slot(v) is not None for v in args[1:]):
            says = _COMPARISONS.get(name) if len(args) == 2 and slot is not None and is_zero(args[1]) else None
            says = False if name == "signbit" and slot is not None else says
            self._masks[out], self.any = Mask(slot, says), True

    def carried(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Note what a call without tracked arguments makes of masks."""
        if isinstance(out, Tensor) and (known := self._passed_on(name, args)) is not None:
            self._masks[out] = known

    def _passed_on(self, name: str, args: tuple[Any, ...]) -> Mask | None:
        found = [mask for v in args if isinstance(v, Tensor) and (mask := self._masks.get(v)) is not None]
        if not found:
            return None
        (slot, says, is_sign), *others = found
        if is_sign and not others and name in _OF_SIGNS:
            return Mask(slot, None, is_sign=True)
        if others or self._masks.get(args[0]) is None or says is None:
            return Mask(None, None)
        if name in _NEGATIONS:
            return Mask(slot, not says)
        return Mask(slot, says if name in _CASTS else None)

    def rectifies(
        self, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions
    ) -> Tensor | None:
        """The value whose relu a call is by its mask; None if it is none."""
        x, mask, keeps = _selection(operation, args, kwargs, positions)
        known = self._masks.get(mask) if isinstance(mask, Tensor) else None
        if known is None or known.is_positive is not keeps or known.slot != self._slot(x):
            return None
        return x if not mask.is_floating_point() or mask.dtype == x.dtype else None

    def decide(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether an argument is a mask that depends on a tracked value."""
        found = [self._masks.get(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        return any(mask is not None and not mask.is_sign for mask in found)


def _selection(
    operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions
) -> tuple[Any, Any, bool]:
    """The value that a call keeps by a mask, else zero; the mask; whether it is kept where the mask is true."""
    name = operation.name
    if len(positions) != 1:
        return None, None, False
    x = lookup(args, kwargs, positions[0])
    if name == "mul" and len(args) == 2:
        return x, args[1] if args[0] is x else args[0], True
    if name == "where":
        other = "other" if is_argument(positions[0], operation, "input") else "input"
        if is_zero(bound(operation, args, kwargs, other, None)):
            return x, bound(operation, args, kwargs, "condition", None), other == "other"
    if name == "masked_fill" and is_zero(bound(operation, args, kwargs, "value", None)):
        return x, bound(operation, args, kwargs, "mask", None), False
    if name == "__setitem__" and args[0] is x and is_zero(args[2]):
        return x, args[1], False
    return None, None, False
