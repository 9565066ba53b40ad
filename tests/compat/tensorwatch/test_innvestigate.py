"""tensorwatch's two rules: its own blocks and norms, written out for a dense matrix, and its conventions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import funcattr
from funcattr.compat.tensorwatch import InnvestigateModel, b_rule, e_rule, rulebook
from funcattr.testing.seeding import settle, uniform

from ..iba.test_bottleneck import state


def in_blocks(w: np.ndarray, x: np.ndarray, r: np.ndarray, beta: float, eps: float) -> np.ndarray:
    """The b-rule of one example: four blocks, two norms, and norms of rare outputs scaled by the prefactor."""
    up, down, on, off = w.clip(min=0), w.clip(max=0), x.clip(min=0), x.clip(max=0)
    norms = [up @ on + down @ off, up @ off + down @ on]
    empty = [norm == 0 for norm in norms]
    rare = empty[0] | empty[1]
    factors = [1 + beta, -beta]
    total = np.zeros_like(x)
    for norm, none, factor, blocks in zip(norms, empty, factors, [[(up, on), (down, off)], [(up, off), (down, on)]]):
        norm = np.where(none, 1, norm) * np.where(rare, factor if factor != 0 else 1, 1)
        norm = norm + eps * np.sign(norm)
        total += sum((weight.T @ (r * factor / norm)) * part for weight, part in blocks)
    return total


WEIGHT = np.array([[1.0, -2, 3, 0.5], [1, 2, 3, 0.5], [-1, -2, -1, -3], [0, 0, 0, 0]])  # both, rare, rare, dead
INPUTS = np.array([[1.0, 2, 0.5, 1], [1, -2, 0.5, -1]])


@pytest.mark.parametrize("eps", [1e-6, 0.5])
@pytest.mark.parametrize("beta", [0.5, 2, 0, -0.3, -1, -2.5])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_b_rule_is_tensorwatchs(kind: str, beta: float, eps: float) -> None:
    weight, x = torch.from_numpy(WEIGHT), torch.from_numpy(INPUTS)
    layer: Any = nn.Linear(4, 4) if kind == "linear" else nn.Conv2d(4, 4, 1)
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.fill_(0.7)
    r = torch.tensor([[1.0, -2, 3, 4]]).double().expand(2, 4)
    given, relevance = (x, r) if kind == "linear" else (x[..., None, None], r[..., None, None])
    found = funcattr.lrp(layer, given, relevance, rules={"linear_map": b_rule(beta=beta, eps=eps)}, start="one")
    expected = np.stack([in_blocks(WEIGHT, row, r[0].numpy(), beta, eps) for row in INPUTS])
    np.testing.assert_allclose(found.reshape(2, 4).detach().numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.5, -0.3, -1])
def test_the_b_rule_conserves_where_both_signs_meet(beta: float) -> None:
    layer = settle(lambda: nn.Linear(6, 4))
    x = uniform(3, 6)
    found = funcattr.lrp(layer, x, 1, rules={"linear_map": b_rule(beta=beta, eps=1e-12)})
    torch.testing.assert_close(found.sum(1), layer(x)[:, 1])


def cnn() -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)))


@pytest.mark.parametrize("method", ["e-rule", "b-rule"])
def test_innvestigate(method: Any) -> None:
    model, x = cnn(), uniform(2, 2, 6, 6)
    before = state(model)
    own = InnvestigateModel(model, lrp_exponent=1, beta=-0.25, epsilon=1e-4, method=method)
    torch.testing.assert_close(own(x), model(x))
    rule = e_rule(p=1, eps=1e-4) if method == "e-rule" else b_rule(beta=-0.25, eps=1e-4)
    book = funcattr.rules.composite("own", convolution=rule, dense=rule, eps=1e-4)
    for of in (None, 3):
        output, relevance = own.innvestigate(rel_for_class=of)
        target = model(x).argmax(1) if of is None else of
        torch.testing.assert_close(output, model(x))
        torch.testing.assert_close(relevance, funcattr.lrp(model, x, target, rules=book))
    torch.testing.assert_close(own.innvestigate(x[:1], 3)[1], own.innvestigate(x, 3)[1][:1])
    assert state(model) == before


def test_the_exponent_is_that_of_the_e_rule() -> None:
    model, x = cnn(), uniform(2, 2, 6, 6)
    found = InnvestigateModel(model, lrp_exponent=3).innvestigate(x, 1)[1]
    torch.testing.assert_close(found, funcattr.lrp(model, x, 1, rules=rulebook("e-rule", p=3)))


@pytest.mark.parametrize("of", [None, 1])
def test_relevance_layer_by_layer(of: Any) -> None:
    """The e-rule on matrices: z_ij / (z_j + eps sign z_j), biases aside; a relu hands on what it gets."""
    eps = 1e-3
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    x, before = uniform(2, 4), state(model)
    own = InnvestigateModel(model, epsilon=eps)
    assert own.get_r_values_per_layer() is None
    own.innvestigate(x, of)
    found = own.get_r_values_per_layer()

    def back(layer: nn.Linear, given: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
        z = given @ layer.weight.T
        return given * ((relevance / (z + eps * z.sign())) @ layer.weight)

    with torch.no_grad():
        hidden, output = model[1](model[0](x)), model(x)
        chosen = output.argmax(1) if of is None else torch.tensor([of, of])
        start = torch.where(torch.arange(3) == chosen[:, None], output, 0.0)
        middle = back(model[2], hidden, start)
        expected = [start, middle, middle, back(model[0], x, middle)]
    assert found is not None and len(found) == 4
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    torch.testing.assert_close(found[-1], own.innvestigate(x, of)[1])
    assert state(model) == before


def test_relevance_layer_by_layer_of_a_network() -> None:
    own = InnvestigateModel(cnn())
    own.innvestigate(uniform(2, 2, 6, 6), 1)
    shapes = [tuple(each.shape) for each in own.get_r_values_per_layer() or []]
    assert shapes == [(2, 4), (2, 12), (2, 3, 2, 2), (2, 3, 4, 4), (2, 3, 4, 4), (2, 2, 6, 6)]


def test_a_layer_that_runs_twice_is_refused() -> None:
    once = settle(lambda: nn.Linear(3, 3))
    own = InnvestigateModel(nn.Sequential(once, nn.ReLU(), once))
    own.innvestigate(uniform(2, 3), 1)
    with pytest.raises(funcattr.FuncattrError, match="the layer '0' runs more than once"):
        own.get_r_values_per_layer()


def test_named_errors() -> None:
    with pytest.raises(ValueError, match="method='z-rule'"):
        InnvestigateModel(cnn(), method="z-rule")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="seen no input yet"):
        InnvestigateModel(cnn()).innvestigate()
    with pytest.raises(ValueError, match=r"b_rule\(beta=inf"):
        InnvestigateModel(cnn(), beta=float("inf"), method="b-rule")
