"""A model in two parts at a site: the head runs until it, the tail runs from a value of it on.

The tail is the model's own forward, so that it can be any code; what the head's calls would compute is not computed.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .access import reading
from .examples import repeated
from .functional import FunctionalModel
from .levels import is_plain_eager
from .plans import Inputs, Plan, copied, is_fake, is_query, planned, tensors
from .sites import Editor, SiteMode


class _Reached(BaseException):
    """Leaves the model when the last value has been seen; no Exception, which a model may catch."""


class _DifferentCallsError(Exception):
    """The model did not call what it called before, or something that cannot be taken apart."""


def values_at(call: str, model: FunctionalModel, sites: tuple[str, ...], inputs: Inputs) -> dict[str, Any]:
    """The values at some sites; only what the model computes up to the last of them runs."""
    if torch.compiler.is_dynamo_compiling():  # where what nobody uses is not computed anyway
        if model.structure.traced:
            raise NotImplementedError(
                f"{call}: inside torch.compile a module has no sites. Give functionalize(model), made outside of the "
                "compiled function."
            )
        positional, keyword = copied(inputs)
        return reading(call, model, *sites)(*positional, **keyword)[1]
    return _stopped(call, model, _Stop(sites), inputs)


def _stopped(call: str, model: FunctionalModel, stop: "_Stop", inputs: Inputs) -> dict[str, Any]:
    positional, keyword = copied(inputs)
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
    connections, masks), it gets that repeated, as far as those are tensors with a row for each example or none. What
    cannot be taken apart so (control flow that looks at values, writes across the site, numbers of rows, random
    numbers, hooks, code that runs outside of torch), and everything inside transforms, runs from the start each time:
    slower, and the same.

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
    if not is_plain_eager() or torch.is_inference_mode_enabled() or model.training or model.has_hooks:
        return values_at(call, model, (site,), inputs)[site], replaced
    # Before the run on fake tensors: what the model keeps between calls then holds real ones.
    head = _Head(site)
    value = _stopped(call, model, head, inputs)[site]
    plan = planned(model, site, copies, examples * times)
    results = None if plan is None else _ready(plan, head, examples, times)
    if plan is None or results is None:
        return value, replaced
    return value, _Skipping(replaced, plan.functions, results)


class _Replaced:
    """The tail, by way of the whole model with the site's value replaced."""

    def __init__(self, call: str, model: FunctionalModel, site: str, inputs: Inputs) -> None:
        self.call, self.model, self.site, self.inputs = call, model, site, inputs

    def __call__(self, value: Tensor) -> Any:
        # A copy, which the tail may write into.
        return self.under(Editor({self.site: lambda _: value.clone()}))

    def under(self, mode: SiteMode) -> Any:
        """Run the model under a mode."""
        positional, keyword = copied(self.inputs)
        model = self.model.ready()
        with mode:
            output = model(*positional, **keyword)
        mode.require(self.call, (self.site,), self.model.sites)
        return output


class _Head(_Stop):
    """A real run of the head, which keeps what its calls return."""

    def __init__(self, site: str) -> None:
        super().__init__((site,))
        self.functions: list[Any] = []
        self.results: list[Any] = []

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if not is_query(func):
            self.functions.append(func)
            self.results.append(result)
        return result


def _ready(plan: Plan, head: _Head, examples: int, times: int) -> list[Any] | None:
    """The head's results for the copies, real where the tail reads them; None where their copies are not known."""
    if plan.functions != head.functions:
        return None
    results = list(plan.results)
    for number in {number for number, _ in plan.read}:
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
        return self.whole(value) if any(is_fake(t) for t in tensors(output)) else output


class _Skip(SiteMode):
    """Computes nothing until the site."""

    def __init__(self, site: str, value: Tensor, functions: list[Any], results: list[Any]) -> None:
        super().__init__((site,))
        self._value, self._functions, self._results = value, functions, results
        self._at, self._passed = 0, False

    def visit(self, value: Any, name: str) -> Any:
        self._passed = True
        return self._value.clone()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_query(func):
            return func(*args, **kwargs)
        if self._passed:
            # A write into a real tensor would drop a fake one without a word.
            if any(map(is_fake, tensors((args, kwargs)))):
                raise _DifferentCallsError
            return func(*args, **kwargs)
        if self._at == len(self._functions) or self._functions[self._at] != func:
            raise _DifferentCallsError
        result = self._results[self._at]
        self._at += 1
        return result
