"""DeepLIFT's RevealCancel rule: what pushes a unit up and what pulls it down are followed on their own.

dz+ = sum_i max(w_i dx_i, 0) and dz- = sum_i min(w_i dx_i, 0) at a linear map z; at the activation y = f(z) after it
dy+ is what dz+ adds, on average over both orders in which dz+ and dz- may come; dy- likewise; dy+ + dy- = dy.
"""

import torch
from torch import Tensor

from ..._torch import func_vjp
from ...calls.call import Call
from ...calls.declarations import takes_activation
from ...calls.linear_map import LinearMap
from .rescale import partner, secant


def reveal_cancel(linear: Call, activation: Call, m: Tensor) -> Tensor:
    """m_i = sum_j w_ij m (dy_j+ / dz_j+ where w_ij dx_i > 0, dy_j- / dz_j- where w_ij dx_i < 0).

    dy+ = (f(z' + dz+) - f(z') + f(z' + dz- + dz+) - f(z' + dz-)) / 2

    References:
        Shrikumar et al., 2017, arXiv:1704.02685, section 3.5.3, and 3.5.1 for the linear map.
    """
    layer = LinearMap(linear)
    dx, z0 = layer.x - partner(linear).operands[0], partner(activation).operands[0]
    up, down = dx.clamp(min=0), dx.clamp(max=0)
    above, below = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    gain = layer.multiply(up, above) + layer.multiply(down, below)
    loss = layer.multiply(up, below) + layer.multiply(down, above)
    m_gain, m_loss = m * _slope(activation, z0, gain, loss), m * _slope(activation, z0, loss, gain)
    rising = layer.adjoint(above, m_gain) + layer.adjoint(below, m_loss)
    falling = layer.adjoint(below, m_gain) + layer.adjoint(above, m_loss)
    return torch.where(dx == 0, (rising + falling) / 2, torch.where(dx > 0, rising, falling))


def _slope(f: Call, z0: Tensor, part: Tensor, other: Tensor) -> Tensor:
    """Dy of one part over dz of it; the mean of the derivatives at both starts where that is too small."""
    starts = (z0, z0 + other)
    values = [f(start) for start in starts]
    rise = f(z0 + part) - values[0] + f(z0 + other + part) - values[1]
    derivatives = [func_vjp(f, start)[1](torch.ones_like(start))[0] for start in starts]
    sizes = (torch.maximum(a.abs(), b.abs()) for a, b in (starts, values))
    return secant(rise, part, derivatives[0] + derivatives[1], *sizes) / 2


@takes_activation(reveal_cancel)
def linear_multiplier(call: Call, m: Tensor) -> Tensor:
    """A linear map's own adjoint; with an activation right after it, `reveal_cancel` of both."""
    layer = LinearMap(call)
    return layer.adjoint(layer.weight, m)
