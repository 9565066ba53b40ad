"""The check that examples are computed each by itself, so that a batch may hold copies of them."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..agreement import same_numbers
from ..batch import batch_of
from ..drawing import own_draws
from ..errors import FuncattrError
from ..model.functional import FunctionalModel
from ..torch_state import is_plain_eager
from .built_targets import is_data
from .example_dims import RowsError
from .neighbours import DRAWN_IN, GIVEN, MOVED, OTHERS, Neighbours, among_of_constant, examples_of, rows_of
from .question import Question
from .rounding import is_rounding
from .targets import score

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

    A batch runs alone, and then with each example among changed copies (see `neighbours`). That is done once for each
    model and shapes of inputs, and not where values cannot be looked at, or the output depends on chance.

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

    def alone(neighbours: Neighbours, question: Question = asked) -> Any:
        return found(question._replace(x=pytree.tree_map(neighbours.example, question.x)))

    def beside(neighbours: Neighbours, question: Question = asked) -> Any:
        return found(_beside(question, neighbours))

    named = (question.layout is None, question.output, *question.kwargs)
    about = (model, *named, asked.target, *_tensors(question))
    with torch.no_grad():
        are_separate(
            about,
            question.call,
            question.examples,
            question.device,
            alone=alone,
            beside=beside,
            again=alone,
            size=0.0,
            is_rounding=lambda neighbours, first, found: is_rounding(
                asked,
                first,
                found,
                alone=partial(alone, neighbours),
                beside=partial(beside, neighbours),
                beside_others=partial(beside, OTHERS[neighbours]),
            ),
        )


def are_separate(
    about: Iterable[Any],
    call: str,
    examples: int,
    device: torch.device,
    *,
    alone: Callable[[Neighbours], Any],
    beside: Callable[[Neighbours], Any],
    again: Callable[[Neighbours], Any],
    size: float,
    is_rounding: Callable[[Neighbours, Any, Any], bool] | None = None,
    way_out: str = "",
) -> bool:
    """Whether an example gets the same whatever lies beside it in the batch; False if that cannot be known.

    It cannot where the results depend on chance, are no tensors with a row for each example, or the batch alone fails.
    It is found out once for all that is alike in `about`.

    Args:
        about: The model or method, and what it is given; told apart by identity, tensors by their form.
        call: First words of errors.
        examples: N, the number of examples.
        device: Of the draws, which leave no trace.
        alone: The results for the examples that are asked about, a tree of tensors [N, ...].
        beside: Those for the batch where each of them lies among its copies. Each [N * rows_of(N), ...]
        again: Those for the examples once more. If they differ from `alone`, chance or rounding decides and not what
            lies beside.
        size: Of the numbers, as in `same_numbers`.
        is_rounding: Whether results of `alone` and of the same examples in `beside` that differ do so by rounding only.
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
        found = _compared(call, examples, alone, beside, again, size, is_rounding, way_out)
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


def _compared(
    call: str,
    examples: int,
    alone: Callable[[Neighbours], Any],
    beside: Callable[[Neighbours], Any],
    again: Callable[[Neighbours], Any],
    size: float,
    is_rounding: Callable[[Neighbours, Any, Any], bool] | None,
    way_out: str,
) -> bool | None:
    """As `are_separate`; None if the method fails on the batch, which it will say itself, and may not do again."""
    rows = rows_of(examples)

    def of(neighbours: Neighbours) -> tuple[Any, Any] | None:
        try:
            first = alone(neighbours)
        except RowsError as error:
            raise RowsError(call, error.what, way_out) from None
        except Exception:
            return None
        try:
            return first, beside(neighbours)
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

    def agree(neighbours: Neighbours, first: Any, both: Any) -> bool | None:
        if not _has_rows(first, examples) or not _has_rows(both, rows * examples):
            return None
        found = pytree.tree_map(lambda leaf: examples_of(leaf, examples), both)
        if same_numbers(first, found, size=size):
            return True
        if same_numbers(first, again(neighbours), size=size):
            if is_rounding is not None and is_rounding(neighbours, first, found):
                return True
            raise RowsError(call, "what an example gets depends on what else is in the batch", way_out)
        return False

    try:
        drawn_in = alone(DRAWN_IN), beside(DRAWN_IN)
    except Exception:  # of any kind, and perhaps by the numbers, such as a text without its last token
        neighbours = MOVED
    else:
        neighbours = GIVEN
        found = agree(DRAWN_IN, *drawn_in)
        if found is not True:
            return found
    results = of(neighbours)
    return None if results is None else agree(neighbours, *results)


def _has_rows(tree: Any, count: int) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in pytree.tree_leaves(tree))


def _tensors(question: Question) -> list[Any]:
    return pytree.tree_leaves((question.x, question.args, question.kwargs))


def _beside(question: Question, neighbours: Neighbours) -> Question:
    """The question of the examples, each among its copies."""
    copies = question.of_copies(pytree.tree_map(neighbours.among, question.x))

    def other(before: Any, after: Any) -> Any:
        is_repeated = isinstance(before, Tensor) and before.shape != after.shape
        return among_of_constant(before) if is_repeated else after

    more = pytree.tree_map(other, (question.args, question.kwargs), (copies.args, copies.kwargs))
    return copies._replace(args=more[0], kwargs=more[1])


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
