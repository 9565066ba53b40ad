"""Which part of a tensor a view shows: told by memory, and compared with labels that are moved along."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr.calls.parts import carried, joined, overwritten

View = Callable[[Tensor], Tensor]
LENGTHS = [2, 1, 3]


def _labels(dim: int) -> Tensor:
    """[4, 6, 8] or another order, with the number of its part at each place."""
    shape = [4, 8]
    shape.insert(dim, sum(LENGTHS))
    label = torch.repeat_interleave(torch.arange(3), torch.tensor(LENGTHS))
    return label.view([-1 if d == dim else 1 for d in range(3)]).expand(shape).contiguous()


@st.composite
def views(draw: st.DrawFn) -> View:
    """Some views in turn: slices with and without steps, selections, transposes, flattened and new dimensions."""
    kinds = draw(
        st.lists(st.sampled_from(["slice", "step", "select", "transpose", "flatten", "unsqueeze"]), max_size=4)
    )
    numbers = [draw(st.integers(0, 100)) for _ in range(3 * len(kinds))]

    def view(x: Tensor) -> Tensor:
        for i, kind in enumerate(kinds):
            a, b, c = numbers[3 * i : 3 * i + 3]
            if x.ndim == 0:
                return x
            dim = a % x.ndim
            start = b % x.shape[dim]
            if kind in ("slice", "step"):
                key = slice(start, start + 1 + c % x.shape[dim], 2 if kind == "step" else 1)
                x = x[(slice(None),) * dim + (key,)]
            elif kind == "select":
                x = x.select(dim, start)
            elif kind == "transpose":
                x = x.transpose(dim, b % x.ndim)
            elif kind == "flatten" and x.is_contiguous():
                x = x.view(-1)
            elif kind == "unsqueeze":
                x = x.unsqueeze(dim)
        return x

    return view


@given(views(), st.integers(0, 2))
def test_no_part_that_a_view_shows_is_missed(view: View, dim: int) -> None:
    labels = _labels(dim)
    parts = joined(labels, dim, LENGTHS, range(3))
    assert parts is not None
    seen = {part.origin for part in parts.seen_by(view(labels))}
    assert seen >= set(view(labels).unique().tolist())


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_slices_have_their_own_part_alone(dim: int) -> None:
    labels = _labels(dim)
    parts = joined(labels, dim, LENGTHS, range(3))
    assert parts is not None
    for i, piece in enumerate(labels.split(LENGTHS, dim)):
        for view in (piece, piece.transpose(0, 2), piece[..., None], piece.select(dim, 0), piece[1:]):
            if view.numel():
                assert [part.origin for part in parts.seen_by(view)] == [i]


def test_groups_of_a_flat_dimension() -> None:
    labels = torch.arange(4).repeat_interleave(2).expand(3, 8).contiguous()
    parts = joined(labels, 1, [2] * 4, range(4))
    assert parts is not None
    for i, piece in enumerate(labels.view(3, 4, 2).unbind(1)):
        assert [part.origin for part in parts.seen_by(piece)] == [i]


def test_what_has_no_memory_for_itself_is_not_told() -> None:
    assert joined(torch.zeros(1, 6).expand(4, 6), 0, [2, 2], range(2)) is None
    assert joined(torch.zeros(2, 0), 0, [1, 1], range(2)) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_any_order_in_memory_is_told(dim: int, order: tuple[int, ...]) -> None:
    labels = _labels(dim).permute(order).contiguous().permute([order.index(d) for d in range(3)])
    parts = joined(labels, dim, LENGTHS, range(3))
    assert parts is not None
    for i, piece in enumerate(labels.split(LENGTHS, dim)):
        assert [part.origin for part in parts.seen_by(piece)] == [i]


# A view of [A, B, 6], and what makes a copy of it.
COPIES: dict[str, tuple[View, View]] = {
    "transposed, then flat": (lambda t: t.transpose(0, 1), lambda v: v.reshape(-1, v.shape[-1])),
    "in front": (lambda t: t.permute(2, 0, 1), lambda v: v.contiguous()),
    "clone": (lambda t: t.permute(2, 0, 1), lambda v: v.clone()),
    "cast": (lambda t: t.transpose(0, 2), lambda v: v.to(torch.float64, copy=True)),
    "a slice": (lambda t: t[..., 1:].transpose(0, 1), lambda v: v.contiguous()),
    "groups in front": (lambda t: t.unflatten(2, (3, 2)).permute(2, 0, 1, 3), lambda v: v.contiguous()),
    "groups, then flat": (
        lambda t: t.unflatten(2, (3, 2)).permute(0, 2, 1, 3),
        lambda v: v.reshape(v.shape[0], 3, -1),
    ),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (3, 4)])  # whether it copies at all depends on them
def test_a_copy_has_the_parts_of_what_it_copies(name: str, shape: tuple[int, int]) -> None:
    view, made = COPIES[name]
    lengths = [2, 4] if name.startswith("groups") else LENGTHS
    label = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    whole = label.expand(*shape, 6).contiguous()
    seen = view(whole)
    copy = made(seen)
    parts = joined(whole, 2, lengths, range(len(lengths)))
    assert parts is not None
    if copy.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr():
        parts = carried(parts, seen, copy)
        assert parts is not None
    for dim in range(copy.ndim):
        for row in copy.unbind(dim):
            there, told = {int(n) for n in row.unique()}, {part.origin for part in parts.seen_by(row)}
            assert told >= there and (len(there) > 1 or told == there)


def test_a_copy_of_parts_that_no_dimension_tells_apart_is_not_told() -> None:
    whole = torch.zeros(3, 6)
    parts = joined(whole, 1, LENGTHS, range(3))
    assert parts is not None
    seen = whole.unflatten(1, (3, 2)).transpose(0, 1)  # groups of two, and a part of one
    assert carried(parts, seen, seen.contiguous()) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=4), st.integers(0, 2))
def test_what_is_written_over_has_the_origin_of_what_was_written(writes: list[tuple[int, int]], dim: int) -> None:
    whole, parts = torch.zeros(_labels(dim).shape), None
    for i, (start, length) in enumerate(writes, 1):
        written = whole.narrow(dim, start, min(length, 6 - start))
        written.fill_(i)
        parts = overwritten(whole, written, parts, 0, i)
        assert parts is not None
        for k in range(6):
            of_row = whole.select(dim, k)
            assert [part.origin for part in parts.seen_by(of_row)] == of_row.unique().tolist()


def test_a_write_into_a_corner_is_not_told() -> None:
    whole = torch.zeros(4, 6)
    assert overwritten(whole, whole[:2, :3], None, 0, 1) is None
    assert overwritten(whole, whole[:, ::2], None, 0, 1) is None
