"""A batch that is marked as dynamic: one compilation for all its sizes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import funcattr
from funcattr import FunctionalModel
from funcattr.testing.seeding import uniform

from .contract import assert_equal
from .sweeps import sweep
from .zoo import case

METHODS: dict[str, Callable[[FunctionalModel, Tensor, str], Tensor]] = {
    "gradient": lambda fm, x, layer: funcattr.gradient(fm, x, 2),
    "guided_backprop": lambda fm, x, layer: funcattr.guided_backprop(fm, x, 2),
    "lrp": lambda fm, x, layer: funcattr.lrp(fm, x, 2, start="one"),
    "excitation_backprop": lambda fm, x, layer: funcattr.excitation_backprop(fm, x, 2, layer=layer),
    "grad_cam": lambda fm, x, layer: funcattr.grad_cam(fm, x, 2, layer=layer),
}


def _run(method: Callable[..., Tensor], fm: FunctionalModel, layer: str) -> Callable[[Tensor], Tensor]:
    return lambda x: method(fm, x, layer)


def compilations(function: Callable[[Tensor], Tensor], sizes: list[int], shape: tuple[int, ...], mark: bool) -> int:
    """How often Dynamo compiles the function over batches of these sizes, each of which it gets right."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled: Any = torch.compile(function, fullgraph=True, backend=counter, dynamic=None if mark else False)
    for size in sizes:
        x = uniform(size, *shape, seed=size)
        if mark:
            torch._dynamo.mark_dynamic(x, 0)
        assert_equal(compiled(x), function(x))
    return counter.frame_count


@pytest.mark.parametrize(
    ("model", "method"),
    sweep(
        [(model, method) for model in ("cnn", "resnet_basic") for method in METHODS],
        quick=("cnn-lrp", "cnn-grad_cam"),
    ),
)
def test_one_compilation_for_all_sizes(method: str, model: str, fresh_dynamo: None) -> None:
    c = case(model)
    run = _run(METHODS[method], funcattr.functionalize(c.build()), c.layer)
    assert compilations(run, [5, 7, 2, 17], c.shape[1:], mark=True) == 1


def test_a_write_beside_what_it_reads_in_a_batch_of_any_size(fresh_dynamo: None) -> None:
    """Columns lie apart however many rows there are."""

    class Assigning(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            h = x * 1
            h[:, 0] = h[:, 1]
            return torch.relu(h)

    fm = funcattr.functionalize(Assigning().eval())

    def run(x: Tensor) -> Tensor:
        return funcattr.lrp(fm, x, 2, rules="epsilon")

    assert compilations(run, [5, 7, 2], (6,), mark=True) == 1


def test_the_count_counts(fresh_dynamo: None) -> None:
    c = case("cnn")
    run = _run(METHODS["gradient"], funcattr.functionalize(c.build()), c.layer)
    assert compilations(run, [5, 7, 2], c.shape[1:], mark=False) == 3
