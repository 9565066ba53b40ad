"""The stabiliser of a denominator: s(z) = z + eps sgn(z)."""

import torch
from torch import Tensor

from ..calls.inplace import over, plus


def stabilized(z: Tensor, eps: float = 1e-6, own: bool = False) -> Tensor:
    """s(z) = z + eps sgn(z), with sgn(0) = +1; eps is at least the smallest normal number of z's dtype.

    It takes the place of z if that is `own`, a tensor that nobody else reads.
    """
    eps = max(eps, torch.finfo(z.dtype).tiny)
    # A sum of terms that cancel is +0, so the sign bit tells what z >= 0 would, in one pass instead of three.
    # The sign has no derivative; without one to keep, the addition need not allocate.
    signed = torch.copysign(z.new_full((), eps), z.detach())
    return plus(z, signed) if own else signed.add_(z)


def quotient(relevance: Tensor, z: Tensor, eps: float = 1e-6) -> Tensor:
    """R / s(z)"""
    return over(relevance, stabilized(z, eps))
