"""Which tensors depend on the root, and what data flow says of each."""

from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .calls import Origin


class Slots:
    """A number and an `Origin` for each tracked tensor, by identity; tensors are not kept alive."""

    def __init__(self) -> None:
        self._slots: Any = WeakIdKeyDictionary()
        self._origins: list[Origin] = []

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor in self._slots

    def __getitem__(self, tensor: Tensor) -> int:
        return self._slots[tensor]

    def get(self, tensor: Any) -> int | None:
        """The slot of a tracked tensor, None for a constant."""
        return self._slots.get(tensor) if isinstance(tensor, Tensor) else None

    def origin(self, tensor: Tensor) -> Origin:
        """What data flow says of a tracked tensor."""
        return self._origins[self._slots[tensor]]

    def new(self, tensor: Tensor, origin: Origin) -> int:
        """A fresh slot; the tensor's earlier one, if it had one, is left to the steps that know it."""
        self._slots[tensor] = slot = len(self._origins)
        self._origins.append(origin)
        return slot
