"""How relevance follows the shares of a linear map's output.

A linear rule says of which parts z is made: shares, each a sum of terms f(x_k, W_k) and a bias. Each share hands its
part of the relevance back in proportion to what its terms put in:

    R_in = sum_shares sum_k x_k J_{W_k}^T[scale R / s(z)],    s(z) = z + eps sgn(z)

What the bias and the stabiliser put in goes to no input.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..calls.inplace import over, plus, times, where_above, where_below
from ..calls.linear_map import LinearMap
from ..calls.proportional import Relevance, proportional
from .stabilizer import stabilized

Term = tuple[Tensor | None, Tensor]
"""(x_k, W_k); None stands for ones."""


class Share(NamedTuple):
    """A part of z.

    Attributes:
        terms: What it is a sum of, beside the bias.
        z: Its value, with the bias; None: it is computed where it is needed, as the sum of the terms and the bias.
        bias: The bias in it, or None.
        scale: What multiplies the relevance that it hands back: a number or a tensor of z's shape.
        where: It hands back the relevance of the outputs where this is above zero; None for all.
        sign: 1 or -1 if it has that sign, 0 if it may have both.
        below: It hands back where `where` is below zero instead.
        damping: What multiplies eps in its denominator, of z's shape; None for 1.
        owned: Whether z is a tensor that nobody else reads, which its denominator may be written over.
    """

    terms: tuple[Term, ...]
    z: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | float = 1.0
    where: Tensor | None = None
    sign: int = 0
    below: bool = False
    damping: Tensor | None = None
    owned: bool = False

    def part(self, relevance: Tensor, own: bool = False) -> Tensor:
        """What of the relevance, or of its quotient by s(z), this share hands back; `own` may be written over."""
        if not (isinstance(self.scale, float) and self.scale == 1.0):
            relevance, own = times(relevance, self.scale) if own else relevance * self.scale, True
        if self.where is None:
            return relevance
        return (where_below if self.below else where_above)(relevance, self.where, own)

    def denominator(self, layer: LinearMap, eps: float) -> Tensor:
        """s(z), in place of z if that is owned; with a known sign there is no need to look at each value's."""
        shift = self.sign * max(eps, torch.finfo(layer.x.dtype).tiny)
        if self.z is None and self.sign != 0 and self.damping is None:
            return total(layer, self.terms, self.bias, shift)
        z, own = (total(layer, self.terms, self.bias), True) if self.z is None else (self.z, self.owned)
        if self.damping is not None:
            least = (eps * self.damping).clamp(min=torch.finfo(z.dtype).tiny)
            return plus(torch.copysign(least, z.detach() + 0.0), z)
        if self.sign == 0:
            return stabilized(z, eps, own, summed=layer.is_plain_sum)
        return plus(z, shift) if own else z + shift


def total(layer: LinearMap, terms: tuple[Term, ...], bias: Tensor | None = None, shift: float = 0.0) -> Tensor:
    """sum_k f(x_k, W_k) + b + shift."""
    later = shift
    if shift != 0 and layer.channels is not None:  # a convolution adds a bias on its way
        bias, later = layer.x.new_full((layer.channels,), shift) if bias is None else bias + shift, 0.0
    z = None
    for x, weight in terms:
        part = layer(x if x is not None else ones(layer), weight, bias if z is None else None)
        z = part if z is None else z + part
    assert z is not None
    return z if later == 0 else plus(z, later)


def ones(layer: LinearMap) -> Tensor:
    """Ones in place of x; one example stands for the batch of a convolution."""
    shape = layer.x.shape
    return layer.x.new_ones((1, *shape[1:]) if layer.is_batched_convolution else shape)


def distribute(layer: LinearMap, relevance: Tensor, shares: tuple[Share, ...], eps: float) -> Relevance:
    """The relevance of x, in factors where all shares are in proportion to x itself."""
    quotients: dict[int, Tensor] = {}  # shares of the same z need one division
    backs: dict[int, tuple[Tensor | None, Tensor]] = {}
    keys = [i if share.z is None else -id(share.z) for i, share in enumerate(shares)]
    last = {key: i for i, key in enumerate(keys)}
    for i, (key, share) in enumerate(zip(keys, shares, strict=True)):
        if key not in quotients:
            quotients[key] = over(relevance, share.denominator(layer, eps))
        flow = share.part(quotients[key], own=last[key] == i)
        for x, weight in share.terms:
            back = layer.adjoint(weight, flow)
            backs[id(x)] = (x, plus(back, backs[id(x)][1]) if id(x) in backs else back)
    if len(backs) == 1 and id(layer.x) in backs:
        return proportional(layer.x, backs[id(layer.x)][1], owned=True)
    parts = [back if x is None else times(back, x) for x, back in backs.values()]
    return functools.reduce(plus, parts)


def leaks_of(layer: LinearMap, relevance: Tensor, shares: tuple[Share, ...], eps: float) -> dict[str, Any]:
    """What biases, dead units and the stabiliser take: sum R_in = sum R less these."""
    bias: Any = 0.0
    stabilizer: Any = 0.0
    dead: Any = relevance.sum()
    for share in shares:
        value = total(layer, share.terms, share.bias) if share.z is None else share.z
        part, z = share.part(relevance), share._replace(z=value, owned=False).denominator(layer, eps)
        taken = part * (z - value) / z
        is_dead = value == 0
        dead = dead - part.sum() + torch.where(is_dead, taken, 0).sum()
        stabilizer = stabilizer + torch.where(is_dead, 0, taken).sum()
        if share.bias is not None:
            bias = bias + (part / z * layer.field(share.bias)).sum()
    return {"bias": bias, "dead units": dead, "stabilizer": stabilizer}
