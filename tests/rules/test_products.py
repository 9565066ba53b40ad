"""Which factor of a product gets the relevance."""

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import rules


def _parts(fn: object, book: funcattr.Rulebook) -> tuple[float, float]:
    a, b = torch.tensor([[0.3]]).double(), torch.tensor([[2.0]]).double()
    _, pullback = funcattr.vjp(fn, a, b, rules=book)  # pyright: ignore[reportArgumentType]
    back = pullback(torch.ones(1, 1).double())
    return back[0].item(), back[1].item()


def _silu_gate(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.silu(a) * b


def _plain(a: Tensor, b: Tensor) -> Tensor:
    return (a + 0) * b


def _sigmoid_gate(a: Tensor, b: Tensor) -> Tensor:
    return a.sigmoid() * b.tanh()


BOOK = rules.epsilon_everywhere()


@pytest.mark.parametrize(("fn", "expected"), [(_silu_gate, (0, 1)), (_plain, (0.5, 0.5)), (_sigmoid_gate, (0, 1))])
def test_signal_takes_all_beside_any_activation(fn: object, expected: tuple[float, float]) -> None:
    assert _parts(fn, BOOK | {"mul": rules.signal_takes_all}) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("fn", "expected"), [(_silu_gate, (0.5, 0.5)), (_plain, (0.5, 0.5)), (_sigmoid_gate, (0, 1))])
def test_the_product_rule_knows_sigmoid_gates_only(fn: object, expected: tuple[float, float]) -> None:
    assert _parts(fn, BOOK) == pytest.approx(expected, abs=1e-5)
