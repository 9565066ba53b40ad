"""Results that the tape does not hold, because they are computed again from tensors that it holds anyway.

An activation is relu(z) of a z that the rule before it may hold; a convolution's output is of no use once a batch norm
is folded into it.
"""

import weakref
from typing import Any

from torch import Tensor

from ..calls.declarations import declared
from ..calls.kinds import LINEAR
from ..calls.normalization import has_constant_statistics
from ..calls.operations import CONVOLUTIONS
from ..calls.recorded_call import RecordedCall
from ..calls.saved_tensors import Deferred
from ..rulebook.actions import Action
from .step import OutputSlot, Step


class Recomputing:
    """Lets the calls of a recording forget what can be computed again, as they are met."""

    def __init__(self) -> None:
        self._relus: dict[int, tuple[RecordedCall, Any]] = {}  # by the slots of their results
        self._results: dict[int, Any] = {}  # of linear maps and norms, by their slots, as the tape holds them

    def forget(
        self,
        call: RecordedCall,
        inputs: tuple[int, ...],
        outputs: tuple[OutputSlot, ...],
        action: Action,
        before: Step | None,
    ) -> None:
        """Let a call that is about to get its rule, and the step `before` it, hold no more than they need."""
        if len(inputs) != 1:
            return
        if call.op in LINEAR or action.kind == "fold":
            self._results[outputs[0].slot] = weakref.ref(call.output)
        if action.kind == "fold":
            if has_constant_statistics(call):
                _let_go(before, call, inputs)
        elif call.op == "relu" and action.function is not None and not declared(action.function).operands:
            self._relus[outputs[0].slot] = (call, self._results.get(inputs[0]) or weakref.ref(call.operands[0]))
        elif call.op == "linear" or call.op in CONVOLUTIONS:
            self._compute_again(call, inputs[0])

    def _compute_again(self, call: RecordedCall, slot: int) -> None:
        """Let a linear map compute its operand again, if that is the relu of a value which is held without it."""
        relu, reference = self._relus.get(slot, (None, None))
        z = None if reference is None else reference()
        if relu is not None and z is not None and call.tracks("input") and call.can_run_again:
            call.defer_operand(Deferred(_Again(relu, z), [z], call.path))


def _let_go(before: Step | None, norm: RecordedCall, inputs: tuple[int, ...]) -> None:
    """Before a batch norm, forget the linear map's output: folded, it needs none; else it is computed again."""
    if before is None or before.call is None or before.op not in LINEAR:
        return
    if tuple(out.slot for out in before.outputs) == inputs and before.call.can_run_again:
        norm.defer_operand(before.call.again())
        before.call.drop_output()


class _Again:
    """The relu of a value."""

    def __init__(self, relu: RecordedCall, z: Tensor) -> None:
        self.relu, self.z = relu, z

    def __call__(self) -> Tensor:
        return self.relu.with_operands(self.z)
