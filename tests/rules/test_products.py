"""Which factor of a product gets the relevance."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.testing.seeding import uniform

from ..contract import assert_equal


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


X, R, E = uniform(3, 6), uniform(6, 4, seed=9), uniform(6, 24, seed=8)
Mix = Callable[[Tensor, Tensor], Tensor]
MIXES: dict[str, Mix] = {
    "einsum": lambda g, e: torch.einsum("be,bed->bd", g, e),
    "einsum, signal first": lambda g, e: torch.einsum("bed,be->bd", e, g),
    "@": lambda g, e: (g[:, None] @ e)[:, 0],
    "bmm": lambda g, e: torch.bmm(e.mT, g[..., None])[..., 0],
    "vecdot": lambda g, e: torch.linalg.vecdot(g[..., None], e, dim=1),
    "baddbmm": lambda g, e: torch.baddbmm(torch.zeros(1, 1, 6).double(), g[:, None], e)[:, 0],
}


def _experts(router: Callable[[Tensor], Tensor], mix: Mix) -> Callable[[Tensor], Tensor]:
    return lambda x: mix(router(x @ R), (x @ E).view(3, 4, 6))


@pytest.mark.parametrize("router", [torch.sigmoid, torch.relu, torch.tanh, lambda z: z.softmax(1), lambda z: z])
@pytest.mark.parametrize("name", MIXES)
def test_a_matrix_product_shares_as_the_sum_of_products_that_it_is(
    name: str, router: Callable[[Tensor], Tensor]
) -> None:
    for book in ("epsilon", "epsilon_plus", "attnlrp", "cp_lrp"):
        plain, mixed = (
            funcattr.lrp(_experts(router, mix), X, 0, rules=book)
            for mix in (lambda g, e: (g[..., None] * e).sum(1), MIXES[name])
        )
        assert plain.any()
        assert_equal(mixed, plain, tolerance=1e-5)


@pytest.mark.parametrize("book", ["epsilon", "attnlrp"])
def test_a_gate_in_a_matrix_product_leaves_all_to_the_signals(book: str) -> None:
    def three(g: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("ni,ni,ni->n", g.sigmoid(), a, b)[:, None]

    of_gate, of_a, of_b = funcattr.lrp(three, (X, X + 2, X.flip(0) + 2), 0, rules=book)
    assert not of_gate.any()
    assert_equal(of_a.sum(1), of_b.sum(1), tolerance=1e-5)
    assert_equal((of_a + of_b).sum(1), three(X, X + 2, X.flip(0) + 2)[:, 0], tolerance=1e-5)


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "attnlrp", "cp_lrp"])
def test_the_numerator_takes_all_in_any_order_of_the_arguments(book: str) -> None:
    a, b = uniform(2, 3) + 2, uniform(2, 3, seed=2) + 2
    expected = funcattr.lrp(lambda a, b: (a / b).sum(1), (a, b), rules=book)
    found = funcattr.lrp(lambda a, b: torch.div(other=b, input=a).sum(1), (a, b), rules=book)
    assert expected[0].any() and not expected[1].any()
    assert_equal(found, expected)
