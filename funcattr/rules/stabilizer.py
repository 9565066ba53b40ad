"""The stabiliser of a denominator: s(z) = z + eps sgn(z).

A complex number is a pair of real ones: each has a relevance of its own, divided and multiplied on its own.
"""

import torch
from torch import Tensor

from ..calls.inplace import over, plus


def stabilized(z: Tensor, eps: float = 1e-6, own: bool = False, summed: bool = False) -> Tensor:
    """s(z) = z + eps sgn(z), sgn(0) = 1; eps is at least the smallest normal number of z's dtype.

    Args:
        z: A denominator.
        eps: What keeps it from zero.
        own: Whether nobody else reads z: s(z) may take its place.
        summed: Whether z is a sum that nothing multiplied since. Terms that cancel leave +0, so that such a sum is -0
            only where all its terms are, which get no relevance either way: its zeros keep the sign that they have.
    """
    if z.is_complex():
        return torch.view_as_complex(stabilized(torch.view_as_real(z.resolve_conj()), eps))
    eps = max(eps, torch.finfo(z.dtype).tiny)
    # copysign reads the sign in one pass, where a comparison takes five; -0 + 0 is +0. The sign has no derivative.
    sides = z.detach() if summed else plus(z.detach(), 0.0) if own else z.detach() + 0.0
    signed = torch.copysign(z.new_full((), eps), sides)
    return plus(z, signed) if own else signed.add_(z)


def quotient(relevance: Tensor, z: Tensor, eps: float = 1e-6, summed: bool = False) -> Tensor:
    """R / s(z); `summed` as for `stabilized`."""
    if z.is_complex():
        numerator, divisor = (torch.view_as_real(v.to(z.dtype).resolve_conj()) for v in (relevance, z))
        return torch.view_as_complex(quotient(numerator, divisor, eps))
    return over(relevance, stabilized(z, eps, summed=summed))


def contributed(x: Tensor, back: Tensor) -> Tensor:
    """The relevance x * g of an operand."""
    if not x.is_complex():
        return x * (back.real if back.is_complex() else back)
    x, back = (v.to(x.dtype).resolve_conj() for v in (x, back))
    return torch.complex(x.real * back.real, x.imag * back.imag)
