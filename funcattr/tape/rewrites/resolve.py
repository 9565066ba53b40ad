"""Settling a finished tape: the last linear map, batch norms to fold, activations to join."""

from collections import Counter

from ...calls.kinds import GROUPS, LINEAR
from ...rulebook.actions import Action
from ...rulebook.rulebook import Rulebook
from ..step import Step
from .fold import fold_after, fold_before, passed_by
from .join import joined_by


def resolve(steps: list[Step], outputs: set[int | None], caller: str) -> None:
    """Settle the pending actions of a finished tape, in place; `outputs` are the slots of the model's output."""
    _settle_last(steps, outputs, caller)
    norms = [i for i, step in enumerate(steps) if step.action.kind == "fold"]
    readers = Counter(slot for step in steps for slot in step.inputs)
    makers = {out.slot: i for i, step in enumerate(steps) for out in step.outputs}
    alone = []
    for i in norms:  # what comes before a chain of norms takes them one by one, in order
        before = only_source(steps, i, makers, readers, outputs)
        folded = None if before is None else fold_after(steps[before], steps[i], caller)
        if before is None or folded is None:
            alone.append(i)
        else:
            steps[before], steps[i] = folded, passed_by(steps[i], folded)
    for i in reversed(alone):
        _fold_forwards(steps, i, outputs, caller)
    for i in [i for i, step in enumerate(steps) if step.action.kind == "join"]:
        before = only_source(steps, i, makers, readers, outputs)
        joined = None if before is None else joined_by(steps[before], steps[i], caller)
        if before is None or joined is None:
            _settle_alone(steps, i, caller)
        else:
            steps[before], steps[i] = joined, passed_by(steps[i], joined)


def _settle_alone(steps: list[Step], i: int, caller: str) -> None:
    step = steps[i]
    assert step.call is not None
    steps[i] = step.ruled(Action("rule", step.action.function), step.call, caller)


def only_source(
    steps: list[Step], i: int, makers: dict[int, int], readers: Counter[int], outputs: set[int | None]
) -> int | None:
    """The step whose result step `i` alone reads, past identities."""
    while True:
        source, *others = steps[i].inputs
        if others or source not in makers or readers[source] > 1 or source in outputs:
            return None
        i = makers[source]
        if not _is_identity(steps[i]):
            return i


def _is_identity(step: Step) -> bool:
    """A marked site, a norm that is folded already, or a dropout that drops nothing."""
    if step.call is not None and step.op in GROUPS["dropout"]:
        return not step.call.argument("training", True)
    return bool(step.mark or step.note)


def _fold_forwards(steps: list[Step], i: int, outputs: set[int | None], caller: str) -> None:
    """Fold the batch norm of step `i` into each linear map that reads it; for other readers it stands alone."""
    norm, slot = steps[i], steps[i].outputs[0].slot
    assert norm.call is not None
    readers = [j for j, step in enumerate(steps) if slot in step.inputs]
    ends = {j: _past_identities(steps, j, outputs) for j in readers}
    merged = {j: folded for j, end in ends.items() if (folded := fold_before(norm, steps[end], caller)) is not None}
    for j, folded in merged.items():
        steps[ends[j]] = folded
        steps[j] = steps[j]._replace(inputs=norm.inputs)
    steps[i] = norm.ruled(Action("rule", norm.action.function), norm.call, caller)
    if merged and len(merged) == len(readers) and slot not in outputs:
        steps[i] = passed_by(norm, steps[ends[readers[0]]])


def _past_identities(steps: list[Step], j: int, outputs: set[int | None]) -> int:
    """The reader `j` of a value, or where that is an identity, the one step that reads its result."""
    while _is_identity(steps[j]):
        slot = steps[j].outputs[0].slot
        readers = [k for k, step in enumerate(steps) if slot in step.inputs]
        if len(readers) != 1 or slot in outputs:
            break
        (j,) = readers
    return j


def _settle_last(steps: list[Step], outputs: set[int | None], caller: str) -> None:
    reaching, followed = set(outputs), set[int]()
    for i in reversed(range(len(steps))):
        step = steps[i]
        slots = {out.slot for out in step.outputs}
        if not slots & reaching:
            continue
        reaching.update(step.inputs)
        linear = step.op in LINEAR and len(step.inputs) == 1
        is_last = linear and not slots & followed
        if linear or slots & followed:
            followed.update(step.inputs)
        action = step.if_last if is_last else step.action
        if step.if_last is not None and step.call is not None and action is not None:
            steps[i] = step.ruled(action, step.call, caller)


def check_required(rules: Rulebook, steps: list[Step], caller: str) -> None:
    """Raise for a required row that no call matched, and for a marked site that comes after the first such call."""
    for entry in (e for e in rules.entries if e.required):
        met = next((i for i, step in enumerate(steps) if step.action is entry.action), None)
        if met is None:
            wanted = f"{entry.op} {entry.where}".strip()
            raise ValueError(
                f"{caller}(rules={rules.name!r}): no call matches {wanted!r}, which is required. "
                "Print rule_table(model, x, rules=rulebook) to see the calls that there are."
            )
        late = next((step.mark for step in steps[met:] if step.mark), None)
        if late is not None:
            where = f"{steps[met].op!r} in {steps[met].path!r}"
            raise ValueError(f"{caller}: the site {late!r} comes after {where}, expected a site before it.")
