"""Changed copies of examples, put beside them in a batch to find out whether an example sees what lies there."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import merged, parted


class Neighbours(NamedTuple):
    """The numbers that examples are asked about with, and those of their copies.

    Attributes:
        example: Of the numbers that are given, those that are asked about. [N, ...] -> [N, ...]
        copies: Three copies of each, of the numbers that are given. [N, ...] -> each [N, ...]
    """

    example: Callable[[Tensor], Tensor]
    copies: Callable[[Tensor], list[Tensor]]

    def among(self, value: Tensor) -> Tensor:
        """The examples among their copies. [N, ...] -> [N * rows_of(N), ...]"""
        return among(self.example(value), self.copies(value))


def rows_of(examples: int) -> int:
    """Rows of an example among its copies: itself, and two of them, or three where there are few examples."""
    return 4 if examples < 8 else 3


def among_of_constant(value: Tensor) -> Tensor:
    """An input that no method changes, such as a mask, its rows among others. [N, ...] -> [N * rows_of(N), ...]"""
    return among(value, _moved(value, 1))


def among(value: Tensor, copies: list[Tensor]) -> Tensor:
    """Rows among copies of them, of which there are three. Each [N, ...] -> [N * rows_of(N), ...]"""
    # A scan over the batch, from either end, comes by a copy first. Two copies around an example, at each side of it in
    # the batch and in size, are not seen by a flip and a median: so the third, and places that differ.
    first, second, third = copies
    even = torch.stack([first, value, second, third][: rows_of(len(value))], 1)
    odd = torch.stack([value, first, third, second][: rows_of(len(value))], 1)
    is_odd = torch.arange(len(value), device=value.device).reshape(-1, *[1] * value.ndim) % 2 == 1
    return merged(torch.where(is_odd, odd, even))


def examples_of(rows: Tensor, examples: int) -> Tensor:
    """The rows of the examples among their copies. [N * rows_of(N), ...] -> [N, ...]"""
    index = torch.arange(examples, device=rows.device)
    return parted(rows, rows_of(examples))[index, 1 - index % 2]


def changed(value: Tensor) -> Tensor:
    """A tensor of other numbers in the same range: moved by one place, and if they are no integers made smaller."""
    rolled = value.reshape(len(value), -1).roll(1, 1).reshape(value.shape) if value[0].numel() > 1 else value.roll(1, 0)
    return rolled * 0.7 + 0.1 if value.is_floating_point() or value.is_complex() else rolled


def _moved(value: Tensor, times: int) -> list[Tensor]:
    """Copies by `changed`, the first by so many times, the others by once more each."""
    for _ in range(times):
        value = changed(value)
    return [value, changed(value), changed(changed(value))]


def drawn_in(value: Tensor) -> Tensor:
    """The numbers moved towards the farther end of the batch's range, each by another part, so that none is an extreme.

    e = x + t (c - x);  c = max if x < (min + max) / 2 else min;  t in [0.35, 0.65)

    Integers stay among those that are there: of at least three, the smallest and the largest become the next ones.
    """
    if value.is_complex():
        return torch.view_as_complex(drawn_in(torch.view_as_real(value.resolve_conj())))
    if not value.is_floating_point():
        there = value.unique()
        return value.clamp(there[1], there[-2]) if len(there) > 2 else value
    low, high = _range(value)
    part = (0.35 + 0.3 * (0.618 * _places(value) % 1)).to(value.dtype)
    farther = torch.where(value < low / 2 + high / 2, high, low)
    return torch.where(value.isfinite(), value + part * (farther - value), value)


def _range(value: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number; if it is one number, zero is the other end, and of zeros one."""
    ends = value[value.isfinite()]
    if not ends.numel() or bool(ends.min() == ends.max()):
        ends = torch.cat([ends[:1], ends.new_zeros(1)])
    low, high = ends.min(), ends.max()
    return low, torch.where(low == high, low + 1, high)


def _around(value: Tensor, size: float) -> list[Tensor]:
    """Copies around the numbers drawn in: towards those that are given, away from them, and below (each third above).

    x, e - (x - e) / 2, e -+ 0.3 |x - e|;  of another `size`, so much nearer to e
    """
    if value.is_complex():
        return [torch.view_as_complex(copy) for copy in _around(torch.view_as_real(value.resolve_conj()), size)]
    inner = drawn_in(value)
    if not value.is_floating_point():
        copies = [value, _doubled(value), changed(inner)]
        return copies if size == 1.0 else [changed(copy) for copy in copies]
    way = torch.where(inner.isfinite(), size * (value - inner), 0.0)
    first = value if size == 1.0 else inner + way
    below = torch.where(_places(value) % 3 == 2, 0.3, -0.3).to(way.dtype) * way.abs()
    return [first, inner - 0.5 * way, inner + below]


def _places(value: Tensor) -> Tensor:
    return torch.arange(value.numel(), device=value.device).reshape(value.shape)


def _doubled(value: Tensor) -> Tensor:
    """The first half of an example's numbers, each twice."""
    if value[0].numel() == 1:
        return value.roll(1, 0)
    rows = value.reshape(len(value), -1)
    return rows[:, torch.arange(rows.shape[1], device=value.device) // 2].reshape(value.shape)


DRAWN_IN = Neighbours(drawn_in, lambda value: _around(value, 1.0))
"""The inputs drawn in, between the inputs themselves and what is drawn in further.

For any w, w . e lies between w . x and that of the second copy: so a maximum and a minimum over the batch move, of the
inputs or of a linear map of them, as where a method puts copies that are nearer to a baseline beside others. A median
does not see two copies around an example, but the third. No number leaves the range that the model is made for.

If an example's derivative had a part from a neighbour's output, as by a maximum that they share, that output would
depend on the example; rows being treated alike, the example's output on its neighbours: outputs are enough."""

GIVEN = Neighbours(lambda value: value, lambda value: [drawn_in(value), changed(value), _around(value, 1.0)[2]])
"""The inputs themselves, among what is drawn in and what has its numbers in other places: where an example is padded,
or lacks a number, its neighbours do not."""

MOVED = Neighbours(lambda value: value, lambda value: _moved(value, 1))
"""The inputs themselves, among others of the same range, for models that fail on the inputs drawn in."""

OTHERS = {
    DRAWN_IN: DRAWN_IN._replace(copies=lambda value: _around(value, 0.5)),
    GIVEN: GIVEN._replace(copies=lambda value: [*_around(value, 0.5)[:2], changed(changed(value))]),
    MOVED: MOVED._replace(copies=lambda value: _moved(value, 2)),
}
"""The same examples among other copies."""
