"""The tape: one step for each recorded call."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.declarations import declared, form_that_writes_over
from ..calls.recorded_call import RecordedCall
from ..rulebook.actions import UNLISTED, Action, apply_rule

Pull = Callable[[Any], tuple[Any, ...]]


class OutputSlot(NamedTuple):
    """A differentiable result of a call; what a cotangent of it looks like when none arrives."""

    slot: int
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


class Values(NamedTuple):
    """What went in and came out of a call, kept only where somebody asked for it."""

    operands: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


NO_VALUES = Values()


class Step(NamedTuple):
    """A recorded call: how to pull a cotangent back through it, and between which slots.

    Attributes:
        pull: Cotangent of the outputs -> one for each input, None where nothing flows.
        inputs: Slots of the tracked operands.
        outputs: Slots of the results; none for a call that is stopped or decomposed.
        op, path, action: What was called, where, and what the rulebook does with it.
        call: The call, where a rule needs it.
        if_last: The action instead, if no linear map follows on the way to the output.
        mark: Name of the site that this step stands for, '' for a call.
        note: What `resolve` made of the step.
        values: The tensors at its inputs and outputs, if they are kept.
        owned: Whether the cotangents that it gives are new tensors, which nobody else holds.
        over: The pullback of a cotangent that nobody else holds, and that it may write over; None where that is `pull`.
    """

    pull: Pull
    inputs: tuple[int, ...]
    outputs: tuple[OutputSlot, ...]
    op: str = "site"
    path: str = ""
    action: Action = UNLISTED
    call: RecordedCall | None = None
    if_last: Action | None = None
    mark: str = ""
    note: str = ""
    values: Values = NO_VALUES
    owned: bool = False
    over: Pull | None = None

    def ruled(self, action: Action, call: RecordedCall, caller: str) -> "Step":
        """The step of `call` by `action`, a rule or the ordinary adjoint."""
        pull, owned, over = pull_of(action, call, caller)
        return self._replace(pull=pull, action=action, call=call, if_last=None, owned=owned, over=over)


def pull_of(action: Action, call: RecordedCall, caller: str) -> tuple[Pull, bool, Pull | None]:
    """`pull`, `owned` and `over` of the step of `call` by `action`, a rule or the ordinary adjoint."""
    if action.function is None:
        return lambda g: call.settled().vjp(g), False, None
    # No reference to the recorder in the pullback, or the two would keep each other until a garbage collection.
    forms = call.forms
    # Rules that need no values need them where complex numbers mix their parts.
    operands, output, own = declared(action.function)
    if not (operands and output) and (call.compared or call.is_complex):
        operands = output = True
    if not operands:
        call.drop_inputs()
    if not output and (not operands or call.can_run_again):
        call.drop_output()
        if not operands:
            call.unwatch()
    over = form_that_writes_over(action.function)
    over = None if over is None else partial(apply_rule, over, call, forms, caller)
    return partial(apply_rule, action.function, call, forms, caller), own, over
