"""The table of a model's calls and their rules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..rules.composites import Rules, rulebook_of
from ..tape.step import Step
from ..text_tables import table
from .forward import PassOptions, forward
from .question import Layer, Model, ask


class Line(NamedTuple):
    """One call: the module that made it, the operation, its (first) output's shape, and the action of the rulebook."""

    module: str
    operation: str
    shape: str
    rule: str


class RuleTable(tuple[Line, ...]):
    """The calls of a forward pass that depend on the root, in order; prints as a table."""

    def __repr__(self) -> str:
        return table(Line._fields, self)


def rule_table(
    model: Model,
    x: Any,
    *,
    rules: Rules = "epsilon_plus",
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> RuleTable:
    """Every call of a model with the rule that it gets, as a table to print.

    Args:
        model, x, layer, output, args, kwargs: As in `attribute`; the model runs on them as they are, wherever examples
            lie.
        rules: A rulebook, its name, or a mapping from operation to rule, as in `lrp`.

    Returns:
        Rows (module, operation, shape, rule) in the order of the forward pass. Operations without a rule show as such.

    Raises:
        ValueError, TypeError: As in `attribute`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> print(funcattr.rule_table(model, torch.ones(1, 2)))
        module operation shape  rule
        0      linear    [1, 3] epsilon
        1      relu      [1, 3] pass_through
    """
    book = rulebook_of("rule_table", rules, unlisted="raise", space="relevance")
    question = ask("rule_table", model, x, layer=layer, output=output, args=args, kwargs=kwargs)
    with torch.no_grad():
        steps = forward(question, PassOptions(book), strict=False).steps
    return RuleTable(_line(step) for step in steps)


def _line(step: Step) -> Line:
    shape = str(list(step.outputs[0].shape)) if step.outputs else ""
    return Line(step.path, step.op, shape, step.note or repr(step.action))
