"""On CUDA, a compiled method is replayed as one CUDA graph: `mode="reduce-overhead"`, the same numbers as eager."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import funcattr
from funcattr.testing.seeding import uniform

from .contract import assert_equal
from .zoo import case

METHODS: dict[str, Callable[..., Tensor]] = {
    "gradient": funcattr.gradient,
    "guided_backprop": funcattr.guided_backprop,
    "lrp": funcattr.lrp,  # epsilon_plus
}


def graphless(function: Callable[..., Tensor], calls: list[tuple[Tensor, ...]]) -> int:
    """Call a function, compiled and not, with the same results; how many of its graphs are no CUDA graphs."""
    counters.clear()
    compiled: Any = torch.compile(function, mode="reduce-overhead", fullgraph=True)
    for args in calls:
        torch.compiler.cudagraph_mark_step_begin()
        assert_equal(compiled(*args), function(*args))
    return counters["inductor"]["cudagraph_skips"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # Inductor's advice
@pytest.mark.parametrize("method", METHODS)
def test_a_replayed_cuda_graph_equals_eager(method: str, fresh_dynamo: None) -> None:
    c = case("cnn")
    fm = funcattr.functionalize(c.build().cuda())
    calls = [(uniform(*c.shape, seed=i).cuda(), torch.tensor([i, 3]).cuda()) for i in range(3)]  # the third is replayed
    assert graphless(lambda x, target: METHODS[method](fm, x, target), calls) == 0


def test_without_cuda_there_is_no_cuda_graph(fresh_dynamo: None) -> None:
    assert graphless(lambda x: x + 1, [(torch.ones(3),)]) == 1
