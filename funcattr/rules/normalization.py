"""Rules for normalisations: their scale is a constant, what is left is an affine map.

y = A x + b. For layer, group and instance norm A = w (1 - mean) / sigma; for RMS norm A = w / rms; for batch norm in
eval mode A = w / sigma with constant statistics. A depends on x, but no relevance is given to it by that way.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..engine.calls import Call
from ..engine.folding import scale_and_shift
from ..engine.stabilizer import quotient, stabilized
from .linear import check_eps
from .parametric import rule


def frozen_adjoint(call: Call, cotangent: Tensor) -> Tensor:
    """A^T g, the adjoint of a normalisation whose scale is a constant."""
    x = call.argument("input")
    if call.op == "normalize":
        return cotangent / _p_norm(call, x)
    if call.op == "batch_norm" and (found := scale_and_shift(call)) is not None:
        return cotangent * found[0].reshape(-1, *[1] * (x.ndim - 2))
    weight = call.argument("weight")
    if call.op in ("layer_norm", "rms_norm"):
        dims = tuple(range(x.ndim - len(call.argument("normalized_shape")), x.ndim))
        return _centred_adjoint(x, cotangent if weight is None else cotangent * weight, dims, call)
    per_channel = cotangent if weight is None else cotangent * weight.reshape(-1, *[1] * (x.ndim - 2))
    if call.op == "batch_norm" or (call.op == "instance_norm" and not call.argument("use_input_stats", True)):
        return _centred_adjoint(x, per_channel, (0, *range(2, x.ndim)), call)
    groups = call.argument("num_groups") if call.op == "group_norm" else x.shape[1]
    grouped = x.reshape(x.shape[0], groups, -1)
    return _centred_adjoint(grouped, per_channel.reshape(grouped.shape), (2,), call).reshape(x.shape)


def _centred_adjoint(x: Tensor, g: Tensor, dims: tuple[int, ...], call: Call) -> Tensor:
    """(g - mean g) / sigma over `dims`; g / rms for RMS norm, which does not centre."""
    eps = call.argument("eps", 1e-5 if call.op != "rms_norm" else None)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    if call.op == "rms_norm":
        return g * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)
    scale = torch.rsqrt(x.var(dims, correction=0, keepdim=True) + eps)
    return (g - g.mean(dims, keepdim=True)) * scale


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
    return torch.func.vjp(lambda g: frozen_adjoint(call, g), torch.zeros_like(call.output))[1](x)[0]


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


def softmax_dim(call: Call) -> int:
    """The dimension of a softmax, as torch chooses it where none is given."""
    dim, ndim = call.argument("dim"), call.argument("input").ndim
    return dim if dim is not None else 0 if ndim in (0, 1, 3) else 1


def _softmax_leaks(call: Call, relevance: Tensor) -> dict[str, Any]:
    return {"softmax": relevance.sum() - softmax_taylor(call, relevance).sum()}


@rule(leaks=_softmax_leaks)
def softmax_taylor(call: Call, relevance: Tensor) -> Tensor:
    """Softmax by its linear expansion at x, whose bias takes the rest of the relevance.

    R_x = x (R - softmax(x) sum R), and 0 where x = -infinity

    References:
        Achtibat et al., 2024, arXiv:2402.05602, proposition 3.1.
    """
    # A softmax in float32 sees a mask of float64's lowest number as -infinity too.
    x = call.argument("input").to(relevance.dtype)
    x = x.masked_fill(x == -math.inf, 0)
    return (x * (relevance - call.output * relevance.sum(softmax_dim(call), keepdim=True))).to(call.operands[0].dtype)
