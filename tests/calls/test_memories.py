"""Aliasing is told by storage: a write through any view is right, or refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import AliasedWriteError, FuncattrError, UnsupportedOperationError
from funcattr._torch import place
from funcattr.calls.memories import overlap

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.GRADIENT})
BASE = torch.arange(60.0).view(3, 4, 5)
VIEWS_OF_ONE: dict[str, Tensor] = {
    "whole": BASE,
    "row": BASE[1],
    "column": BASE[:, 1],
    "other column": BASE[:, 2],
    "last": BASE[..., 3:],
    "first": BASE[..., :3],
    "strided": BASE[..., ::2],
    "strided from one": BASE[..., 1::2],
    "transposed": BASE.transpose(0, 2),
    "diagonal": BASE.diagonal(0, 0, 1),
    "bytes": BASE.view(torch.uint8)[..., :4],
    "empty": BASE[:0],
    "expanded": BASE[0, 0].expand(7, 5),
}


def numbers(view: Tensor) -> set[int]:
    """The bytes of a view, counted in the base, one value at a time."""
    width = view.element_size()
    start = int(view.storage_offset()) * width
    strides = [step * width for step in view.stride()]
    return {
        start + sum(i * step for i, step in zip(index, strides, strict=True)) + byte
        for index in np.ndindex(*view.shape)
        for byte in range(width)
    }


@pytest.mark.parametrize("one", VIEWS_OF_ONE)
@pytest.mark.parametrize("other", VIEWS_OF_ONE)
def test_two_places_overlap_if_they_share_a_byte(one: str, other: str) -> None:
    first, second = VIEWS_OF_ONE[one], VIEWS_OF_ONE[other]
    shared = bool(numbers(first) & numbers(second)) or (one == other)
    assert overlap(place(first), place(second)) == shared


def of_any_length(view: Tensor, dim: int) -> Any:
    """Where a view lies, one of whose sizes is a symbol."""
    where: Any = place(view)
    return where._replace(size=tuple(object() if d == dim else n for d, n in enumerate(where.size)))


@pytest.mark.parametrize("one", VIEWS_OF_ONE)
@pytest.mark.parametrize("other", VIEWS_OF_ONE)
def test_places_of_unknown_length_overlap_at_least_where_known_ones_do(one: str, other: str) -> None:
    first, second = VIEWS_OF_ONE[one], VIEWS_OF_ONE[other]
    if not overlap(of_any_length(first, 0), of_any_length(second, 0)):
        assert not overlap(place(first), place(second))


def test_columns_of_unknown_length_lie_apart() -> None:
    columns = [of_any_length(BASE[..., i], 0) for i in range(5)]
    assert not any(overlap(columns[i], columns[j]) for i in range(5) for j in range(5) if i != j)
    halves = of_any_length(BASE[..., :2], 0), of_any_length(BASE[..., 2:], 0)
    assert not overlap(*halves)
    assert overlap(of_any_length(BASE[..., :3], 0), halves[1])
    assert overlap(of_any_length(BASE[1], 0), of_any_length(BASE[2], 0))  # rows of unknown length may run on


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten by keyword": lambda h: torch.flatten(input=h),
    "view": lambda h: h.view(-1),
    "adjoint": lambda h: h.adjoint(),
    "linalg.diagonal": lambda h: torch.linalg.diagonal(h),
    "unsafe_chunk": lambda h: torch.unsafe_chunk(h, 2)[0],
    "unsafe_split": lambda h: torch.unsafe_split(h, 2)[0],
    "aten.view": lambda h: torch.ops.aten.view.default(h, [-1]),
    "aten.slice": lambda h: torch.ops.aten.slice.Tensor(h, 0, 0, 1),
    "aten.alias": lambda h: torch.ops.aten.alias(h),
    "as_subclass": lambda h: h.as_subclass(Tensor),
    "squeeze of several": lambda h: torch.squeeze(h.unsqueeze(0).unsqueeze(0), (0, 1)),
    "narrow by keyword": lambda h: torch.narrow(input=h, dim=0, start=0, length=1),
    "a view of a view": lambda h: h.adjoint()[0].flatten(0, 0),
    "as_strided": lambda h: torch.as_strided(h, (2, 2), (4, 1)),
    "hsplit": lambda h: torch.hsplit(h, 2)[1],
    "a subclass of one's own": lambda h: h.as_subclass(_Own),
    "in a Parameter": lambda h: nn.Parameter(h, requires_grad=False),
    "movedim": lambda h: torch.movedim(h, 0, 1),
    "swapaxes": lambda h: torch.swapaxes(input=h, axis0=0, axis1=1),
    "select_copy, which is none": lambda h: torch.select_copy(h, 0, 0),
    "unfold": lambda h: h.unfold(1, 2, 2),
    "tensor_split": lambda h: torch.tensor_split(h, 2)[0],
    "unbind": lambda h: h.unbind(1)[0],
    "detach": lambda h: h.detach()[0],
    "einsum": lambda h: torch.einsum("bij->bji", h),
}


class _Own(Tensor):
    pass


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mul_": lambda v, x: v.mul_(2),
    "aten.mul_": lambda v, x: torch.ops.aten.mul_.Tensor(v, 2.0),
    "copy_": lambda v, x: v.copy_(torch.ones_like(v) * x.sum()),
    "__setitem__": lambda v, x: v.__setitem__(..., 3.0),
    "out=": lambda v, x: torch.mul(v, 2, out=v),
    "foreach": lambda v, x: torch._foreach_mul_([v], 2.0),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_write_through_a_view_is_right_or_refused(view: str, write: str) -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        WRITES[write](VIEWS[view](h), x)
        return h.square()

    x = torch.randn(3, 4, 4, dtype=torch.float64)
    try:
        out, pull = funcattr.vjp(fn, x, rules=RECORDED)
    except FuncattrError:
        return
    with torch.no_grad():
        assert_equal(out, fn(x.clone()))
    leaf = x.clone().requires_grad_()
    try:
        right = fn(leaf)
    except RuntimeError:  # autograd follows no out=
        return
    assert_equal(pull(torch.ones_like(out))[0], torch.autograd.grad(right.sum(), leaf)[0])


@pytest.mark.parametrize("view", [name for name in VIEWS if "none" not in name])
def test_a_base_that_is_read_after_a_write_through_a_view_is_refused(view: str) -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        VIEWS[view](h).mul_(2)
        return h + 1

    with pytest.raises((AliasedWriteError, UnsupportedOperationError)):
        funcattr.vjp(fn, torch.randn(3, 4, 4), rules=RECORDED)


def test_views_that_share_no_value_do_not_disturb_each_other() -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        left, right = h[..., ::2], h[..., 1::2]
        left.mul_(2)
        return left * right

    x = torch.randn(2, 4, dtype=torch.float64)
    out, pull = funcattr.vjp(fn, x, rules=RECORDED)
    same = lambda x: 2 * x[..., ::2] * x[..., 1::2]  # noqa: E731
    assert_equal(out, same(x))
    leaf = x.clone().requires_grad_()
    assert_equal(pull(torch.ones_like(out))[0], torch.autograd.grad(same(leaf).sum(), leaf)[0])


def _renamed(x: Tensor) -> Tensor:
    h = x * 1
    h.unsqueeze_(0).transpose_(1, 2)
    h.mul_(2)
    return h[0].T * x


def _detached_in_place(x: Tensor) -> Tensor:
    h = x * 1
    h.detach_()
    return h * x


def _into_several(x: Tensor) -> Tensor:
    values, indices = torch.empty(3, dtype=x.dtype), torch.empty(3, dtype=torch.long)
    torch.max(x, 1, out=(values, indices))
    return values[:, None] * x


def _by_an_overload(x: Tensor) -> Tensor:
    buffer = torch.empty_like(x)
    torch.ops.aten.mul.out(x, x, out=buffer)
    return buffer * x


def _each(x: Tensor) -> Tensor:
    a, b = x * 1, x * 2
    torch._foreach_mul_([a, b], 3.0)
    return a * b


def _by_keyword(x: Tensor) -> Tensor:
    h = x * 1
    torch.relu_(input=h)
    h.mul_(other=x)
    return h * x


def _into_memory_of_its_own(x: Tensor) -> Tensor:
    h, buffer = x * 1, torch.empty_like(x)
    torch.conj_physical(h, out=buffer)  # of real numbers it is h itself
    h.mul_(2)
    return buffer * h


def _a_subclass_of_a_value_that_is_gone(x: Tensor) -> Tensor:
    return (x * 3).as_subclass(Tensor) * x


WRITTEN: dict[Any, Callable[[Tensor], Tensor]] = {
    _renamed: lambda x: 2 * x * x,
    _detached_in_place: lambda x: x.detach() * x,
    _into_several: lambda x: x.max(1)[0][:, None] * x,
    _by_an_overload: lambda x: x**3,
    _each: lambda x: 18 * x * x,
    _by_keyword: lambda x: x.relu() * x * x,
    _into_memory_of_its_own: lambda x: 2 * x * x,
    _a_subclass_of_a_value_that_is_gone: lambda x: 3 * x * x,
}


@pytest.mark.parametrize("fn", WRITTEN)
def test_written_names_stand_for_their_new_values(fn: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    out, pull = funcattr.vjp(fn, x, rules=RECORDED)
    leaf = x.clone().requires_grad_()
    right = WRITTEN[fn](leaf)
    assert_equal(out, right.detach())
    assert_equal(pull(torch.ones_like(out))[0], torch.autograd.grad(right.sum(), leaf)[0])


def test_a_name_that_a_setitem_has_put_back_may_not_be_written_again() -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        row = h[0]
        row += 1
        h[0] = row
        row *= 2  # in torch, this writes into h
        return h

    with pytest.raises(AliasedWriteError, match="shares memory with one written in place"):
        funcattr.vjp(fn, torch.randn(2, 3), rules=RECORDED)


@pytest.mark.parametrize("transform", ["none", "vmap", "grad"])
def test_a_view_is_known_inside_transforms(transform: str) -> None:
    def pulled(x: Tensor) -> Tensor:
        def fn(x: Tensor) -> Tensor:
            h = x * 1
            h.adjoint().mul_(2)
            return h.square()

        out, pull = funcattr.vjp(fn, x, rules=RECORDED)
        return pull(torch.ones_like(out))[0]

    run: Any = {"none": pulled, "vmap": torch.vmap(pulled), "grad": torch.func.grad(lambda x: pulled(x).sum())}
    with pytest.raises(AliasedWriteError):
        run[transform](torch.randn(2, 3, 3))


def test_a_tensor_that_shares_memory_with_the_input_is_a_constant() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    pulled = funcattr.vjp(lambda z: z * x + z * x.view(-1)[:4], x, rules=RECORDED)[1](torch.ones(3, 4).double())[0]
    assert_equal(pulled, x + x.view(-1)[:4])
