"""Arithmetic that writes its result over a tensor which the caller alone holds, where nobody can tell.

On a CPU half of an elementwise operation's time is the fresh pages of its result.
"""

import torch
from torch import Tensor

from ..torch_state import is_traced, may_overwrite

threshold_backward = torch.ops.aten.threshold_backward.default
"""`(g, y, 0) -> g where y > 0`: relu's adjoint, a vectorised mask."""


def times(own: Tensor, factor: Tensor | float) -> Tensor:
    """The product own * factor."""
    return own.mul_(factor) if may_overwrite(own, factor) else own * factor


def scaled(own: Tensor, factor: Tensor) -> Tensor:
    """The product own * factor, for a factor that broadcasts against it."""
    return own.mul_(factor) if factor.dtype == own.dtype and may_overwrite(own, own) else own * factor


def rectified(own: Tensor) -> Tensor:
    """max(own, 0)"""
    return own.clamp_(min=0) if may_overwrite(own, own) else own.clamp(min=0)


def plus(own: Tensor, term: Tensor | float) -> Tensor:
    """The sum own + term."""
    return own.add_(term) if may_overwrite(own, term) else own + term


def times_plus(own: Tensor, factor: float, term: Tensor) -> Tensor:
    """The sum factor * own + term."""
    return torch.add(term, own, alpha=factor, out=own) if may_overwrite(own, term) else term + factor * own


def toward(own: Tensor, end: Tensor, weight: float) -> Tensor:
    """(1 - weight) own + weight * end."""
    return own.lerp_(end, weight) if may_overwrite(own, end) else torch.lerp(own, end, weight)


def over(numerator: Tensor, own: Tensor) -> Tensor:
    """The quotient numerator / own."""
    return torch.div(numerator, own, out=own) if may_overwrite(own, numerator) else numerator / own


def relu_adjoint(own: Tensor, output: Tensor) -> Tensor:
    """The cotangent `own` where the output of a relu is above 0, else 0."""
    if may_overwrite(own, output):
        return torch.ops.aten.threshold_backward.grad_input(own, output, 0, grad_input=own)
    return threshold_backward(own, output, 0)


def where_above(values: Tensor, control: Tensor, own: bool) -> Tensor:
    """The values where `control` is above 0, else 0; written over if they are `own`."""
    if is_traced():  # where the kernel below has not the strides that its traced form is told to have
        return values.masked_fill(control <= 0, 0)
    # Relu's own adjoint is a vectorised mask.
    return relu_adjoint(values, control) if own else threshold_backward(values, control, 0)


def where_below(values: Tensor, control: Tensor, own: bool) -> Tensor:
    """The values where `control`, which is finite, is below 0, else 0; written over if they are `own`."""
    if is_traced():
        return values.masked_fill(control >= 0, 0)
    least = -torch.inf
    if own and values.shape == control.shape and may_overwrite(values, values):
        return torch.ops.aten.hardtanh_backward.grad_input(values, control, least, 0, grad_input=values)
    return torch.ops.aten.hardtanh_backward.default(values, control, least, 0)
