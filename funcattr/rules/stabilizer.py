"""The stabiliser of a denominator: s(z) = z + eps sgn(z).

A complex number is a pair of real ones: each has a relevance of its own, divided and multiplied on its own.
"""

import torch
from torch import Tensor

from ..calls.inplace import over, plus


def stabilized(z: Tensor, eps: float = 1e-6, own: bool = False) -> Tensor:
    """s(z) = z + eps sgn(z); eps is at least the smallest normal number of z's dtype.

    It takes the place of z if that is `own`, a tensor that nobody else reads. The sign of a zero is the one that it
    has: a sum is -0 where all its terms are, and these get no relevance either way.
    """
    if z.is_complex():
        return torch.view_as_complex(stabilized(torch.view_as_real(z.resolve_conj()), eps))
    eps = max(eps, torch.finfo(z.dtype).tiny)
    # copysign reads the sign in one pass, where a comparison takes five. The sign has no derivative.
    signed = torch.copysign(z.new_full((), eps), z.detach())
    return plus(z, signed) if own else signed.add_(z)


def quotient(relevance: Tensor, z: Tensor, eps: float = 1e-6) -> Tensor:
    """R / s(z)"""
    if z.is_complex():
        numerator, divisor = (torch.view_as_real(v.to(z.dtype).resolve_conj()) for v in (relevance, z))
        return torch.view_as_complex(quotient(numerator, divisor, eps))
    return over(relevance, stabilized(z, eps))


def contributed(x: Tensor, back: Tensor) -> Tensor:
    """The relevance x * g of an operand."""
    if not x.is_complex():
        return x * (back.real if back.is_complex() else back)
    x, back = (v.to(x.dtype).resolve_conj() for v in (x, back))
    return torch.complex(x.real * back.real, x.imag * back.imag)
