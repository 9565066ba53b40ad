"""The reverse pass: the recorded calls are walked backwards, and at each its rule pulls the cotangents back."""

import operator
from collections.abc import Callable
from typing import Any

import torch

from ..calls.inplace import plus
from ..calls.proportional import Proportional, multiplied, together
from ..rulebook.conditions import Conditions
from ..rulebook.holding import may_hold
from .step import Step

Observer = Callable[[Step, list[Any], tuple[Any, ...]], None]
"""`observer(step, cotangents that arrived (None where none did), cotangents that it gave)`."""


def walk(
    steps: list[Step],
    cotangents: dict[int, Any],
    release: bool,
    conditions: Conditions | None = None,
    observer: Observer | None = None,
    asked: bool = False,
) -> dict[int, Any]:
    """Walk the steps backwards from the cotangents of some slots; those that remain are the roots'.

    Where nobody looks at the cotangents on the way, rules may tell more of them than their numbers (`Proportional`).

    Args:
        steps: The tape, in the order of the forward pass.
        cotangents: Of the output's slots.
        release: Whether each step is freed as the walk passes it.
        conditions: Hold at the marked sites.
        observer: Is told of each step that is passed.
        asked: Whether a derivative is asked for by tensors that rules hold, if some do. Autograd is off until the walk
            has come to a rule that holds one, and on from there; the caller sets it back.
    """
    asked = asked and not torch.is_grad_enabled()
    tells_more = observer is None and conditions is None and not asked
    pending = steps if release else steps.copy()
    own: set[int] = set()  # slots of cotangents that the walk alone holds
    while pending:
        step = pending.pop()
        arrived = [cotangents.pop(out.slot, None) for out in step.outputs]
        if step.mark and conditions is not None:
            arrived = conditions.at(step.mark, arrived, cotangents)
        if len(arrived) == 1:
            g = arrived[0]
            if g is None:
                continue
            if observer is None:
                arrived.clear()  # so that the rule may let go of it
            pull = step.pull
            if tells_more and step.in_proportion is not None:
                pull = step.in_proportion
            else:
                is_own = g.gives_own if isinstance(g, Proportional) else step.outputs[0].slot in own
                g = multiplied(g)
                if step.over is not None and is_own and observer is None:
                    pull = step.over
            results = _held(step, pull, g) if asked else pull(g)
        elif all(g is None for g in arrived):
            continue
        else:
            filled = (out.zeros() if g is None else multiplied(g) for out, g in zip(step.outputs, arrived, strict=True))
            results = _held(step, step.pull, tuple(filled)) if asked else step.pull(tuple(filled))
        if observer is not None:
            observer(step, arrived, results)
        owned = step.owned and observer is None
        for slot, g in zip(step.inputs, results, strict=True):
            if g is None:
                continue
            before = cotangents.get(slot)
            if before is None:
                cotangents[slot] = g
                (own.add if step.owned and len(results) == 1 else own.discard)(slot)
                continue
            if isinstance(g, Proportional) and isinstance(before, Proportional):
                cotangents[slot] = together(g, before)
                continue
            add = plus if owned or (isinstance(g, Proportional) and g.gives_own) else operator.add
            cotangents[slot] = add(multiplied(g), multiplied(before))
            own.add(slot)
    for slot, g in cotangents.items():
        cotangents[slot] = multiplied(g)
    return cotangents


def _held(step: Step, pull: Callable[[Any], tuple[Any, ...]], cotangent: Any) -> tuple[Any, ...]:
    """The cotangents that a step gives, with autograd on if its rule may hold tensors, and behind one with a graph."""
    if torch.is_grad_enabled() or not step.action.pulls or not may_hold(step.action.function):
        return pull(cotangent)
    with torch.enable_grad():
        results = pull(cotangent)
    if any(g is not None and g.requires_grad for g in results):
        torch.set_grad_enabled(True)
    return results
