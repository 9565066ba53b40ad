"""The values at sources and sinks in one run of a model, and of which sources a sink's value is a sum."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..._torch import memory_of, pytree, version, without_torch_function
from ...calls.adjoints import is_differentiable
from ...calls.operations import DROPOUTS, Known, known, named
from ...calls.written import written
from ...errors import AliasedWriteError
from ...model.sites import INPUT, SiteMode

Terms = Mapping[str, float]
"""What a value is a sum of, beside the rest: source -> coefficient."""
Change = Callable[[Tensor], Tensor]

_NOTHING: Terms = {}
_THE_SAME = (
    frozenset("clone contiguous positive to type type_as float double half bfloat16 cpu cuda".split()) | DROPOUTS
)
_SUMS = frozenset("add sub rsub neg mul div".split()) | _THE_SAME
"""Operations whose result is a sum of their operands, times numbers: a cast or a dropout that is off is one too."""


def _memory(tensor: Tensor) -> int | None:
    """A number for a tensor's memory, its own also where a recorder lets the name stand for what was written."""
    with without_torch_function():
        return memory_of(tensor)


def _version(tensor: Tensor) -> int:
    """How often a tensor's memory was written, likewise."""
    with without_torch_function():
        return version(tensor)


def with_tensor(value: Any, change: Change, call: str, name: str) -> Any:
    """A site's value with its one floating-point tensor changed."""
    leaves, spec = pytree.tree_flatten(value)
    places = [i for i, leaf in enumerate(leaves) if is_differentiable(leaf)]
    if len(places) != 1:
        raise ValueError(
            f"{call}: expected a site with one floating-point tensor, got {len(places)} at {name!r}. "
            f"Name a part of the value ('{name}:0'), or a submodule whose output is one tensor."
        )
    leaves[places[0]] = change(leaves[places[0]])
    return pytree.tree_unflatten(leaves, spec)


class SinkReachedError(BaseException):
    """Leaves the model at the sink where a run is to end; no Exception, which a model may catch."""


class Stream(SiteMode):
    """Keeps the values at sources and sinks, may change them, and follows the sums that lead from one to another.

    A sum is followed from tensor to tensor, call by call. A tensor that comes from any call but those of `_SUMS` is no
    sum, nor is one whose memory was written since. What goes on from a listed site is a sum of that site alone, if it
    is a source, and of none if it is not: an edge passes no other listed site.

    Args:
        call: First words of errors.
        sources, sinks: The listed sites.
        changes: What goes on from some of them in place of the value.
        last: The site at which the run ends, by a `SinkReachedError`.

    Attributes:
        values: The tensor at each listed site, as it arrived there.
        arrived: At each listed site, the terms of that tensor; of a source, itself.
    """

    def __init__(
        self,
        call: str,
        sources: tuple[str, ...],
        sinks: tuple[str, ...],
        changes: Mapping[str, Change],
        last: str | None = None,
    ) -> None:
        super().__init__((*sources, *sinks))
        self.values: dict[str, Tensor] = {}
        self.arrived: dict[str, Terms] = {}
        self._order: dict[str, int] = {}
        self._given: dict[str, tuple[int | None, Tensor]] = {}
        self._stale: list[Tensor] = []
        self._call, self._sources, self._changes, self._last = call, frozenset(sources), changes, last
        self._terms: dict[int, tuple[weakref.ref[Tensor], int, Terms]] = {}

    def comes_before(self, source: str, sink: str) -> bool:
        """Whether the run reached a source before a sink."""
        return self._order[source] < self._order[sink]

    def coefficients(self, sources: tuple[str, ...], sinks: tuple[str, ...]) -> list[list[float]]:
        """Of each source in the sum that a sink's value is; 0 where it is no term. [S, K]"""
        columns = [self.arrived[sink] for sink in sinks]
        return [[terms.get(source, 0.0) for terms in columns] for source in sources]

    def visit(self, value: Any, name: str) -> Any:
        def change(before: Tensor) -> Tensor:
            itself: Terms = {name: 1.0} if name in self._sources else _NOTHING
            self.values[name] = before.clone()  # as it is now, whatever the model writes there
            self._order[name] = len(self._order)
            self.arrived[name] = itself or self._terms_of(before)
            if name == self._last:
                raise SinkReachedError
            # A tensor of its own, which the model holds nowhere else.
            after = self._changes[name](before) if name in self._changes else before.view_as(before)
            self._note(after, itself)
            module, at_input, _ = name.partition(INPUT)
            if at_input and name in self._changes:
                self._given[module] = _memory(after), before
            return after

        return with_tensor(value, change, self._call, name)

    def leave(self, name: str) -> None:
        super().leave(name)
        self._given.pop(name, None)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not (self._terms or self._stale):  # nothing to follow yet
            return func(*args, **kwargs)
        if self._stale:
            self._check_stale(args, kwargs)
        told = known(func)
        sums = self._sums(told, args, kwargs) if told.operation.name in _SUMS else []
        targets = list(written(func, args, kwargs))
        out = func(*args, **kwargs)
        if targets:
            self._forget(targets)
        terms = _added(out, sums) if sums and isinstance(out, Tensor) else _NOTHING
        for tensor in (out, *targets) if terms else ():
            self._note(tensor, terms)
        return out

    def _sums(self, told: Known, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Tensor, float, Terms]]:
        """The operands of a call whose result is a sum of them: each with its coefficient and its own terms."""
        op = told.operation.name
        given = named(told.operation, args, kwargs)
        first = given.get("input", args[0] if args else None)
        other, alpha = given.get("other"), given.get("alpha", 1)
        if not isinstance(alpha, int | float):
            return []
        if op in _THE_SAME:
            operands = [] if op in DROPOUTS and given.get("training", True) is not False else [(first, 1.0)]
        elif op == "neg":
            operands = [(first, -1.0)]
        elif op in ("mul", "div"):
            if not isinstance(first, Tensor):
                first, other = other, first if op == "mul" else None
            operands = []
            if isinstance(other, int | float) and other != 0 and not given.get("rounding_mode"):
                operands = [(first, float(other) if op == "mul" else 1 / other)]
        else:
            signs = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op]
            operands = [(first, float(signs[0])), (other, float(signs[1]))]
        found = [(v, c, self._terms_of(v)) for v, c in operands if isinstance(v, Tensor)]
        return [entry for entry in found if entry[2]]

    def _terms_of(self, tensor: Tensor) -> Terms:
        entry = self._terms.get(id(tensor))
        return entry[2] if entry is not None and entry[0]() is tensor and entry[1] == _version(tensor) else _NOTHING

    def _note(self, tensor: Tensor, terms: Terms) -> None:
        self._terms[id(tensor)] = weakref.ref(tensor), _version(tensor), terms

    def _check_stale(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise if a call reads what the model thinks to have written, where it wrote into what stood in its place."""
        memories = {_memory(tensor) for tensor in self._stale}
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and _memory(leaf) in memories:
                raise AliasedWriteError(
                    f"{self._call}: in the module {self.path!r}, a value is read that another module was given and has "
                    "written in place, at a listed @input. Write out of place there, or read what that module returns."
                )

    def _forget(self, targets: list[Tensor]) -> None:
        """Let everything be no sum that shares memory with what was written."""
        memories = {_memory(target) for target in targets}
        self._stale += [before for memory, before in self._given.values() if memory in memories]
        for key, (reference, _, _) in list(self._terms.items()):
            tensor = reference()
            if tensor is None or any(tensor is t for t in targets) or _memory(tensor) in memories:
                del self._terms[key]


def _added(out: Tensor, sums: list[tuple[Tensor, float, Terms]]) -> Terms:
    """The terms of a sum; an operand that was broadcast, or whose result is of another kind, has no part in it."""
    total: dict[str, float] = {}
    for operand, coefficient, terms in sums:
        if operand.shape == out.shape and out.is_floating_point():
            for source, own in terms.items():
                total[source] = total.get(source, 0.0) + coefficient * own
    return {source: coefficient for source, coefficient in total.items() if coefficient}
