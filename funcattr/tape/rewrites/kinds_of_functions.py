"""Whether a function of one value that is written out is a gate, an activation or a signal.

The rules for products ask it, of a factor. What cannot be told is a signal.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..._torch import without_dispatch_modes
from ...calls.kinds import FUNCTION, GATES, SHIFTS
from ...calls.operations import ACTIVATIONS
from ..step import Step

_LAST = ("mul", "div", "where", "maximum", "minimum", "max", "min")
"""The operations with which an activation that is written out ends. A sum may be a skip around one."""
_POLYNOMIAL = SHIFTS | frozenset("mul neg pow square to type type_as float double half bfloat16 clone".split())
"""Operations that make polynomials of polynomials."""
_AFFINE = SHIFTS | frozenset("mul div neg".split())
_FAR, _SMALL = (-60.0, -40.0, 40.0, 60.0), 1e-3
"""Where a gate has come to its ends, up to a part of its size; exp is finite there in single precision."""


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
    if all(map(_is_polynomial, region)):
        return None
    if end.op == "mul" and any(_is_polynomial_at(slot, source, steps, makers) for slot in end.inputs):
        return FUNCTION  # as gelu and silu: what grows by a polynomial is no gate
    calls = [parts.get(step.outputs[0].slot) for step in region]
    if _is_gate(region, source, calls):
        return "sigmoid"
    if end.op != "where":
        return FUNCTION
    branches = {kinds.get(slot) or (None if slot == source else _kind(steps[makers[slot]].op)) for slot in end.inputs}
    if len(branches) == 1 and None not in branches:
        return branches.pop()
    # By a mask of its own it bends; by a constant one it is a scale that differs from place to place.
    return FUNCTION if calls[-1] is not None and calls[-1].decides else None


def affine_gates(gates: Mapping[int, int], steps: list[Step], makers: Mapping[int, int], parts: Any) -> list[int]:
    """The slots of multiples of gates that are written out, and of their sums with constants, which are gates too.

    Args:
        gates: For the slot of each gate, that of the value of which it is a function.
        steps, makers, parts: As in `kind_of`.
    """
    sources = dict(gates)
    for i, step in enumerate(steps if gates else []):
        if step.op in _AFFINE and len(step.inputs) == 1 and step.inputs[0] in sources:
            source, region = sources[step.inputs[0]], _between(sources[step.inputs[0]], i, steps, makers)
            if _is_gate(region, source, [parts.get(each.outputs[0].slot) for each in region]):
                sources[step.outputs[0].slot] = source
    return [slot for slot in sources if slot not in gates]


def _between(source: int, last: int, steps: list[Step], makers: Mapping[int, int]) -> list[Step]:
    """The steps from a slot to a step, in their order."""
    found, ahead = {last}, [last]
    while ahead:
        new = {makers[slot] for slot in steps[ahead.pop()].inputs if slot != source} - found
        found |= new
        ahead += new
    return [steps[i] for i in sorted(found)]


def _kind(op: str) -> str | None:
    return "sigmoid" if op in GATES else FUNCTION if op in ACTIVATIONS else None


def _is_polynomial(step: Step) -> bool:
    return step.op in _POLYNOMIAL or (step.op == "div" and len(step.inputs) == 1)


def _is_polynomial_at(slot: int, source: int, steps: list[Step], makers: Mapping[int, int]) -> bool:
    return slot == source or all(map(_is_polynomial, _between(source, makers[slot], steps, makers)))


def _is_gate(region: list[Step], source: int, calls: list[Any]) -> bool:
    """Whether the function is 0 far off on one side, and some number on the other."""
    if any(call is None or call.constants for call in calls):  # by constants it may differ from place to place
        return False
    with without_dispatch_modes(), torch.no_grad():  # tracing modes would take the numbers for the model's
        values: dict[int, Any] = {source: torch.tensor(_FAR, dtype=torch.float64, device="cpu")}
        for call, step in zip(calls, region, strict=True):
            made = call(*(values[slot] for slot in step.inputs))
            made = made if isinstance(made, Tensor) else made[0]  # the values of a maximum
            values[step.outputs[0].slot] = made.cpu()  # wherever a call moves it to
    before, low, high, after = values[region[-1].outputs[0].slot].tolist()
    size = max(abs(before), abs(after))
    is_flat = abs(low - before) <= _SMALL * size and abs(high - after) <= _SMALL * size
    return is_flat and 0 < size < math.inf and min(abs(before), abs(after)) <= _SMALL * size
