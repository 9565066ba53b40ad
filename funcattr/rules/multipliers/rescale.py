"""DeepLIFT's Rescale rule: each operation's multiplier is the slope between its baseline and its input.

The cotangent is a multiplier m with sum m (x - x') = y - y', so A = (x - x') m sums to what the output has gained.
Every rule here keeps that equation exactly, call by call; d- means a difference to the baseline, a bar the mean of
both. References: Shrikumar et al., 2017, arXiv:1704.02685, equations 5 to 9 (multipliers, chain rule, Rescale).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._torch import func_vjp
from ...calls.adjoints import sum_to
from ...calls.call import Call
from ...calls.declarations import row_by_row
from ...calls.kinds import softmax_dims
from ...errors import UnsupportedOperationError


def partner(call: Call) -> Call:
    """The call at the baseline."""
    if call.baseline is None:
        raise ValueError(f"the rule for {call.op!r} compares with a baseline: pass attribute(..., baseline=x').")
    return call.baseline


def difference(a: Tensor, a0: Tensor) -> Tensor:
    """The difference to the baseline, 0 for two infinities alike (masks)."""
    return torch.where(a == a0, 0, a - a0)


def secant(dy: Tensor, dx: Tensor, derivative: Tensor, x_size: Tensor, y_size: Tensor) -> Tensor:
    """The slope dy / dx; or the derivative, where that says what dy is up to rounding.

    Rounding is that of y, and that of x too where dx / x is below sqrt(eps), for functions with large numbers inside.
    At a kink or a jump the derivative does not say what dy is, however small dx is.
    """
    eps = torch.finfo(dx.dtype).eps
    size = torch.where(dx.abs() <= math.sqrt(eps) * x_size, torch.maximum(x_size, y_size), y_size)
    is_said = (dx == 0) | ((dy - derivative * dx).abs() <= 2 * eps * size)
    return torch.where(is_said, derivative, dy / torch.where(is_said, 1, dx))


def rescale(call: Call, m: Tensor) -> Tensor:
    """An elementwise function: m_x = m dy / dx, and m f'(x) where dx is too small for a quotient (see `secant`).

    References:
        Equation 9.
    """
    if _only_operand(call).is_complex():
        return _complex_slope(call, m)
    (x, y), (x0, y0) = ((_only_operand(c).expand_as(c.output), c.output) for c in (call, partner(call)))
    derivative, dx = func_vjp(call, x)[1](torch.ones_like(y))[0], difference(x, x0)
    # A root of 0 in both passes has 0, as torch has it for norms: infinite, times what it is the root of, is no number.
    derivative = torch.where(derivative.isinf() & (dx == 0), 0, derivative)
    slope = secant(y - y0, dx, derivative, x.abs(), y.abs())
    return sum_to(m * slope, call.operands[0].shape, call.operands[0].dtype)


def _complex_slope(call: Call, m: Tensor) -> Tensor:
    """The slope of |x|: Re (x + x')* dx / (|x| + |x'|). What is linear has its own adjoint, nothing else a slope."""
    if call.op in ("neg", "positive"):
        return call.vjp(m)[0]
    if call.op != "abs":
        raise no_multiplier(call, f"{call.op} of complex numbers, which mixes their parts")
    total = call.output + partner(call).output
    is_zero = total == 0
    slope = torch.where(is_zero, 0, 1 / torch.where(is_zero, 1, total))
    return m * slope * (call.operands[0] + partner(call).operands[0])


def _only_operand(call: Call) -> Tensor:
    first, *others = call.operands
    if others:
        raise no_multiplier(call, f"{call.op} of {1 + len(others)} tracked operands")
    return first


def no_multiplier(call: Call, what: str) -> UnsupportedOperationError:
    """The error for a call that the rules here have no formula for."""
    return UnsupportedOperationError(
        f"deep_lift: in the module {call.path!r}, no multiplier of {what}. Write that part in simpler functions, or "
        f"give it a rule: rules.deep_lift() | {{{call.op!r}: rule}}."
    )


@row_by_row
def bilinear(call: Call, m: Tensor) -> tuple[Tensor, ...]:
    """A product, matrix product or convolution of tracked factors: its adjoint at the means of both passes.

    d(a b) = da b- + a- db with b- = (b + b') / 2, which is exact for whatever is bilinear.
    """
    if call.op == "einsum" and len(call.operands) > 2:
        raise no_multiplier(call, f"an einsum of {len(call.operands)} tracked factors (of two, it has one)")
    means = [(a + b) / 2 for a, b in zip(call.operands, partner(call).operands, strict=True)]
    return func_vjp(call, *means)[1](m)


def quotient_slope(call: Call, m: Tensor) -> tuple[Tensor, ...]:
    """Quotient a / b, tracked in either or both: d(a / b) = da mean(1 / b) - a- db / (b b')."""
    a, b = call.argument("input"), call.argument("other")
    a0, b0 = partner(call).argument("input"), partner(call).argument("other")
    if len(call.operands) == 1 and call.operands[0] is a:
        return call.vjp(m)
    if m.is_complex() or any(t.is_complex() for t in call.operands):
        raise no_multiplier(call, "a quotient by complex numbers")
    backs = [m * (1 / b + 1 / b0) / 2, -m * ((a + a0) / 2 / b / b0)]
    if call.operands[0] is not a:
        backs.reverse()
    return tuple(sum_to(back, t.shape, t.dtype) for back, t in zip(backs, call.operands, strict=False))


def sqrt_slope(call: Call, m: Tensor) -> Tensor:
    """Square root: m / (y + y'), and 0 where both are 0, as torch has it for norms."""
    total = call.output + partner(call).output
    is_zero = total == 0
    return m * torch.where(is_zero, 0, 1 / torch.where(is_zero, 1, total))


def undropped(call: Call, m: Tensor) -> Tensor:
    """Dropout that drops nothing; what one drops would be drawn anew in each pass."""
    if call.argument("training", True) and call.argument("p", 0.5) > 0:
        raise no_multiplier(call, "a dropout that drops values, others in each pass (model.eval() turns it off)")
    return m


def logarithmic_mean(p: Tensor, p0: Tensor, log_ratio: Tensor) -> Tensor:
    """L = (p - p') / (log p - log p'), the slope of exp; p where both are equal."""
    is_small = log_ratio.abs() <= math.sqrt(torch.finfo(p.dtype).eps)
    return torch.where(is_small, (p + p0) / 2, (p - p0) / torch.where(is_small, 1, log_ratio))


def _means(call: Call, dims: Any) -> tuple[Tensor, Tensor]:
    """The means L of the softmax over `dims`, and their share of the sum of all. Masked positions have none."""
    dtype = torch.promote_types(call.output.dtype, torch.float32)
    log_p, log_p0 = (_log_softmax(c.operands[0].to(dtype), dims) for c in (call, partner(call)))
    mean = logarithmic_mean(log_p.exp(), log_p0.exp(), difference(log_p, log_p0))
    return mean, mean / mean.sum(dims, keepdim=True)


def _log_softmax(x: Tensor, dims: Any) -> Tensor:
    if isinstance(dims, int):
        return x.log_softmax(dims)
    x = x - x.amax(dims, keepdim=True).detach()  # no shift matters, but to rounding
    return x - x.logsumexp(dims, keepdim=True)


@row_by_row
def softmax_slope(call: Call, m: Tensor) -> Tensor:
    """Softmax: m_i = L_i (m_i - sum_j L_j m_j / sum_j L_j), L the logarithmic mean of p and p'.

    dp_j = L_j (dx_j - d lse), and since the dp sum to zero, d lse = sum_j L_j dx_j / sum_j L_j: no shift of the scores
    matters, nothing overflows, and at p = p' it is the softmax's own adjoint.
    """
    dim = softmax_dims(call)
    mean, share = _means(call, dim)
    for _ in range(2):  # the second time takes off the rounding of the first, which large scores would multiply
        m = m - (share * m).sum(dim, keepdim=True)
    return (mean * m).to(call.operands[0].dtype)


def log_softmax_slope(call: Call, m: Tensor) -> Tensor:
    """Log-softmax: m_i - L_i sum_j m_j / sum_j L_j, L as in `softmax_slope`."""
    dim = softmax_dims(call)
    return (m - _means(call, dim)[1] * m.sum(dim, keepdim=True)).to(call.operands[0].dtype)


def logsumexp_slope(call: Call, m: Tensor) -> Tensor:
    """Log-sum-exp: m L_i / sum_j L_j, L as in `softmax_slope`."""
    dims = softmax_dims(call)
    dims = dims[0] if isinstance(dims, tuple | list) and len(dims) == 1 else dims
    share = _means(call, dims)[1]
    return (m.reshape(share.sum(dims, keepdim=True).shape) * share).to(call.operands[0].dtype)


def extremum(call: Call, m: Tensor) -> tuple[Tensor, ...]:
    """A maximum or minimum (amax, maximum, ...): part to the winner at x, part to the winner at the baseline.

    dy = t dx_i + (1 - t) dx_j for the winners i at x and j at the baseline, with t in [0, 1] since for a maximum
    dx_j <= dy <= dx_i.
    """
    deltas = tuple(difference(a, b) for a, b in zip(call.operands, partner(call).operands, strict=True))
    at_x, at_baseline = _selection(call, deltas), _selection(partner(call), deltas)
    part = _part(call, at_x, at_baseline)
    backs = zip(_routed(call, m * part), _routed(partner(call), m * (1 - part)), strict=True)
    return tuple(a + b for a, b in backs)


def max_pool_slope(call: Call, m: Tensor) -> Tensor:
    """Max-pooling: as `extremum`, window by window."""
    spatial = int(call.op[-2])
    (x,), (x0,) = call.operands, partner(call).operands
    delta = difference(x, x0).flatten(-spatial)
    winners, winners0 = (_winners(c).flatten(-spatial) for c in (call, partner(call)))
    of_x, of_baseline = (delta.gather(-1, at).reshape(m.shape) for at in (winners, winners0))
    part = _part(call, of_x, of_baseline)
    back = torch.zeros_like(delta).scatter_add(-1, winners, (m * part).flatten(-spatial))
    return back.scatter_add(-1, winners0, (m * (1 - part)).flatten(-spatial)).reshape(x.shape)


def _winners(call: Call) -> Tensor:
    """Where in the flattened input the maximum of each window is."""
    names = ("output_size", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = {name: value for name in names if (value := call.argument(name)) is not None}
    return getattr(F, call.op)(*call.operands, **given, return_indices=True)[1]


def _part(call: Call, of_x: Tensor, of_baseline: Tensor) -> Tensor:
    """The t of `extremum`, from what the winners at x and those at the baseline have gained."""
    dy, gap = difference(_values(call.output), _values(partner(call).output)), of_x - of_baseline
    return torch.where(gap == 0, 0.5, (dy - of_baseline) / torch.where(gap == 0, 1, gap)).clamp(0, 1)


def _values(result: Any) -> Tensor:
    """The values of a result that may have indices beside them."""
    return result if isinstance(result, Tensor) else result[0]


def _routed(call: Call, m: Tensor) -> tuple[Tensor, ...]:
    """The cotangent handed to the winners of a call."""
    return func_vjp(lambda *operands: _values(call(*operands)), *call.operands)[1](m)


def _selection(call: Call, values: tuple[Tensor, ...]) -> Tensor:
    """What lies in `values` where the winners of a call are: the adjoint of `_routed`."""
    zeros = torch.zeros_like(_values(call.output))
    return func_vjp(lambda m: _routed(call, m), zeros)[1](values)[0]
