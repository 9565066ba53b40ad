"""Layer-wise relevance propagation: what goes back through a rewired model is the relevance itself."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import linear_rules as rules
from .bookkeeping import (
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
from .linear_maps import batch_norm, linear
from .linear_rules import EPS, stabilised
from .walk import Call, Handler, Walk, is_tracked, pull, rewired, walk_back


class Composite(NamedTuple):
    """A rule for each kind of linear map; `first` for those that have none before them."""

    convolution: rules.Rule
    dense: rules.Rule = rules.epsilon
    first: rules.Rule | None = None
    folds_batch_norm: bool = True  # otherwise batch norms pass relevance on
    eps: float = EPS


def composites(low: Any = -2.0, high: Any = 2.0) -> dict[str, Composite]:
    return {
        "epsilon": Composite(rules.epsilon),
        "epsilon_plus": Composite(rules.z_plus),
        "epsilon_plus_flat": Composite(rules.z_plus, first=rules.flat),
        "epsilon_gamma": Composite(rules.gamma(0.25)),
        "epsilon_gamma_box": Composite(rules.gamma(0.25), first=rules.z_box(low, high)),
        "epsilon_alpha2_beta1": Composite(rules.alpha_beta(2, 1)),
        "epsilon_alpha2_beta1_flat": Composite(rules.alpha_beta(2, 1), first=rules.flat),
        "excitation_backprop": Composite(
            rules.winning_probability, rules.winning_probability, folds_batch_norm=False, eps=1e-20
        ),
    }


def lrp_reference(
    model_call: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Any,
    composite: str | Composite,
    *,
    low: Any = -2.0,
    high: Any = 2.0,
) -> Tensor:
    """The relevance of x for a relevance of one at the target."""
    chosen = composites(low, high)[composite] if isinstance(composite, str) else composite
    return walk_back(_handlers(chosen), model_call, x, target)


def _handlers(composite: Composite) -> dict[str, Handler | None]:
    norms = ["layer_norm", "group_norm", "instance_norm", "rms_norm"]
    return {
        **dict.fromkeys(BOOKKEEPING),
        **dict.fromkeys([*ELEMENTWISE, "log_softmax"], _pass),
        **dict.fromkeys(CONSTANTS, stop),
        **dict.fromkeys(SUMS, lambda walk, call: _sum(call, composite.eps)),
        **dict.fromkeys(norms, lambda walk, call: _norm(call, composite.eps)),
        **dict.fromkeys(CONVOLUTIONS, lambda walk, call: linear(call, composite.convolution, composite.first)),
        **dict.fromkeys(DENSE, lambda walk, call: _dense(call, composite)),
        "batch_norm": batch_norm if composite.folds_batch_norm else _pass,
        "softmax": _softmax,
        "mul": _product,
        "div": _quotient,
        "glu": _glu,
        **decomposed(),
    }


def _pass(walk: Walk, call: Call) -> Tensor:
    if is_falling_power(call):
        return stop(walk, call)
    return rewired(call.name, call.value(), (one_operand(call),), lambda r: (r,))


def _sum(call: Call, eps: float) -> Tensor:
    value = call.value()

    def backward(r: Tensor) -> tuple[Tensor, ...]:
        shares = call.pull(r / stabilised(value, eps))
        # a score of minus infinity has no relevance
        return tuple(torch.where(o.isinf(), 0, o * share) for o, share in zip(call.operands, shares))

    return rewired(call.name, value, call.operands, backward)


def _norm(call: Call, eps: float) -> Tensor:
    x, affine = one_operand(call), frozen_statistics(call)

    def backward(r: Tensor) -> tuple[Tensor]:
        return (x * pull(affine, (x,), r / stabilised(affine(x), eps))[0],)

    return rewired(call.name, call.value(), (x,), backward)


def _softmax(walk: Walk, call: Call) -> Tensor:
    x, p, axis = one_operand(call), call.value(), call.argument(1, "dim")

    def backward(r: Tensor) -> tuple[Tensor]:
        return (torch.where(x == -math.inf, 0, x * (r - p * r.sum(axis, keepdim=True))),)

    return rewired("softmax", p, (x,), backward)


def _summed(shares: tuple[Tensor, ...], call: Call) -> tuple[Tensor, ...]:
    return tuple(share.sum_to_size(operand.shape) for share, operand in zip(shares, call.operands))


def _product(walk: Walk, call: Call) -> Tensor:
    if len(call.operands) == 1:
        return rewired("mul", call.value(), call.operands, lambda r: _summed((r,), call))
    return product(call, (GATES,), lambda r: _summed((r, r), call))


def _quotient(walk: Walk, call: Call) -> Tensor:
    if not is_tracked(call.argument(0, "input")):
        return stop(walk, call)
    numerator = call.operands[:1]
    return rewired("div", call.value(), numerator, lambda r: (r.sum_to_size(numerator[0].shape),))


def _glu(walk: Walk, call: Call) -> Tensor:
    axis = call.argument(1, "dim", -1)
    return rewired("glu", call.value(), call.operands, lambda r: (torch.cat([r, torch.zeros_like(r)], axis),))


def _dense(call: Call, composite: Composite) -> Tensor:
    if len(call.operands) == 1:
        return linear(call, composite.dense, composite.first)
    assert call.name in ("matmul", "einsum"), f"{call.name}: its weight is not a constant"
    value = call.value()

    def adjoint(r: Tensor) -> tuple[Tensor, ...]:
        shares = call.pull(r / stabilised(value, composite.eps))
        return tuple(o * share for o, share in zip(call.operands, shares))

    return product(call, (GATES,), adjoint)
