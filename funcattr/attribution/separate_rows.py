"""The check that a function of the user's gives each row its number from that row alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import current_level, outside_transforms, unwrapped
from ..agreement import same_numbers
from ..drawing import own_draws
from ..torch_state import can_look_at
from .neighbours import changed


def of_separate_rows(
    call: str, option: str, function: Callable[..., Tensor], together: int = 1
) -> Callable[..., Tensor]:
    """The function, `(output [K, ...], ...) -> [K]`, whose first numbers are checked where they can be looked at.

    Rows are changed, and the numbers of the others have to stay. Any two rows differ in some binary digit of their
    positions; so 2 log2 K questions, one for each digit and value, find out whether one depends on the other.

    Args:
        call: First words of errors.
        option: Whose value the function is.
        function: It is only called, with what it is given.
        together: How many neighbouring rows may see each other, such as both sides of a mask.

    Raises:
        ValueError: At a call, if they do not stay, and the function gives the same numbers when it is asked again.
    """
    checked: list[bool] = []

    def run(output: Tensor, *others: Any) -> Tensor:
        values = function(output, *others)
        has_numbers = isinstance(values, Tensor) and values.shape == output.shape[:1]  # else the method says so
        if not torch.compiler.is_compiling() and not checked and has_numbers:
            checked.append(True)
            _check(call, option, function, together, output, others, values)
        return values

    return run


def _check(
    call: str,
    option: str,
    function: Callable[..., Tensor],
    together: int,
    output: Tensor,
    others: tuple[Any, ...],
    values: Tensor,
) -> None:
    if (current_level() or 1) > 1:
        return  # beside the derivative that the method takes, somebody else's transform
    plain, found = [(unwrapped(t) or [t])[-1] for t in (output, values)]
    with outside_transforms(), torch.no_grad():
        if all(can_look_at(t) for t in (plain, found, *(o for o in others if isinstance(o, Tensor)))):
            _check_plain(call, option, function, together, plain, others, found)


def _check_plain(
    call: str,
    option: str,
    function: Callable[..., Tensor],
    together: int,
    output: Tensor,
    others: tuple[Any, ...],
    found: Tensor,
) -> None:
    other, positions = changed(output), torch.arange(len(output), device=output.device) // together
    shape = (-1, *[1] * (output.ndim - 1))
    with own_draws(output.device, [function]):
        for digit in range(((len(output) - 1) // together).bit_length()):
            for value in (0, 1):
                kept = (positions >> digit) % 2 == value
                again = function(torch.where(kept.reshape(shape), output, other), *others)
                if same_numbers(found[kept], again[kept], size=0.0):
                    continue
                if not same_numbers(found, function(output, *others), size=0.0):
                    return  # chance decides
                raise ValueError(
                    f"{call}({option}=<function>): expected one number for each copy, of that copy's output alone; "
                    "but it depends on the other rows of the output. Sum or average over the other dimensions only: "
                    "output.flatten(1).mean(1) in place of output.mean()."
                )
