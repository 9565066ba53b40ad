"""The check that a model computes each example by itself, so that a batch may hold copies of them."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..agreement import same_numbers
from ..batch import batch_of, merged
from ..errors import LOOK, FuncattrError
from ..torch_state import is_plain_eager
from .question import Question

_checked: "weakref.WeakKeyDictionary[Any, set[Any]]" = weakref.WeakKeyDictionary()
"""Models, and the shapes of inputs that they have been checked with."""


def copies_of(question: Question, x: Any) -> Question:
    """The same question about `x`, copies of the examples (neighbours): the rest is repeated along. [N * S, ...]

    Raises:
        ValueError: If an example's output depends on what lies beside it.
    """
    if batch_of(question.call, x) != question.examples:
        check_separate(question)
    return question.of_copies(x)


def check_separate(question: Question) -> None:
    """Raise unless an example gets the same output whatever lies beside it in the batch.

    The batch runs alone, and then with a changed copy of each example beside it. That is done once for each model and
    shapes of inputs, and not where values cannot be looked at, or the output depends on chance.

    Raises:
        ValueError: If the outputs differ, or there is not one row for each example.
    """
    layout, model = question.layout, question.model
    if not is_plain_eager() or model.training or (layout is not None and layout.has_one_example):
        return
    owner: Any = model.structure if model.structure.edits else model.structure.model
    signature = (question.layout is None, question.output, *map(_form, _tensors(question)))
    try:
        done = _checked.setdefault(owner, set())
    except TypeError:  # of a kind that cannot be referred to weakly
        done = set()
    if signature in done:
        return
    with torch.no_grad(), _own_draws(question.device):
        _compare(question._replace(target=None))
    done.add(signature)


def _tensors(question: Question) -> list[Any]:
    return pytree.tree_leaves((question.x, question.args, question.kwargs))


def _form(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else type(leaf)


@contextmanager
def _own_draws(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _compare(question: Question) -> None:
    examples = question.examples
    try:
        alone = question.outputs()
    except Exception:  # the method will say so
        return
    if alone.shape[:1] != (examples,):
        raise _wrong(question, f"the output has shape {list(alone.shape)}, not a row for each of {examples} examples")
    try:
        beside = _beside(question).outputs()
    except (FuncattrError, TypeError):
        raise
    except Exception as error:  # torch's, of any kind: shapes that do not fit any more
        raise _wrong(
            question, f"with two copies of each of {examples} examples the model fails ({_line(error)})"
        ) from error
    if beside.shape != (2 * examples, *alone.shape[1:]):
        raise _wrong(
            question,
            f"the output has shape {list(alone.shape)} for {examples} examples, "
            f"and {list(beside.shape)} for two copies of each",
        )
    if not same_numbers(alone, beside[::2], size=0) and same_numbers(alone, question.outputs(), size=0):
        raise _wrong(question, "what an example gets depends on what else is in the batch")


def _beside(question: Question) -> Question:
    """The question of the examples, each followed by a changed copy of it."""

    def both(value: Tensor) -> Tensor:
        return merged(torch.stack([value, _changed(value)], 1))

    copies = question.of_copies(pytree.tree_map(both, question.x))

    def other(before: Any, after: Any) -> Any:
        is_repeated = isinstance(before, Tensor) and before.shape != after.shape
        return both(before) if is_repeated else after

    more = pytree.tree_map(other, (question.args, question.kwargs), (copies.args, copies.kwargs))
    return copies._replace(args=more[0], kwargs=more[1])


def _changed(value: Tensor) -> Tensor:
    """A tensor of other numbers in the same range: moved by one place, and if they are no integers made smaller."""
    rolled = value.reshape(len(value), -1).roll(1, 1).reshape(value.shape) if value[0].numel() > 1 else value.roll(1, 0)
    return rolled * 0.7 + 0.1 if value.is_floating_point() or value.is_complex() else rolled


def _wrong(question: Question, what: str) -> ValueError:
    return ValueError(
        f"{question.call}(example_dims=0): expected examples in dimension 0 of x, of the output, and of those other "
        f"inputs that have as many rows, computed each by itself; but {what}. Say where they are: example_dims=1, or "
        'example_dims={"x": 1, "args": (None,), "output": 0}; None where there are none, as for a graph or a bag. '
        + LOOK
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
