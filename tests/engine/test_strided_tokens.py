"""Strided tokens [L, N, F], as nn.MultiheadAttention makes them, are multiplied in one piece and not L small ones."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr.engine import linear_map

from ..contract import assert_equal
from ..models.seeding import settle, uniform


class Tokens(nn.Module):
    """[N, L, F] -> [N, classes], by way of [L, N, F]."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.wide(x.transpose(0, 1)))).mean(0)


class Products(TorchDispatchMode):
    """Counts the products of matrices by the operator that computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm"):
            self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def products(run: Callable[[], Any]) -> Counter[str]:
    with Products() as mode:
        run()
    return mode.counts


def test_torch_multiplies_strided_tokens_one_by_one_where_weights_are_frozen() -> None:
    """If this fails, torch has changed, and `linear` and `with_leaves` are not needed any more."""
    model = settle(Tokens).requires_grad_(False)
    assert products(lambda: model(uniform(2, 4, 3)))["aten::bmm"] > 0


@pytest.mark.parametrize("layer", [None, "wide"])
def test_a_gradient_multiplies_them_as_a_plain_pass_does(layer: str | None) -> None:
    model, x = settle(Tokens), uniform(2, 4, 3)
    found: list[Tensor] = []
    # Under a dispatch mode, as under a transform, torch.func does the work: so this looks at the model that is run.
    fm = funcattr.functionalize(model).with_leaves()
    assert products(lambda: found.append(fm(x)))["aten::bmm"] == 0
    assert_equal(found[0], model(x))
    assert funcattr.gradient(model, x, 0, layer=layer).requires_grad is False
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in model.parameters())


def test_recorded_calls_multiply_them_in_one_piece() -> None:
    model, x = settle(Tokens), uniform(2, 4, 3)
    assert products(lambda: funcattr.attnlrp(model, x, 0))["aten::bmm"] == 0


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (0, 2, 3), (2, 1, 4, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_is_torchs(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight, bias = uniform(*shape), uniform(5, 3), uniform(5) if with_bias else None
    torch.testing.assert_close(linear_map.linear(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(linear_map.linear(x, weight[0]), F.linear(x, weight[0]))


class Frozen(nn.Module):
    """Does not depend on its input by any path that can be differentiated, and does on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(x).detach())


@pytest.mark.parametrize("layer", [None, "wide"])
def test_weights_do_not_hide_that_the_output_ignores_the_input(layer: str | None) -> None:
    with pytest.raises(funcattr.UntrackedPathError, match="does not depend on the"):
        funcattr.gradient(settle(Frozen), uniform(2, 3), 0, layer=layer)
