"""What AOTAutograd's graphs hold, loop bodies included: how often a compiled function calls an operation."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd


class Calls:
    """A compiled function, and the calls of some operations in its graphs.

    Attributes:
        run: The function, compiled.
        calls: How often each operation whose name has `part` in it is called; a loop's body counts once.
        graphs: How many graphs there are.
    """

    def __init__(self, function: Callable[..., Any], part: str) -> None:
        self.calls, self.graphs, self._part = Counter[str](), 0, part
        # What Inductor would not run does not count: dead code, and what only gives its shape to zeros.
        backend = aot_autograd(fw_compiler=self._count, decompositions={torch.ops.aten.zeros_like.default: _zeros})
        self.run = torch.compile(function, fullgraph=True, backend=backend)

    def _count(self, graph: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        graph.graph.eliminate_dead_code()
        for module in graph.modules():
            if isinstance(module, fx.GraphModule):
                names = (str(node.target) for node in module.graph.nodes if node.op == "call_function")
                self.calls.update(name for name in names if self._part in name)
        return graph.forward


def _zeros(like: Tensor, **_: Any) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def calls_in(function: Callable[..., Any], part: str) -> Calls:
    """Compile a function, and count its calls of operations whose name has `part` in it."""
    return Calls(function, part)
