"""Whether a function of one value that is written out is a gate, an activation or a signal.

The rules for products ask it, of a factor. What cannot be told is a signal.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import without_dispatch_modes
from ...calls.kinds import ELEMENTWISE, FUNCTION, GATES, SHIFTS
from ...calls.operations import ACTIVATIONS
from ..step import Step

_LAST = ("mul", "div", "where", "maximum", "minimum", "max", "min")
"""The operations with which an activation that is written out ends. A sum may be a skip around one."""
_POLYNOMIAL = SHIFTS | frozenset("mul neg pow square to type type_as float double half bfloat16 clone".split())
"""Operations that make polynomials of polynomials."""
_AFFINE = SHIFTS | frozenset("mul div neg".split())
_PROBES, _SMALL = (-60.0, -40.0, *(i / 2 for i in range(-8, 9)), 40.0, 60.0), 1e-3
"""Where a function is asked; a gate has come to its ends at the outer two of either side, up to a part of its size. Exp
is finite there in single precision."""
_MOST, _DEEP = 64, 4
"""Steps of a function that is asked what it is: a longer one is no gate that somebody wrote out; and how many calls of
one value may lie before it fans out."""


def kind_of(
    last: int, source: int, steps: list[Step], makers: Mapping[int, int], parts: Any, kinds: Mapping[int, str]
) -> str | None:
    """The operation that a function of one value counts as: a sigmoid, a function, or None for a signal.

    Args:
        last: The place of its last step.
        source: The slot of the value.
        steps: The tape as it was recorded.
        makers: The place of the step that made each slot.
        parts: The elementwise calls by the slots of their results, each a `Part`.
        kinds: What earlier functions count as, by the slots of their results.
    """
    end = steps[last]
    if end.op not in _LAST:
        return None
    region = _between(source, last, steps, makers)
    if region is None:
        return FUNCTION
    if all(map(_is_polynomial, region)):
        return None
    if end.op == "mul" and any(_is_polynomial_at(slot, source, steps, makers) for slot in end.inputs):
        return FUNCTION  # as gelu and silu: what grows by a polynomial is no gate
    if any(_is_gate(last, begin, steps, makers, parts) for begin in _begins(source, steps, makers, parts)):
        return "sigmoid"
    if end.op != "where":
        return FUNCTION
    branches = {kinds.get(slot) or (None if slot == source else _kind(steps[makers[slot]].op)) for slot in end.inputs}
    if len(branches) == 1 and None not in branches:
        return branches.pop()
    # By a mask of its own it bends; by a constant one it is a scale that differs from place to place.
    part = parts.get(end.outputs[0].slot)
    return FUNCTION if part is not None and part.decides else None


def affine_gates(gates: Mapping[int, int], steps: list[Step], makers: Mapping[int, int], parts: Any) -> list[int]:
    """The slots of multiples of gates that are written out, and of their sums with constants, which are gates too.

    Args:
        gates: For the slot of each gate, that of the value of which it is a function.
        steps, makers, parts: As in `kind_of`.
    """
    sources = dict(gates)
    for i, step in enumerate(steps if gates else []):
        if step.op in _AFFINE and len(step.inputs) == 1 and step.inputs[0] in sources:
            source = sources[step.inputs[0]]
            if any(_is_gate(i, begin, steps, makers, parts) for begin in _begins(source, steps, makers, parts)):
                sources[step.outputs[0].slot] = source
    return [slot for slot in sources if slot not in gates]


def _begins(source: int, steps: list[Step], makers: Mapping[int, int], parts: Any) -> list[int]:
    """The slots of a value and of what it is a function of: of e = exp(z) too, in e / (1 + e), that of z."""
    found = [source]
    while len(found) < _DEEP and source in makers:
        step, part = steps[makers[source]], parts.get(source)
        if part is None or part.constants or len(step.inputs) != 1 or step.op not in ELEMENTWISE:
            break
        (source,) = step.inputs
        found.append(source)
    return found


def _between(source: int, last: int, steps: list[Step], makers: Mapping[int, int]) -> list[Step] | None:
    """The steps from a slot to a step, in their order; None for more than somebody writes a gate in."""
    found, ahead = {last}, [last]
    while ahead:
        new = {makers[slot] for slot in steps[ahead.pop()].inputs if slot != source} - found
        found |= new
        ahead += new
        if len(found) > _MOST:
            return None
    return [steps[i] for i in sorted(found)]


def _kind(op: str) -> str | None:
    return "sigmoid" if op in GATES else FUNCTION if op in ACTIVATIONS else None


def _is_polynomial(step: Step) -> bool:
    return step.op in _POLYNOMIAL or (step.op == "div" and len(step.inputs) == 1)


def _is_polynomial_at(slot: int, source: int, steps: list[Step], makers: Mapping[int, int]) -> bool:
    return slot == source or all(map(_is_polynomial, _between(source, makers[slot], steps, makers) or [steps[0]]))


def _is_gate(last: int, source: int, steps: list[Step], makers: Mapping[int, int], parts: Any) -> bool:
    """Whether a function is flat far off on both sides, at other values, and has values of one sign."""
    region = _between(source, last, steps, makers)
    if region is None:
        return False
    calls = [parts.get(step.outputs[0].slot) for step in region]
    if any(call is None or call.constants for call in calls):  # by constants it may differ from place to place
        return False
    with without_dispatch_modes(), torch.no_grad():  # tracing modes would take the numbers for the model's
        values: dict[int, Any] = {source: torch.tensor(_PROBES, dtype=torch.float64, device="cpu")}
        for call, step in zip(calls, region, strict=True):
            made = call(*(values[slot] for slot in step.inputs))
            made = made if isinstance(made, Tensor) else made[0]  # the values of a maximum
            values[step.outputs[0].slot] = made.cpu()  # wherever a call moves it to
    before, low, *inner, high, after = values[region[-1].outputs[0].slot].tolist()
    size = max(abs(before), abs(after))
    is_flat = abs(low - before) <= _SMALL * size and abs(high - after) <= _SMALL * size
    sign, rises = math.copysign(1.0, before + after), abs(after - before) > _SMALL * size
    has_one_sign = all(sign * value >= -_SMALL * size for value in (before, *inner, after))
    return is_flat and rises and size < math.inf and has_one_sign
