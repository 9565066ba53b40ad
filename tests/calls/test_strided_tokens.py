"""Strided tokens [L, N, F], as nn.MultiheadAttention makes them, are multiplied in one piece and not L small ones."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr.calls import linear_map
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal


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
    """If this fails, torch has changed, and `linear` and `InOnePiece` are not needed any more."""
    model = settle(Tokens).requires_grad_(False)
    assert products(lambda: model(uniform(2, 4, 3)))["aten::bmm"] > 0


class Attends(nn.Module):
    """Attention, whose linear maps are inside of one torch function."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0]).mean(1)


def small_products(run: Callable[[], Any]) -> int:
    """How many products of many small matrices run, by the profiler: under a dispatch mode torch.func does the work."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return sum(event.count for event in profile.key_averages() if event.key == "aten::bmm")


@pytest.mark.parametrize("layer", [None, "site"])
@pytest.mark.parametrize("kind", [Tokens, Attends])
def test_a_gradient_multiplies_them_in_one_piece(kind: Callable[[], nn.Module], layer: str | None) -> None:
    model = settle(kind).eval()
    x = uniform(2, 4, 4 if kind is Attends else 3)
    layer = layer and ("attention" if kind is Attends else "wide")
    wanted = torch.autograd.functional.jacobian(lambda x: model(x)[:, 0].sum(), x)
    if layer is None:
        assert_equal(funcattr.gradient(model, x, 0), wanted)
    frozen = copy.deepcopy(model).requires_grad_(False)
    leaf = x.clone().requires_grad_()
    slow = small_products(lambda: torch.autograd.grad(frozen(leaf)[:, 0].sum(), leaf))
    if layer is None or kind is Tokens:
        assert small_products(lambda: funcattr.gradient(model, x, 0, layer=layer)) < slow
    assert funcattr.gradient(model, x, 0, layer=layer).requires_grad is False
    assert all(p.grad is None and p.requires_grad and p.is_leaf for p in model.parameters())


class WritesIntoTokens(nn.Module):
    """Writes into the input of a linear map, which only the gradient of its weight would read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h += self.b(h)
        return self.head(h)


def test_a_model_may_write_into_the_input_of_a_linear_map() -> None:
    model, x = settle(WritesIntoTokens), uniform(2, 3)
    leaf = x.clone().requires_grad_()
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert_equal(funcattr.gradient(model, x, 0), torch.autograd.grad(frozen(leaf)[:, 0].sum(), leaf)[0])


@pytest.mark.parametrize("method", [funcattr.attnlrp, funcattr.gradient])
def test_recorded_calls_and_torch_func_multiply_them_in_one_piece(method: Callable[..., Tensor]) -> None:
    model, x = settle(Tokens), uniform(2, 4, 3)
    assert products(lambda: method(model, x, 0))["aten::bmm"] == 0
    assert products(lambda: torch.vmap(lambda c: method(model, x, c))(torch.tensor([0, 1])))["aten::bmm"] == 0


def test_nor_does_compiled_code(fresh_dynamo: None) -> None:
    model, x = settle(Tokens), uniform(2, 4, 3)
    fm, graphs = funcattr.functionalize(model), list[Any]()

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    found = torch.compile(lambda x: funcattr.gradient(fm, x, 0), fullgraph=True, backend=aot_autograd(fw_compiler=keep))
    assert_equal(found(x), funcattr.gradient(model, x, 0))
    assert not [node for graph in graphs for node in graph.graph.nodes if "bmm" in str(node.target)]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (4, 2, 3), (0, 2, 3), (2, 1, 4, 3)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_is_torchs(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight, bias = uniform(*shape), uniform(5, 3), uniform(5) if with_bias else None
    torch.testing.assert_close(linear_map.linear(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(linear_map.linear(x, weight[0]), F.linear(x, weight[0]))


class Frozen(nn.Module):
    """Does not depend on its input by any path that can be differentiated, but on a tensor that requires a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.scale = nn.Linear(3, 2), torch.ones(2, dtype=torch.float64, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x).detach() * self.scale


@pytest.mark.parametrize("layer", [None, "wide"])
def test_tensors_of_the_model_do_not_hide_that_the_output_ignores_the_input(layer: str | None) -> None:
    with pytest.raises(funcattr.UntrackedPathError, match="does not depend on the"):
        funcattr.gradient(settle(Frozen), uniform(2, 3), 0, layer=layer)
