"""What is known of tensors by identity: which depend on the root, and what data flow says of each."""

import weakref
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from ..calls.call import Origin

V = TypeVar("V")


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
        key = id(tensor)
        self._entries[key] = (weakref.KeyedRef(tensor, self._forget, key), value)

    def __delitem__(self, tensor: Tensor) -> None:
        del self._entries[id(tensor)]


class Slot(NamedTuple):
    """A tracked tensor's number, and what data flow says of it."""

    number: int
    origin: Origin


class Slots(ByIdentity[Slot]):
    """A number and an `Origin` for each tracked tensor."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def new(self, tensor: Tensor, origin: Origin) -> int:
        """A fresh slot; the tensor's earlier one, if it had one, is left to the steps that know it."""
        number = self._count
        self._count += 1
        self[tensor] = Slot(number, origin)
        return number
