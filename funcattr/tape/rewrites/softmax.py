"""Softmax written out: exp(z - c) over sums of itself, and shifts inside of an exp.

A shift inside of an exp is a factor outside, so it takes no share of the relevance: exp(z - c) = exp(z) exp(-c).
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...calls.adjoints import sum_to
from ...calls.kinds import GATES, GROUPS, LOOKED_THROUGH
from ...rulebook.actions import Action
from ...rulebook.rulebook import Match, Rulebook
from ...rules.normalization import softmax_taylor, softmax_written_out
from ..step import Step
from .functions import Forms, Function, Part, Region, dominated, function_of, let_go, retell, values_of

EXTREMA = frozenset(["amax", "max", "logsumexp", "cummax"])
"""Operations whose result shifts the scores of a softmax."""
_SUMS = GROUPS["summation"] - {"add", "sub", "rsub", "interpolate", "upsample"}
_LINEAR = _SUMS | LOOKED_THROUGH | {"add", "clamp", "clamp_min", "masked_fill", "where", "mul"}
"""Operations that make the denominator of a softmax out of its numerator."""
MEMBERS = _LINEAR | EXTREMA | {"exp", "sub", "div"}
"""Operations that a softmax is written in."""


def join_softmax(
    steps: list[Step],
    rules: Rulebook,
    roots: Mapping[int, Tensor],
    parts: Mapping[int, Part],
    outputs: set[int | None],
    caller: str,
) -> None:
    """Give each softmax that is written out the rule of one, in place; a shift in any other exp passes all on."""
    if not any(step.op == "exp" for step in steps):
        return
    forms = Forms(steps, roots)
    whole, stopped = set[int](), set[int]()
    for i in [i for i, s in enumerate(steps) if s.op == "div" and len(s.inputs) == 2]:
        region = _softmax(steps, i, forms)
        action = _action(rules, steps[i]) if region is not None else None
        found = None if region is None or action is None else function_of(steps, region, parts)
        if region is None or action is None or found is None:
            continue
        whole.update(region.steps)
        steps[i] = _joined(steps, i, region, found, action, caller)
        if action.kind == "stop":
            stopped.add(steps[i].outputs[0].slot)
    if whole:
        let_go(steps, whole, outputs, "in a softmax that is written out")
        # What a constant multiplies takes all: a gate is what the rules for products know as such.
        retell(steps, stopped, next(iter(GATES)))
    if rules.space == "relevance":
        _pass_shifts(steps, forms, outputs)


def _action(rules: Rulebook, step: Step) -> Action | None:
    """What the rulebook does with a softmax, if it can be done with one that is written out."""
    action = rules.action(Match("softmax", step.path))
    if action.kind == "rule" and action.function is softmax_taylor:
        return Action("rule", softmax_written_out)
    return action if action.kind in ("gradient", "stop") and rules.entries else None


def _softmax(steps: list[Step], last: int, forms: Forms) -> Region | None:
    """The steps of a softmax that ends with a quotient; None if it is another."""
    below = dominated(steps, last, forms, _LINEAR)
    if below is None or steps[last].inputs[0] != below.source or below.source not in forms.makers:
        return None
    *inner, _ = (steps[i] for i in below.steps)
    if not any(s.op in _SUMS for s in inner) or any(len(s.inputs) > 1 and s.op not in _SUMS | {"add"} for s in inner):
        return None
    i = forms.makers[below.source]
    found = [*below.steps]
    while steps[i].op in LOOKED_THROUGH and len(steps[i].inputs) == 1:  # a mask on exp(z)
        found.append(i)
        i = forms.makers.get(steps[i].inputs[0], -1)
        if i < 0:
            return None
    if steps[i].op != "exp":
        return None
    found.append(i)
    (source,) = steps[i].inputs
    shift = _shift(steps, source, forms)
    if shift is not None:
        found += shift[1]
        source = shift[0]
    return Region(source, sorted(found)) if forms[source].shape == steps[last].outputs[0].shape else None


def _shift(steps: list[Step], slot: int, forms: Forms) -> tuple[int, list[int]] | None:
    """What a value is the shift of, and the steps between; None if it is none."""
    between: list[int] = []
    while (i := forms.makers.get(slot)) is not None and steps[i].op in LOOKED_THROUGH and len(steps[i].inputs) == 1:
        between.append(i)
        (slot,) = steps[i].inputs
    if i is None or steps[i].op not in ("add", "sub"):
        return None
    if len(steps[i].inputs) == 1:
        return steps[i].inputs[0], [*between, i]
    if steps[i].op != "sub" or len(steps[i].inputs) != 2:
        return None
    region = dominated(steps, i, forms, EXTREMA | LOOKED_THROUGH)
    if region is None or region.source != steps[i].inputs[0] or not any(steps[j].op in EXTREMA for j in region.steps):
        return None
    return region.source, [*between, *region.steps]


def _joined(steps: list[Step], i: int, region: Region, found: Function, action: Action, caller: str) -> Step:
    call = found.call(steps[i].path, "softmax")
    step = steps[i]._replace(op="softmax", inputs=(region.source,), values=values_of(steps, region, steps[i]))
    if action.kind == "stop":
        return step._replace(inputs=(), pull=_nothing, action=action, call=None, if_last=None)
    return step.ruled(action, call, caller)


def _pass_shifts(steps: list[Step], forms: Forms, outputs: set[int | None]) -> None:
    """Let the shifts of what only an exp reads pass their relevance on."""
    readers = Counter(slot for step in steps for slot in step.inputs)
    for step in [s for s in steps if s.op == "exp" and len(s.inputs) == 1]:
        found = _shift(steps, step.inputs[0], forms)
        if found is None:
            continue
        _, between = found
        i = next(j for j in between if steps[j].op in ("add", "sub"))
        slots = [steps[j].outputs[0].slot for j in between if j >= i]
        if any(readers[slot] > 1 or slot in outputs for slot in slots):
            continue
        form = forms[steps[i].inputs[0]]
        rest = (None,) * (len(steps[i].inputs) - 1)
        steps[i] = steps[i]._replace(
            pull=lambda g, form=form, rest=rest: (sum_to(g, form.shape, form.dtype), *rest),
            action=Action("rule", softmax_taylor),
            call=None,
            owned=False,
            note="a shift inside of exp",
        )


def _nothing(cotangent: Any) -> tuple[Any, ...]:
    return ()
