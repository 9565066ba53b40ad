"""The tape: one step for each recorded call."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.declarations import declared, form_that_writes_over, proportional_form
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
        in_proportion: The pullback that takes `Proportional` relevance too, and may give such; None where none does.
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
    in_proportion: Pull | None = None

    def pulled_by(self, pull: Pull, in_proportion: Pull | None = None, **changes: Any) -> "Step":
        """The step with another pullback, in place of all its forms."""
        return self._replace(**Pulls(pull, in_proportion=in_proportion)._asdict(), **changes)

    def ruled(self, action: Action, call: RecordedCall, caller: str) -> "Step":
        """The step of `call` by `action`, a rule or the ordinary adjoint."""
        return self._replace(action=action, call=call, if_last=None, **pull_of(action, call, caller)._asdict())


class Pulls(NamedTuple):
    """The pullbacks of a `Step`, by the names of its attributes."""

    pull: Pull
    owned: bool = False
    over: Pull | None = None
    in_proportion: Pull | None = None


def pull_of(action: Action, call: RecordedCall, caller: str) -> Pulls:
    """The pullbacks of the step of `call` by `action`, a rule or the ordinary adjoint."""
    if action.function is None:
        return Pulls(lambda g: call.settled().vjp(g))
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

    def applied(rule: Callable[..., Any] | None) -> Any:
        return None if rule is None else partial(apply_rule, rule, call, forms, caller)

    over, in_proportion = form_that_writes_over(action.function), proportional_form(action.function)
    return Pulls(applied(action.function), own, applied(over), applied(in_proportion))
