"""Rules for normalisations: their scale is a constant, what is left is an affine map.

y = A x + b. For layer, group and instance norm A = w (1 - mean) / sigma; for RMS norm A = w / rms; for batch norm in
eval mode A = w / sigma with constant statistics. A depends on x, but no relevance is given to it by that way.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .._torch import func_vjp
from ..calls.call import Call
from ..calls.declarations import row_by_row
from ..calls.kinds import softmax_dims
from ..calls.normalization import Normalization
from .linear import check_eps
from .parametric import rule
from .stabilizer import quotient, stabilized


def frozen_adjoint(call: Call, cotangent: Tensor) -> Tensor:
    """A^T g, the adjoint of a normalisation whose scale is a constant: (g - mean g) / sigma of g = w cotangent."""
    if call.op == "normalize":
        return cotangent / _p_norm(call, call.argument("input"))
    norm = Normalization(call)
    if norm.scale is not None:
        return cotangent * norm.scale
    x, g = norm.grouped(norm.x), norm.grouped(norm.weighted(cotangent))
    if norm.centres:
        scale = torch.rsqrt(x.var(norm.dims, correction=0, keepdim=True) + norm.eps)
        g = (g - g.mean(norm.dims, keepdim=True)) * scale
    else:
        g = g * torch.rsqrt(x.square().mean(norm.dims, keepdim=True) + norm.eps)
    return g.reshape(cotangent.shape)


def _p_norm(call: Call, x: Tensor) -> Tensor:
    p, dim = call.argument("p", 2.0), call.argument("dim", 1)
    return torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min(call.argument("eps", 1e-12))


def _affine_leaks(call: Call, relevance: Tensor, *, eps: float) -> dict[str, Any]:
    x, z = call.argument("input"), call.output
    flow = relevance / stabilized(z, eps)
    taken = torch.where(z == 0, 0, flow * (stabilized(z, eps) - z))
    dead = torch.where(z == 0, relevance, 0)
    bias = flow * (z - _frozen(call, x))
    return {"bias": bias.sum(), "stabilizer": taken.sum(), "dead units": dead.sum()}


def _frozen(call: Call, x: Tensor) -> Tensor:
    """A x, as the adjoint of the adjoint."""
    return func_vjp(lambda g: frozen_adjoint(call, g), torch.zeros_like(call.output))[1](x)[0]


@rule(lambda eps: check_eps("affine", eps), _affine_leaks)
def affine(call: Call, relevance: Tensor, *, eps: float = 1e-6) -> Tensor:
    """The epsilon rule of a normalisation whose scale is a constant.

    R_x = x A^T[R / s(y)],    y = A x + b

    Args:
        eps: Stabiliser, in units of y.

    References:
        Ali et al., 2022, arXiv:2202.07304, section 3.3 (the scale as a constant).
    """
    return call.argument("input") * frozen_adjoint(call, quotient(relevance, call.output, eps))


def _softmax_leaks(call: Call, relevance: Tensor) -> dict[str, Any]:
    return {"softmax": relevance.sum() - softmax_taylor(call, relevance).sum()}


def _written_out_leaks(call: Call, relevance: Tensor) -> dict[str, Any]:
    return {"softmax": relevance.sum() - softmax_written_out(call, relevance).sum()}


@rule(leaks=_written_out_leaks)
def softmax_written_out(call: Call, relevance: Tensor) -> Tensor:
    """`softmax_taylor` of a softmax that is written out, over whatever dimensions or groups.

    R_x = x J^T[R / p], and 0 where x = -infinity or p = 0
    """
    x, p = call.operands[0], call.output
    back = call.vjp(torch.where(p == 0, 0, relevance / torch.where(p == 0, 1, p)))[0]
    return torch.where((back == 0) | (x == -math.inf), 0, x * back)


@rule(leaks=_softmax_leaks)
@row_by_row
def softmax_taylor(call: Call, relevance: Tensor) -> Tensor:
    """Softmax by its linear expansion at x, whose bias takes the rest of the relevance.

    R_x = x (R - softmax(x) sum R), and 0 where x = -infinity

    References:
        Achtibat et al., 2024, arXiv:2402.05602, proposition 3.1.
    """
    # A softmax in float32 sees a mask of float64's lowest number as -infinity too.
    x = call.argument("input").to(relevance.dtype)
    x = x.masked_fill(x == -math.inf, 0)
    return (x * (relevance - call.output * relevance.sum(softmax_dims(call), keepdim=True))).to(call.operands[0].dtype)
