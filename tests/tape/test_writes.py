"""Writes in place run out of place: equal to autograd, which runs them for real, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import AliasedWriteError, UnsupportedOperationError

from ..contract import assert_equal

RECORDED = funcattr.Rulebook({"lgamma": funcattr.rules.STOP})


def _double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _equals_autograd(
    fn: Callable[[Tensor], Tensor], x: Tensor, same: Callable[[Tensor], Tensor] | None = None, tolerance: float = 1e-9
) -> None:
    """The recorder with ordinary adjoints against plain autograd, which runs in-place calls for real.

    `same` is the function written out of place, where autograd refuses to differentiate the in-place form.
    """
    out, pull = funcattr.vjp(fn, x, rules=RECORDED)
    assert_equal(out, fn(x.clone()))
    leaf = x.clone().requires_grad_()
    expected = (same or fn)(leaf * 1)
    assert_equal(out, expected.detach())
    seed = torch.randn_like(out)
    assert_equal(pull(seed)[0], torch.autograd.grad(expected, leaf, seed)[0], tolerance=tolerance)


def test_no_grad_and_detach_make_constants() -> None:
    def fn(x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.sum()
        return x * scale * x.detach() * x.data

    _equals_autograd(fn, _double(2, 4))


def test_augmented_assignment_is_the_operation() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x * 1
        y += x
        y -= 2 * x
        y *= x
        y /= 3
        y **= 2
        return y

    _equals_autograd(fn, _double(2, 3))


def _write_then_read_under_the_old_name(x: Tensor) -> Tensor:
    h = x * 2
    h.relu_()
    h.add_(1)
    return h * x


def _returned_name_and_old_name(x: Tensor) -> Tensor:
    h = x * 2
    g = h.relu_()
    h.mul_(3)
    return g + h


def _write_part_by_index(x: Tensor) -> Tensor:
    h = x * 2
    h[:, 0] = x[:, 1]
    h[:, 1:] += 1
    h[0] *= x[1]
    return h


def _write_into_a_new_buffer(x: Tensor) -> Tensor:
    buffer = torch.zeros(2, 8, dtype=x.dtype)
    buffer[:, :4] = x
    buffer[:, 4:] = x.exp()
    return buffer


def _disjoint_parts(x: Tensor) -> Tensor:
    a, b = (x * 1).chunk(2, 1)
    a.mul_(3)
    return a * b


def _view_written_base_dropped(x: Tensor) -> Tensor:
    h = (x * 1).view(4, 2)
    h.relu_()
    return h


def _copy_and_fill(x: Tensor) -> Tensor:
    h = x * 1
    h.copy_(x.exp())
    g = x * 1
    g.zero_()
    k = x * 1
    k.fill_(2.0)
    return h + g * x + k * x


def _masked(x: Tensor) -> Tensor:
    h = x * 1
    h.masked_fill_(h > 0, 0.5)
    h[h < -1] = 0
    return h


def _dropout_of_a_constant_that_drops_nothing(x: Tensor) -> Tensor:
    constant = x.detach()
    F.dropout(constant, 0.5, training=False, inplace=True)
    return x * constant


def _output_is_the_written_name(x: Tensor) -> Tensor:
    h = x * 1
    F.relu(h, inplace=True)
    return h


def _dtype_is_kept(x: Tensor) -> Tensor:
    h = x.float() * 1
    h.mul_(x)
    return h.double()


def _list_and_keyword_operands(x: Tensor) -> Tensor:
    a, b, *_ = x.split(2, dim=1)
    c = torch.stack(tensors=[a, b], dim=0)
    return torch.cat([c.sum(0), a], dim=1) + torch.mul(input=b, other=a).sum()


def _attributes(x: Tensor) -> Tensor:
    return x.T @ x + x.mT.sum() * x.shape[0] + (x.T.T * x).sum()


def _loops_and_builtins(x: Tensor) -> Tensor:
    rows = [abs(row) for row in x]
    return sum(rows, torch.zeros(4, dtype=x.dtype)) + max(x[0, 0] * 1, x[0, 0] - 1)


@pytest.mark.parametrize(
    "fn",
    [
        _write_then_read_under_the_old_name,
        _returned_name_and_old_name,
        _write_part_by_index,
        _write_into_a_new_buffer,
        _disjoint_parts,
        _view_written_base_dropped,
        _copy_and_fill,
        _masked,
        _dropout_of_a_constant_that_drops_nothing,
        _output_is_the_written_name,
        _dtype_is_kept,
        _list_and_keyword_operands,
        _attributes,
        _loops_and_builtins,
    ],
)
def test_equals_autograd(fn: Callable[[Tensor], Tensor]) -> None:
    same: dict[Any, Callable[[Tensor], Tensor]] = {
        _write_then_read_under_the_old_name: lambda x: ((x * 2).relu() + 1) * x,
        _returned_name_and_old_name: lambda x: 6 * (x * 2).relu(),
        _disjoint_parts: lambda x: 3 * x[:, :2] * x[:, 2:],
    }
    rounding = 1e-6 if fn is _dtype_is_kept else 1e-9  # that one computes in float32
    _equals_autograd(fn, _double(2, 4), same.get(fn), rounding)


def _base_read(x: Tensor) -> Tensor:
    h = x * 1
    h.view(-1).relu_()
    return h


def _view_read(x: Tensor) -> Tensor:
    h = x * 1
    v = h[:, :2]
    h.mul_(2)
    return v


def _overlapping_views(x: Tensor) -> Tensor:
    h = x * 1
    a, b = h[:, :3], h[:, 1:]
    a.mul_(2)
    return b


def _wrong_index(x: Tensor) -> Tensor:
    h = x * 1
    v = h[0]
    v += 1
    h[1] = v
    return h


def _detached_alias(x: Tensor) -> Tensor:
    h = x * 1
    h.detach().mul_(2)
    return h


def _data_alias(x: Tensor) -> Tensor:
    h = x * 1
    h.data.mul_(2)
    return h


@pytest.mark.parametrize("fn", [_detached_alias, _data_alias, _base_read, _view_read, _overlapping_views, _wrong_index])
def test_a_write_through_a_view_that_is_read_elsewhere_is_refused(fn: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AliasedWriteError, match=r"shares memory with one written in place through another view"):
        funcattr.vjp(fn, _double(2, 4), rules=RECORDED)


def test_a_write_under_no_grad_into_a_tracked_value_is_refused() -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        with torch.no_grad():
            h.mul_(2)
        return h

    with pytest.raises(UnsupportedOperationError, match=r"mul_ writing in place into a tracked value under no_grad"):
        funcattr.vjp(fn, _double(2, 4), rules=RECORDED)


# --- behind a site ---------------------------------------------------------------------------------------------------


class Behind(torch.nn.Module):
    """A site whose value is written under its own name, or under another one, and read again or not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.id, self.out = how, torch.nn.Identity(), torch.nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2
        y = self.id(h)
        if self.how == "not written":
            return self.out(y)
        if self.how == "a copy":
            return self.out((y * 1).relu_())
        if self.how == "by its name":
            return self.out(y.sub_(1.0).relu_())
        h.mul_(3.0)
        return self.out(y)


RULES = {"plain": None, "on record": RECORDED}


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("how", ["not written", "a copy", "by its name"])
def test_a_site_whose_value_is_written_under_its_own_name(how: str, rules: Any) -> None:
    model, x = Behind(how).eval(), _double(2, 4)
    given = {} if rules is None else {"rules": rules}
    found = funcattr.attribute(model, x, 1, layer="id", **given)
    assert_equal(found.root, x * 2)
    assert not found.cotangent.requires_grad
    slope = {"not written": 1.0, "a copy": (x > 0).double(), "by its name": (2 * x > 1).double()}[how]
    assert_equal(found.cotangent, (slope * model.out.weight[1]).expand(2, 4).detach())


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_site_whose_value_is_written_under_another_name_is_refused(rules: Any) -> None:
    given = {} if rules is None else {"rules": rules}
    with pytest.raises(AliasedWriteError, match="attribute: in the module 'out'"):
        funcattr.attribute(Behind("by another"), _double(2, 4), 1, layer="id", **given)


OVERLAPPING: dict[str, Callable[[Tensor], Tensor]] = {
    "expand": lambda h: h[0].expand(3, 4),
    "expand in the middle": lambda h: h[:, None].expand(-1, 2, -1),
    "unfold": lambda h: h.view(-1).unfold(0, 4, 1),
    "as_strided": lambda h: h.as_strided((3, 4), (1, 2)),
}
APART: dict[str, Callable[[Tensor], Tensor]] = {
    "a transpose": lambda h: h.mT,
    "every other": lambda h: h[:, ::2],
    "a part": lambda h: h[1:, 1:3],
    "a diagonal": lambda h: h.diagonal(),
    "expanded to one": lambda h: h[None].expand(1, -1, -1),
    "one of several windows": lambda h: h.view(-1).unfold(0, 4, 1)[1],
    "windows apart": lambda h: h.view(-1).unfold(0, 4, 4),
    "none": lambda h: h[:0, None].expand(0, 2, -1),
    "an order of channels": lambda h: h.view(3, 2, 2, 1).to(memory_format=torch.channels_last),
}
WRITES: dict[str, Callable[[Tensor], object]] = {
    "an assignment": lambda v: v.__setitem__(0, 2.0),
    "a mask": lambda v: v.masked_fill_(v > 0, 0.0),
    "index_fill_": lambda v: v.index_fill_(0, torch.tensor([1]), 0.5),
    "index_put_": lambda v: v.index_put_((torch.tensor([1]),), torch.tensor(2.0).double()),
}


@pytest.mark.parametrize("view", OVERLAPPING)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_into_values_that_share_a_place_is_refused(view: str, write: str) -> None:
    """torch writes all that lie there; out of place it would be one of them."""

    def fn(x: Tensor) -> Tensor:
        v = OVERLAPPING[view](x * 1)
        WRITES[write](v)
        return v * 2

    x = _double(3, 4)
    with pytest.raises(AliasedWriteError, match=r"several values lie in one place .* clone\(\) it first"):
        funcattr.vjp(fn, x, rules=RECORDED)
    with pytest.raises(AliasedWriteError, match="several values lie in one place"):
        torch.vmap(lambda x: funcattr.vjp(fn, x, rules=RECORDED)[0])(x[None])


@pytest.mark.parametrize("view", APART)
def test_a_write_into_values_that_lie_apart(view: str) -> None:
    def fn(x: Tensor) -> Tensor:
        v = APART[view](x * 1)
        v.mul_(-3)
        return v * 2

    _equals_autograd(fn, _double(3, 4))


READ_WHILE_WRITTEN: dict[str, Callable[[Tensor], object]] = {
    "a sum with its neighbour": lambda h: h[:, 1:].add_(h[:, :-1]),
    "an assignment of its neighbour": lambda h: h.__setitem__((slice(None), slice(1, None)), h[:, :-1]),
    "a quotient by a column": lambda h: h.div_(h[:, :1]),
    "a product with its diagonal": lambda h: h.mul_(h.diagonal()),
    "a difference to a row": lambda h: h.sub_(h[2:3]),
    "a sum with its transpose": lambda h: h.add_(h.mT),
    "a copy of its transpose": lambda h: h.copy_(h.mT),
    "out=": lambda h: torch.add(h[:, :1], h, out=h),
    "an operand in a list": lambda h: torch.cat([h[2:], h[:2]], out=h),
    "an assignment at a list": lambda h: h.__setitem__([0, 2], h[1:3]),
    "a scatter of itself": lambda h: h.masked_scatter_(h.flip(0) > 0, h),
}
READ_BEFORE: dict[str, Callable[[Tensor], Tensor | None]] = {
    "itself": lambda h: h.add_(h),
    "a view of itself": lambda h: h.mul_(h.view_as(h)),
    "rows apart": lambda h: h[::2].add_(h[1::2]),
    "halves": lambda h: h[:, 2:].mul_(h[:, :2]),
    "an assignment of another row": lambda h: h.__setitem__(0, h[1]),
    "an assignment of the same row": lambda h: h.__setitem__(0, h[0]),
    "a copy": lambda h: h[:, 1:].add_(h[:, :-1].clone()),
    "an assignment of a copy": lambda h: h.__setitem__([0, 1], h[[1, 0]]),
    "a reduction": lambda h: h.sub_(h.mean(1, keepdim=True)),
    "out=": lambda h: torch.add(h, 1.0, out=h),
}


@pytest.mark.parametrize("name", READ_WHILE_WRITTEN)
def test_a_write_over_what_it_reads_is_refused(name: str) -> None:
    """What torch gives then depends on the order of its writes, where it does not refuse itself."""

    def fn(x: Tensor) -> Tensor:
        h = x * 1
        READ_WHILE_WRITTEN[name](h)
        return h * 2

    with pytest.raises(AliasedWriteError, match=r"overlaps with what it reads .* clone\(\) it first"):
        funcattr.vjp(fn, _double(4, 4), rules=RECORDED)


@pytest.mark.parametrize("name", READ_BEFORE)
def test_a_write_beside_what_it_reads(name: str) -> None:
    def fn(x: Tensor) -> Tensor:
        h = x * 1
        written = READ_BEFORE[name](h)
        return (h if written is None else written) * 2

    x = _double(4, 4)
    assert_equal(funcattr.vjp(fn, x, rules=RECORDED)[0], fn(x))
    assert_equal(torch.vmap(lambda x: funcattr.vjp(fn, x, rules=RECORDED)[0])(x[None])[0], fn(x))
