"""The reverse pass: the recorded calls are walked backwards, and at each its rule pulls the cotangents back."""

import operator
from collections.abc import Callable
from typing import Any

from ..calls.inplace import plus
from ..rulebook.conditions import Conditions
from .step import Step

Observer = Callable[[Step, list[Any], tuple[Any, ...]], None]
"""`observer(step, cotangents that arrived (None where none did), cotangents that it gave)`."""


def walk(
    steps: list[Step],
    cotangents: dict[int, Any],
    release: bool,
    conditions: Conditions | None = None,
    observer: Observer | None = None,
) -> dict[int, Any]:
    """Walk the steps backwards from the cotangents of some slots; those that remain are the roots'.

    Args:
        steps: The tape, in the order of the forward pass.
        cotangents: Of the output's slots.
        release: Whether each step is freed as the walk passes it.
        conditions: Hold at the marked sites.
        observer: Is told of each step that is passed.
    """
    pending = steps if release else steps.copy()
    own: set[int] = set()  # slots of cotangents that the walk alone holds
    while pending:
        step = pending.pop()
        arrived = [cotangents.pop(out.slot, None) for out in step.outputs]
        if step.mark and conditions is not None:
            arrived = conditions.at(step.mark, arrived, cotangents)
        if len(arrived) == 1:
            if arrived[0] is None:
                continue
            pull = step.pull
            if step.over is not None and step.outputs[0].slot in own and observer is None:
                pull = step.over
            results = pull(arrived[0])
        elif all(g is None for g in arrived):
            continue
        else:
            filled = (out.zeros() if g is None else g for out, g in zip(step.outputs, arrived, strict=True))
            results = step.pull(tuple(filled))
        if observer is not None:
            observer(step, arrived, results)
        add = plus if step.owned and observer is None else operator.add
        for slot, g in zip(step.inputs, results, strict=True):
            if g is None:
                continue
            if slot in cotangents:
                cotangents[slot] = add(g, cotangents[slot])
                own.add(slot)
            else:
                cotangents[slot] = g
                (own.add if step.owned and len(results) == 1 else own.discard)(slot)
    return cotangents
