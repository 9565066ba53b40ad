"""Two passes: each call of the one at the input meets its like at the baseline, or the difference is named."""

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, UnsupportedOperationError, attribute
from funcattr.rules import Call
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

X, X0 = uniform(2, 3), uniform(2, 3, seed=2)
W = uniform(3, 3, seed=3)


def met(model: Any, x: Tensor = X, baseline: Tensor = X0, more: Any = ()) -> list[tuple[str, str, Call, Call]]:
    """Operation, path, call and partner of every call, in the order of the forward pass."""
    found: list[tuple[str, str, Call, Call]] = []

    def note(call: Call, cotangent: Any) -> Any:
        assert call.baseline is not None
        found.append((call.op, call.path, call, call.baseline))
        return call.vjp(cotangent)

    attribute(model, x, (0,), rules=Rulebook({"*": note}) | more, baseline=baseline)
    return found[::-1]


def test_calls_meet_their_like() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh()))
    found = met(model)
    assert [(op, path) for op, path, *_ in found] == [("linear", "0"), ("tanh", "1"), ("linear", "2"), ("tanh", "3")]
    for i, (_, path, call, partner) in enumerate(found):
        assert partner.path == path and partner.baseline is None
        assert_equal(call.output, model[: i + 1](X).detach())
        assert_equal(partner.output, model[: i + 1](X0).detach())


def test_a_reused_module_meets_itself_in_order() -> None:
    relu = nn.ReLU()
    found = met(lambda x: relu(relu(x - 1) @ W))
    assert [op for op, *_ in found] == ["sub", "relu", "matmul", "relu"]
    assert_equal(found[3][3].output, relu(relu(X0 - 1) @ W))


def test_the_parts_of_a_decomposed_call_meet_each_other() -> None:
    parts = {"silu": funcattr.rules.decompose(lambda x, inplace: x * torch.sigmoid(x))}
    assert [op for op, *_ in met(lambda x: F.silu(x @ W), more=parts)] == ["matmul", "sigmoid", "mul"]


def test_without_a_baseline_there_is_no_partner() -> None:
    def alone(call: Call, cotangent: Tensor) -> Tensor:
        assert call.baseline is None
        return cotangent

    attribute(torch.tanh, X, 0, rules=Rulebook({"tanh": alone}))


def test_the_roots_value_at_the_baseline_is_returned() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    book = Rulebook({"tanh": lambda call, g: call.vjp(g)})
    assert torch.equal(attribute(model, X, 0, rules=book, baseline=X0).baseline, X0)
    found = attribute(model, X, 0, rules=book, layer="1", baseline=X0)
    assert_equal(found.baseline, model[:2](X0).detach())
    assert_equal(found.root, model[:2](X).detach())
    named = attribute(lambda a, b: a * b, {"a": X, "b": X}, 0, rules=book, baseline={"a": X0, "b": X0})
    assert named.baseline.keys() == {"a", "b"}


def test_equal_constants_may_be_made_anew() -> None:
    def model(x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = (x @ W).masked_fill(~mask[:2], -torch.inf).softmax(-1)
        return scores * torch.arange(x.shape[1]).to(x.dtype) + torch.tensor(float(x.shape[0]))

    assert [op for op, *_ in met(model)] == ["matmul", "masked_fill", "softmax", "mul", "add"]


def flag(x: Tensor) -> bool:
    """A question to the values, which X and X0 answer differently."""
    return bool(x[0, 0] > 0)


DIFFERENT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "another operation": (
        lambda x: x.exp() if flag(x) else x.tanh(),
        "it calls (exp|tanh) at the input, (exp|tanh) at",
    ),
    "one more": (lambda x: (x.exp() if flag(x) else x).tanh(), "it calls "),
    "a number": (lambda x: x * (2.0 if flag(x) else 3.0), "mul (at|gets other)"),
    "a shape": (lambda x: x[:, : 1 + flag(x)].exp(), "__getitem__ (at|gets other)"),
    "a mask": (lambda x: x * (x > 0.01), "mul gets other constants"),
    "an index": (lambda x: x[:, [int(flag(x)), 2]], "__getitem__ (at|gets other)"),
    "a detached value": (lambda x: x / x.detach().sum(), "div gets other constants"),
    "what grad was off for": (lambda x: x + _no_grad(x), "add gets other constants"),
    "a constant's shape": (lambda x: x + torch.ones(1 + flag(x), 1), "add gets constants of other shapes"),
    "a constant's dtype": (lambda x: x * torch.ones(1).to(torch.float32 if flag(x) else torch.float64), "mul gets"),
    "noise": (lambda x: x + torch.rand(3), "add gets other constants"),
}


def _no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize("what", DIFFERENT)
def test_differences_are_named(what: str) -> None:
    model, message = DIFFERENT[what]
    positive, negative = X.abs(), -X.abs()
    with pytest.raises(
        UnsupportedOperationError, match=rf"^attribute: in the module '', the model does not.*{message}"
    ):
        met(model, positive, negative)


def test_the_module_is_named() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (x > 0.01)

    model = nn.Sequential(nn.Identity(), nn.Sequential(Masked()))
    with pytest.raises(UnsupportedOperationError, match=r"in the module '1\.0', the model does not do the same"):
        met(model)


def test_where_values_cannot_be_seen_the_difference_is_nan() -> None:
    book = Rulebook({"mul": lambda call, g: call.vjp(g)})

    def one(x: Tensor, baseline: Tensor) -> Tensor:
        return attribute(lambda x: x * (x > 0.01), x[None], 0, rules=book, baseline=baseline[None]).cotangent[0]

    mapped = torch.vmap(one)(torch.stack([X[0], X[1]]), torch.stack([X[0] / 2, -X[1]]))
    assert mapped[0].isfinite().all() and mapped[1].isnan().all()
    with pytest.raises(UnsupportedOperationError, match=r"mul (at|gets other)"):
        torch.vmap(lambda x: met(lambda x: x * _count(), x[None], x[None]) and x)(X)


_calls: list[int] = []


def _count() -> int:
    _calls.append(1)
    return len(_calls)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: (x @ W) if flag(x) else (x @ W).exp(),  # one call more at the baseline, the last one
        lambda x: (lambda y: (y, flag(x) or y.exp())[0])(x @ W),  # one whose result nobody reads
        lambda x: (lambda a, b: (a if flag(x) else b).exp())(x @ W, x @ W.mT),  # exp of another value
        lambda x: (lambda a, b: a if flag(x) else b)(x @ W, x @ W.mT),  # another value is the output
    ],
)
def test_other_values_on_the_way_are_named(model: Any) -> None:
    with pytest.raises(UnsupportedOperationError, match="does not do the same"):
        met(model, X.abs(), -X.abs())


@pytest.mark.parametrize("baseline", [X0[:1], (X0, X0), {"x": X0}, 0.0])
def test_a_baseline_of_another_structure_or_shape_is_named(baseline: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^attribute\(baseline=\.\.\.\): expected"):
        attribute(torch.tanh, X, 0, rules=Rulebook({"tanh": lambda call, g: g}), baseline=baseline)


# --- memory that nobody has set ---------------------------------------------------------------------------------------


def _in_halves(made: Tensor, h: Tensor) -> Tensor:
    made[:, ::2], made[:, 1:2] = h[:, ::2], h[:, 2:] - h[:, :1]
    return made


def _other_memory(made: Tensor) -> Tensor:
    """As if other values had been there before, each time."""
    ctypes.memset(made.data_ptr(), next(_BYTES), made.nbytes)
    return made


_BYTES = itertools.cycle([63, 64, 65])
FILLED: dict[str, Callable[[Tensor], Tensor]] = {
    "empty": lambda h: _in_halves(torch.empty(h.shape, dtype=h.dtype), h),
    "empty_like": lambda h: _in_halves(torch.empty_like(h), h),
    "new_empty": lambda h: h.new_empty(h.shape).copy_(h),
    "other values": lambda h: _in_halves(_other_memory(torch.empty_like(h)), h),
    "NaN": lambda h: _in_halves(torch.full_like(h, torch.nan), h),
}


@pytest.mark.parametrize("name", FILLED)
def test_what_lay_in_memory_before_is_no_constant(name: str) -> None:
    filled, weight = FILLED[name], uniform(3, 2, seed=5)

    def model(x: Tensor) -> Tensor:
        return filled(x @ W).tanh() @ weight

    torch.use_deterministic_algorithms(True)  # fills such memory with NaN, which equals nothing
    try:
        found: Any = funcattr.deep_lift(model, X, 1, baseline=X0)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(found.sum(1), (model(X) - model(X0))[:, 1])


def test_what_was_written_into_memory_is_a_constant() -> None:
    def model(x: Tensor) -> Tensor:
        made = torch.empty_like(x).copy_(x.detach())
        made[:, :1] = x[:, 1:2]
        return made

    with pytest.raises(UnsupportedOperationError, match="other constants"):
        funcattr.deep_lift(model, X, 1, baseline=X0)
