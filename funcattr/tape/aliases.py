"""In-place writes that run out of place: what the written names stand for since, and which tensors are out of date."""

from typing import Any

import torch
from torch import Tensor

from .._torch import memory, place, without_torch_function
from ..calls.memories import Memories, Memory, overlap
from ..copies import is_fixed
from .tracked import ByIdentity


class OutOfDateError(Exception):
    """A tensor is read whose memory was written through another name."""


class Aliases:
    """Values overwritten in place by their new value, and the memory that is out of date since."""

    def __init__(self, memories: Memories) -> None:
        self._memories = memories
        self._current = ByIdentity[Tensor]()
        self.written = False

    def read(self, tensor: Tensor) -> Tensor:
        """What a call gets where it names `tensor`; OutOfDateError if that is out of date."""
        newer = self._current.get(tensor)
        tensor = tensor if newer is None else self.current(newer)
        if self.written:
            memory = self._memories.of(tensor)
            if memory is not None and memory.written and memory.is_stale(place(tensor)):
                raise OutOfDateError
        return tensor

    def read_all(self, values: Any) -> Any:
        """The same for every tensor in containers."""
        if isinstance(values, Tensor):
            return self.read(values)
        if isinstance(values, tuple | list):
            read, is_new = [], False
            for value in values:
                now = value
                if isinstance(value, Tensor):
                    now = self.read(value)
                elif not is_fixed(value):
                    now = self.read_all(value)
                read.append(now)
                is_new = is_new or now is not value
            if not is_new:
                return values
            kind: Any = type(values)
            return kind(*read) if hasattr(kind, "_fields") else tuple(read) if isinstance(values, tuple) else read
        if isinstance(values, dict):
            return {k: self.read_all(v) for k, v in values.items()}
        return values

    def read_around(self, target: Tensor, index: Any) -> Tensor:
        """What `target[index] = ...` gets where it names `target`: what lies at the index need not be up to date.

        `target[index] += 1` is two calls, of which the first writes what the second then puts back.
        """
        target = self.current(target)
        memory = self._memories.of(target)
        if memory is None or not memory.is_stale(place(target)):
            return target
        with without_torch_function(), torch.no_grad():
            part = target[index]
        where = place(part) if self._memories.of(part) is memory else None
        if memory.is_stale(place(target), except_for=where):
            raise OutOfDateError
        for other, reference in memory.written:
            value = reference()
            if other == where and value is not None:  # from now on the target stands for what was written there
                self.put_out_of_date(value, value)
        return target

    def current(self, tensor: Tensor) -> Tensor:
        """The value that the name `tensor` stands for after the writes so far."""
        while (newer := self._current.get(tensor)) is not None:
            tensor = newer
        return tensor

    def write(self, target: Tensor, value: Tensor) -> None:
        """Let `target` stand for `value`; what shares its memory is out of date."""
        if value is target:  # dropout in eval mode gives back its input
            return
        memory = self._memories.of(target)
        if memory is None or self._memories.of(value) is not memory:  # else it is seen in another shape, as by `t_`
            self.put_out_of_date(target, value, memory)
        self._current[target] = value
        self.written = True

    def follow(self, value: Tensor, site: Tensor) -> None:
        """Let the names of `value` stand for what was put in its place at a site."""
        if site is value:
            return
        self.written = True
        if self._memories.of(site) is not self._memories.of(value):
            self.put_out_of_date(value, site)
        self._current[value] = site

    def put_out_of_date(self, tensor: Tensor, value: Tensor, memory: Memory | None = None) -> None:
        """What shares the memory of `tensor` is out of date: its name stands for `value`."""
        memory = self._memories.about(tensor) if memory is None else memory
        if memory is not None:
            memory.write(place(tensor), value)
        self.written = True


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether a write into one value of a tensor may show in another value of it."""
    return not tensor.is_contiguous() and place(tensor).overlaps


def reads_while_written(target: Tensor, other: Tensor, index: Any = None, *, moves: bool = False) -> bool:
    """Whether a write into a tensor (at an index) changes what it still reads from another.

    A call that reads each value where it then writes it does not, unless it `moves` values.
    """
    held, other_held = memory(target), memory(other)
    if held is None or other_held is None or held._cdata != other_held._cdata:
        return False
    if index is not None:
        with without_torch_function(), torch.no_grad():
            part = target[index]
        held = memory(part)
        if held is not None and held._cdata == other_held._cdata:  # else the index is no view
            target = part
        else:
            moves = True
    where, read = place(target), place(other)
    return moves if where == read else overlap(where, read)
