"""Masks that a model computes from its values: `x * (x > 0)`, `where(x > 0, x, 0)` and `x[x < 0] = 0` are a relu.

A comparison is a constant of the reverse pass, so only its data flow tells what multiplying by it means. It may be of
the value itself, or of a constant that the model has made of it: `x * (x.detach() > 0)`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import version
from ..calls.call import Positions, lookup
from ..calls.operations import Operation, bound, is_argument, is_zero
from ..torch_state import can_look_at
from .tracked import ByIdentity, Slots

_COMPARISONS = {
    **dict.fromkeys(("gt", "ge", "__gt__", "__ge__", "greater", "greater_equal"), True),
    **dict.fromkeys(("lt", "le", "__lt__", "__le__", "less", "less_equal"), False),
}
_NEGATIONS = frozenset(["logical_not", "__invert__", "bitwise_not"])
_CASTS = frozenset("to type type_as float double half bfloat16 int long bool clone contiguous".split())
_COPIES = frozenset(["detach", "data", "clone", "contiguous", "alias"])
_PLACES = frozenset(["nonzero", "argwhere", "where"])
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


_UNCLEAR = Mask(None, None)


class Copy(NamedTuple):
    """A constant that the model has made of tracked values; the slot of the one that it is equal to, if it is."""

    slot: int | None


class Noted(NamedTuple):
    """What is known of a constant, as long as its memory is not written."""

    what: Mask | Copy
    version: int


class Masks:
    """The masks of a forward pass.

    Attributes:
        any: Whether there is one.
    """

    def __init__(self, slots: Slots) -> None:
        self._noted = ByIdentity[Noted]()
        self._slots = slots
        self.any = False
        self._copies = False

    def _note(self, tensor: Tensor, what: Mask | Copy) -> None:
        self._noted[tensor] = Noted(what, version(tensor))
        self.any = self.any or isinstance(what, Mask)
        self._copies = self._copies or isinstance(what, Copy)

    def _of(self, value: Any) -> Mask | Copy | None:
        noted = self._noted.get(value) if isinstance(value, Tensor) else None
        if noted is None or noted.version == version(value):
            return None if noted is None else noted.what
        return _UNCLEAR if isinstance(noted.what, Mask) else Copy(None)

    def _mask(self, value: Any) -> Mask | None:
        found = self._of(value)
        return found if isinstance(found, Mask) else None

    def _value(self, value: Any) -> Copy | None:
        """Which tracked value a tensor is, or is made of; None if of none."""
        if not isinstance(value, Tensor):
            return None
        found = self._slots.get(value)
        if found is not None:
            return Copy(found.number)
        copy = self._of(value) if self._copies else None
        return copy if isinstance(copy, Copy) else None

    def compared(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Note the result of a query, if it compares a tracked value, or is a copy of one."""
        if name in _PLACES:
            self._placed(args, out)
            return
        if not isinstance(out, Tensor) or not args:
            return
        if name in _COPIES and (self._mask(args[0]) is not None or self._value(args[0]) is not None):
            self.carried(name, args, out)
            return
        value = self._value(args[0])
        if out.dtype != torch.bool:
            if name in _SIGNS and value is not None:
                self._note(out, Mask(value.slot, None, is_sign=True))
            return
        known = self._passed_on(name, args) if self.any else None
        if known is not None:
            self._note(out, known)
        elif value is not None:
            says = _COMPARISONS.get(name) if len(args) == 2 and is_zero(args[1]) else None
            says = False if name == "signbit" else says
            self._note(out, _UNCLEAR if value.slot is None else Mask(value.slot, says))
        elif any(self._value(v) is not None for v in args[1:]):
            self._note(out, _UNCLEAR)

    def carried(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        """Note what a call that makes constants makes of masks, and of tracked values."""
        if name in _PLACES and not isinstance(out, Tensor):
            self._placed(args, out)
            return
        if not isinstance(out, Tensor):
            return
        known = self._passed_on(name, args) if self.any else None
        if known is not None:
            self._note(out, known)
        elif out.is_floating_point():
            values = [value for v in args if (value := self._value(v)) is not None]
            if values and name == "heaviside":
                self._note(out, _UNCLEAR)
            elif values:
                self._note(out, values[0] if name in _COPIES else Copy(None))

    def _placed(self, args: tuple[Any, ...], out: Any) -> None:
        """Note the indices of where a mask is true: a tensor, or one for each dimension."""
        if args and self._mask(args[0]) is not None:
            for places in (out,) if isinstance(out, Tensor) else out:
                self._note(places, _UNCLEAR)

    @property
    def follows(self) -> bool:
        """Whether calls that make constants must be told of."""
        return self.any or self._copies

    def _passed_on(self, name: str, args: tuple[Any, ...]) -> Mask | None:
        found = [mask for v in args if (mask := self._mask(v)) is not None]
        if not found:
            return None
        (slot, says, is_sign), *others = found
        if is_sign and not others and name in _OF_SIGNS:
            return Mask(slot, None, is_sign=True)
        if others or self._mask(args[0]) is None or says is None:
            return _UNCLEAR
        if name in _NEGATIONS:
            return Mask(slot, not says)
        return Mask(slot, says if name in _CASTS or name in _COPIES else None)

    def rectifies(
        self, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions
    ) -> Tensor | None:
        """The value whose relu a call is by its mask; None if it is none."""
        x, mask, keeps = _selection(operation, args, kwargs, positions)
        known = self._mask(mask)
        slot = None if known is None or known.is_positive is not keeps else self._slots.get(x)
        if known is None or slot is None or slot.number != known.slot:
            return None
        if mask.is_floating_point() and mask.dtype != x.dtype:
            return None
        return x if _is_where_positive(mask, x, keeps) else None

    def decide(self, args: Iterable[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether an argument is a mask that depends on a tracked value."""
        found = [self._mask(value) for value in (*args, *kwargs.values())]
        return any(mask is not None and not mask.is_sign for mask in found)


def _is_where_positive(mask: Tensor, x: Tensor, keeps: bool) -> bool:
    """Whether a mask still says what it did: `numpy()`, `data` and C++ write without a trace.

    At zero it may say either. Where nobody can look, what is known of it holds.
    """
    if not can_look_at(mask) or not can_look_at(x):
        return True
    expected = x > 0 if keeps else x <= 0
    return not bool(((mask != expected) & (x != 0) & ~x.isnan()).any())


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
