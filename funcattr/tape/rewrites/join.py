"""An activation joined to the linear map before it, where a rule looks at both: a rewrite of the tape."""

from collections.abc import Callable
from functools import partial
from typing import Any

from ...calls.call import Call
from ...calls.recorded_call import RecordedCall
from ...rulebook.actions import apply_rule
from ..step import Step


def joined_by(linear: Step, activation: Step, caller: str) -> Step | None:
    """The linear step with the activation after it; None if its rule takes none, or one of another shape."""
    together = getattr(linear.action.function, "together", None)
    if together is None or linear.call is None or activation.call is None or len(activation.call.operands) != 1:
        return None
    if {activation.call.operands[0].shape, activation.outputs[0].shape} != {linear.call.output.shape}:
        return None
    forms = tuple(linear.call.forms)
    pull = partial(apply_rule, partial(_both, together, activation.call), linear.call, forms, caller)
    return linear.pulled_by(pull, note=f"with {activation.op} of {activation.path or 'the model'}")


def _both(together: Callable[[Call, Call, Any], Any], activation: RecordedCall, linear: Call, cotangent: Any) -> Any:
    return together(linear, activation.settled(), cotangent)
