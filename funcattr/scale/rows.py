"""The rows of a batch: a row for each example, whatever becomes of it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..sampling.loops import wide
from .examples import Example, Examples, Failure, in_batch
from .question import Answer, Question
from .seeds import seed_at


class RowOf(NamedTuple):
    """What is known of an example after it was asked about.

    Attributes:
        attributions: By column; NumPy's, for many small views of them are made.
        target, score: As in the file.
        failure: Why there are no attributions.
    """

    attributions: dict[str, np.ndarray[Any, Any]]
    target: int | tuple[int, ...] | None = None
    score: float | None = None
    failure: Failure | None = None


def rows_of(
    question: Question,
    examples: Examples,
    positions: Sequence[int],
    dtype: torch.dtype,
    check: Callable[[RowOf], RowOf] = lambda row: row,
) -> list[RowOf]:
    """Rows of a batch, in order.

    An example that cannot be read, is not finite, or is refused has a failure in its row. In the batch another example
    stands in its place, so that the rest is asked as if it was well: by the same kernels, with the same draws. Examples
    of other shapes are asked first, shape by shape; the shape that most have comes last.

    Args:
        question: What is asked.
        examples: The data.
        positions: Those of the batch.
        dtype: Of the attributions in the file.
        check: Gives a row a failure if it does not fit the file.
    """
    read = {position: examples.read(position) for position in positions}
    rows = {p: RowOf({}, failure=one) for p, one in read.items() if isinstance(one, Failure)}
    groups: dict[object, list[int]] = {}
    for position, one in read.items():
        if isinstance(one, Example):
            groups.setdefault(one.form, []).append(position)
    by_size = sorted(groups.values(), key=lambda group: (len(group), group[0]))
    seed = seed_at(examples.seed, "ask", positions[0])
    for group in by_size:
        well = {p: one for p in group if isinstance(one := read[p], Example)}
        failed = [p for p, row in rows.items() if row.failure is not None] if group is by_size[-1] else []
        found = _group(question, well, sorted([*group, *failed]), seed, dtype)
        rows |= {position: check(row) for position, row in found.items()}
    return [rows[position] for position in positions]


def _group(
    question: Question, well: dict[int, Example], places: list[int], seed: int, dtype: torch.dtype
) -> dict[int, RowOf]:
    """Rows of the examples of one form; `places` are theirs and those of examples in whose place one stands."""
    rows: dict[int, RowOf] = {}
    x = in_batch(list(well.values()), question.device)
    finite = finite_rows([x] if isinstance(x, Tensor) else list(x.values()))
    if finite is not None:
        bad = [p for p, is_finite in zip(well, finite, strict=True) if not is_finite]
        rows |= {p: RowOf({}, failure=Failure(ValueError("the input has NaN or infinity in it"))) for p in bad}
        well = {p: example for p, example in well.items() if p not in bad}
    if not well:
        return rows
    try:
        answer = _asked(question, well, places, seed, x if finite is None and len(well) == len(places) else None)
    except _FATAL:
        raise
    except Exception as error:
        if len(well) == 1:
            return rows | dict.fromkeys(well, RowOf({}, failure=Failure(error)))
        return rows | _one_by_one(question, well, places, seed, dtype, error)
    return rows | _good(answer, well, places, dtype)


def _one_by_one(
    question: Question, well: dict[int, Example], places: list[int], seed: int, dtype: torch.dtype, error: Exception
) -> dict[int, RowOf]:
    """Find the examples that the method refuses alone, and ask about the rest again."""
    refused: dict[int, RowOf] = {}
    for place, example in well.items():
        try:
            _asked(question, {place: example}, [place], seed, None)
        except _FATAL:
            raise
        except Exception as alone:
            refused[place] = RowOf({}, failure=Failure(alone))
    rest = {place: example for place, example in well.items() if place not in refused}
    if refused and rest:
        try:
            return refused | _good(_asked(question, rest, places, seed, None), rest, places, dtype)
        except _FATAL:
            raise
        except Exception as again:
            error = again
    return refused | dict.fromkeys(rest, RowOf({}, failure=Failure(error)))


_FATAL = (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
"""Errors of the machine, not of an example: the run stops."""


def _asked(question: Question, well: dict[int, Example], places: list[int], seed: int, x: object) -> Answer:
    """The answer for a batch in which the first well example stands in the places of others."""
    first = next(iter(well))
    standing = [place if place in well else first for place in places]
    if x is None:
        x = in_batch([well[p] for p in standing], question.device)
    return question.ask(x, standing, [well[p].target for p in standing], seed)


def _good(answer: Answer, well: dict[int, Example], places: list[int], dtype: torch.dtype) -> dict[int, RowOf]:
    """The rows of an answer; one with a number that the file cannot hold says so."""
    faults = [faults_of(part, dtype) for part in answer.attributions.values()]
    columns = {name: part.to(dtype).cpu().numpy() for name, part in answer.attributions.items()}
    scores = [None] * len(places) if answer.scores is None else answer.scores.double().tolist()
    rows: dict[int, RowOf] = {}
    for i, place in enumerate(places):
        if place not in well:
            continue
        fault = next((found[i] for found in faults if i in found), None)
        parts = {} if fault else {name: column[i] for name, column in columns.items()}
        rows[place] = RowOf(parts, answer.targets[i], scores[i], Failure(ArithmeticError(fault)) if fault else None)
    return rows


def finite_rows(parts: Sequence[Tensor]) -> list[bool] | None:
    """Which examples are finite, or None if all are."""
    numbers = [part.flatten(1) for part in parts if part.is_floating_point() and part.numel()]
    # A sum is not finite where some number is not. Where it only overflows, every number is looked at.
    if all(bool(part.sum(1, dtype=wide(part.dtype)).isfinite().all()) for part in numbers):
        return None
    return torch.stack([part.isfinite().all(1) for part in numbers]).all(0).tolist()


def faults_of(part: Tensor, dtype: torch.dtype) -> dict[int, str]:
    """Why rows of attributions cannot be kept in a dtype, by row: not finite, too large, or all too small."""
    if not part.numel() or (part.dtype == dtype and finite_rows([part]) is None):
        return {}
    low, high = part.flatten(1).aminmax(dim=1)
    largest, limits = torch.maximum(-low, high), torch.finfo(dtype)
    kept = largest.to(dtype)
    bad = ~kept.isfinite()
    if torch.finfo(part.dtype).tiny < limits.tiny:
        bad |= (largest > 0) & (kept < limits.tiny)
    name = str(dtype).removeprefix("torch.")
    faults = {}
    for row in bad.nonzero()[:, 0].tolist():
        value = float(largest[row])
        if value != value or value == float("inf"):
            faults[row] = "the attributions have NaN or infinity in them"
        else:
            wider = "float32" if dtype == torch.float16 else "float64"
            faults[row] = (
                f"the largest attribution is {value:.4g}, and {name} holds {limits.tiny:.3g} to {limits.max:.4g}: "
                f"run(dtype=torch.{wider})"
            )
    return faults
