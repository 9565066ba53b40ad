"""The check that examples are computed each by itself, so that a batch may hold copies of them."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import pytree
from ..agreement import same_numbers
from ..batch import Rows, batch_of
from ..drawing import own_draws
from ..errors import FuncattrError
from ..model.functional import FunctionalModel
from ..torch_state import is_plain_eager
from .built_targets import is_data
from .example_dims import RowsError
from .few_examples import few_of
from .neighbours import DRAWN_IN, GIVEN, MOVED, SECOND, Change, Neighbours, asked_of
from .question import Question
from .rounding import is_rounding
from .targets import score, target_at

_checked: "weakref.WeakKeyDictionary[Any, dict[Any, bool]]" = weakref.WeakKeyDictionary()
"""Models and methods -> the shapes of inputs that they have been checked with -> whether examples are separate."""


def copies_of(question: Question, x: Any) -> Question:
    """The same question about `x`, copies of the examples (neighbours): the rest is repeated along. [N * S, ...]

    Raises:
        ValueError: If an example's output depends on what lies beside it.
    """
    if batch_of(question.call, x) != question.examples:
        check_separate(question)
    return question.of_copies(pytree.tree_map(_laid_as, x, question.x) if is_plain_eager() else x)


def _laid_as(copies: Tensor, x: Tensor) -> Tensor:
    """The copies with their channels last in memory if x has them so, where convolutions run faster."""
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    if layout is None or x.is_contiguous() or not x.is_contiguous(memory_format=layout):
        return copies
    return copies.contiguous(memory_format=layout)


def check_separate(question: Question) -> None:
    """Raise unless an example gets the same output whatever lies beside it in the batch.

    At most four of the examples run alone, as they are and drawn in, and then in one batch with all of both (see
    `neighbours`): five rows for each of the four. That is done once for each model and shapes of inputs, and not where
    values cannot be looked at, or the output depends on chance. A model that does not run on four runs on all.

    Four are enough where rows are treated alike, and mixed alike however many there are. What mixes larger batches
    only, more than twelve rows, passes; so does what mixes examples by numbers that those four do not have.

    Raises:
        ValueError: If the outputs differ, or there is not one row for each example.
    """
    layout, model, target = question.layout, question.model, question.target
    if not is_plain_eager() or model.training or (layout is not None and layout.has_one_example):
        return
    # A target of numbers is none of the model's, and one for each example. A function may mix them as a model may.
    mixes = not is_data(target)
    asked = question if mixes else question._replace(target=None)

    def found(question: Question) -> Any:
        output = question.outputs()
        return (output, score(question.call, output, question.target)) if mixes else output

    named = (question.layout is None, question.output, *question.kwargs)
    about = (model, *named, asked.target, *_tensors(question))
    few = few_of(question.examples, _tensors(question))
    with torch.no_grad():
        batches = [_batch(asked, rows, found) for rows in ([None] if few is None else [few, None])]
        are_separate(about, question.call, question.device, batches, size=0.0)


class Batch(NamedTuple):
    """Examples that are asked about, all of them or a few.

    Attributes:
        examples: N, their number.
        alone: The results for the examples with other numbers, a tree of tensors [N, ...].
        beside: Those for the batch where each of them lies among others. Each [N * neighbours.times, ...]
        again: Those of `alone` once more. If they differ, chance or rounding decides and not what lies beside.
        is_rounding: Whether results that differ, of the examples alone and at one place in `beside`, do so by rounding.
    """

    examples: int
    alone: Callable[[Change], Any]
    beside: Callable[[Neighbours], Any]
    again: Callable[[Change], Any]
    is_rounding: Callable[[Neighbours, int, Any, Any], bool] = lambda neighbours, place, first, found: False

    @staticmethod
    def at(place: int, neighbours: Neighbours, both: Any) -> Any:
        """Of the results of `beside`, those of the rows at one place. Each [N, ...]"""
        return pytree.tree_map(lambda leaf: asked_of(leaf, place, neighbours.times), both)


def _batch(question: Question, few: Tensor | None, results: Callable[[Question], Any]) -> Batch:
    """The examples of a question, or those at some rows."""
    of = Rows(1, few).at

    def alone(change: Change, question: Question = question) -> Any:
        return found(question, 1, change, of)

    def beside(neighbours: Neighbours, question: Question = question) -> Any:
        return found(question, neighbours.times, neighbours.among, lambda v: neighbours.constant(of(v)))

    def found(question: Question, times: int, change: Change, constant: Change) -> Any:
        target = target_at(question.call, question.target, question.examples, Rows(times, few))
        x = pytree.tree_map(lambda v: change(of(v)), question.x)
        return results(question.along(x, constant)._replace(target=target))

    def by_rounding(neighbours: Neighbours, place: int, first: Any, found: Any) -> bool:
        def among(neighbours: Neighbours) -> Callable[[Question], Any]:
            return lambda question: Batch.at(place, neighbours, beside(neighbours, question))

        return is_rounding(
            question,
            first,
            found,
            alone=partial(alone, neighbours.rows[place]),
            beside=among(neighbours),
            beside_others=among(neighbours.beside_others(place)),
        )

    return Batch(question.examples if few is None else len(few), alone, beside, alone, by_rounding)


def are_separate(
    about: Iterable[Any],
    call: str,
    device: torch.device,
    batches: Sequence[Batch],
    *,
    size: float,
    way_out: str = "",
) -> bool:
    """Whether an example gets the same whatever lies beside it in the batch; False if that cannot be known.

    It cannot where the results depend on chance, are no tensors with a row for each example, or the batch alone fails.
    It is found out once for all that is alike in `about`.

    Args:
        about: The model or method, and what it is given; told apart by identity, tensors by their form.
        call: First words of errors.
        device: Of the draws, which leave no trace.
        batches: What is asked about: the first that runs says it. The last has all examples.
        size: Of the numbers, as in `same_numbers`.
        way_out: The last words of the error.

    Raises:
        ValueError: If they do not.
    """
    about = list(about)
    owner, signature = _identity(about)
    try:
        known = {} if owner is None else _checked.setdefault(owner, {})
        if signature in known:
            return known[signature]
    except TypeError:  # what is no key, such as a list
        known, signature = {}, None
    with own_draws(device, parts_of(about)):
        found = _compared(call, batches, size, way_out)
    if found is None:
        return False
    known[signature] = found
    return found


def _identity(about: Iterable[Any]) -> tuple[Any, tuple[Any, ...]]:
    """The owner of what is remembered, which goes with it; and everything else, in a form to compare."""
    parts = [_model_of(part) for part in parts_of(about)]
    owners = [part for part in parts if _is_object(part)]
    # A model or a closure goes at some time; a function of a module stays, and all that is remembered with it.
    owner = next((part for part in owners if not isinstance(part, FunctionType)), next(iter(owners), None))
    return owner, tuple(_form(part) for part in parts if part is not owner)


def parts_of(values: Iterable[Any]) -> Iterator[Any]:
    """The leaves of values; in place of each `functools.partial` what it is made of."""
    for leaf in pytree.tree_leaves(tuple(values)):
        if isinstance(leaf, partial):
            yield from parts_of((leaf.func, leaf.args, *leaf.keywords.items()))
        else:
            yield leaf


def _model_of(part: Any) -> Any:
    """What stays the same over the functional models of one model."""
    if not isinstance(part, FunctionalModel):
        return part
    return part.structure if part.structure.edits else part.structure.model


def _is_object(part: Any) -> bool:
    return not isinstance(part, Tensor | type) and type(part).__weakrefoffset__ != 0


def _form(part: Any) -> Any:
    if isinstance(part, Tensor):
        return tuple(part.shape), part.dtype, part.device
    return weakref.ref(part) if _is_object(part) else (type(part), part)


def _compared(call: str, batches: Sequence[Batch], size: float, way_out: str) -> bool | None:
    """As `are_separate`; None if the method fails on the batch, which it will say itself, and may not do again."""
    for batch in batches:
        try:
            alone = {place: batch.alone(DRAWN_IN.rows[place]) for place in (SECOND, GIVEN)}
            both, neighbours = batch.beside(DRAWN_IN), DRAWN_IN
        except Exception:  # of any kind, and perhaps by the numbers, such as a text without its last token
            try:
                (alone, both), neighbours = _moved_results(call, batch, way_out), MOVED
            except Exception:
                if batch is batches[-1]:
                    raise
                continue
        found = _agree(call, batch, neighbours, alone, both, size, way_out) if alone else None
        if found is not None:
            return found
    return None


def _moved_results(call: str, batch: Batch, way_out: str) -> tuple[dict[int, Any], Any]:
    """The results alone, by place, none if the examples themselves fail; and those beside others."""
    examples, rows = batch.examples, MOVED.times
    try:
        alone = {GIVEN: batch.alone(MOVED.rows[GIVEN])}
    except RowsError as error:
        raise RowsError(call, error.what, way_out) from None
    except Exception:
        return {}, None
    try:
        both = batch.beside(MOVED)
    except RowsError as error:
        raise RowsError(call, f"with {rows} copies of each {error.what}", way_out) from None
    except torch.OutOfMemoryError as error:
        what = f"{call}: no memory for the check that examples do not see each other, on {rows} copies of each"
        raise torch.OutOfMemoryError(f"{what}. chunk_size=1 goes without it. {_line(error)}") from error
    except (FuncattrError, TypeError):
        raise
    except Exception as error:  # torch's, of any kind: shapes that do not fit any more
        what = f"with {rows} copies of each of {examples} examples it fails ({_line(error)})"
        raise RowsError(call, what, way_out) from error
    with suppress(Exception):  # where the numbers are at fault, nothing else is said of them
        alone[SECOND] = batch.alone(MOVED.rows[SECOND])
    return alone, both


def _agree(
    call: str, batch: Batch, neighbours: Neighbours, alone: dict[int, Any], both: Any, size: float, way_out: str
) -> bool | None:
    """Whether results are the same beside others, False where chance decides; None if there is no row for each."""
    if not _has_rows(both, neighbours.times * batch.examples):
        return None
    for place, first in alone.items():
        if not _has_rows(first, batch.examples):
            return None
        found = batch.at(place, neighbours, both)
        if same_numbers(first, found, size=size):
            continue
        if not same_numbers(first, batch.again(neighbours.rows[place]), size=size):
            return False
        if not batch.is_rounding(neighbours, place, first, found):
            raise RowsError(call, "what an example gets depends on what else is in the batch", way_out)
    return True


def _has_rows(tree: Any, count: int) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in pytree.tree_leaves(tree))


def _tensors(question: Question) -> list[Any]:
    return pytree.tree_leaves((question.x, question.args, question.kwargs))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
