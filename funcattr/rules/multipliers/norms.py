"""DeepLIFT's multipliers of normalisations, exact: y = w u s(u) with u centred and s = 1 / sqrt(mean u^2 + eps)."""

import torch
from torch import Tensor

from ...calls.adjoints import sum_to
from ...calls.call import Call
from ...calls.declarations import folded_alike
from ...calls.normalization import Normalization
from .rescale import no_multiplier, partner


@folded_alike
def norm_slope(call: Call, m: Tensor) -> Tensor:
    """Layer, RMS, group, instance and batch norm, by the products' rule for u * s and u * u, and the slope of s.

    dv = mean(2 u- du),  ds = -(s s')^2 / (s + s') dv,  dy = w (s- du + u- ds)

    With constant statistics a norm is linear and keeps its own adjoint.
    """
    norm, x0 = Normalization(call), partner(call).argument("input")
    if any(operand is not norm.x for operand in call.operands):
        raise no_multiplier(call, f"{call.op} with a weight or bias that depends on the input")
    if norm.scale is not None:
        return sum_to(m * norm.scale, norm.x.shape, norm.x.dtype)
    dtype = torch.promote_types(norm.x.dtype, torch.float32)  # where torch's norms compute too
    x, x0, m = (norm.grouped(value.to(dtype)) for value in (norm.x, x0, norm.weighted(m)))
    return sum_to(_centred_slope(norm, x, x0, m).reshape(norm.x.shape), norm.x.shape, norm.x.dtype)


def _centred_slope(norm: Normalization, x: Tensor, x0: Tensor, m: Tensor) -> Tensor:
    if norm.centres:
        # The adjoint of centring, at the end, would find the same sum behind the rounding of a large s.
        x, x0, m = (v - v.mean(norm.dims, keepdim=True) for v in (x, x0, m))
    s, s0 = (torch.rsqrt(u.square().mean(norm.dims, keepdim=True) + norm.eps) for u in (x, x0))
    slope = -(s * s0).square() / (s + s0)
    mean = (x + x0) / 2
    of_s = (m * mean).sum(norm.dims, keepdim=True)
    count = mean.numel() // of_s.numel()
    return m * (s + s0) / 2 + of_s * slope * 2 * mean / count
