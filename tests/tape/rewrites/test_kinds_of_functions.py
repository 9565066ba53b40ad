"""A function that is written out is a factor as the same function by its name is: a gate, an activation, a signal."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr.testing.seeding import uniform

from ...contract import assert_equal

Function = Callable[[Tensor], Tensor]
X, A, B, V = uniform(3, 6), uniform(6, 6, seed=2), uniform(6, 6, seed=3), uniform(6, 3, seed=5)
FIRST = torch.arange(6) < 3


def beside_a_signal(factor: Function) -> Function:
    return lambda x: (factor(x @ A) * (x @ B)) @ V


PAIRS: dict[str, tuple[Function, Function]] = {
    "exp / (1 + exp)": (lambda z: z.exp() / (1 + z.exp()), torch.sigmoid),
    "of exp(z / 2)": (lambda z: (z / 2).exp() / ((z / 2).exp() + (-z / 2).exp()), torch.sigmoid),
    "stable": (
        lambda z: torch.where(z >= 0, 1 / (1 + torch.exp(-z)), z.exp() / (1 + z.exp())),
        torch.sigmoid,
    ),
    "1 - exp / (1 + exp)": (
        lambda z: 2 * (1 - z.exp() / (1 + z.exp())),
        lambda z: 2 * (1 - z.sigmoid()),
    ),
    "a square of a gate": (lambda z: z.sigmoid() * z.sigmoid(), lambda z: z.sigmoid() ** 2),
    "a scale by place": (lambda z: torch.where(FIRST, 2 * z, z), lambda z: z * torch.where(FIRST, 2.0, 1.0).double()),
    "a power": (lambda z: z * z * z, lambda z: z**3),
    "a polynomial": (lambda z: z * (0.5 * z + 1), lambda z: 0.5 * z**2 + z),
    "leaky relu by maximum": (lambda z: torch.maximum(z, 0.1 * z), lambda z: F.leaky_relu(z, 0.1)),
    "leaky relu by max": (lambda z: torch.max(0.1 * z, z), lambda z: F.leaky_relu(z, 0.1)),
    "leaky relu by where": (lambda z: torch.where(z > 0, z, 0.1 * z), lambda z: F.leaky_relu(z, 0.1)),
    "elu by where": (lambda z: torch.where(z > 0, z, z.exp() - 1), F.elu),
    "silu": (lambda z: z * z.sigmoid(), F.silu),
    "softsign": (lambda z: z / (1 + z.abs()), F.softsign),
    "tanh": (lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()), torch.tanh),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_function_that_is_written_out_is_the_factor_that_it_is_by_name(name: str) -> None:
    written, named = (beside_a_signal(f) for f in PAIRS[name])
    assert_equal(written(X), named(X))
    for book in ("epsilon", "epsilon_plus", "attnlrp", "cp_lrp"):
        maps = [funcattr.lrp(f, X, 0, rules=book) for f in (written, named)]
        assert maps[1].any()
        assert_equal(*maps, tolerance=1e-5)


def test_a_gate_that_is_written_out_and_shifted_off_0_is_none() -> None:
    for book in ("epsilon", "attnlrp"):
        maps = [
            funcattr.lrp(beside_a_signal(f), X, 0, rules=book)
            for f in (lambda z: 2 * (z.exp() / (1 + z.exp())) - 1, lambda z: 2 * z.sigmoid() - 1)
        ]
        assert_equal(*maps, tolerance=1e-5)


MIXED: dict[str, Function] = {
    "a sum": lambda e: e.sum(-1, keepdim=True),
    "a maximum": lambda e: e.amax(-1, keepdim=True),
    "a selection": lambda e: e[..., :1],
    "a transpose": lambda e: e.mT.sum(-1)[:, None],
}


@pytest.mark.parametrize("book", ["epsilon", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", MIXED)
@pytest.mark.filterwarnings("ignore:.*may be the end of a softmax.*:UserWarning")  # they are made of sums of exps
def test_a_function_of_what_mixes_places_is_one_of_that(name: str, book: str) -> None:
    def model(x: Tensor) -> Tensor:
        s = MIXED[name]((x @ A).exp())
        return ((s / (1 + s)) * x).sum((1, 2))

    x = uniform(2, 4, 6)
    found = funcattr.lrp(model, x, rules=book).sum((1, 2))
    assert_equal(found, model(x), tolerance=1e-5)


def test_what_is_put_together_of_a_function_and_a_signal_is_a_signal() -> None:
    """Both end with a product, and only one of them is an activation that is written out."""

    def factor(z: Tensor) -> Tensor:
        return torch.cat([z[:, :3] * z[:, :3].sigmoid(), z[:, 3:] * z[:, :3]], 1)

    of_z, _ = funcattr.lrp(lambda z, x: factor(z) * x, (X @ A, X), 0, rules="cp_lrp")
    assert of_z.any()


@pytest.mark.parametrize("book", ["epsilon", "attnlrp", "cp_lrp"])
def test_compiled_code_finds_the_same_gates(book: str) -> None:
    torch._dynamo.reset()
    model = funcattr.functionalize(beside_a_signal(PAIRS["exp / (1 + exp)"][0]))

    def attributed(x: Tensor) -> Tensor:
        return funcattr.lrp(model, x, 0, rules=book)

    compiled = torch.compile(attributed, backend="aot_eager", fullgraph=True)
    assert_equal(compiled(X), attributed(X))
    assert_equal(torch.vmap(attributed)(X[:, None]), torch.stack([attributed(row) for row in X[:, None]]))
    torch._dynamo.reset()
