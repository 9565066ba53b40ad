"""What a factor is taken for, by the calls that it came out of: a gate leaves all relevance to the signal."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr.testing.seeding import uniform

from ..contract import assert_equal

Function = Callable[[Tensor], Tensor]
X, A, B, V = uniform(3, 6), uniform(6, 6, seed=2), uniform(6, 6, seed=3), uniform(6, 3, seed=5)
BIAS = uniform(6, seed=7)
FIRST = torch.arange(6) < 3


def shares_of(factor: Function, rules: str, signal: Tensor = X) -> tuple[Tensor, Tensor]:
    """The relevance of what a factor is made of, and of the signal beside it."""
    of_factor, of_signal = funcattr.lrp(lambda z, x: factor(z) * x, (X @ A, signal), 0, rules=rules)
    return of_factor, of_signal


def is_gate(factor: Function, rules: str = "epsilon") -> bool:
    of_factor, of_signal = shares_of(factor, rules)
    assert of_signal.any()
    return not of_factor.any()


def _in_place(z: Tensor) -> Tensor:
    z = z.clone()
    z[:, :3] = z[:, :3].sigmoid()
    z[:, 3:] = z[:, 3:].sigmoid()
    return z


def _buffer(z: Tensor) -> Tensor:
    made = torch.zeros_like(z)
    made[:, 2:] = z[:, 2:].sigmoid()
    made[..., :2] = (z[:, :2].tanh() + 1) / 2
    return made


GATES: dict[str, Function] = {
    "1 + s": lambda z: 1 + z.sigmoid(),
    "0.1 + 0.9 s": lambda z: 0.1 + 0.9 * z.sigmoid(),
    "-2 + tanh": lambda z: z.tanh() - 2,
    "1 - 0.5 / (1 + exp)": lambda z: 1 - 0.5 / (1 + z.exp()),
    "e / (1 + e)": lambda z: (lambda e: e / (1 + e))(z.exp()),
    "1 + e / (1 + e)": lambda z: (lambda e: 1 + e / (1 + e))((-z).exp()),
    "w tanh + w": lambda z: (lambda w: w * z.tanh() + w)(torch.tensor(0.5).double()),
    "full * tanh + full": lambda z: (lambda w: w * z.tanh() + w)(torch.full((6,), 0.5).double()),
    "0.5 + 0.5 tanh": lambda z: 0.5 + 0.5 * torch.tanh(z / 2),
    "(tanh + ones) / 2": lambda z: (z.tanh() + torch.ones(6).double()) / 2,
    "0.5 - 0.5 erf": lambda z: torch.sub(0.5 * torch.ones(()).double(), z.erf() / 2),
    "rsub": lambda z: torch.rsub(z.tanh(), 3, alpha=3),
    "add with alpha": lambda z: torch.add(torch.ones(6).double(), z.tanh(), alpha=-1),
    "ndtr": torch.special.ndtr,
    "powers": lambda z: z.sigmoid().square() ** 1.5,
    "1 - (1 - s)": lambda z: 1 - (1 - z.sigmoid()),
    "s * w": lambda z: z.sigmoid() * BIAS,
    "logsigmoid.exp": lambda z: F.logsigmoid(z).exp(),
    "exp(-softplus)": lambda z: (-F.softplus(-z)).exp(),
    "clamp(0, 1)": lambda z: z.sigmoid().clamp(0, 1),
    "clamp(max=1)": lambda z: z.sigmoid().clamp(max=1),
    "relu": lambda z: z.sigmoid().relu(),
    "1 / (2 + 2 exp)": lambda z: 1 / (2 * (1 + torch.exp(-z))),
    "1 - 2 / (2 + exp)": lambda z: 1 - 2 / (2 + torch.exp(z)),
    "1 - hard sigmoid": lambda z: 1 - F.relu6(z + 3) / 6,
    "written in place": _in_place,
    "written into a buffer": _buffer,
    "cat": lambda z: torch.cat([z[:, :2].sigmoid(), F.hardsigmoid(z[:, 2:])], 1),
    "1 - cat": lambda z: 1 - torch.cat([z[:, :2].sigmoid(), z[:, 2:].sigmoid()], 1),
    "stack": lambda z: torch.stack([z.sigmoid(), z])[0],
    "where": lambda z: torch.where(FIRST, z.sigmoid(), 1 - z.sigmoid()),
}


@pytest.mark.parametrize("book", ["epsilon", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", GATES)
def test_a_gate_has_one_sign_or_ends_at_0(name: str, book: str) -> None:
    assert is_gate(GATES[name], book)


SIGNALS: dict[str, Function] = {
    "exp * w": lambda z: z.exp() * BIAS,
    "exp / w": lambda z: z.exp() / BIAS,
    "exp * 2": lambda z: z.exp() * 2,
    "exp * w + 1": lambda z: z.exp() * BIAS + 1,
    "2 s - 1": lambda z: 2 * torch.sigmoid(2 * z) - 1,
    "s - 0.5": lambda z: z.sigmoid() - 0.5,
    "s + bias": lambda z: z.sigmoid() + BIAS,
    "1 - s * w": lambda z: 1 - z.sigmoid() * BIAS,
    "1 - 2 s^2": lambda z: 1 - 2 * z.sigmoid() ** 2,
    "tanh^2": lambda z: z.tanh() ** 2,
    "tanh + 0.5": lambda z: z.tanh() + 0.5,
    "1 / (exp - 1)": lambda z: 1 / (z.exp() - 1) + z,
    "clamp(0.1, 0.9)": lambda z: z.sigmoid().clamp(0.2, 0.5),
    "1 - cat of several": lambda z: 1 - torch.cat([z[:, :2].sigmoid(), 2 * z[:, 2:].sigmoid()], 1),
    "cat with a signal": lambda z: torch.cat([z[:, :3].sigmoid(), z[:, 3:]], 1),
    "cat, by steps": lambda z: torch.cat([z[:, :3].sigmoid(), z[:, 3:]], 1)[:, [0, 5, 1, 4, 2, 3]],
    "stack": lambda z: torch.stack([z.sigmoid(), z])[1],
    "where": lambda z: torch.where(FIRST, z.sigmoid(), z),
    "index_put": lambda z: z.index_put((torch.tensor([0, 2]),), z[:2].sigmoid()),
    "scatter": lambda z: z.sigmoid().scatter(1, torch.tensor([[0, 1]] * 3), z[:, :2]),
}


@pytest.mark.parametrize("book", ["epsilon", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", SIGNALS)
def test_what_turns_signs_or_has_other_values_too_is_no_gate(name: str, book: str) -> None:
    assert not is_gate(SIGNALS[name], book) or (book == "cp_lrp" and name == "2 s - 1")  # which is tanh


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.vmap(torch.vmap(f))])
def test_gates_are_the_same_under_vmap(transform: Callable[[Function], Function]) -> None:
    def ones(z: Tensor) -> Tensor:
        return torch.ones_like(z) - z.sigmoid()

    def parts(z: Tensor) -> Tensor:
        gate, signal = torch.cat([z[..., :3].sigmoid(), z[..., 3:].tanh()], -1).chunk(2, -1)
        return torch.cat([gate * signal, 1 - gate], -1)

    for factor in (ones, parts, _in_place):

        def one(z: Tensor, factor: Function = factor) -> Tensor:
            return funcattr.lrp(lambda z: factor(z) * z, z, 0, rules="epsilon")

        z = uniform(2, 2, 3, 6)
        in_turn = torch.stack([torch.stack([one(e) for e in d]) for d in z])
        mapped = transform(one)(z) if transform is not torch.vmap else torch.stack([torch.vmap(one)(d) for d in z])
        assert_equal(mapped, in_turn)


# --- parts ------------------------------------------------------------------------------------------------------------

W, U, HEAD = uniform(6, 8, seed=9), uniform(2, 8, seed=10), uniform(2, 3, seed=11)
Gates = Callable[[Tensor], tuple[Tensor, ...]]


def cell(gates: Gates) -> Function:
    """An LSTM cell, by how it computes its gates and its candidate."""

    def step(x: Tensor) -> Tensor:
        c, h = x[:, :2], x[:, 2:4]
        i, f, o, g = gates(x @ W + h @ U)
        c = f * c + i * g
        return (o * c.tanh()) @ HEAD

    return step


def _apart(z: Tensor) -> tuple[Tensor, ...]:
    return z[:, :2].sigmoid(), z[:, 2:4].sigmoid(), z[:, 4:6].sigmoid(), z[:, 6:].tanh()


def _joined(z: Tensor) -> Tensor:
    return torch.cat([z[:, :6].sigmoid(), z[:, 6:].tanh()], 1)


def _candidate_first(z: Tensor) -> tuple[Tensor, ...]:
    g, i, f, o = torch.cat([z[:, 6:].tanh(), z[:, :6].sigmoid()], 1).chunk(4, 1)
    return i, f, o, g


def _written(z: Tensor) -> tuple[Tensor, ...]:
    z = z.clone()
    z[:, 6:] = z[:, 6:].tanh()
    z[:, :6] = z[:, :6].sigmoid()
    return z.split(2, 1)


CELLS: dict[str, Gates] = {
    "split": lambda z: _joined(z).split(2, 1),
    "candidate first": _candidate_first,
    "sliced": lambda z: tuple(_joined(z)[:, 2 * k : 2 * k + 2] for k in range(4)),
    "narrowed": lambda z: tuple(_joined(z).narrow(1, 2 * k, 2) for k in range(4)),
    "groups": lambda z: _joined(z).view(-1, 4, 2).unbind(1),
    "transposed": lambda z: tuple(part.T for part in _joined(z).T.split(2, 0)),
    "stacked": lambda z: torch.stack(_apart(z)).unbind(0),
    "stacked last": lambda z: torch.stack(_apart(z), -1).unbind(-1),
    "written": _written,
}


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_whose_gates_are_put_together_has_the_map_of_one_that_computes_them_apart(name: str, book: str) -> None:
    model, apart = cell(CELLS[name]), cell(_apart)
    assert_equal(model(X), apart(X))
    assert_equal(*(funcattr.lrp(f, X, 0, rules=book) for f in (model, apart)), tolerance=1e-5)


def test_parts_of_parts_are_no_gates() -> None:
    """What cannot be told apart is neither a gate nor a signal by guess: a product halves."""

    def factor(z: Tensor) -> Tensor:
        return torch.cat([_joined(z @ W)[:, 4:], _joined(z @ W)[:, 4:6]], 1)

    for book in ("epsilon", "attnlrp"):
        of_z, of_x = shares_of(factor, book)
        assert of_z[:, :5].any() and of_x.any()
