"""The forward pass of a question, on record."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from .._torch import pytree
from ..model.functional import FunctionalModel
from ..rulebook.conditions import Conditions
from ..rulebook.rulebook import Rulebook
from ..rules.composites import PLAIN
from ..rules.stabilizer import stabilized
from ..tape.pairing import Pairing
from ..tape.record import Record, Recording
from ..tape.vjp import recorded
from .question import Question
from .targets import score

Start = Literal["output", "one"]
"""The relevance of the target: its value in the output, or 1."""


class PassOptions(NamedTuple):
    """How the reverse pass of a question goes.

    Attributes:
        rules: The rulebook.
        start: The relevance that the pass starts from; None: the target's cotangent as it is.
        conditions: Masks of the cotangents at sites.
        baseline: Inputs structured and shaped as x, at which the model runs before.
    """

    rules: Rulebook = PLAIN
    start: Start | None = None
    conditions: Conditions | None = None
    baseline: Any = None


def forward(
    question: Question,
    options: PassOptions,
    strict: bool = True,
    keep: bool = False,
    through: Callable[[Tensor], Tensor] | None = None,
    final: bool = False,
) -> Record:
    """Run the model once, and before that at the baseline, if there is one.

    Args:
        question: What is asked.
        options: How the reverse pass will go.
        strict: Whether operations that the rulebook does not know raise, and outputs without a row for each example.
        keep: Whether the values at every step are kept.
        through: A target, to be on record as a part of the model.
        final: Whether nobody asks for a derivative of the result.
    """
    call, rules, conditions = question.call, options.rules, options.conditions
    if options.start not in (None, "output", "one"):
        raise ValueError(f"{call}(start=...): expected 'output' or 'one', got {options.start!r}.")
    model = question.model
    if rules.entries or question.begins or conditions is not None:
        model = model.ready()
    inputs, spec = pytree.tree_flatten(question.x)

    def run(model: FunctionalModel, *tensors: Tensor) -> Tensor:
        x = pytree.tree_unflatten(list(tensors), spec)
        value = question.explained(model, x, by_rows=strict)
        return value if through is None else score(call, value, through)

    explained = partial(run, model)

    marks = () if conditions is None else tuple(conditions.masks)
    how = Recording(call, rules, question.begins, model.sites, marks, strict)
    if options.baseline is None:
        how = how._replace(keep=keep, final=final)
        if how.is_plain and isinstance(model.structure.model, nn.Module):
            how = how._replace(whole=partial(run, model.in_one_piece()))
        return recorded(explained, tuple(inputs), how)
    baseline, given = pytree.tree_flatten(options.baseline)
    shapes = [[list(getattr(v, "shape", ())) for v in values] for values in (inputs, baseline)]
    if given != spec or shapes[0] != shapes[1]:
        expected = f"inputs structured and shaped as x, {shapes[0]}"
        raise ValueError(f"{call}(baseline=...): expected {expected}, got {shapes[1]}.")
    pairing = Pairing(call)
    roots = recorded(explained, tuple(baseline), how._replace(pairing=pairing)).roots
    passed = recorded(explained, tuple(inputs), how._replace(pairing=pairing, keep=keep))
    return passed._replace(baseline=roots, pull=lambda *g, **more: pairing.valid(passed.pull(*g, **more)))


def starting_cotangent(cotangent: Tensor, output: Tensor, options: PassOptions) -> Tensor:
    """The cotangent of the target, as the relevance that the pass starts from."""
    if options.start is None:
        return cotangent
    if options.rules.space == "relevance":
        return cotangent if options.start == "one" else cotangent * output
    return cotangent if options.start == "output" else cotangent / stabilized(output)
