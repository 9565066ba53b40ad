"""What the head of a model calls, found by a run that computes shapes only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode

from .functional import FunctionalModel
from .levels import unwrapped
from .operations import TENSOR_GETTERS, is_getter, spelled
from .sites import SiteMode

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a call."""


class Plan(NamedTuple):
    """What the head calls, in order, and which of its results the tail reads.

    Attributes:
        functions: The torch functions.
        results: What they return for the copies, in fake tensors.
        read: Places (number of the call, number of the tensor in its result) of what the tail reads.
    """

    functions: list[Any]
    results: list[Any]
    read: frozenset[tuple[int, int]]


def planned(model: FunctionalModel, site: str, copies: Inputs, rows: int) -> Plan | None:
    """The plan of a call, from a run that computes shapes only; None where there can be no such plan."""
    model, inputs = model.ready(), copied(copies)
    held = [t for t in (*pytree.tree_leaves(inputs), *model.tensors().values()) if isinstance(t, Tensor)]
    versions = [t._version for t in held]
    probe = _Probe(site, rows)
    try:
        with torch.no_grad(), probe:
            output = model(*inputs[0], **inputs[1])
    except Exception:  # of any kind: the model is not made for fake tensors. A real error comes again, from the model.
        return None
    probe.read_by_tail(output)
    if not probe.passed or probe.written() or [t._version for t in held] != versions:
        return None
    return None if probe.lost else Plan(probe.functions, probe.results, frozenset(probe.read))


class _Probe(SiteMode):
    """A run on fake tensors. Notes the calls of the head, and what of their results the tail reads."""

    def __init__(self, site: str, rows: int) -> None:
        super().__init__((site,))
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.functions: list[Any] = []
        self.results: list[Any] = []
        self.read: set[tuple[int, int]] = set()
        self.passed = self.lost = False
        self._rows = rows
        self._places: dict[int, list[tuple[int, int]]] = {}  # one tensor may be the result of several calls
        self._versions: dict[int, tuple[Tensor, int]] = {}
        self._kept: list[Any] = []  # so that no other tensor gets the id of one of the tail's
        self._of_tail: set[int] = set()

    def visit(self, value: Any, name: str) -> Any:
        self.passed = True
        self._versions = {id(t): (t, t._version) for t in tensors(self.results)}
        with self.fake:
            replacement = torch.empty_like(value)
        self._add_to_tail(replacement)
        return replacement

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_query(func):
            return func(*args, **kwargs)
        if self.passed:
            self.read_by_tail((args, kwargs))
        with self.fake:
            result = func(*args, **kwargs)
        if self.passed:
            self._add_to_tail(result)
            return result
        for number, tensor in enumerate(tensors(result)):
            self._places.setdefault(id(tensor), []).append((len(self.results), number))
            self.lost |= bool(unwrapped(tensor))  # made inside a transform of the model's own
        self.lost |= _tells_rows_apart(func, args, kwargs, result, self._rows)
        self.functions.append(func)
        self.results.append(result)
        return result

    def read_by_tail(self, tree: Any) -> None:
        """Note which of the head's results are in a tree."""
        for tensor in tensors(tree):
            if id(tensor) in self._of_tail:
                continue
            self.read.update(self._places.get(id(tensor), ()))
            if isinstance(tensor, FakeTensor) and id(tensor) not in self._places:
                self.lost = True  # of a call that no torch function mode sees

    def written(self) -> bool:
        """Whether the tail writes into a result of the head, or into what shares memory with one."""
        return any(tensor._version != version for tensor, version in self._versions.values())

    def _add_to_tail(self, result: Any) -> None:
        self._kept.append(result)
        self._of_tail.update(id(tensor) for tensor in tensors(result) if id(tensor) not in self._places)


_RANDOM = frozenset(
    "rand randn randint randperm rand_like randn_like randint_like bernoulli normal multinomial".split()
)
_ALIKE = frozenset("zeros ones full empty new_zeros new_ones new_full new_empty".split())


def _tells_rows_apart(func: Callable[..., Any], args: Any, kwargs: Any, result: Any, rows: int) -> bool:
    """Whether a call gives copies of an example different values, by their place in the batch or by chance."""
    name = spelled(func)
    if name.removesuffix("_") in _RANDOM or (
        name == "__setitem__" and isinstance(args[1][0] if _is_row(args[1]) else args[1], int)
    ):
        return True
    made = not tensors((args, kwargs)) and name not in _ALIKE
    return made and any(rows in tensor.shape for tensor in tensors(result))


def _is_row(index: Any) -> bool:
    return isinstance(index, tuple) and len(index) > 0


def is_query(func: Callable[..., Any]) -> bool:
    """Whether it asks a tensor for its shape, dtype or device, which no mode sees of fake tensors."""
    return is_getter(func) and spelled(func) not in {*TENSOR_GETTERS, "data", "grad"}


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor, under what transforms wrap it in, has no values."""
    return any(isinstance(t, FakeTensor) for t in (tensor, *unwrapped(tensor)))


def copied(inputs: Inputs) -> Inputs:
    """The inputs of one call, which the model may write into."""
    return pytree.tree_map_only(Tensor, torch.clone, inputs)
