"""Invariants over torch's own operations, which need no oracle.

On whatever is piecewise linear, `lrp` with eps -> 0 is `attnlrp` is x times the gradient, and relevance sums to the
output less what the report lists; `deep_lift` sums to the difference, on every operation that it takes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.calls.kinds import GROUPS, LINEAR
from funcattr.rulebook.rulebook import Rulebook
from funcattr.tape.record import Recording
from funcattr.tape.vjp import recorded

from .. import operation_table
from ..operation_table import Sample, Tensors
from ..sweeps import long

pytest.importorskip("expecttest", reason="torch's own tests need it")

EXACT = rules.epsilon_everywhere(eps=1e-300)
ONE_VALUE = frozenset("relu leaky_relu prelu abs neg positive dropout deg2rad rad2deg decomposed".split())
PIECEWISE = ONE_VALUE.union(*(GROUPS[group] for group in ("summation", "selection", "max_pool", "average_pool")))
WITH_A_CONSTANT = LINEAR | {"mul", "div"}
SATURATED = ("relu6",)
"""Where they saturate they are constant, and relevance passes on."""
REPEATED = ("max_unpool", "take", "scatter", "index_put", "index_copy", "put", "nll_loss")
"""Torch's inputs write one place more than once, where its own gradient is not the derivative."""
QUICK = ("add", "fft.rfft", "cumsum", "trace", "lerp", "grid_sample", "conv2d", "scatter_reduce", "maximum", "linear")


class Batched:
    """An operation as a model: one example, and an output of real numbers [1, K]."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self.inputs: Tensors = tuple(x[None] for x in sample.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        parts = self._sample.function(*(x[0] for x in inputs))
        return torch.cat([(torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).flatten() for y in parts])[
            None
        ]


def is_steady(model: Batched) -> bool:
    """Whether the operation draws nothing at random, and computes with all digits on finite numbers."""
    first, second = (model._sample.function(*model._sample.inputs) for _ in range(2))
    wide = all(y.dtype in (torch.float64, torch.complex128) and y.numel() for y in first)
    return wide and all(y.isfinite().all() for y in first) and all(map(torch.equal, first, second))


def cases(words: tuple[str, ...] | None, book: Rulebook) -> Iterator[tuple[str, Batched]]:
    """The inputs of the operations that the rulebook has a rule for; of some operations, or of all."""
    for name, found in operation_table.operations(("",) if words is None else words):
        found = found[:2]
        if not operation_table.what_is_missing(found, book):
            yield from ((name, model) for model in map(Batched, found) if is_steady(model))


def is_piecewise_linear(model: Batched) -> bool:
    """Whether all that the operation does is, as far as its calls tell."""
    steps = recorded(model, model.inputs, Recording("operation", EXACT)).steps

    def simple(op: str, operands: int) -> bool:
        return op in PIECEWISE or (op in WITH_A_CONSTANT and operands == 1)

    return all(step.action.kind == "decompose" or simple(step.op, len(step.inputs)) for step in steps)


def off(actual: Tensors, expected: Tensors) -> float:
    """The largest difference, in units of the largest number (of 1 at least)."""
    size = max(1.0, *(float(e.abs().max()) for e in expected))
    return max(float((a - e).abs().max()) for a, e in zip(actual, expected, strict=True)) / size


def disagreements(words: tuple[str, ...] | None) -> list[str]:
    found = []
    for name, model in cases(words, EXACT):
        if not is_piecewise_linear(model) or any(word in name for word in (*REPEATED, *SATURATED)):
            continue
        ones = torch.ones_like(model(*model.inputs))
        gradient = funcattr.gradient(model, model.inputs, ones)
        expected = tuple(x * g for x, g in zip(model.inputs, gradient, strict=True))
        for method in (
            lambda: funcattr.attnlrp(model, model.inputs, ones),
            lambda: funcattr.lrp(model, model.inputs, ones, rules=EXACT),
        ):
            if (gap := off(method(), expected)) > 1e-6:
                found.append(f"{name}: {gap:.3g}")
        for book in (EXACT, rules.attnlrp()):
            report = funcattr.conservation(model, model.inputs, ones, rules=book)
            unexplained = report.start - report.reached - sum(report.lost.values())
            if abs(unexplained) + abs(report.lost["other"]) > 1e-6 * max(1.0, abs(report.start)):
                found.append(f"{name}, {book.name}: {report.lost}")
    return found


def broken_sums(words: tuple[str, ...] | None) -> list[str]:
    found = []
    for name, model in cases(words, rules.deep_lift()):
        if any(word in name for word in REPEATED):
            continue
        baseline = tuple(0.9 * x + 0.01 for x in model.inputs)
        y, y0 = model(*model.inputs), model(*baseline)
        if not (y.isfinite().all() and y0.isfinite().all()):
            continue
        multiplied = funcattr.deep_lift(model, model.inputs, torch.ones_like(y), baseline=baseline)
        gap = sum(float(part.sum()) for part in multiplied) - float((y - y0).sum())
        if not abs(gap) <= 1e-7 * max(1.0, float(y.abs().sum())):
            found.append(f"{name}: {gap:.3g}")
    return found


def changed_outputs(words: tuple[str, ...] | None) -> list[str]:
    found = []
    for book in operation_table.BOOKS.values():
        for name, model in cases(words, book):
            output = funcattr.vjp(model, *model.inputs, rules=book)[0]
            expected = model(*model.inputs)
            if output.shape != expected.shape or off((output,), (expected,)) > 1e-9:
                found.append(f"{name}, {book.name}")
    return found


CHECKS: dict[str, Callable[[tuple[str, ...] | None], list[str]]] = {
    "piecewise linear": disagreements,
    "multipliers": broken_sums,
    "outputs": changed_outputs,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", CHECKS)
def test_an_invariant_holds_on_some_operations(check: str) -> None:
    assert CHECKS[check](QUICK) == []


@long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", CHECKS)
def test_an_invariant_holds_on_every_operation(check: str) -> None:
    assert CHECKS[check](None) == []


def test_the_invariants_fail_on_wrong_rules() -> None:
    wrong = rules.epsilon_everywhere(eps=1e-300) | {"cumsum": rules.pass_through}
    model = Batched(Sample(lambda x: (x.cumsum(0),), (torch.tensor([1.0, 2.0, -0.5]).double(),)))
    assert is_piecewise_linear(model)
    found = funcattr.lrp(model, model.inputs, torch.ones(1, 3).double(), rules=wrong)
    gradient = funcattr.gradient(model, model.inputs, torch.ones(1, 3).double())
    assert off(found, tuple(x * g for x, g in zip(model.inputs, gradient, strict=True))) > 0.1


@long
@pytest.mark.filterwarnings("ignore")
def test_the_table_in_the_docs_is_what_the_command_prints() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rulebooks.md").read_text()
    found = operation_table.counts(operation_table.rows())
    assert operation_table.table(found) in page
    assert all(count > 400 for count in found.values())
