"""DeepLIFT's multipliers of normalisations, exact: y = w u s(u) with u centred and s = 1 / sqrt(mean u^2 + eps)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..engine.adjoints import sum_to
from ..engine.calls import Call
from ..engine.folding import scale_and_shift
from .rescale import no_multiplier, partner


def norm_slope(call: Call, m: Tensor) -> Tensor:
    """Layer, RMS, group, instance and batch norm, by the products' rule for u * s and u * u, and the slope of s.

    dv = mean(2 u- du),  ds = -(s s')^2 / (s + s') dv,  dy = w (s- du + u- ds)

    With running statistics a norm is linear and keeps its own adjoint.
    """
    x, x0 = call.argument("input"), partner(call).argument("input")
    if any(operand is not x for operand in call.operands):
        raise no_multiplier(call, f"{call.op} with a weight or bias that depends on the input")
    if call.op == "batch_norm" and (found := scale_and_shift(call)) is not None:
        back = m * found[0].reshape(-1, *[1] * (x.ndim - 2))
    elif call.op == "instance_norm" and not call.argument("use_input_stats", True):
        back = call.vjp(m)[0]
    else:
        dtype = torch.promote_types(x.dtype, torch.float32)  # where torch's norms compute too
        back = _slope_in(call, x.to(dtype), x0.to(dtype), m.to(dtype))
    return sum_to(back, x.shape, x.dtype)


def _slope_in(call: Call, x: Tensor, x0: Tensor, m: Tensor) -> Tensor:
    weight = call.argument("weight")
    if call.op in ("layer_norm", "rms_norm"):
        dims = tuple(range(x.ndim - len(call.argument("normalized_shape")), x.ndim))
        return _centred_slope(call, x, x0, m if weight is None else m * weight, dims)
    m = m if weight is None else m * weight.reshape(-1, *[1] * (x.ndim - 2))
    if call.op == "batch_norm":
        return _centred_slope(call, x, x0, m, (0, *range(2, x.ndim)))
    groups = call.argument("num_groups") if call.op == "group_norm" else x.shape[1]
    as_groups: Callable[[Tensor], Tensor] = lambda value: value.reshape(x.shape[0], groups, -1)  # noqa: E731
    return _centred_slope(call, as_groups(x), as_groups(x0), as_groups(m), (2,)).reshape(x.shape)


def _centred_slope(call: Call, x: Tensor, x0: Tensor, m: Tensor, dims: tuple[int, ...]) -> Tensor:
    eps = call.argument("eps", 1e-5 if call.op != "rms_norm" else None)
    eps = torch.finfo(call.argument("input").dtype).eps if eps is None else eps
    if call.op != "rms_norm":
        # The adjoint of centring, at the end, would find the same sum behind the rounding of a large s.
        x, x0, m = (v - v.mean(dims, keepdim=True) for v in (x, x0, m))
    s, s0 = (torch.rsqrt(u.square().mean(dims, keepdim=True) + eps) for u in (x, x0))
    slope = -(s * s0).square() / (s + s0)
    mean = (x + x0) / 2
    of_s = (m * mean).sum(dims, keepdim=True)
    count = mean.numel() // of_s.numel()
    return m * (s + s0) / 2 + of_s * slope * 2 * mean / count
