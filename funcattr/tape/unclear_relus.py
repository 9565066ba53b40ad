"""Calls that may be a relu in another spelling, for a rulebook that would do nothing without one."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..calls.operations import Operation, bound, is_zero
from ..torch_state import can_look_at
from .masks import Masks
from .step import Step
from .tracked import Slots

BOUNDS = frozenset(["clamp", "clamp_min", "maximum", "max", "clamp_max", "minimum", "min"])
"""Operations that are a relu, or of the negative one, where what they are given is zero: min(x, 0) = -relu(-x)."""


def may_rectify(
    masks: Masks, slots: Slots, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call may be a relu that cannot be told from its arguments."""
    given = [*args, *kwargs.values()]
    if operation.name in ("index_put", "__setitem__"):  # the mask is one of several indices
        given += [index for value in given if isinstance(value, tuple | list) for index in value]
    if masks.any and masks.decide(given, {}):
        return True
    constants = [value for value in given if isinstance(value, Tensor) and value not in slots]
    if operation.name in BOUNDS and not all(map(can_look_at, constants)):
        return True
    if operation.name in ("minimum", "min"):
        return any(map(is_zero, constants))
    if operation.name == "clamp_max":
        return any(map(is_zero, given[1:]))
    if operation.name != "clamp":
        return False
    floor, ceiling = (bound(operation, args, kwargs, name, None) for name in ("min", "max"))
    return floor is None and is_zero(ceiling)


_SCALES = frozenset(["mul", "div", "neg"])
_SUMS = frozenset(["add", "sub", "lerp"])


def written_relus(steps: Sequence[Step]) -> list[str]:
    """The sums of a value and its size, and of a value and the relu of its negative, by where they are.

    (x + |x|) / 2,  with sqrt(x x), hypot(x, 0) or copysign(x, 1) for |x|;  x + relu(-x)

    They are told by which calls meet, not by numbers: a x + b |x|, a leaky relu, is among them. A norm, whose sizes are
    added to each other, is not.
    """
    found = list[str]()
    multiples, squares, sizes = dict[int, tuple[int, int]](), dict[int, int](), dict[int, int]()
    for step in steps:
        if len(step.outputs) != 1 or not 1 <= len(step.inputs) <= 2:
            continue
        ((first, sign), *others), out = [multiples.get(slot, (slot, 1)) for slot in step.inputs], step.outputs[0].slot
        given = step.inputs[0]
        if step.op in _SUMS and others:
            (other, _), (left, right) = others[0], step.inputs
            if sizes.get(left) == other or sizes.get(right) == first:
                found.append(f"{step.op} in {step.path!r}")
        elif step.op in _SCALES and not others:
            multiples[out] = first, -sign if step.op == "neg" else sign
            for kind in (squares, sizes):
                if given in kind:
                    kind[out] = kind[given]
        elif (step.op in ("abs", "hypot", "copysign") and not others) or (step.op == "relu" and sign < 0):
            sizes[out] = first
        elif step.op in ("sqrt", "pow") and given in squares:
            sizes[out] = squares[given]
        elif (step.op in ("square", "pow") and not others) or (step.op == "mul" and others and others[0][0] == first):
            squares[out] = first
    return found
