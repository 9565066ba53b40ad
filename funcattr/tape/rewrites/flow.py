"""The data flow among the calls that activations and softmax are written in: which of them made a value, out of which.

Two calls of one function with the same arguments make the same value: exp(z) / exp(z).sum() has one exp.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import version
from ...calls.kinds import GROUPS
from ...copies import ATOMS
from ..step import OutputSlot
from ..tracked import ByIdentity
from .functions import Part


class Node(NamedTuple):
    """A call and the slots of its operands.

    Attributes:
        op, part: What was called, as a function of its operands.
        inputs: The slots of these.
        shape, dtype: Of its result.
        step: Its place on the tape; None for one that the rulebook makes a constant.
        order: Its place among the nodes.
        is_of_exponentials: Whether an exponential is behind it.
        is_of_sums: Whether a sum of what is of exponentials is.
    """

    op: str
    part: Part
    inputs: tuple[int, ...]
    shape: torch.Size
    dtype: torch.dtype
    step: int | None
    order: int
    is_of_exponentials: bool
    is_of_sums: bool


class Flow:
    """Calls by the slots of their results.

    A constant that the rulebook makes of tracked values, such as 1 / x, has a number of its own, below zero.

    Args:
        exponentials, sums: The operations that are such.
    """

    def __init__(self, exponentials: Collection[str] = (), sums: Collection[str] = ()) -> None:
        self._exponentials, self._sums = exponentials, sums
        self._nodes: dict[int, Node] = {}
        self._first: dict[int, int] = {}
        self._twins: dict[int, list[int]] = {}
        self._known: dict[Any, int] = {}
        self._waiting: list[tuple[int, Any]] = []
        self._hidden = ByIdentity[tuple[int, int]]()
        self.hides = False

    @property
    def parts(self) -> dict[int, Part]:
        """The calls as functions of their operands."""
        return {slot: node.part for slot, node in self._nodes.items()}

    def add(
        self,
        slot: int,
        op: str,
        part: Part,
        inputs: tuple[int, ...],
        form: Tensor | OutputSlot,
        step: int | None = None,
    ) -> None:
        """Note a call that made the value in a slot, of the shape and dtype of `form`."""
        nodes, of_exponentials, of_sums = self._nodes, False, False
        for i in inputs:
            before = nodes.get(i)
            if before is not None:
                of_exponentials, of_sums = of_exponentials or before.is_of_exponentials, of_sums or before.is_of_sums
        of_sums = of_sums or (of_exponentials and op in self._sums)
        of_exponentials = of_exponentials or op in self._exponentials
        nodes[slot] = Node(op, part, inputs, form.shape, form.dtype, step, len(nodes), of_exponentials, of_sums)
        # Tensors among the arguments may be written until somebody asks.
        is_plain = not part.kwargs and ATOMS.issuperset(map(type, part.args))
        self._waiting.append((slot, None if is_plain else _arguments(part)))

    def _pair(self) -> None:
        """Find the calls that make the same value as one before; put off until somebody asks, for most have no exp."""
        waiting, self._waiting = self._waiting, []
        for slot, arguments in waiting:
            node = self._nodes[slot]
            key = _key(node, tuple([self._first.get(i, i) for i in node.inputs]), arguments)
            first = slot if key is None else self._known.setdefault(key, slot)
            if first != slot:
                self._first[slot] = first
                self._twins.setdefault(first, []).append(slot)

    def hide(self, tensor: Tensor, op: str, part: Part, inputs: tuple[int, ...]) -> None:
        """Note a constant that is made of the values in some slots."""
        number = -len(self._nodes) - 1
        self.add(number, op, part, inputs, tensor)
        self._hidden[tensor] = number, version(tensor)
        self.hides = True

    @property
    def apart(self) -> "Flow":
        """The same calls, each for itself."""
        found = Flow()
        found._nodes = self._nodes
        return found

    def hidden(self, value: Any) -> int | None:
        """The number of a constant that is made of tracked values, if nothing was written into it since."""
        found = self._hidden.get(value) if self.hides and isinstance(value, Tensor) else None
        return found[0] if found is not None and found[1] == version(value) else None

    def first(self, slot: int) -> int:
        """The first slot with the value of a slot."""
        if self._waiting:
            self._pair()
        return self._first.get(slot, slot)

    def node(self, slot: int) -> Node | None:
        """The call that made a value, where it is known."""
        if self._waiting:
            self._pair()
        found = self._nodes.get(slot)
        if found is None or self._first.keys().isdisjoint(found.inputs):
            return found
        return found._replace(inputs=tuple(map(self.first, found.inputs)))

    def nodes(self, slots: Iterable[int]) -> list[Node]:
        """The calls that made some values, of those that are known."""
        return [node for slot in slots if (node := self.node(slot)) is not None]

    def steps(self, slots: Collection[int]) -> set[int]:
        """The steps that made the values of some slots, each time that they were made."""
        if self._waiting:
            self._pair()
        made = [twin for slot in slots for twin in (slot, *self._twins.get(slot, ()))]
        return {step for slot in made if (step := self._nodes[slot].step) is not None}

    def ordered(self, slots: Collection[int]) -> list[int]:
        """Slots in the order in which their values were made."""
        return sorted(slots, key=lambda slot: self._nodes[slot].order)

    def back(self, slot: int, ops: Collection[str]) -> tuple[int, list[int]]:
        """The value that some operations of one operand each make a value of, and the slots that they make."""
        between: list[int] = []
        while (node := self.node(slot)) is not None and node.op in ops and len(node.inputs) == 1:
            between.append(slot)
            (slot,) = node.inputs
        return slot, between

    def between(self, slot: int, source: int, ops: Collection[str]) -> list[int] | None:
        """The slots by which some operations make a value out of a source alone; None if they do not."""
        found: list[int] = []
        pending = {slot}
        while pending != {source}:
            latest = max(pending, key=lambda s: -1 if s not in self._nodes else self._nodes[s].order)
            node = self.node(latest)
            if node is None or latest == source or node.op not in ops:
                return None
            pending.remove(latest)
            pending.update(node.inputs)
            found.append(latest)
        return found

    def behind(self, slot: int) -> list[int]:
        """The slots out of which a value was made, and its own, as far back as the calls are known."""
        found: dict[int, None] = {}
        pending = [slot]
        while pending:
            latest = pending.pop()
            node = self.node(latest)
            if node is not None and latest not in found:
                found[latest] = None
                pending += node.inputs
        return [*found]


_ONE_SPELLING = frozenset("exp exp2 rpow log neg add sub mul div".split())
"""Operations whose arguments tell all, whichever function was called."""
_DRAWING = GROUPS["dropout"] | {"rrelu"}


def _key(node: Node, inputs: tuple[int, ...], arguments: Any) -> Any:
    """Equal for two calls only if they make the same value; None where that is not known."""
    if node.op in _DRAWING:
        return None
    part = node.part
    called = node.op if node.op in _ONE_SPELLING else part.func
    key = (called, inputs, part.positions, arguments or _arguments(part), node.shape, node.dtype)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _arguments(part: Part) -> Any:
    """The arguments of a call that are no operands, as they are now."""
    return _told([*part.args, *sorted(part.kwargs.items())])


def _told(value: Any) -> Any:
    """An argument by what tells it from any other; a tensor by its identity, which its part keeps alive."""
    if isinstance(value, Tensor):
        return Tensor, id(value), version(value)
    if isinstance(value, list | tuple):
        return type(value), tuple([_told(v) for v in value])
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    return type(value), value
