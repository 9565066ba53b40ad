"""Rules that work on gradients, with no division by z: the attribution of a tensor is x * g.

A rule here changes the derivative of its operation so that x * g is the relevance that the paper's rule gives.
Linear maps, sums, softmax and views keep theirs: for them x * g already is the epsilon rule (for softmax, its
expansion at x).
"""

from typing import Any

import torch
from torch import Tensor

from .._torch import func_vjp
from ..calls.adjoints import sum_to
from ..calls.call import Call
from ..calls.declarations import folded_alike, operands_only, row_by_row
from ..calls.inplace import times
from ..calls.operations import ACTIVATIONS
from ..calls.origins import upper_bound
from .normalization import frozen_adjoint
from .products import check_homogeneous, factor_adjoints, numerator_shares, shares, ungated_shares


@operands_only  # f(x) is made again from x: it need not be held beside it
def ratio(call: Call, g: Tensor) -> tuple[Tensor | None, ...]:
    """An elementwise function passes its relevance on: g_x = g f(x) / x, and g f'(0) where x = 0.

    A root has an infinite slope there, and gets 0: its relevance f(0) g is 0.

    References:
        Achtibat et al., 2024, arXiv:2402.05602, equation 9 (identity rule).
    """
    x, others = call.operands[0], len(call.operands) - 1
    if x.is_complex():
        check_homogeneous(call)
    if x.is_complex() or call.op in _HOMOGENEOUS or (call.op == "relu" and upper_bound(call) is None):
        # f(x) = f'(x) x: the ratio is the derivative.
        return call.vjp(g)[0], *[None] * others
    # An activation without parameters is the same function everywhere, so one value tells its derivative.
    origin = x.new_zeros(()) if call.op in _SAME_EVERYWHERE and len(call.tensors()) == 1 else torch.zeros_like(x)
    at_zero: Any = func_vjp(lambda v: call(v, *call.operands[1:]), origin)
    (slope,) = at_zero[1](torch.ones_like(at_zero[0]))
    if call.op not in _SAME_EVERYWHERE:  # activations have a slope everywhere
        slope = torch.where(slope.isinf(), 0, slope)
    is_zero = x == 0
    factor = torch.where(is_zero, slope, call.output / torch.where(is_zero, 1, x))
    return sum_to(times(factor, g), x.shape, x.dtype), *[None] * others


_HOMOGENEOUS = frozenset(["leaky_relu", "prelu", "neg"])
_SAME_EVERYWHERE = ACTIVATIONS - {"glu", "prelu", "rrelu"}


def _weighted(call: Call, g: Tensor, parts: list[float]) -> tuple[Tensor | None, ...]:
    backs = zip(factor_adjoints(call, g), parts, strict=True)
    return tuple(None if part == 0 else back if part == 1 else part * back for back, part in backs)


@row_by_row
@operands_only
def halved(call: Call, g: Tensor) -> tuple[Tensor | None, ...]:
    """A product of n tracked factors: 1/n of the gradient to each, all of it to the signals beside a sigmoid gate.

    References:
        Achtibat et al., 2024, arXiv:2402.05602, equations 14 and 15 (uniform rule).
    """
    return _weighted(call, g, shares(call.origins))


@row_by_row
@operands_only
def ungated(call: Call, g: Tensor) -> tuple[Tensor | None, ...]:
    """A product of tracked factors: one that came out of an activation (of a sigmoid, if all did) is a constant.

    References:
        Ali et al., 2022, arXiv:2202.07304, section 3.2.
    """
    return _weighted(call, g, ungated_shares(call.origins))


@operands_only
def numerator(call: Call, g: Tensor) -> tuple[Tensor | None, ...]:
    """Quotient a / b: the denominator is a constant."""
    return _weighted(call, g, numerator_shares(call))


@operands_only
@folded_alike
def frozen(call: Call, g: Tensor) -> Tensor:
    """A normalisation whose scale is a constant: A^T g.

    References:
        Ali et al., 2022, arXiv:2202.07304, section 3.3; Achtibat et al., 2024, arXiv:2402.05602, section 3.3.
    """
    return frozen_adjoint(call, g)
