"""Which call of a model gets which rule."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .functional import functionalize_once
from .passes import Options, forward
from .rulebook import Rulebook
from .steps import Step
from .tables import table


class Line(NamedTuple):
    """One call: the module that made it, the operation, its (first) output's shape, and what the rulebook does."""

    module: str
    operation: str
    shape: str
    rule: str


class Explanation(tuple[Line, ...]):
    """The calls of a forward pass that depend on the root, in order; prints as a table."""

    def __repr__(self) -> str:
        return table(Line._fields, self)


def explain(
    rules: Rulebook,
    model: Any,
    x: Any,
    *,
    layer: str | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Explanation:
    """The rows of `Rulebook.explain`."""
    options = Options(rules, layer, output)
    fm = functionalize_once(model)
    with torch.no_grad():
        steps = forward("explain", fm, x, options, args, dict(kwargs or {}), strict=False).steps
    return Explanation(_line(step) for step in steps)


def _line(step: Step) -> Line:
    shape = str(list(step.outputs[0].shape)) if step.outputs else ""
    return Line(step.path, step.op, shape, step.note or repr(step.action))
