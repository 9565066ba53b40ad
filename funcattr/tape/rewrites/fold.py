"""Batch norm folded into the linear operation beside it: one affine map in place of two, as a rewrite of the tape.

Eval-mode batch norm is y = s x + t per channel, s = w / sqrt(var + eps), t = b - s mean. Before a linear operation, t
passes through the map as a field of biases.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ...calls.folded import bias_after, scaled_inputs, scaled_outputs
from ...calls.linear_map import LinearMap
from ...calls.normalization import has_constant_statistics, scale_and_shift
from ...calls.operations import CONVOLUTIONS
from ...calls.recorded_call import RecordedCall
from ...calls.saved_tensors import Deferred
from ...rulebook.actions import Action
from ..step import Step


def fold_after(before: Step, norm: Step, caller: str) -> Step | None:
    """The linear step with the batch norm after it folded in; None if it cannot."""
    linear, found = _foldable(before), _norm(norm)
    if linear is None or found is None:
        return None
    assert norm.call is not None
    scale, shift = found
    weight, bias = _scaled(linear, scale, scaled_outputs), bias_after(linear.argument("bias"), scale, shift)
    dtype, changes = norm.call.forms[0][1], {}
    given = linear.forms[0][1]
    if given != dtype:  # a cast lies between, and the map that both are is one of the norm's dtype
        x = linear.argument("input")
        changes["input"] = Deferred(lambda: x.to(dtype), [x], linear.path)
    call = linear.rewritten(norm.call.output, weight=weight, bias=bias, **changes)
    made = before.ruled(before.action, call, caller)
    return made if given == dtype else made.pulled_by(lambda g: tuple(r.to(given) for r in made.pull(g.to(dtype))))


def fold_before(norm: Step, after: Step, caller: str) -> Step | None:
    """The linear step with the batch norm before it folded in; None if it cannot."""
    linear, found = _foldable(after), _norm(norm)
    if linear is None or found is None:
        return None
    assert norm.call is not None
    x = norm.call.argument("input")
    if x.dtype != linear.forms[0][1]:  # a cast lies between
        return None
    layer, (scale, shift) = LinearMap(linear), found
    # Where a convolution pads with zeros, less of t arrives: the bias is no longer the same everywhere.
    field = shift.reshape(-1, *[1] * (x.ndim - 2)).expand(x.shape[1:])[None]
    bias = layer(field, layer.weight, layer.bias)
    changes = {"input": x, "weight": _scaled(linear, scale, scaled_inputs), "bias": bias}
    call = linear.rewritten(linear.output, _with_field, norm.call.origins, **changes)
    if linear.baseline is not None and norm.call.baseline is not None:
        changes["input"] = norm.call.baseline.argument("input")
        call.baseline = linear.baseline.rewritten(linear.baseline.output, _with_field, **changes)
    return after.ruled(after.action, call, caller)


def _foldable(step: Step) -> RecordedCall | None:
    call = step.call
    if call is None or step.action is None or step.action.kind != "rule" or len(call.forms) != 1:
        return None
    rank = 2 if call.op == "linear" else CONVOLUTIONS[call.op][0] + 2 if call.op in CONVOLUTIONS else None
    if rank is None or len(call.forms[0][0]) != rank or not call.tracks("input"):
        return None
    return call if isinstance(call.argument("weight"), Tensor) else None


def _norm(step: Step) -> tuple[Tensor, Tensor] | None:
    assert step.call is not None
    step.call.check_unwritten()
    return scale_and_shift(step.call)


def folds(norm: Step) -> bool:
    """Whether a batch norm is an affine map, by constant statistics."""
    return norm.call is not None and has_constant_statistics(norm.call)


def passed_by(norm: Step, into: str) -> Step:
    """What is left of a batch norm that was folded `into` a step or site: it passes on what arrives."""
    note = f"folded into {into!r}"
    return norm.pulled_by(_passed, in_proportion=_passed, action=Action("fold"), call=None, note=note)


def _passed(relevance: Any) -> tuple[Any, ...]:
    return (relevance,)


def _scaled(linear: RecordedCall, scale: Tensor, scaled: Callable[..., Tensor]) -> Deferred:
    """The weight times s, made where it is used: all of them at once would be as much memory as the model."""
    weight, groups, transposed = linear.argument("weight"), linear.argument("groups", 1), "transpose" in linear.op
    return Deferred(lambda: scaled(weight, scale, groups, transposed), [weight], linear.path)


def _with_field(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a linear operation, for a bias that is a field."""

    @wraps(func)
    def with_field(input: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
        return func(input, weight, None, **options) + bias

    return with_field
