"""Rules for sums, means, averages and other operations that are linear in all their operands together."""

from typing import Any

import torch
from torch import Tensor

from ..calls.adjoints import sum_to
from ..calls.call import Call
from ..calls.declarations import row_by_row, taking_proportional
from ..calls.inplace import over
from ..calls.proportional import Proportional, Relevance, multiplied, proportional
from .linear import check_eps
from .parametric import rule
from .stabilizer import contributed, quotient, stabilized


def _signs(call: Call) -> tuple[int, ...] | None:
    """(1, 1) for a + b, (1, -1) for a - b, with both tracked or one; None for other operations."""
    if call.op not in ("add", "sub") or len(call.args) != 2 or call.kwargs or call.output.is_complex():
        return None
    signs = (1, 1) if call.op == "add" else (1, -1)
    tracked = call.operands
    if len(tracked) == 2:
        return signs
    return signs[:1] if call.args[0] is tracked[0] else signs[1:]


def _norm_leaks(call: Call, relevance: Tensor, *, eps: float) -> dict[str, Any]:
    z = call.output
    if z.is_complex():
        return {}
    flow = relevance / stabilized(z, eps)
    constant = call(*(torch.zeros_like(x) for x in call.operands))
    taken = torch.where(z == 0, 0, flow * (stabilized(z, eps) - z))
    dead = torch.where(z == 0, relevance, 0).sum()
    return {"bias": (flow * constant).sum(), "stabilizer": taken.sum(), "dead units": dead}


def _norm_in_proportion(call: Call, relevance: Relevance, *, eps: float) -> Any:
    """The rule, with its results in factors: R_i = x_i g_i, where g is the same for all terms of a sum."""
    operands, signs = call.operands, _signs(call)
    if isinstance(relevance, Proportional) and relevance.rectified and relevance.x is not None:
        s = relevance.x + max(eps, torch.finfo(relevance.dtype).tiny)  # of z where anything arrives
        flow = over(relevance.product(), s)
    else:
        flow = quotient(multiplied(relevance), call.output, eps, summed=signs is not None)
    if signs is None:
        return tuple([_part(x, g) for x, g in zip(operands, call.vjp(flow), strict=True)])
    alone, parts = len(operands) == 1, []
    for x, sign in zip(operands, signs, strict=True):
        g = sum_to(flow, x.shape, x.dtype)
        parts.append(proportional(x, g, owned=alone or g is not flow) if sign > 0 else g * -x)
    return tuple(parts)


def _part(x: Tensor, g: Tensor) -> Relevance:
    return contributed(x, g) if x.is_complex() or g.is_complex() else proportional(x, g)


@rule(lambda eps: check_eps("norm", eps), _norm_leaks)
@row_by_row
@taking_proportional(_norm_in_proportion)
def norm(call: Call, relevance: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, ...]:
    """Each operand's relevance in proportion to what it adds to the result; the epsilon rule of the operation itself.

    R_i = x_i J_i^T[R / s(z)]

    Constants take their share, which goes to no operand.

    Args:
        eps: Stabiliser, in units of z.

    References:
        Bach et al., 2015, doi:10.1371/journal.pone.0130140, equation 58.
    """
    return tuple(map(multiplied, _norm_in_proportion(call, relevance, eps=eps)))
