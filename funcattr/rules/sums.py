"""Rules for sums, means, averages and other operations that are linear in all their operands together."""

from typing import Any

import torch
from torch import Tensor

from ..calls.adjoints import sum_to
from ..calls.call import Call
from ..calls.declarations import row_by_row, taking_proportional
from ..calls.inplace import over, times
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
    """As `norm`; of a sum a + b, g = R / s(z) is the same for both: R_a = a g, R_b = b g."""
    operands, signs, z = call.operands, _signs(call), call.output
    if z.is_complex() or any(x.is_complex() for x in operands):
        return norm(call, multiplied(relevance), eps=eps)
    if signs is None:
        backs = call.vjp(quotient(multiplied(relevance), z, eps))
        return tuple(map(proportional, operands, backs))
    if min(signs) < 0 or any((x.shape, x.dtype) != (z.shape, z.dtype) for x in operands):
        return norm(call, multiplied(relevance), eps=eps)
    if isinstance(relevance, Proportional) and relevance.rectified and relevance.x is not None:
        # s(z) = z + eps wherever anything arrives.
        s = relevance.x + max(eps, torch.finfo(z.dtype).tiny)
        g = over(relevance.product(), s)
    else:
        g = quotient(multiplied(relevance), z, eps, summed=True)
    return tuple(proportional(x, g, owned=len(operands) == 1) for x in operands)


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
    operands, signs = call.operands, _signs(call)
    flow = quotient(relevance, call.output, eps, summed=signs is not None)
    if signs is None:
        return tuple(contributed(x, back) for x, back in zip(operands, call.vjp(flow), strict=True))
    *before, (last, sign) = zip(operands, signs, strict=True)
    parts = [sum_to(flow, x.shape, x.dtype) * (x if sign > 0 else -x) for x, sign in before]
    return *parts, times(sum_to(flow, last.shape, last.dtype), last if sign > 0 else -last)
