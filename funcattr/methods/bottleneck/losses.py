"""The loss that an information bottleneck keeps small, a number for each copy of an example."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attribution.targets import Target, is_index, score

Loss = Callable[..., Tensor]
"""(output) or, given a target, (output, target) -> one number for each copy."""


def loss_of(call: str, loss: Loss | None, output: Tensor, target: Any, copies: int) -> Tensor:
    """The loss of each copy, of an output and a target that has been repeated for the copies. [M, ...] -> [M]

    Raises:
        ValueError: If it is not one number for each copy, or there is no loss without a class.
        TypeError: If its numbers are integers.
    """
    if loss is None:
        return _cross_entropy(call, output, target)
    if not callable(loss):
        raise TypeError(f"{call}(loss=...): expected a function, got {type(loss).__name__}.")
    values: Any = loss(output) if target is None else loss(output, target)
    if not isinstance(values, Tensor) or values.shape != (copies,):
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{call}(loss=<function>): expected one number for each of the {copies} copies (examples and noise "
            f'samples), shape [{copies}], got {got}. Losses of torch take reduction="none".'
        )
    if not values.is_floating_point():
        raise TypeError(f"{call}(loss=<function>): expected floating-point numbers, got {values.dtype}.")
    return values


def _cross_entropy(call: str, output: Tensor, target: Target) -> Tensor:
    """-log softmax(output)_c, averaged over space; of a target that is a function, its negative."""
    if callable(target):
        return -score(call, output, target)
    if target is None:
        score(call, output, target)  # which says what is missing, unless there is one number only
        raise ValueError(
            f"{call}(target=None): the cross-entropy needs classes. Give the loss: loss=<function of the output>."
        )
    values = -score(call, torch.log_softmax(output, 1) if output.ndim > 1 else output, target)
    # An index is one into space too, so that there is nothing to average.
    return values if is_index(target) or output.ndim < 3 else values / output[0, 0].numel()
