"""Counts that do not vary from run to run: kernels, bytes of memory, graphs. tests/test_guards.py tests them too."""

import gc
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Self
from unittest import mock

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten
NO_KERNEL = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}


class Hidden(TorchDispatchMode):
    """A mode that hides.

    funcattr works otherwise where a dispatch mode might trace it; this one is not seen, so that what is measured is
    what users get.
    """

    def __init__(self) -> None:
        super().__init__()
        self._hidden: Any = mock.patch.object(torch._C, "_len_torch_dispatch_stack", return_value=0)

    def __enter__(self) -> Self:
        super().__enter__()
        self._hidden.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hidden.stop()
        super().__exit__(*error)


class Meter(Hidden):
    """Counts kernels, and the bytes of the memory that operations made and that still lives.

    Memory counts from the end of the operation that made it until its storage dies: scratch space within a kernel does
    not count, nor do parameters and inputs, which no operation made. What only the garbage collector would find stays:
    when it runs is chance.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.held = self.peak = 0
        self._seen = weakref.WeakSet[Any]()

    def __enter__(self) -> Self:
        gc.disable()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        gc.enable()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._seen.add(tensor.untyped_storage())
        out = func(*args, **kwargs)
        self.kernels += not (func.is_view or func.overloadpacket in NO_KERNEL)
        for tensor in _tensors(out):
            self._add(tensor.untyped_storage())
        self.peak = max(self.peak, self.held)
        return out

    def _add(self, storage: Any) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.held += storage.nbytes()
            weakref.finalize(storage, self._subtract, storage.nbytes())

    def _subtract(self, count: int) -> None:
        self.held -= count


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]


def held_after(function: Callable[[], Any]) -> int:
    """Bytes that a function made and its result keeps alive."""
    with Meter() as meter:
        result = function()
        held = meter.held
    del result
    return held


def metered(function: Callable[[], Any]) -> Meter:
    """What a call costs."""
    with Meter() as meter:
        function()
    return meter


class Graphs(NamedTuple):
    """What Dynamo made of the calls of a function."""

    graphs: int
    breaks: int
    nodes: int


def graphs(function: Callable[..., Any], *calls: tuple[Any, ...]) -> Graphs:
    """Compile a function, with graph breaks where it has some, and call it."""
    counters.clear()
    counter: Any = CompileCounter()
    compiled = torch.compile(function, backend=counter)
    for args in calls:
        compiled(*args)
    breaks = counters["graph_break"]
    return Graphs(counter.frame_count, sum(breaks.values()), counter.op_count)
