"""Rounding that a model makes large, told from examples of a batch that see each other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..agreement import same_numbers
from .question import Question


def is_rounding(
    question: Question,
    first: Any,
    found: Any,
    *,
    alone: Callable[[Question], Any],
    beside: Callable[[Question], Any],
    beside_others: Callable[[Question], Any],
) -> bool:
    """Whether an example's numbers differ in a larger batch only because sums there have another order.

    A larger batch of other copies is computed by the same operations in the same order: an example that does not see
    the copies has the same numbers to the last bit. What is left to the number of rows is gone in double precision. A
    model that does not run in it, such as a function with constants of its own, is asked what a few roundings do.

    Args:
        question: What is asked.
        first, found: Results that differ, of the examples alone and among copies. [N, ...]
        alone: The results of a question, of its examples alone. [N, ...]
        beside, beside_others: Those of the same examples among the copies, and among others. [N, ...]
    """
    others = beside_others(question)
    if not all(map(_same_bits, pytree.tree_leaves(found), pytree.tree_leaves(others))):
        return False

    def in_double() -> tuple[Any, Any]:
        wide = _with_tensors(question, _in_double)
        return alone(wide), beside(wide)

    exact = _attempt(in_double)
    if exact is not None and all(leaf.dtype == torch.float64 for leaf in pytree.tree_leaves(exact)):
        return same_numbers(*exact, size=0.0)
    off = _attempt(lambda: alone(_with_tensors(question, nudged)))
    if off is None:
        return False
    rows = zip(*map(pytree.tree_leaves, (first, found, off)), strict=True)
    return all(_largest(b - a) <= 8 * _largest(c - a) for a, b, c in rows)


def _attempt(run: Callable[[], Any]) -> Any:
    """The results, None where the model does not run on such numbers: torch's errors are of any kind."""
    try:
        return run()
    except Exception:
        return None


def nudged(value: Tensor) -> Tensor:
    """A tensor that is off by a few roundings, as its features are where another number of rows is computed."""
    if not value.is_floating_point():
        return value
    signs = 1 - 2 * (torch.arange(value.numel(), device=value.device) % 2).reshape(value.shape)
    return value + 4 * torch.finfo(value.dtype).eps * signs * value


def _in_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _with_tensors(question: Question, change: Callable[[Tensor], Tensor]) -> Question:
    """The question with all tensors that are given, and the model's own, changed."""
    model = question.model
    own = {name: change(tensor.detach()) for name, tensor in (model.params | model.buffers).items()}
    given = question.x, question.args, question.kwargs
    x, args, kwargs = pytree.tree_map_only(Tensor, lambda value: change(value.detach()), given)
    return question._replace(x=x, args=args, kwargs=kwargs, model=model.bind(own))


def _same_bits(found: Tensor, others: Tensor) -> bool:
    return torch.equal(found.nan_to_num(), others.nan_to_num())


def _largest(difference: Tensor) -> float:
    return float(difference.abs().nan_to_num().max())
