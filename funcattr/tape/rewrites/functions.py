"""Activations that are written out: where one value fans out and its parts meet again, elementwise, is one function.

`0.5 * h * (1 + tanh(...h...))` is gelu, and no product of two signals. Such a region is found by data flow: from the
call where two values meet, back through elementwise calls with constants, to the one value that both come from.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...calls.call import Origin, Positions, replace
from ...calls.declarations import declared
from ...calls.kinds import ELEMENTWISE, FUNCTION, GATES, LOOKED_THROUGH, SHIFTS
from ...calls.operations import Operation
from ...calls.recorded_call import RecordedCall
from ...rulebook.rulebook import Rulebook
from ..step import OutputSlot, Step, Values
from .kinds_of_functions import affine_gates, kind_of

_CHOICES = frozenset("where masked_fill".split())
_AFFINE = SHIFTS | _CHOICES | frozenset("neg to type type_as float double half bfloat16 clone contiguous".split())
"""Operations that are linear in all their tracked operands together, up to a constant."""
_ADDING = SHIFTS | _CHOICES
_SCALES = frozenset("mul div".split())
"""Operations that are so where only the first operand, or one factor, is tracked."""
_EXTREMES = frozenset("maximum minimum max min".split())


class Part(NamedTuple):
    """An elementwise call as a function of its tracked operands, kept until the tape is finished.

    Attributes:
        func, args, kwargs, positions: The call, without its operands.
        operand: Its operand where it has one only, be it twice as in x * x.
        is_affine: Whether it is linear in its operands, up to a constant, where its masks are what they are.
        decides: Whether a mask among its constants depends on tracked values.
        adds: Whether it puts a constant beside its operand.
        baseline: The same call in the pass at the baseline, where there is one.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    positions: Positions
    operand: Tensor | None
    is_affine: bool
    decides: bool
    adds: bool
    baseline: "Part | None"

    @staticmethod
    def of(call: RecordedCall, hold: bool, decides: bool = False, positions: Positions | None = None) -> "Part":
        """The part that a call is, before it lets go of anything.

        Args:
            call: The call.
            hold: Whether the part may hold its operand.
            decides: Whether one of its constants is a mask that depends on tracked values.
            positions: Where its operands are, if a constant shall be one of them.
        """
        func, args, kwargs, own = call.parts()
        positions, operands = positions or own, call.operands
        args, kwargs = replace(args, kwargs, positions, (None,) * len(positions))
        only = operands[0] if hold and all(t is operands[0] for t in operands) else None
        one = call.has_one_operand
        is_affine = call.op in _AFFINE or (one and call.op in _SCALES)
        adds = one and call.op in _ADDING
        before = None if call.baseline is None else Part.of(call.baseline, hold, decides, positions)
        return Part(func, args, kwargs, positions, only, is_affine, decides, adds, before)

    def __call__(self, *operands: Tensor) -> Any:
        args, kwargs = replace(self.args, self.kwargs, self.positions, operands)
        return self.func(*args, **kwargs)

    def picked(self, place: int) -> "Part":
        """The part that makes one of the results of this one."""
        before = None if self.baseline is None else self.baseline.picked(place)
        return self._replace(func=Picked(self.func, place), baseline=before)

    @property
    def constants(self) -> list[Tensor]:
        """The tensors among the other arguments."""
        return [v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor)]

    @property
    def adds_a_bias(self) -> bool:
        """Whether the constant that it puts beside its operand is one for each place."""
        return self.adds and any(t.numel() > 1 and t.is_floating_point() for t in self.constants)


class Picked(NamedTuple):
    """A function that gives one of the results of another one."""

    func: Callable[..., Any]
    place: int

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)[self.place]


class Member(NamedTuple):
    """A part between the slots that it reads and the one that it makes."""

    part: "Part | Function"
    inputs: tuple[int, ...]
    output: int


class Function:
    """The function of one value that some parts compute together.

    Attributes:
        source: The slot of the value.
        operand: The value.
        baseline: The same function in the pass at the baseline, where there is one.
    """

    def __init__(self, source: int, members: list[Member], operand: Tensor) -> None:
        self.source, self.members, self.operand = source, members, operand
        self.baseline: Function | None = None

    def __call__(self, x: Tensor, *constants: Tensor) -> Tensor:
        found: dict[int, Any] = {self.source: x}
        for part, inputs, output in self.members:
            result = part(*(found[slot] for slot in inputs))
            found[output] = result if isinstance(result, Tensor) else result[0]  # the values of a maximum
        return found[self.members[-1].output]

    @property
    def constants(self) -> list[Tensor]:
        return [constant for part, _, _ in self.members for constant in part.constants]

    def call(self, path: str, op: str = FUNCTION) -> RecordedCall:
        """A call of the function; its constants are arguments, so that a write into one is noticed."""
        made = RecordedCall(
            self, Operation(op, ("input",)), (self.operand, *self.constants), {}, ((0,),), path, (Origin(),)
        )
        made.watch()
        made.drop_output()
        if self.baseline is not None:
            made.baseline, made.compared = self.baseline.call(path), True
        return made


def _held(source: int, members: list[Member]) -> Tensor | None:
    """The value at the source of some parts, if one of them holds it."""
    operands = (part.operand for part, inputs, _ in members if {*inputs} == {source})
    return next((x for x in operands if x is not None), None)


class Region(NamedTuple):
    """Steps that compute one function of one value: its slot, and the steps' places in their order."""

    source: int
    steps: list[int]


class Forms:
    """Shape, dtype and device of the value in each slot, and the step that made it."""

    def __init__(self, steps: list[Step], roots: Mapping[int, Tensor]) -> None:
        self.makers = {out.slot: i for i, step in enumerate(steps) for out in step.outputs}
        self._steps, self._roots = steps, roots

    def __getitem__(self, slot: int) -> OutputSlot:
        if slot in self._roots:
            root = self._roots[slot]
            return OutputSlot(slot, root.shape, root.dtype, root.device)
        return next(out for out in self._steps[self.makers[slot]].outputs if out.slot == slot)


def join_functions(
    steps: list[Step],
    rules: Rulebook,
    roots: Mapping[int, Tensor],
    parts: Mapping[int, Part],
    outputs: set[int | None],
    caller: str,
) -> None:
    """Give each region of a finished tape the rule of an activation, in place.

    Args:
        steps: The tape.
        rules: The rulebook.
        roots: The roots by their slots.
        parts: The elementwise calls by the slots of their results, where a rule needs values.
        outputs: The slots of the model's output.
        caller: First words of errors.
    """
    meetings = [i for i, s in enumerate(steps) if len(s.inputs) > 1 and s.op in ELEMENTWISE and len(s.outputs) == 1]
    if not meetings:
        return
    forms = Forms(steps, roots)
    known, recorded = dict[int, Part | Function](parts), list(steps)
    whole: set[int] = set()
    kinds, gates = dict[int, str](), dict[int, int]()
    for i in meetings:
        region = _region(steps, i, forms)
        if region is not None and _keeps_its_rules(steps, region, known, rules):
            continue
        made = None if region is None else _as_function(steps, region, forms, known, rules, caller)
        if region is not None and made is not None:
            kind = kind_of(i, region.source, recorded, forms.makers, parts, kinds)
            if kind is not None:
                kinds[made.outputs[0].slot] = kind
            if kind in GATES:
                gates[made.outputs[0].slot] = region.source
            steps[i] = made
            whole.update(region.steps)
    if whole:
        let_go(steps, whole, outputs, "in a function of one value")
        kinds |= dict.fromkeys(affine_gates(gates, recorded, forms.makers, parts), "sigmoid")
        for kind in sorted(set(kinds.values())):
            retell(steps, {slot for slot, of in kinds.items() if of == kind}, kind)


def _region(steps: list[Step], last: int, forms: Forms) -> Region | None:
    """The region that ends with a step; None if its operands do not come from one value by elementwise calls."""
    found, open_slots = [last], set(steps[last].inputs)
    while len(open_slots) > 1:
        latest = max(open_slots)  # slots are numbered in the order of their making
        i = forms.makers.get(latest)
        if i is None or steps[i].op not in ELEMENTWISE or len(steps[i].outputs) != 1 or not steps[i].inputs:
            return None
        open_slots.remove(latest)
        open_slots.update(steps[i].inputs)
        found.append(i)
    source, shapes = open_slots.pop(), {steps[i].outputs[0].shape for i in found}
    return Region(source, found[::-1]) if len(found) > 1 and shapes == {forms[source].shape} else None


def _keeps_its_rules(
    steps: list[Step], region: Region, known: Mapping[int, "Part | Function"], rules: Rulebook
) -> bool:
    """Whether a region is no activation but a sum of multiples, whose constants take a share by the calls' own rules.

    So are affine pieces among which the largest or a mask chooses, if some constant is added; without one they are a
    rectifier. And so is a sum in which a bias stands beside an activation: it is no part of the activation. A
    multiplier compares f with f at the baseline, and knows no share of a constant.
    """
    makers = {steps[i].outputs[0].slot: i for i in region.steps if steps[i].op != FUNCTION}
    parts = {i: part for slot, i in makers.items() if isinstance(part := known.get(slot), Part)}
    affine = {i for i, part in parts.items() if part.is_affine and not part.decides}
    if len(affine) == len(region.steps):
        return True
    if rules.space == "multiplier":
        return False
    pieces = [part for i, part in parts.items() if part.is_affine or steps[i].op in _EXTREMES]
    if len(pieces) == len(region.steps) and any(part.adds for part in pieces):
        return True
    pending = [region.steps[-1]]
    for i in pending:
        if i in affine:
            pending += [
                made for slot in steps[i].inputs if (made := makers.get(slot)) is not None and made not in pending
            ]
    return any(i in affine and parts[i].adds_a_bias for i in pending)


def _as_function(
    steps: list[Step], region: Region, forms: Forms, known: dict[int, Part | Function], rules: Rulebook, caller: str
) -> Step | None:
    """The last step of a region with the rule for all of them; None if the rulebook has none."""
    last = steps[region.steps[-1]]
    action = rules.function_action(last.path)
    if action is None or action.function is None:
        return None
    slot, form, reads = last.outputs[0].slot, forms[region.source], declared(action.function)
    if action.kind == "join" or reads.operands or reads.output:
        found = function_of(steps, region, known)
        if found is None:
            return None
        known[slot], call = found, found.call(last.path)
    else:
        form_only = torch.empty(form.shape, dtype=form.dtype, device="meta")
        call = RecordedCall(
            last.pull, Operation(FUNCTION, ("input",)), (form_only,), {}, ((0,),), last.path, (Origin(),)
        )
    step = last._replace(inputs=(region.source,), op=FUNCTION, action=action, call=call, if_last=None)
    step = step._replace(values=values_of(steps, region, last))
    return step if action.kind == "join" else step.ruled(action, call, caller)


def function_of(steps: list[Step], region: Region, known: Mapping[int, "Part | Function"]) -> Function | None:
    """The function that a region computes; None where a part of it, or its value, was not kept."""
    places = [(steps[i].outputs[0].slot, steps[i].inputs) for i in region.steps]
    if any(made not in known for made, _ in places):
        return None
    members = [Member(known[made], inputs, made) for made, inputs in places]
    return made_of(region.source, members, [steps[i] for i in region.steps])


def made_of(source: int, members: list[Member], steps: list[Step]) -> Function | None:
    """The function that some parts, which are those of `steps`, compute; None where its value was not kept."""
    operand = _held(source, members)
    for step in steps:
        if operand is None and step.call is not None and step.call.keeps_operands and source in step.inputs:
            operand = step.call.operands[step.inputs.index(source)]
    if operand is None:
        return None
    found = Function(source, members, operand)
    before = [member._replace(part=member.part.baseline) for member in members if member.part.baseline is not None]
    if len(before) == len(members) and (operand := _held(source, before)) is not None:
        found.baseline = Function(source, before, operand)
    return found


def values_of(steps: list[Step], region: Region, last: Step) -> Values:
    """The tensors at both ends, if they are kept."""
    readers = (steps[i] for i in region.steps if region.source in steps[i].inputs)
    step = next(readers)
    if not step.values.operands:
        return Values()
    return Values((step.values.operands[step.inputs.index(region.source)],), last.values.outputs)


def let_go(steps: list[Step], whole: set[int], outputs: set[int | None], note: str) -> None:
    """Clear the steps of regions that nothing else reads."""
    readers = Counter(slot for step in steps for slot in step.inputs)
    for i in sorted(whole, reverse=True):
        if not any(readers[made.slot] or made.slot in outputs for made in steps[i].outputs):
            readers.subtract(steps[i].inputs)
            steps[i] = Step(_nothing, (), (), steps[i].op, steps[i].path, note=note)


def retell(steps: list[Step], made: set[int], op: str) -> None:
    """Let later calls know by which operation their operands came out of some slots: a rule may tell a gate by it."""
    for step in steps:
        if made.isdisjoint(step.inputs):
            continue
        if step.call is not None and len(step.call.origins) == len(step.inputs):
            pairs = zip(step.call.origins, step.inputs, strict=True)
            step.call.origins = tuple(o._replace(op=op) if slot in made else o for o, slot in pairs)
        if step.op in LOOKED_THROUGH and made.issuperset(step.inputs):
            made.update(out.slot for out in step.outputs)


def _nothing(cotangent: Any) -> tuple[Any, ...]:
    return ()
