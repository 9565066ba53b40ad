"""What a tensor that was put together of several is made of, and which of them a view of it shows.

The parts lie one behind the other along one dimension. Where a view lies in memory tells which of them it has, whatever
operation made it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

Size = Any
"""A number, or a symbol in traced code."""


class Part(NamedTuple):
    """A part, and where it ends.

    Attributes:
        end: The first index behind it.
        origin: What data flow says of it, an `Origin`.
    """

    end: int
    origin: Any


class Parts(NamedTuple):
    """The parts of a tensor that has its memory for itself.

    Attributes:
        offset: Where in its memory the tensor begins.
        stride, length: Of the dimension along which the parts lie.
        parts: In their order.
    """

    offset: Size
    stride: Size
    length: Size
    parts: tuple[Part, ...]

    def seen_by(self, view: Tensor) -> tuple[Part, ...]:
        """The parts in which a view of the tensor may have values."""
        first, last = _span(view, self.offset, self.stride, self.length)
        starts = [0, *(part.end for part in self.parts[:-1])]
        return tuple([p for start, p in zip(starts, self.parts) if start <= last and first < p.end])


def joined(whole: Tensor, dim: int, lengths: Sequence[int], origins: Sequence[Any]) -> Parts | None:
    """The parts of a result of `cat` or `stack`; None if it does not have its memory for itself."""
    if not whole.numel() or sum(lengths) != whole.shape[dim] or not _is_apart(whole, dim):
        return None
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    parts = tuple(map(Part, ends, origins))
    return Parts(whole.storage_offset(), whole.stride(dim), whole.shape[dim], parts)


def overwritten(whole: Tensor, written: Tensor, before: Parts | None, old: Any, new: Any) -> Parts | None:
    """The parts of a tensor after a write into a view of it; None where no dimension tells what was written.

    Args:
        whole: The tensor with what was written.
        written: The view of it that was written into.
        before: The parts that it had; None if it was of one origin, `old`.
        old, new: The origins of the tensor before, and of what was written.
    """
    if not whole.numel():
        return None
    for dim, length in enumerate(whole.shape):
        if not _is_apart(whole, dim):
            continue
        first, last = _span(written, whole.storage_offset(), whole.stride(dim), length)
        is_slab = written.numel() * length == whole.numel() * (last + 1 - first)
        if is_slab and (before is None or (before.stride, before.length) == (whole.stride(dim), length)):
            parts = before.parts if before is not None else (Part(length, old),)
            left = [Part(min(p.end, first), p.origin) for p in parts]
            around = [*left, Part(last + 1, new), *(p for p in parts if p.end > last + 1)]
            ends = [0, *(p.end for p in around)]
            kept = tuple([p for start, p in zip(ends, around) if p.end > start])
            return Parts(whole.storage_offset(), whole.stride(dim), length, kept)
    return None


def carried(parts: Parts, view: Tensor, copy: Tensor) -> Parts | None:
    """The parts of a copy that has the values of a view in their order, as `reshape` makes it; None where no one
    dimension tells them apart.

    A reshape copies or does not by what its dimensions happen to be: the answer is that of the view.
    """
    period = parts.stride * parts.length
    sizes = list(zip(view.shape, view.stride()))
    along = [d for d, (n, step) in enumerate(sizes) if n > 1 and step % period and step >= parts.stride]
    if not along or any(sizes[d][1] % parts.stride for d in along):
        return None
    dim = max(along, key=lambda d: sizes[d][1])
    count, unit = sizes[dim][0], sizes[dim][1] // parts.stride
    start = ((view.storage_offset() - parts.offset) % period) // parts.stride
    inside = sum((sizes[d][0] - 1) * sizes[d][1] for d in along if d != dim)
    if inside >= sizes[dim][1] or start % unit or parts.length % unit or any(p.end % unit for p in parts.parts):
        return None
    first, length = start // unit, parts.length // unit
    if first + count <= length:
        ends = [min(max(p.end // unit - first, 0), count) for p in parts.parts]
        length = count
    elif first == 0 and count % length == 0:
        ends = [p.end // unit for p in parts.parts]
    else:
        return None
    if copy.shape == view.shape:
        stride = copy.stride(dim)
        if not _is_apart(copy, dim):
            return None
    elif copy.is_contiguous():
        stride = math.prod(view.shape[dim + 1 :])
    else:
        return None
    starts = [0, *ends[:-1]]
    kept = [Part(end, p.origin) for start, end, p in zip(starts, ends, parts.parts) if end > start]
    return Parts(copy.storage_offset(), stride, length, tuple(kept))


def _is_apart(whole: Tensor, dim: int) -> bool:
    """Whether a place in memory tells the index along a dimension: others lie outside of it, or inside of a step."""
    stride, inside = whole.stride(dim), 0
    for other, (n, step) in enumerate(zip(whole.shape, whole.stride())):
        if other != dim % whole.ndim and n > 1 and step % max(stride * whole.shape[dim], 1):
            inside += (n - 1) * step
    return inside < stride


def _span(view: Tensor, offset: Size, stride: Size, length: Size) -> tuple[Size, Size]:
    """The first and the last index along a dimension of a tensor that a view of it has."""
    period = stride * length
    start = (view.storage_offset() - offset) % period
    reach = sum(max(n - 1, 0) * step for n, step in zip(view.shape, view.stride()) if step % period)
    if start + reach >= period:
        return 0, length - 1
    return start // stride, (start + reach) // stride
