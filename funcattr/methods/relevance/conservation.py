"""The books of relevance: a table that follows it call by call, and adds up."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...attribution.contribution import contribution
from ...attribution.each_layer import for_each_layer
from ...attribution.example_dims import ExampleDims
from ...attribution.forward import PassOptions, Start, forward, starting_cotangent
from ...attribution.question import Layer, Model, ask
from ...attribution.targets import Target, cotangent_of
from ...calls.kinds import GROUPS
from ...calls.operations import NORMALIZATIONS
from ...rulebook.rulebook import Rulebook
from ...rules.composites import Rules
from ...rules.parametric import Parametric
from ...tape.step import Step
from ...text_tables import table
from .lrp import relevance_rules

REASONS = ("bias", "dead units", "stabilizer", "softmax", "constants", "other")
"""The reasons for which relevance goes to no operand. "constants": values that are no operand, such as padding, the
filling of a mask or f(0); "other": what the rule does not explain, rounding where it does."""


class Flow(NamedTuple):
    """One call, in the order of the reverse pass; sums over all examples and positions.

    Attributes:
        path, op, rule: Which call, and its rule.
        arrived: Relevance of its output.
        passed: Relevance of its tracked operands; arrived less all that was lost.
        lost: Reason -> relevance, for the reasons in `REASONS`.
    """

    path: str
    op: str
    rule: str
    arrived: float
    passed: float
    lost: dict[str, float]


class Conservation(NamedTuple):
    """The relevance of a reverse pass, accounted for: start = reached + all that was lost.

    Attributes:
        start: Relevance of the target.
        reached: Relevance of the root.
        flows: One row for each call that relevance passed, from the output to the root.
    """

    start: float
    reached: float
    flows: tuple[Flow, ...]

    @property
    def lost(self) -> dict[str, float]:
        """Reason -> relevance lost in all calls."""
        return {reason: sum(flow.lost[reason] for flow in self.flows) for reason in REASONS}

    def __repr__(self) -> str:
        rows = [(f.path, f.op, f.rule, *self._numbers(f.arrived, f.passed, f.lost)) for f in self.flows]
        rows.append(("total", "", "", *self._numbers(self.start, self.reached, self.lost)))
        head = ("module", "operation", "rule", "in", "out", *REASONS)
        return table(head, rows, right=frozenset(range(3, len(head))))

    def _numbers(self, arrived: float, passed: float, lost: dict[str, float]) -> list[str]:
        """Cells of a row; what is only rounding stays blank."""
        smallest = 1e-12 * max(abs(self.start), *(abs(flow.arrived) for flow in self.flows))
        return ["" if abs(value) <= smallest else f"{value:.4g}" for value in (arrived, passed, *lost.values())]


@for_each_layer
def conservation(
    model: Model,
    x: Any,
    target: Target = None,
    *,
    rules: Rules = "epsilon_plus",
    layer: Layer | None = None,
    start: Start = "output",
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Conservation:
    """Follow the relevance of an `lrp` call by call: what arrived, what was passed on, and what took the rest.

    arrived = passed + sum of lost, for each call; start = reached + sum of lost, for all

    Args:
        model, x, target, rules, layer, start, output, args, kwargs, example_dims: As in `lrp`.

    Returns:
        A `Conservation`, which prints as a table; numbers are sums over the batch, in units of the start.

    Raises:
        ValueError, TypeError, UntrackedPathError, UnsupportedOperationError: As in `lrp`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).double()
        >>> report = funcattr.conservation(model, torch.ones(1, 2).double(), target=0, rules="epsilon")
        >>> abs(report.start - report.reached - sum(report.lost.values())) < 1e-12
        True
    """
    book = relevance_rules("conservation", rules)
    options = PassOptions(book, start)
    question = ask(
        "conservation",
        model,
        x,
        target,
        layer=layer,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
    )
    passed = forward(question, options, keep=True)
    begin = starting_cotangent(cotangent_of(question.call, passed.output, question.target), passed.output, options)
    flows: list[Flow] = []
    found = passed.pull(
        begin, observer=lambda step, arrived, results: flows.append(_flow(step, arrived, results, book))
    )
    if book.space == "gradient":
        begin, found = begin * passed.output, list(map(contribution, passed.roots, found))
    reached = sum(_total(g) for g in found)
    return Conservation(_total(begin), reached, tuple(f for f in flows if f.op != "site"))


def _flow(step: Step, came: list[Tensor | None], results: tuple[Tensor | None, ...], rules: Rulebook) -> Flow:
    """The books of one step."""
    arrived = [out.zeros() if g is None else g for out, g in zip(step.outputs, came, strict=True)]
    if rules.space == "gradient":
        arrived = [_times(v, g) for v, g in zip(step.values.outputs, arrived, strict=True)]
        results = tuple(None if g is None else _times(v, g) for v, g in zip(step.values.operands, results, strict=True))
    entered = sum(_total(g) for g in arrived)
    left = sum(_total(g) for g in results if g is not None)
    lost = _explained(step, arrived, entered - left, rules)
    lost["other"] = entered - left - sum(lost.values())
    return Flow(step.path, step.op, step.note or repr(step.action), entered, left, lost)


def _total(value: Tensor | float) -> float:
    if isinstance(value, Tensor) and value.is_complex():
        value = torch.view_as_real(value.detach().resolve_conj())
    return float(value.detach().double().sum()) if isinstance(value, Tensor) else value


def _times(value: Tensor, g: Tensor) -> Tensor:
    # A masked score of -infinity gets no gradient, and has no relevance.
    return torch.where(g == 0, 0, contribution(value, g))


_AFFINE = GROUPS["linear_map"] | GROUPS["summation"] | GROUPS["average_pool"] | set(NORMALIZATIONS)
_COPIES = GROUPS["selection"] | GROUPS["max_pool"]


def _explained(step: Step, arrived: list[Tensor], loss: float, rules: Rulebook) -> dict[str, float]:
    lost: dict[str, float] = dict.fromkeys(REASONS, 0.0)
    rule = step.action.function
    if isinstance(rule, Parametric) and step.call is not None and rules.space == "relevance":
        lost.update((reason, _total(amount)) for reason, amount in (rule.leaks(step.call, arrived[0]) or {}).items())
    elif step.op in _COPIES:
        lost["constants"] = loss
    elif rules.space == "gradient" and step.op in GROUPS["activation"]:
        # f(0) g has no x that it could be handed to: x * g is 0 where x is.
        lost["constants"] = float(torch.where(step.values.operands[0] == 0, arrived[0], 0).sum())
    elif rules.space == "gradient" and (step.op in _AFFINE or step.op == "softmax") and len(step.inputs) == 1:
        # For y = A x + b, y * g - x * (A^T g) is b * g; softmax is expanded at x.
        lost["softmax" if step.op == "softmax" else "bias"] = loss
    return lost
