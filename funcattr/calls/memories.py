"""Which tensors share memory, told by their storages, and where a storage is out of date.

A write that runs out of place leaves the memory as it was. So every tensor that lies where the write would have gone is
out of date, whatever function made it.
"""

import weakref
from math import gcd
from typing import Any

import numpy as np
from torch import Tensor

from .._torch import Place, memory, place, release, reserve

_MOST_BYTES = 2**28
"""The longest piece of memory that is looked at byte by byte."""


class Memory:
    """One storage.

    Attributes:
        number: Of the storage, reserved.
        tracked: What was tracked in it, by its place, in the order of the pass.
        has_constants: Whether some tensors in it are constants by the model's will, as by `detach`.
        written: The places that are out of date, and what the written names stand for since.
        twins: Other storages that hold the same values, and where.
    """

    __slots__ = ("has_constants", "number", "tracked", "twins", "written")

    def __init__(self, storage: Any) -> None:
        self.number = reserve(storage)
        self.tracked: list[tuple[tuple[Any, ...], Any]] = []
        self.has_constants = False
        self.written: tuple[tuple[Place, weakref.ref[Tensor]], ...] = ()
        self.twins: tuple[tuple[Memory, Place], ...] = ()

    def write(self, where: Place, value: Tensor) -> None:
        """From now on `where` is out of date, and the written name stands for `value`."""
        reference = weakref.ref(value)
        self.written += ((where, reference),)
        for twin, there in self.twins:
            twin.written += ((there, reference),)

    def is_stale(self, where: Place, except_for: Place | None = None) -> bool:
        """Whether something at `where` is out of date, other than exactly what lies at `except_for`."""
        return any(overlap(where, other) for other, _ in self.written if other != except_for)


class Memories:
    """The storages of tracked values, and of those that were written out of place."""

    def __init__(self) -> None:
        self._by_number: dict[int, Memory] = {}

    def __del__(self) -> None:
        for known in self._by_number.values():  # until here, no other storage got the number of one of these
            release(known.number)

    def of(self, tensor: Tensor) -> Memory | None:
        """What is known of a tensor's memory; None for nothing."""
        storage = memory(tensor)
        return None if storage is None else self._by_number.get(storage._cdata)

    def about(self, tensor: Tensor) -> Memory | None:
        """What is known of a tensor's memory, from now on; None for a tensor that has none."""
        storage = memory(tensor)
        if storage is None:
            return None
        number = storage._cdata
        found = self._by_number.get(number)
        if found is None:
            found = self._by_number[number] = Memory(storage)
        return found

    def pair(self, one: Tensor, other: Tensor) -> None:
        """Two tensors hold the same values, and a write into either puts the other out of date."""
        first, second = self.about(one), self.about(other)
        if first is not None and second is not None:
            first.twins += ((second, place(other)),)
            second.twins += ((first, place(one)),)


def overlap(one: Place, other: Place) -> bool:
    """Whether two places in one storage share a byte; true where that cannot be told."""
    if one == other:
        return True
    span, other_span = _span(one), _span(other)
    if span is None or other_span is None:
        return not _apart(one, other)
    (start, end), (other_start, other_end) = span, other_span
    if end <= other_start or other_end <= start:
        return False
    first, last = min(start, other_start), max(end, other_end)
    if last - first > _MOST_BYTES:
        return True
    return bool((_bytes(one, first, last) & _bytes(other, first, last)).any())


def _span(where: Place) -> tuple[int, int] | None:
    """The first byte and the one behind the last; None for sizes that are symbols."""
    if not all(type(n) is int for n in (where.offset, *where.size, *where.stride)):
        return None
    width = where.dtype.itemsize
    if 0 in where.size:
        return 0, 0
    last = where.offset + sum((n - 1) * step for n, step in zip(where.size, where.stride, strict=True))
    return where.offset * width, (last + 1) * width


def _apart(one: Place, other: Place) -> bool:
    """Whether two places share no byte, however long the dimensions are whose sizes are symbols.

    These repeat what the others take by their strides, so that it is enough to compare modulo those.
    """
    if not all(type(n) is int for where in (one, other) for n in (where.offset, *where.stride)):
        return False
    repeated = [(n, step) for where in (one, other) for n, step in zip(where.size, where.stride, strict=True)]
    period = gcd(*(step for n, step in repeated if type(n) is not int))
    if not 0 < period * max([1, *(n for n, _ in repeated if type(n) is int)]) < _MOST_BYTES:
        return False
    if one.dtype.itemsize != other.dtype.itemsize:
        return False
    return np.intersect1d(_residues(one, period), _residues(other, period)).size == 0


def _residues(where: Place, period: int) -> Any:
    """Where the values of a place lie modulo a period that every dimension of unknown length keeps."""
    found = np.array([where.offset % period])
    for n, step in zip(where.size, where.stride, strict=True):
        if type(n) is int:
            found = np.unique((found[:, None] + step * np.arange(n)) % period)
    return found


def _bytes(where: Place, first: int, last: int) -> Any:
    """Which of the bytes from `first` to `last` a place has."""
    width = where.dtype.itemsize
    marks = np.zeros(last - first, dtype=bool)
    shape, strides = (*where.size, width), (*(step * width for step in where.stride), 1)
    part = np.lib.stride_tricks.as_strided(marks[where.offset * width - first :], shape, strides)
    part[...] = True
    return marks
