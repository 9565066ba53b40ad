"""Softmax written out: exp(z - c) over sums of itself, told when its last call is met; and shifts inside of an exp.

What comes after a softmax may depend on what the rulebook makes of it (a constant, where it stops), so it is told in
the forward pass. A shift inside of an exp is a factor outside, so it takes no share of the relevance:
exp(a (z - c)) = exp(a z) exp(-a c).
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import pytree
from ...calls.adjoints import sum_to
from ...calls.call import Positions
from ...calls.kinds import ELEMENTWISE, GROUPS, LOOKED_THROUGH, SHIFTS
from ...calls.operations import VIEWS, Operation, draws_at_random, known
from ...calls.recorded_call import RecordedCall
from ...rulebook.actions import Action
from ...rulebook.rulebook import Rulebook
from ...rules.normalization import softmax_taylor, softmax_written_out
from ...torch_state import can_look_at
from ..step import Step
from .flow import Flow
from .functions import Forms, Function, Member, Part, Picked, let_go, made_of

_EXTREMA = frozenset(["amax", "max", "logsumexp", "cummax"])
"""Operations whose result shifts the scores of a softmax."""
_EXPONENTIALS = frozenset(["exp", "exp2", "rpow"])
HOLDING = _EXTREMA | _EXPONENTIALS | {"log_softmax"}
"""Operations that read the scores of a softmax, which are then held for it."""
_INVERSES = frozenset(["rdiv", "reciprocal"])
_NORMS = frozenset(["norm", "linalg_vector_norm"])
_SUMS = GROUPS["summation"] | GROUPS["average_pool"] | {"1-norm"}
_SUMS -= {"add", "sub", "rsub", "interpolate", "upsample"}
_SCALES = frozenset(["mul", "div", "neg"])
_MULTIPLES = LOOKED_THROUGH | _SCALES
"""Operations that make multiples and selections of an exp, where they have one operand."""
_LINEAR = _SUMS | _MULTIPLES | {"add", "clamp", "clamp_min", "masked_fill", "where"}
"""Operations that make the denominator of a softmax out of its numerator."""
_CHANGING = frozenset(["clamp", "clamp_min", "masked_fill", "where"])
"""Those of them that make something else of exponentials that are not summed yet."""
_OF_SEVERAL = _SUMS | {"add", "cat", "stack"}
_DENSE = GROUPS["dense"]
_MEMBERS = _LINEAR | _EXTREMA | _EXPONENTIALS | {"sub", "div", "log", "log_softmax"} | _INVERSES | _NORMS
"""Operations that a softmax is written in, beside a product with ones."""
_LAST = frozenset(["div", "mul", "exp", "normalize"]) | _DENSE
"""Operations that a softmax may end with."""
_BEGINNING = _EXTREMA | {"log_softmax"}
"""Operations that come before the exponentials of one."""
_NOTE = "in a softmax that is written out"


class Softmax(NamedTuple):
    """A softmax whose last call was met.

    Attributes:
        action: What the rulebook does with it.
        source: The slot of its scores.
        slots: Those of the values between, in their order.
        inputs, positions: What the last call reads of them, and where among its arguments.
    """

    action: Action
    source: int
    slots: list[int]
    inputs: tuple[int, ...]
    positions: Positions


class Softmaxes:
    """The softmax that are written out in one forward pass.

    Attributes:
        suspects: Calls that may be a softmax which cannot be told.
    """

    def __init__(self, rules: Rulebook) -> None:
        self._rules = rules
        self._flow = Flow(_EXPONENTIALS, _SUMS | _DENSE)
        self._whole: set[int] = set()
        self._has_exponentials = False
        self.suspects: list[str] = []

    # --- what was called ---------------------------------------------------------------------------------------------

    def takes(self, call: RecordedCall, inputs: tuple[int, ...]) -> bool:
        """Whether a call may be part of a softmax that is written out, after what was met before it."""
        if call.op in HOLDING:
            return True
        if call.op in _DENSE:  # which adds exponentials up, if the other factor is ones
            return self._has_exponentials and any(
                self._scores(self._flow.back(self._flow.first(i), _MULTIPLES)[0]) is not None for i in inputs
            )
        return call.op in _MEMBERS and (self._has_exponentials or call.origins[0].op in _BEGINNING)

    def note(self, call: RecordedCall, part: Part, step: Step, place: int) -> None:
        """Note a call whose step has a place on the tape."""
        self._has_exponentials = self._has_exponentials or call.op in _EXPONENTIALS
        made, *others = step.outputs
        if not others:  # nearly always
            self._flow.add(made.slot, _told(call), part, step.inputs, made, place)
        elif call.op in VIEWS:  # what is split off
            for i, one in enumerate(step.outputs):
                self._flow.add(one.slot, call.op, part.picked(i), step.inputs, one, place)

    def note_constant(self, call: RecordedCall, inputs: tuple[int, ...], out: Any) -> None:
        """Note a call whose result, which depends on tracked values, the rulebook makes a constant."""
        told = _told(call)
        if told in _INVERSES | {"1-norm"} and isinstance(out, Tensor) and self._flow.node(inputs[0]) is not None:
            self._flow.hide(out, told, Part.of(call, hold=False), inputs)

    def carry(self, func: Any, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Note a call that makes a constant of such constants."""
        if not self._flow.hides or operation.name not in _MULTIPLES or not args or not isinstance(out, Tensor):
            return
        numbers = [self._flow.hidden(value) for value in args]
        hidden = [number for number in numbers if number is not None]
        place = None if len(hidden) != 1 else numbers.index(hidden[0])
        if place is None or (place > 0 and operation.name != "mul"):
            return
        call = RecordedCall(func, operation, args, kwargs, ((place,),), "")
        self._flow.hide(out, operation.name, Part.of(call, hold=False), (hidden[0],))

    # --- whether it is a softmax -------------------------------------------------------------------------------------

    def ended_by(self, call: RecordedCall, inputs: tuple[int, ...], module: type) -> Softmax | None:
        """The softmax that a call is the last of, if the rulebook can do with it what it does with one by name."""
        if not (self._has_exponentials or call.op == "exp") or call.op not in _LAST:
            return None
        action = self._rules.softmax_action(call.path, module)
        if action is None:
            return None
        inputs, positions = self._read_by(call, tuple([self._flow.first(i) for i in inputs]))
        found = self._found(call, inputs)
        if action.function is softmax_taylor:
            action = Action("rule", softmax_written_out)
        # A rule for softmax by name asks for its dimension.
        if found is None or (action.kind not in ("gradient", "stop") and action.function is not softmax_written_out):
            if found is not None or self._may_be_one(call, inputs):
                self.suspects.append(f"{call.op} in {call.path!r}")
            return None
        source, slots = found
        return Softmax(action, source, self._flow.ordered({*slots}), inputs, positions)

    def _read_by(self, call: RecordedCall, inputs: tuple[int, ...]) -> tuple[tuple[int, ...], Positions]:
        """What a call reads, with a constant that depends on tracked values."""
        positions = call.parts()[3]
        if len(inputs) != 1 or not self._flow.hides:
            return inputs, positions
        hidden = [(key, self._flow.hidden(value)) for key, value in (*enumerate(call.args), *call.kwargs.items())]
        found = [(number, (key,)) for key, number in hidden if number is not None]
        return (*inputs, *(number for number, _ in found)), (*positions, *(place for _, place in found))

    def _found(self, call: RecordedCall, inputs: tuple[int, ...]) -> tuple[int, list[int]] | None:
        """The slot of the scores, and those between it and the last call."""
        if call.op == "exp":
            return self._of_logarithms(inputs[0]) if _told(call) == "exp" else None
        for numerator, denominator, inverse in self._quotients(call, inputs):
            exponential, above = self._flow.back(numerator, _MULTIPLES)
            scores = self._scores(exponential)
            below = None if scores is None else self._sum_of(denominator, exponential, above)
            if call.op == "normalize" and scores is not None:  # by its own sum
                below = []
            if scores is not None and below is not None:
                source, inside = scores
                return source, [*above, *below, *inverse, *inside]
        return None

    def _quotients(self, call: RecordedCall, inputs: tuple[int, ...]) -> list[tuple[int, int, list[int]]]:
        """A numerator, a denominator and what inverts it, as which a call may be read."""
        if call.op == "normalize":
            return [(inputs[0], inputs[0], [])] if call.argument("p", 2.0) == 1 else []
        if len(inputs) != 2 or call.op in _DENSE:
            return []
        if call.op == "div":
            numerator, denominator = inputs if call.begins_with("input") else inputs[::-1]
            return [(numerator, denominator, [])]
        return [
            (numerator, self._flow.first(node.inputs[0]), [*between, slot])
            for numerator, factor in (inputs, inputs[::-1])
            for slot, between in [self._flow.back(factor, _MULTIPLES)]
            if (node := self._flow.node(slot)) is not None and node.op in _INVERSES
        ]

    def _scores(self, slot: int) -> tuple[int, list[int]] | None:
        """What a value is the exponential of, shifts left out, and the slots between; None if it is none."""
        node, between = self._flow.node(slot), [slot]
        if node is not None and node.op == "1 / exp":
            slot, more = self._flow.back(node.inputs[0], LOOKED_THROUGH)
            node, between = self._flow.node(slot), [slot, *more, *between]
        if node is None or node.op not in _EXPONENTIALS or len(node.inputs) != 1:
            return None
        (source,) = node.inputs
        shift = _shift(self._flow, source)
        return (source, between) if shift is None else (shift[0], [*shift[1], *between])

    def _sum_of(self, slot: int, exponential: int, above: Collection[int] = ()) -> list[int] | None:
        """The slots by which a value is a sum of multiples of some exponentials; None if it is none.

        Args:
            slot: Of the value.
            exponential: The slot of the exponentials.
            above: The slots by which what is divided is made of them: masks and selections there are the sum's too.
        """
        between = self._flow.between(slot, exponential, _LINEAR | _DENSE)
        if between is None:
            return None
        (whole,) = (node.shape for node in self._flow.nodes([exponential]))
        adds = False
        for node in self._flow.nodes(between):
            if len(node.inputs) > 1 and node.op not in _OF_SEVERAL:
                return None
            if node.op in _DENSE and not _is_all_ones(node.part):
                return None
            # Parts of exp(z) that are added one by one are a sum; exp(z) + exp(z) is none.
            parts = node.op == "add" and len({*node.inputs}) == 2 and node.shape.numel() < whole.numel()
            adds = adds or parts or node.op in _SUMS | _DENSE
        return between if adds and self._has_all(between, exponential, whole.numel(), above) else None

    def _has_all(self, between: list[int], exponential: int, count: int, above: Collection[int]) -> bool:
        """Whether a sum has each of so many exponentials, as it is or as it is divided."""
        selected: list[int] = []
        divided: list[int] = []  # those of them that are what is divided too
        summed = {exponential: False}
        for slot in self._flow.ordered(between):
            (node,) = self._flow.nodes([slot])
            before = any(summed.get(i, False) for i in node.inputs)
            summed[slot] = before or node.op in _SUMS | _DENSE
            if before or slot in above:  # a floor below the sum, say; or what is divided too
                if node.op == "clamp" and _has_upper_bound(node.part):
                    return False
            elif node.op in _CHANGING or (node.op in _SCALES and node.part.constants):
                return False
            if not before and node.op in LOOKED_THROUGH and node.shape.numel() < count:
                inside = any(self._flow.nodes([i])[0].shape.numel() < count for i in node.inputs if i in summed)
                kept = divided if slot in above else selected
                kept += [] if inside else [node.shape.numel()]
        return not selected or sum(selected) in (count, count - sum(divided))

    def _of_logarithms(self, slot: int) -> tuple[int, list[int]] | None:
        """What a value is the logarithm of the softmax of, and the slots between; None if it is none."""
        slot, between = self._flow.back(slot, LOOKED_THROUGH)
        node = self._flow.node(slot)
        if node is None:
            return None
        if node.op == "log_softmax":
            return node.inputs[0], [*between, slot]
        if node.op != "sub" or len(node.inputs) != 2:
            return None
        source, total = node.inputs
        below = self._log_sum_exp(total, source)
        if below is None:
            return None
        between += [slot, *below]
        shift = _shift(self._flow, source)
        return (source, between) if shift is None else (shift[0], [*shift[1], *between])

    def _log_sum_exp(self, slot: int, source: int) -> list[int] | None:
        """The slots by which a value is the logarithm of a sum of exponentials of `source`; None if it is none."""
        slot, between = self._flow.back(slot, LOOKED_THROUGH)
        node, between = self._flow.node(slot), [*between, slot]
        if node is not None and node.op == "logsumexp":
            return between if node.inputs == (source,) else None
        if node is not None and node.op == "log":
            below = self._sum_exp(node.inputs[0], source)
            return None if below is None else [*between, *below]
        if node is None or node.op != "add" or len(node.inputs) != 2:
            return None
        for shift, total in (node.inputs, node.inputs[::-1]):  # c + log(sum exp(z - c))
            above = self._flow.between(shift, source, _EXTREMA | LOOKED_THROUGH)
            nodes = [] if above is None else self._flow.behind(total)
            for slot, made in zip(nodes, self._flow.nodes(nodes), strict=True):
                if above is not None and made.op == "sub" and made.inputs == (source, shift):
                    below = self._log_sum_exp(total, slot)
                    return None if below is None else [*between, *above, *below, slot]
        return None

    def _sum_exp(self, slot: int, source: int) -> list[int] | None:
        """The slots by which a value is a sum of exponentials of `source`; None if it is none."""
        for exponential in self._flow.behind(slot):
            made = self._flow.node(exponential)
            if made is not None and made.op == "exp" and made.inputs == (source,):
                below = self._sum_of(slot, exponential)
                return None if below is None else [*below, exponential]
        return None

    def _may_be_one(self, call: RecordedCall, inputs: tuple[int, ...]) -> bool:
        """Whether a call may be the last of a softmax that cannot be told, as what it divides by are exponentials."""
        if call.op == "exp":
            node = self._flow.node(self._flow.back(inputs[0], LOOKED_THROUGH)[0])
            if node is None or node.op != "sub" or len(node.inputs) != 2:
                return False
            below = self._flow.nodes(self._flow.behind(node.inputs[1]))
            return any(made.op == "log" and self._mixes(made.inputs[0]) for made in below)
        if call.op in _DENSE:
            return any(self._divides(inputs[0], number) for number in inputs if number < 0)
        pairs = [(numerator, denominator) for numerator, denominator, _ in self._quotients(call, inputs)]
        if call.op == "mul" and len(inputs) == 2:  # (x / sum) exp(z)
            for factor, other in (inputs, inputs[::-1]):
                node = self._flow.node(self._flow.back(factor, _MULTIPLES)[0])
                if node is not None and node.op == "div" and len(node.inputs) == 2:
                    pairs += [(other, denominator) for denominator in node.inputs]
        return any(self._divides(*pair) for pair in pairs if call.op != "normalize")

    def _divides(self, numerator: int, denominator: int) -> bool:
        """Whether exponentials are divided by a mixture of some, or what is made of them by their sum."""
        if not self._mixes(denominator):
            return False
        if self._scores(self._flow.back(numerator, _MULTIPLES)[0]) is not None:
            return True
        summed = self._added_up(denominator)
        return bool(summed) and not summed.isdisjoint(self._added_up(numerator))

    def _mixes(self, slot: int) -> bool:
        """Whether a value is made of sums of exponentials, be it that they are added one by one."""
        made = self._flow.node(slot)
        if made is None or made.is_of_sums or not made.is_of_exponentials:
            return made is not None and made.is_of_sums
        adding = [node for node in self._flow.nodes(self._flow.behind(slot)) if node.op == "add"]
        return any(len({self._kind_of_term(i) for i in node.inputs} - {None}) > 1 for node in adding)

    def _kind_of_term(self, slot: int) -> Any:
        """What tells an exponential from others that are no functions of the same value; None for another term."""
        exponential, between = self._flow.back(slot, _MULTIPLES | {"add"})
        scores = self._scores(exponential)
        if scores is None:
            return None
        (whole,) = self._flow.nodes([exponential])
        selects = any(node.shape.numel() < whole.shape.numel() for node in self._flow.nodes(between))
        return self._flow.back(scores[0], ELEMENTWISE)[0], slot if selects else None

    def _added_up(self, slot: int) -> set[int]:
        """The exponentials of which a value is made by products and sums."""
        found: set[int] = set()
        seen, pending = {slot}, [slot]
        for latest in pending:
            node = self._flow.node(latest)
            if self._scores(latest) is not None:
                found.add(latest)
            elif node is not None and node.op in _LINEAR | _DENSE:
                pending += [i for i in node.inputs if i not in seen]
                seen.update(node.inputs)
        return found

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def function(self, found: Softmax, call: RecordedCall, steps: list[Step]) -> Function | None:
        """The softmax as a function of its scores; None where they were not kept, or it draws at random."""
        nodes = zip(self._flow.nodes(found.slots), found.slots, strict=True)
        members = [Member(node.part, node.inputs, slot) for node, slot in nodes]
        last = Member(Part.of(call, hold=False, positions=found.positions), found.inputs, _RESULT)
        inside = [steps[i] for i in sorted(self._flow.steps(found.slots))]
        made = None if any(map(_draws, members)) else made_of(found.source, [*members, last], inside)
        if made is None:
            self.suspects.append(f"{call.op} in {call.path!r}")
        return made

    def met(self, found: Softmax) -> None:
        """Let the steps of a softmax go when the tape is finished, if nothing else reads them."""
        self._whole |= self._flow.steps(found.slots)

    @property
    def parts(self) -> Mapping[int, Part]:
        """The calls that were noted, by the slots of their results."""
        return self._flow.parts

    def settle(self, steps: list[Step], roots: Mapping[int, Tensor], outputs: set[int | None]) -> None:
        """Clear the steps that a softmax has replaced, and let the shifts in any other exp pass all on, in place."""
        if self._whole:
            let_go(steps, self._whole, outputs, _NOTE)
        if self._rules.space == "relevance" and self._has_exponentials:
            self._pass_shifts(steps, Forms(steps, roots), outputs)

    def forget(self) -> None:
        """Let go of the calls, whose parts hold tensors."""
        self._flow = Flow(_EXPONENTIALS, _SUMS | _DENSE)

    def replaced(self, step: Step) -> bool:
        """Whether a step was cleared for a softmax, which has a rule of its own."""
        return step.note == _NOTE

    def _pass_shifts(self, steps: list[Step], forms: Forms, outputs: set[int | None]) -> None:
        """Let the shifts of what only an exp reads pass their relevance on."""
        readers = Counter(slot for step in steps for slot in step.inputs)
        flow = self._flow.apart
        for step in [s for s in steps if s.op in _EXPONENTIALS and len(s.inputs) == 1]:
            shift = _shift(flow, step.inputs[0])
            if shift is None:
                continue
            _, between = shift
            slots = flow.ordered(between)
            i = next(forms.makers[slot] for slot in slots if steps[forms.makers[slot]].op in SHIFTS)
            if any(readers[s] > 1 or s in outputs for s in slots if forms.makers[s] >= i):
                continue
            form = forms[steps[i].inputs[0]]
            rest = (None,) * (len(steps[i].inputs) - 1)
            steps[i] = steps[i].pulled_by(
                lambda g, form=form, rest=rest: (sum_to(g, form.shape, form.dtype), *rest),
                action=Action("rule", softmax_taylor),
                call=None,
                note="a shift inside of exp",
            )


def _shift(flow: Flow, slot: int) -> tuple[int, list[int]] | None:
    """What a value is the shift of, and the slots between; None if it is none."""
    slot, between = flow.back(slot, _MULTIPLES)
    node = flow.node(slot)
    if node is None or node.op not in SHIFTS:
        return None
    if len(node.inputs) == 1:
        return node.inputs[0], [*between, slot]
    if node.op != "sub" or len(node.inputs) != 2:
        return None
    source, shift = node.inputs
    found = flow.between(shift, source, _EXTREMA | LOOKED_THROUGH)
    if found is None or not any(made.op in _EXTREMA for made in flow.nodes(found)):
        return None
    return source, [*between, slot, *found]


_RESULT = -(2**62)
"""Stands for the slot that the last call of a softmax makes, in its function."""


def _told(call: RecordedCall) -> str:
    """The operation of a call, where 1 / exp(z), which is an exp too, and powers are told apart."""
    if call.op == "exp" and call.spelling.rstrip("_") != "exp":
        return "1 / exp"
    power = call.argument("exponent", -1) if call.op == "reciprocal" else -1
    if not (bool((power == -1).all()) if isinstance(power, Tensor) else power == -1):
        return "a power"
    if call.op in _NORMS:
        _, args, kwargs, _ = call.parts()
        order = args[1] if len(args) > 1 else kwargs.get("p", kwargs.get("ord"))
        return "1-norm" if order == 1 else call.op
    return call.op


def _draws(member: Member) -> bool:
    """Whether a call would give something else if it ran again."""
    part = member.part
    if not isinstance(part, Part) or isinstance(part.func, Picked):  # a view
        return False
    return draws_at_random(known(part.func), part.args, dict(part.kwargs))


def _has_upper_bound(part: Part) -> bool:
    """Whether a clamp has one."""
    return part.kwargs.get("max", part.args[2] if len(part.args) > 2 else None) is not None


def _is_all_ones(part: Part) -> bool:
    """Whether a product with a constant only adds up."""
    factors = [v for v in pytree.tree_leaves((part.args, part.kwargs)) if isinstance(v, Tensor)]
    return bool(factors) and all(can_look_at(t) and bool((t == torch.ones_like(t)).all()) for t in factors)
