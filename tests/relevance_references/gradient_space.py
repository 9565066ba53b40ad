"""AttnLRP and CP-LRP: the gradient with some derivatives changed, times x."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .bookkeeping import (
    ACTIVATIONS,
    BOOKKEEPING,
    CONSTANTS,
    CONVOLUTIONS,
    DENSE,
    ELEMENTWISE,
    GATES,
    SUMS,
    decomposed,
    frozen_statistics,
    is_falling_power,
    one_operand,
    product,
    stop,
)
from .walk import Call, Handler, Walk, pull, rewired, walk_back

ModelCall = Callable[[Tensor], Tensor]


def attnlrp_reference(model_call: ModelCall, x: Tensor, target: Any) -> Tensor:
    """x * g, g the gradient with f(x)/x for f', half of it to each of two factors, and norms' scales as constants."""
    return x * walk_back(_handlers((GATES,)), model_call, x, target)


def cp_lrp_reference(model_call: ModelCall, x: Tensor, target: Any) -> Tensor:
    """The same, but that what a softmax gives, and a factor that came out of an activation, are constants."""
    return x * walk_back({**_handlers((GATES, ACTIVATIONS)), "softmax": stop}, model_call, x, target)


def _handlers(gates: tuple[frozenset[str], ...]) -> dict[str, Handler | None]:
    by_autograd = [*BOOKKEEPING, *SUMS, *CONVOLUTIONS, "linear", "addmm", "softmax", "batch_norm"]
    norms = ["layer_norm", "group_norm", "instance_norm", "rms_norm"]

    def factors(walk: Walk, call: Call) -> Any:
        if len(call.operands) == 1:
            return call.func(*call.args, **call.kwargs)
        return product(call, gates, call.pull)

    return {
        **dict.fromkeys(by_autograd),
        **dict.fromkeys([*ELEMENTWISE, "log_softmax"], _elementwise),
        **dict.fromkeys(CONSTANTS, stop),
        **dict.fromkeys(norms, _norm),
        **dict.fromkeys(["mul", *DENSE[2:]], factors),
        "div": _quotient,
        "glu": _glu,
        **decomposed(),
    }


def _elementwise(walk: Walk, call: Call) -> Tensor:
    if is_falling_power(call):
        return stop(walk, call)
    x = one_operand(call)
    value = call.value()
    (slope,) = call.pull(torch.ones_like(value))
    at = x.detach()
    factor = torch.where(at == 0, slope, value / torch.where(at == 0, 1, at))
    return rewired(call.name, value, (x,), lambda g: (g * factor,))


def _norm(walk: Walk, call: Call) -> Tensor:
    x, affine = one_operand(call), frozen_statistics(call)
    return rewired(call.name, call.value(), (x,), lambda g: pull(affine, (x,), g))


def _quotient(walk: Walk, call: Call) -> Tensor:
    numerator, denominator = call.argument(0, "input"), call.argument(1, "other")
    if not (isinstance(numerator, Tensor) and numerator.requires_grad):
        return stop(walk, call)
    return numerator / (denominator.detach() if isinstance(denominator, Tensor) else denominator)


def _glu(walk: Walk, call: Call) -> Tensor:
    signal, gate = call.argument(0, "input").chunk(2, call.argument(1, "dim", -1))
    return signal * gate.detach().sigmoid()
