"""Rows that stand beside each other in a batch, to find out whether an example sees what lies there."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import merged, parted

Change = Callable[[Tensor], Tensor]
"""Other numbers for a batch of examples. [N, ...] -> [N, ...]"""


class Neighbours(NamedTuple):
    """The rows of each example in one batch. The second and the third are asked about: what do they get alone?

    Whatever a model takes of its batch B, such as a maximum, a mean or a median, is one value g(B) for all that lies
    there. If neither the examples x nor the others e saw a change, g(x) = g(B) = g(e): so it is enough that x and e
    differ in it, whatever else is there. A model that puts rows in another order moves one of the two: of three
    different rows it cannot move one alone. One that takes the nearest example finds the first row near the third. What
    takes something of two alike groups, of the x and of the e, that is the same in both, is not seen.

    Attributes:
        rows: Of the numbers that are given, those of each row. The first is none that is asked about, so that a scan
            over the batch, from either end, comes by another row first; the second is the example as it is given.
        others: Other numbers for each of the rows, for an example among other rows.
    """

    rows: tuple[Change, ...]
    others: tuple[Change, ...]

    @property
    def times(self) -> int:
        """How many rows an example has."""
        return len(self.rows)

    def among(self, value: Tensor) -> Tensor:
        """The rows of all examples. [N, ...] -> [N * times, ...]"""
        return in_places([row(value) for row in self.rows])

    def constant(self, value: Tensor) -> Tensor:
        """An input that no method changes, such as a mask: the rows that are asked about keep theirs."""
        return in_places([value if i in ASKED else row for i, row in enumerate(_moved(value, self.times))])

    def beside_others(self, asked: int) -> "Neighbours":
        """The rows where only those of one place stay."""
        return self._replace(rows=tuple(self.rows[i] if i == asked else row for i, row in enumerate(self.others)))


GIVEN, SECOND = ASKED = (1, 2)
"""The places of the rows that are asked about: the example as it is given, and with other numbers."""


def in_places(rows: list[Tensor]) -> Tensor:
    """One batch of each example's rows, in places that differ from example to example. Each [N, ...] -> [N * S, ...]"""
    # With the same places all along, a model that moves rows by so many, or turns the batch round, would find its like.
    even, odd = torch.stack(rows, 1), torch.stack([rows[GIVEN], rows[0], *rows[2:]], 1)
    is_odd = torch.arange(len(even), device=even.device).reshape(-1, *[1] * (even.ndim - 1)) % 2 == 1
    return merged(torch.where(is_odd, odd, even))


def asked_of(batch: Tensor, asked: int, times: int) -> Tensor:
    """The rows at one place of each example. [N * times, ...] -> [N, ...]"""
    rows = parted(batch, times)
    index = torch.arange(len(rows), device=batch.device)
    return rows[index, 1 - index % 2 if asked == GIVEN else torch.full_like(index, asked)]


def changed(value: Tensor) -> Tensor:
    """A tensor of other numbers in the same range: moved by one place, and if they are no integers made smaller."""
    rolled = _rolled(value)
    return rolled * 0.7 + 0.1 if value.is_floating_point() or value.is_complex() else rolled


def _rolled(value: Tensor) -> Tensor:
    """An example's numbers, each moved by one place."""
    return value.reshape(len(value), -1).roll(1, 1).reshape(value.shape) if value[0].numel() > 1 else value.roll(1, 0)


def _moved(value: Tensor, times: int) -> list[Tensor]:
    """Copies by `changed`, each of the one before it."""
    copies = [changed(value)]
    while len(copies) < times:
        copies.append(changed(copies[-1]))
    return copies


def _of_reals(change: Change) -> Change:
    """A change of real numbers for complex ones too: both parts are numbers of their own."""

    @wraps(change)
    def of_any(value: Tensor) -> Tensor:
        if value.is_complex():
            return torch.view_as_complex(change(torch.view_as_real(value.resolve_conj())))
        return change(value)

    return of_any


@_of_reals
def drawn_in(value: Tensor) -> Tensor:
    """The numbers moved towards the farther end of the batch's range, each by another part, so that none is an extreme.

    e = x + t (c - x);  c = max if x < (min + max) / 2 else min;  t in [0.35, 0.65)

    Integers stay among those that are there: of at least three, the smallest and the largest become the next ones.
    """
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


def _places(value: Tensor) -> Tensor:
    return torch.arange(value.numel(), device=value.device).reshape(value.shape)


@_of_reals
def _near(value: Tensor) -> Tensor:
    """Near the numbers drawn in, most of them smaller; where one is missing there, the next one's.

    e -+ 0.3 |x - e|

    So the mean is another one, where that of x and that of e are both the middle of the range; and what looks for the
    nearest example finds it. Of integers it is the first half, each twice, in the next one's place.
    """
    if not value.is_floating_point():
        return changed(_doubled(value))
    inner = drawn_in(value)
    way = torch.where(inner.isfinite(), value - inner, 0.0).abs()
    sign = torch.where(_places(value) % 3 == 2, 0.3, -0.3).to(way.dtype)
    near = inner + sign * way
    return torch.where(near.isfinite(), near, _rolled(near))


@_of_reals
def _halfway(value: Tensor) -> Tensor:
    """Between the numbers and the same drawn in; integers drawn in, each in the next one's place."""
    inner = drawn_in(value)
    if not value.is_floating_point():
        return changed(inner)
    return torch.where(inner.isfinite(), value / 2 + inner / 2, inner)


def _doubled(value: Tensor) -> Tensor:
    """The first half of an example's numbers, each twice."""
    if value[0].numel() == 1:
        return value.roll(1, 0)
    rows = value.reshape(len(value), -1)
    return rows[:, torch.arange(rows.shape[1], device=value.device) // 2].reshape(value.shape)


def _changed(times: int) -> Change:
    """`changed`, so many times."""
    return lambda value: [value, *_moved(value, times)][times]


DRAWN_IN = Neighbours(
    rows=(_near, _changed(0), drawn_in), others=(lambda value: _near(_halfway(value)), _halfway, _halfway)
)
"""The inputs, the inputs drawn in, and beside both what is near the latter.

Drawn in, no number is an extreme of the batch: so a maximum and a minimum are others, of the inputs or of a linear map
of them, as where a method puts copies that are nearer to a baseline beside others. Where an example is padded, or lacks
a number, its neighbours do not. No number leaves the range that the model is made for, and no integer is new.

If an example's derivative had a part from a neighbour's output, as by a maximum that they share, that output would
depend on the example; rows being treated alike, the example's output on its neighbours: outputs are enough."""

MOVED = Neighbours(rows=tuple(map(_changed, (2, 0, 1, 3))), others=tuple(map(_changed, (6, 4, 5, 7))))
"""The inputs among others of about the same range, for models that fail on the inputs drawn in. There are four rows: a
model that fails on all but the inputs is asked about them alone, which must not lie in the middle."""
