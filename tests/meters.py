"""Counts that do not vary from run to run: kernels, bytes held and moved, graphs. tests/test_guards.py tests them."""

import gc
import weakref
from collections import Counter
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
FORWARD = (aten.convolution, aten.addmm, aten.mm)
MAPS = (*FORWARD, aten.convolution_backward)
ONLY_WRITTEN = {aten.fill_, aten.zero_, aten.copy_, aten.new_full, aten.new_ones, aten.new_zeros}
NO_KERNEL = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
NO_KERNEL |= {aten.is_set_to}  # which compares where two tensors lie


class Hidden(TorchDispatchMode):
    """A mode that hides.

    funcattr works otherwise where a dispatch mode might trace it; this one is not seen, so that what is measured is
    what users get.
    """

    only_looks = True

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


class Traffic(Hidden):
    """Counts the bytes that operations read and write.

    Attributes:
        bytes: By operation.
        calls: How often each ran.
        results: Bytes of the results of linear maps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.calls, self.results = Counter[str](), Counter[str](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.is_view or packet in NO_KERNEL or packet is aten.detach:
            return out
        name = packet.__name__
        self.calls[name] += 1
        self.bytes[name] += sum(map(_bytes, _read(packet, args, kwargs))) + sum(map(_bytes, _tensors(out)))
        if packet in FORWARD:
            self.results += sum(map(_bytes, _tensors(out)))
        return out

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.bytes.values())

    @property
    def in_maps(self) -> int:
        """Bytes that linear maps and their adjoints read and write."""
        return sum(self.bytes[packet.__name__] for packet in MAPS)

    @property
    def maps(self) -> int:
        """How often a linear map or its adjoint ran."""
        return sum(self.calls[packet.__name__] for packet in MAPS)


def _read(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    given = list(args)
    if packet is aten.convolution_backward and not args[-1][1]:
        del given[1]  # the input, of which only the shape is read where no gradient of the weight is asked for
    if packet in ONLY_WRITTEN:
        del given[0]
    return _tensors((given, {name: value for name, value in kwargs.items() if name not in ("out", "grad_input")}))


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def moved(function: Callable[[], Any]) -> Traffic:
    """What a call reads and writes, once it has run before."""
    function()
    with Traffic() as counted:
        function()
    return counted


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
