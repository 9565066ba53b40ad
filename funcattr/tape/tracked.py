"""What is known of tensors by identity: which depend on the root, and what data flow says of each."""

import weakref
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from .._torch import place, plain_place
from ..calls.call import Origin
from ..calls.memories import Memories, Memory

V = TypeVar("V")


class _Reference(weakref.ref[Tensor]):
    """A weak reference that knows the number of its tensor."""

    __slots__ = ("key",)
    key: int


class ByIdentity(Generic[V]):
    """A value for each of some tensors, by identity; tensors are not kept alive, and take their values with them.

    As `torch.utils.weak.WeakIdKeyDictionary`, without an object for each question: a recorder asks for every operand.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Any, V]] = {}
        owner = weakref.ref(self)  # weak, or the two would be a cycle

        def forget(reference: Any) -> None:
            found = owner()
            if found is not None and found._entries.get(reference.key, (None,))[0] is reference:
                del found._entries[reference.key]

        self._forget = forget

    def get(self, tensor: Tensor) -> V | None:
        """The tensor's value, None if it has none."""
        entry = self._entries.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def __getitem__(self, tensor: Tensor) -> V:
        found = self.get(tensor)
        if found is None:
            raise KeyError(tensor)
        return found

    def __contains__(self, tensor: Tensor) -> bool:
        return self.get(tensor) is not None

    def __setitem__(self, tensor: Tensor, value: V) -> None:
        reference = _Reference(tensor, self._forget)
        reference.key = key = id(tensor)
        self._entries[key] = (reference, value)

    def __delitem__(self, tensor: Tensor) -> None:
        del self._entries[id(tensor)]


class Slot(NamedTuple):
    """A tracked tensor's number, and what data flow says of it."""

    number: int
    origin: Origin


class Slots(ByIdentity[Slot]):
    """A number and an `Origin` for each tracked tensor.

    A tensor that shares memory with a tracked one is tracked too, unless it is known to be a constant: something made
    it where nobody looked (`as_subclass`, `nn.Parameter`, another thread).
    """

    def __init__(self, memories: Memories, kind: type[Tensor] = Tensor) -> None:
        super().__init__()
        self._count = 0
        self._kind = kind
        self._memories = memories
        self._constants = ByIdentity[bool]()

    def new(self, tensor: Tensor, origin: Origin) -> int:
        """A fresh slot; the tensor's earlier one, if it had one, is left to the steps that know it."""
        number = self._count
        self._count += 1
        slot = self[tensor] = Slot(number, origin)
        if type(tensor) is Tensor:
            tensor.__class__ = self._kind
        memory = self._memories.about(tensor)
        if memory is not None:
            where = place(tensor) if self._kind is Tensor else plain_place(tensor)
            memory.tracked.append((where, slot))
        return number

    def let_go(self) -> None:
        """Give the tracked tensors their own class again."""
        for reference, _ in self._entries.values():
            tensor = reference()
            if type(tensor) is self._kind:
                tensor.__class__ = Tensor
        self._kind = Tensor

    def of(self, tensors: tuple[Tensor, ...]) -> tuple[tuple[int, ...], tuple[Origin, ...]] | None:
        """The numbers and the origins of tracked tensors; None if of one nobody can tell what it is."""
        if len(tensors) == 1:  # nearly always
            slot = self.get(tensors[0])
            return None if slot is None else ((slot.number,), (slot.origin,))
        found = [self.get(t) for t in tensors]
        slots = [slot for slot in found if slot is not None]
        if len(slots) != len(found):
            return None
        return tuple([slot.number for slot in slots]), tuple([slot.origin for slot in slots])

    def note_constant(self, tensor: Tensor) -> bool:
        """A constant by the model's will, unless it has a slot; whether it shares memory with a tracked tensor."""
        memory = None if super().get(tensor) is not None else self._memories.of(tensor)
        if memory is None:
            return False
        memory.has_constants = True
        self._constants[tensor] = True
        return True

    def __contains__(self, tensor: Tensor) -> bool:
        entry = self._entries.get(id(tensor))
        return (entry is not None and entry[0]() is tensor) or self._memory(tensor) is not None

    def get(self, tensor: Tensor) -> Slot | None:
        """The tensor's slot; None for a constant, and for a tensor of which nobody can tell what it is."""
        entry = self._entries.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        memory = self._memory(tensor)
        # `as_subclass(Tensor)` has a derivative; `nn.Parameter(t)`, and other classes as they choose, have none.
        if memory is None or memory.has_constants or type(tensor) is not Tensor:
            return None
        where = place(tensor)
        for other, slot in reversed(memory.tracked):
            if other == where:
                self[tensor] = slot
                return slot
        return None

    def _memory(self, tensor: Tensor) -> Memory | None:
        """The memory of a tensor that is no known constant, if something is tracked there."""
        memory = self._memories.of(tensor)
        if memory is None or not memory.tracked or tensor in self._constants:
            return None
        return memory
