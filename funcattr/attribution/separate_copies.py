"""The check that examples are computed each by itself, so that a batch may hold copies of them."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..agreement import same_numbers
from ..batch import batch_of, merged
from ..errors import FuncattrError
from ..model.functional import FunctionalModel
from ..torch_state import is_plain_eager
from .built_targets import is_data
from .example_dims import RowsError
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

    The batch runs alone, and then with a changed copy of each example beside it. That is done once for each model and
    shapes of inputs, and not where values cannot be looked at, or the output depends on chance.

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
    with torch.no_grad():
        are_separate(
            about,
            question.call,
            question.examples,
            question.device,
            alone=lambda: found(asked),
            beside=lambda: found(_beside(asked, changed)),
            again=lambda: found(asked),
            size=0.0,
            is_rounding=lambda alone, beside: is_rounding(asked, alone, beside, found, _beside, changed),
        )


def are_separate(
    about: Iterable[Any],
    call: str,
    examples: int,
    device: torch.device,
    *,
    alone: Callable[[], Any],
    beside: Callable[[], Any],
    again: Callable[[], Any],
    size: float,
    is_rounding: Callable[[Any, Any], bool] | None = None,
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
        alone: The results for the batch, a tree of tensors [N, ...].
        beside: Those for the batch where each example is followed by a changed copy. Each [2 N, ...]
        again: Those for the batch once more. If they differ from `alone`, chance or rounding decides and not what lies
            beside.
        size: Of the numbers, as in `same_numbers`.
        is_rounding: Whether results of `alone` and of the same examples in `beside` that differ do so by rounding only.
        way_out: The last words of the error.

    Raises:
        ValueError: If they do not.
    """
    owner, signature = _identity(about)
    try:
        known = {} if owner is None else _checked.setdefault(owner, {})
        if signature in known:
            return known[signature]
    except TypeError:  # what is no key, such as a list
        known, signature = {}, None
    with own_draws(device):
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


@contextmanager
def own_draws(device: torch.device) -> Iterator[None]:
    """Draws that leave no trace in the random state."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _compared(
    call: str,
    examples: int,
    alone: Callable[[], Any],
    beside: Callable[[], Any],
    again: Callable[[], Any],
    size: float,
    is_rounding: Callable[[Any, Any], bool] | None,
    way_out: str,
) -> bool | None:
    """As `are_separate`; None if the method fails on the batch, which it will say itself, and may not do again."""
    try:
        first = alone()
    except RowsError as error:
        raise RowsError(call, error.what, way_out) from None
    except Exception:
        return None
    try:
        both = beside()
    except RowsError as error:
        raise RowsError(call, f"with two copies of each {error.what}", way_out) from None
    except (FuncattrError, TypeError):
        raise
    except Exception as error:  # torch's, of any kind: shapes that do not fit any more
        what = f"with two copies of each of {examples} examples it fails ({_line(error)})"
        raise RowsError(call, what, way_out) from error
    if not _has_rows(first, examples) or not _has_rows(both, 2 * examples):
        return None
    found = pytree.tree_map(lambda leaf: leaf[::2], both)
    if same_numbers(first, found, size=size):
        return True
    if same_numbers(first, again(), size=size):
        if is_rounding is not None and is_rounding(first, found):
            return True
        raise RowsError(call, "what an example gets depends on what else is in the batch", way_out)
    return False


def _has_rows(tree: Any, count: int) -> bool:
    return all(isinstance(leaf, Tensor) and leaf.shape[:1] == (count,) for leaf in pytree.tree_leaves(tree))


def _tensors(question: Question) -> list[Any]:
    return pytree.tree_leaves((question.x, question.args, question.kwargs))


def _beside(question: Question, change: Callable[[Tensor], Tensor]) -> Question:
    """The question of the examples, each followed by a changed copy of it."""
    copies = question.of_copies(pytree.tree_map(lambda value: _beside_copy(value, change), question.x))

    def other(before: Any, after: Any) -> Any:
        is_repeated = isinstance(before, Tensor) and before.shape != after.shape
        return _beside_copy(before, change) if is_repeated else after

    more = pytree.tree_map(other, (question.args, question.kwargs), (copies.args, copies.kwargs))
    return copies._replace(args=more[0], kwargs=more[1])


def beside_changed(value: Tensor) -> Tensor:
    """A batch, each example followed by a changed copy of it. [N, ...] -> [2 N, ...]"""
    return _beside_copy(value, changed)


def _beside_copy(value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return merged(torch.stack([value, change(value)], 1))


def changed(value: Tensor) -> Tensor:
    """A tensor of other numbers in the same range: moved by one place, and if they are no integers made smaller."""
    rolled = value.reshape(len(value), -1).roll(1, 1).reshape(value.shape) if value[0].numel() > 1 else value.roll(1, 0)
    return rolled * 0.7 + 0.1 if value.is_floating_point() or value.is_complex() else rolled


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
