"""The rule of a single call is the one that a pass would give it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.rules import ruled_call
from funcattr.testing.seeding import uniform

X, W = uniform(2, 3, 5, 5), uniform(4, 3, 3, 3, seed=2)
CALLS: dict[str, Any] = {
    "relu": (torch.relu, lambda x: (x,), {}),
    "keyword": (F.relu, lambda x: (), {"input": X}),
    "clamp": (torch.clamp, lambda x: (x,), {"min": 0}),
    "conv2d": (F.conv2d, lambda x: (x, W), {"padding": 1}),
    "pool": (F.avg_pool2d, lambda x: (x, 2), {}),
    "mean": (torch.mean, lambda x: (x, (2, 3)), {}),
}
BOOK = rules.excitation_backprop() | {"relu": rules.guided}


@pytest.mark.parametrize("name", CALLS)
def test_a_single_call_has_the_rule_of_a_pass(name: str) -> None:
    func, args, kwargs = CALLS[name]

    def run(x: Tensor) -> Tensor:
        return func(*args(x), **({"input": x} if "input" in kwargs else kwargs))

    found = ruled_call(BOOK, func, args(X), kwargs, tracked=(X,))
    assert found is not None and found.written == ()
    call, rule, _ = found
    call.output = call(X)
    p = uniform(*call.output.shape, seed=5)
    y, pullback = funcattr.vjp(run, X, rules=BOOK)
    torch.testing.assert_close(call.output, y)
    given = rule(call, p)
    torch.testing.assert_close(given if isinstance(given, Tensor) else given[0], pullback(p)[0])


def test_what_a_call_writes_is_said_and_not_written() -> None:
    for func, args, kwargs in ((F.relu, (X, True), {}), (F.relu, (X,), {"inplace": True}), (torch.relu_, (X,), {})):
        before = X.clone()
        found = ruled_call(rules.guided_backprop(), func, args, kwargs, tracked=(X,))
        assert found is not None and found.written[0] is X
        torch.testing.assert_close(found.call(X), X.relu())
        assert torch.equal(X, before)


def test_calls_without_a_rule_have_none() -> None:
    book = rules.guided_backprop()
    assert ruled_call(book, torch.sin, (X,), tracked=(X,)) is None
    assert ruled_call(book, Tensor.size, (X,), tracked=(X,)) is None
    assert ruled_call(book, torch.clamp, (X,), {"min": 0.5}, tracked=(X,)) is None


@pytest.mark.parametrize(
    ("book", "func", "match"),
    [
        (rules.excitation_backprop(), torch.linalg.inv, ".*inv, which has no rule that a single call can take"),
        (rules.epsilon_plus(), F.batch_norm, "batch_norm, which has no rule that a single call can take"),
        (rules.guided_backprop(), torch.rnn_relu_cell, "rnn_relu_cell contains relu, which has no rule"),
    ],
)
def test_what_needs_a_pass_is_refused(book: Any, func: Any, match: str) -> None:
    with pytest.raises(funcattr.UnsupportedOperationError, match=rf"^ruled_call\(rules='{book.name}'\): {match}"):
        ruled_call(book, func, (X,), tracked=(X,))
