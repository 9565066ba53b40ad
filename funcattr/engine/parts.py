"""A model in two parts at a site: the head runs until it, the tail runs from a value of it on.

The tail is the model's own forward, so that it can be any code; what the head's calls would compute is not computed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode

from .access import reading
from .examples import repeated
from .functional import FunctionalModel
from .levels import is_plain_eager, unwrapped
from .operations import TENSOR_GETTERS, is_getter, spelled
from .sites import Editor, SiteMode

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a call."""


class _Reached(BaseException):
    """Leaves the model when the last value has been seen; no Exception, which a model may catch."""


class _DifferentCallsError(Exception):
    """The model did not call what it called before, or something that cannot be taken apart."""


def values_at(call: str, model: FunctionalModel, sites: tuple[str, ...], inputs: Inputs) -> dict[str, Any]:
    """The values at some sites; only what the model computes up to the last of them runs."""
    if torch.compiler.is_dynamo_compiling():  # where what nobody uses is not computed anyway
        positional, keyword = _copied(inputs)
        return reading(call, model, *sites)(*positional, **keyword)[1]
    return _stopped(call, model, _Stop(sites), inputs)


def _copied(inputs: Inputs) -> Inputs:
    """The inputs of one call, which the model may write into."""
    return pytree.tree_map_only(Tensor, torch.clone, inputs)


def _stopped(call: str, model: FunctionalModel, stop: "_Stop", inputs: Inputs) -> dict[str, Any]:
    positional, keyword = _copied(inputs)
    model = model.ready()
    try:
        with stop:
            model(*positional, **keyword)
    except _Reached:
        return stop.values
    stop.require(call, tuple(stop.asked), model.sites)
    raise AssertionError("a call that passes all sites is stopped")


class _Stop(SiteMode):
    """Ends the call when all sites that are asked for have been passed, and keeps their values."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__(sites)
        self.values: dict[str, Any] = {}

    def visit(self, value: Any, name: str) -> Any:
        self.values[name] = pytree.tree_map_only(Tensor, torch.clone, value)
        if len(self.values) == len(self.asked):
            raise _Reached
        return value


def split(
    call: str, model: FunctionalModel, site: str, inputs: Inputs, examples: int, times: int
) -> tuple[Any, Callable[[Tensor], Any]]:
    """The value at a site for a batch, and the tail for `times` copies of each example (neighbours).

    The head runs once, for the batch as it is. Where the tail reads more of the head than the site's value (skip
    connections, masks), it gets that repeated, as far as those are tensors with a row for each example or none.
    Whatever cannot be taken apart so (control flow that looks at values, code that runs outside of torch), and
    everything inside transforms, runs from the start each time: slower, and the same.

    Args:
        call: First words of errors.
        inputs: Of the batch [N, ...]; their tensors may be read again by the tail.

    Returns:
        The value, and `tail(value for the copies [N * times, ...]) -> the model's output`.

    Raises:
        UnknownSiteError: If the site does not exist or is not reached.
    """
    copies: Inputs = repeated(inputs, examples, times)
    replaced = _Replaced(call, model, site, copies)
    if not is_plain_eager() or model.training:
        return values_at(call, model, (site,), inputs)[site], replaced
    plan = _planned(model, site, copies)
    if plan is None:
        return values_at(call, model, (site,), inputs)[site], replaced
    head = _Head(site, plan)
    value = _stopped(call, model, head, inputs)[site]
    results = _ready(plan, head, examples, times)
    return value, replaced if results is None else _Skipping(replaced, plan.functions, results)


class _Replaced:
    """The tail, by way of the whole model with the site's value replaced."""

    def __init__(self, call: str, model: FunctionalModel, site: str, inputs: Inputs) -> None:
        self.call, self.model, self.site, self.inputs = call, model, site, inputs

    def __call__(self, value: Tensor) -> Any:
        return self.under(Editor({self.site: lambda _: value}))

    def under(self, mode: SiteMode) -> Any:
        """Run the model under a mode."""
        positional, keyword = _copied(self.inputs)
        model = self.model.ready()
        with mode:
            output = model(*positional, **keyword)
        mode.require(self.call, (self.site,), self.model.sites)
        return output


class _Plan(NamedTuple):
    """What the head calls, in order, and which of its results the tail reads.

    Attributes:
        functions: The torch functions.
        results: What they return for the copies, in fake tensors.
        read: Places (number of the call, number of the tensor in its result) of what the tail reads.
    """

    functions: list[Any]
    results: list[Any]
    read: frozenset[tuple[int, int]]


def _planned(model: FunctionalModel, site: str, copies: Inputs) -> _Plan | None:
    """The plan of a call, from a run that computes shapes only; None where there can be no such plan."""
    model, inputs = model.ready(), _copied(copies)
    held = [t for t in (*pytree.tree_leaves(inputs), *model.tensors().values()) if isinstance(t, Tensor)]
    versions = [t._version for t in held]
    probe = _Probe(site)
    try:
        with torch.no_grad(), probe:
            output = model(*inputs[0], **inputs[1])
    except Exception:  # of any kind: the model is not made for fake tensors. A real error comes again, from the model.
        return None
    if not probe.passed or [t._version for t in held] != versions:
        return None
    probe.read_by_tail(output)
    return None if probe.lost else _Plan(probe.functions, probe.results, frozenset(probe.read))


class _Probe(SiteMode):
    """A run on fake tensors. Notes the calls of the head, and what of their results the tail reads."""

    def __init__(self, site: str) -> None:
        super().__init__((site,))
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.functions: list[Any] = []
        self.results: list[Any] = []
        self.read: set[tuple[int, int]] = set()
        self.passed = self.lost = False
        self._places: dict[int, tuple[int, int]] = {}
        self._kept: list[Any] = []  # so that no other tensor gets the id of one of the tail's
        self._of_tail: set[int] = set()

    def visit(self, value: Any, name: str) -> Any:
        self.passed = True
        with self.fake:
            replacement = torch.empty_like(value)
        self._add_to_tail(replacement)
        return replacement

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _is_query(func):
            return func(*args, **kwargs)
        if self.passed:
            self.read_by_tail((args, kwargs))
        with self.fake:
            result = func(*args, **kwargs)
        if self.passed:
            self._add_to_tail(result)
            return result
        for number, tensor in enumerate(_tensors(result)):
            self._places.setdefault(id(tensor), (len(self.results), number))
            self.lost |= bool(unwrapped(tensor))  # made inside a transform of the model's own
        self.functions.append(func)
        self.results.append(result)
        return result

    def read_by_tail(self, tree: Any) -> None:
        """Note which of the head's results are in a tree."""
        for tensor in _tensors(tree):
            place = self._places.get(id(tensor))
            if place is not None and id(tensor) not in self._of_tail:
                self.read.add(place)
            elif isinstance(tensor, FakeTensor) and id(tensor) not in self._of_tail:
                self.lost = True  # of a call that no torch function mode sees

    def _add_to_tail(self, result: Any) -> None:
        self._kept.append(result)
        self._of_tail.update(map(id, _tensors(result)))


class _Head(_Stop):
    """A real run of the head, which keeps what the tail reads."""

    def __init__(self, site: str, plan: _Plan) -> None:
        super().__init__((site,))
        self._numbers = {number for number, _ in plan.read}
        self.functions: list[Any] = []
        self.results: dict[int, Any] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if _is_query(func):
            return result
        if len(self.functions) in self._numbers:
            self.results[len(self.functions)] = result
        self.functions.append(func)
        return result


def _ready(plan: _Plan, head: _Head, examples: int, times: int) -> list[Any] | None:
    """The head's results for the copies, real where the tail reads them; None where their copies are not known."""
    if plan.functions != head.functions:
        return None
    results = list(plan.results)
    for number in head.results:
        fakes, structure = pytree.tree_flatten(plan.results[number])
        reals = pytree.tree_leaves(head.results[number])
        if len(fakes) != len(reals):
            return None
        at = -1
        for i, (fake, real) in enumerate(zip(fakes, reals, strict=True)):
            at += isinstance(fake, Tensor)
            if not isinstance(fake, Tensor) or (number, at) not in plan.read:
                continue
            if not isinstance(real, Tensor):
                return None
            if real.ndim and len(real) == examples and fake.shape == (examples * times, *real.shape[1:]):
                real = repeated(real, examples, times)
            if real.shape != fake.shape or real.dtype != fake.dtype:
                return None
            fakes[i] = real
        results[number] = pytree.tree_unflatten(fakes, structure)
    return results


class _Skipping:
    """The tail alone: the calls of the head return what is known of them."""

    def __init__(self, whole: _Replaced, functions: list[Any], results: list[Any]) -> None:
        self.whole, self.functions, self.results = whole, functions, results

    def __call__(self, value: Tensor) -> Any:
        try:
            output = self.whole.under(_Skip(self.whole.site, value, self.functions, self.results))
        except _DifferentCallsError:
            return self.whole(value)
        return self.whole(value) if any(_is_fake(t) for t in _tensors(output)) else output


class _Skip(SiteMode):
    """Computes nothing until the site."""

    def __init__(self, site: str, value: Tensor, functions: list[Any], results: list[Any]) -> None:
        super().__init__((site,))
        self._value, self._functions, self._results = value, functions, results
        self._at, self._passed = 0, False

    def visit(self, value: Any, name: str) -> Any:
        self._passed = True
        return self._value

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._passed or _is_query(func):
            return func(*args, **kwargs)
        if self._at == len(self._functions) or self._functions[self._at] != func:
            raise _DifferentCallsError
        result = self._results[self._at]
        self._at += 1
        # The tail may write into what it reads, which the next call reads again.
        return pytree.tree_map_only(Tensor, lambda t: t if isinstance(t, FakeTensor) else t.clone(), result)


def _is_query(func: Callable[..., Any]) -> bool:
    """Whether it asks a tensor for its shape, dtype or device, which no mode sees of fake tensors."""
    return is_getter(func) and spelled(func) not in {*TENSOR_GETTERS, "data", "grad"}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_fake(tensor: Tensor) -> bool:
    return any(isinstance(t, FakeTensor) for t in (tensor, *unwrapped(tensor)))
