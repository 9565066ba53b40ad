"""Settling a finished tape: the last linear map, batch norms to fold, activations to join."""

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from ...calls.kinds import GROUPS, LINEAR
from ...rulebook.actions import Action
from ...rulebook.rulebook import Rulebook
from ..step import Step
from .fold import fold_after, fold_before, folds, passed_by
from .functions import Forms
from .join import joined_by


def resolve(
    steps: list[Step],
    roots: Mapping[int, Tensor],
    outputs: set[int | None],
    caller: str,
    root_of_a_map: str | None = None,
) -> None:
    """Settle the pending actions of a finished tape, in place.

    Args:
        steps: The tape.
        roots: The roots by their slots.
        outputs: The slots of the model's output.
        caller: First words of errors.
        root_of_a_map: The site that is the root, if its value comes straight out of a linear map: a batch norm after it
            is folded into that map, as it would be if the map were on the tape.
    """
    _settle_last(steps, outputs, caller)
    norms = [i for i, step in enumerate(steps) if step.action.kind == "fold"]
    joins = [i for i, step in enumerate(steps) if step.action.kind == "join"]
    if not norms and not joins:
        return
    readers = Counter(slot for step in steps for slot in step.inputs)
    forms = Forms(steps, roots)
    alone = []
    for i in norms:  # what comes before a chain of norms takes them one by one, in order
        slot = only_source(steps, i, forms, readers, outputs)
        before = None if slot is None else forms.makers.get(slot)
        folded = None if before is None else fold_after(steps[before], steps[i], caller)
        if before is not None and folded is not None:
            steps[before], steps[i] = folded, passed_by(steps[i], folded.path or folded.op)
        elif slot in roots and root_of_a_map is not None and folds(steps[i]):
            steps[i] = passed_by(steps[i], root_of_a_map)
        else:
            alone.append(i)
    for i in reversed(alone):
        _fold_forwards(steps, i, forms, outputs, caller)
    for i in joins:
        slot = only_source(steps, i, forms, readers, outputs)
        before = None if slot is None else forms.makers.get(slot)
        joined = None if before is None else joined_by(steps[before], steps[i], caller)
        if before is None or joined is None:
            _settle_alone(steps, i, caller)
        else:
            steps[before], steps[i] = joined, passed_by(steps[i], joined.path or joined.op)


def _settle_alone(steps: list[Step], i: int, caller: str) -> None:
    step = steps[i]
    assert step.call is not None
    steps[i] = step.ruled(Action("rule", step.action.function), step.call, caller)


def only_source(steps: list[Step], i: int, forms: Forms, readers: Counter[int], outputs: set[int | None]) -> int | None:
    """The slot that step `i` alone reads, past identities; None if others read it too."""
    while True:
        source, *others = steps[i].inputs
        if others or readers[source] > 1 or source in outputs:
            return None
        maker = forms.makers.get(source)
        if maker is None or not _is_identity(steps[maker], forms):
            return source
        i = maker


_KEEPING = frozenset("contiguous clone alias to type type_as float double half bfloat16 cpu cuda positive".split())
_RESHAPING = frozenset(
    "view view_as reshape reshape_as flatten unflatten expand expand_as broadcast_to squeeze".split()
)


def _is_identity(step: Step, forms: Forms) -> bool:
    """A marked site, a norm that is folded already, a cast, or a dropout or view that changes nothing."""
    if step.mark or step.note:
        return True
    if len(step.inputs) != 1 or len(step.outputs) != 1:
        return False
    if step.call is not None and step.op in GROUPS["dropout"]:
        return not step.call.argument("training", True)
    before, after = forms[step.inputs[0]], step.outputs[0]
    if step.op in _KEEPING:
        return before.dtype.is_floating_point and after.dtype.is_floating_point
    return step.op in _RESHAPING and before.shape == after.shape


def _fold_forwards(steps: list[Step], i: int, forms: Forms, outputs: set[int | None], caller: str) -> None:
    """Fold the batch norm of step `i` into each linear map that reads it; for other readers it stands alone."""
    norm, slot = steps[i], steps[i].outputs[0].slot
    assert norm.call is not None
    readers = [j for j, step in enumerate(steps) if slot in step.inputs]
    ends = {j: _past_identities(steps, j, forms, outputs) for j in readers}
    merged = {j: folded for j, end in ends.items() if (folded := fold_before(norm, steps[end], caller)) is not None}
    for j, folded in merged.items():
        steps[ends[j]] = folded
        steps[j] = steps[j]._replace(inputs=norm.inputs)
    steps[i] = norm.ruled(Action("rule", norm.action.function), norm.call, caller)
    if merged and len(merged) == len(readers) and slot not in outputs:
        into = steps[ends[readers[0]]]
        steps[i] = passed_by(norm, into.path or into.op)


def _past_identities(steps: list[Step], j: int, forms: Forms, outputs: set[int | None]) -> int:
    """The reader `j` of a value, or where that is an identity, the one step that reads its result."""
    while _is_identity(steps[j], forms):
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
