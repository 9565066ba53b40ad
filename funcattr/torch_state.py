"""In what state torch runs: plainly, inside transforms, or being traced; and what may be done in it."""

import torch
from torch import Tensor

from ._torch import current_level, dispatch_modes, has_dispatch_mode, inside_dual_level, is_wrapped


def is_plain_eager() -> bool:
    """Whether tensors are real and their values may be looked at: no transform, no tracing, no compilation."""
    if torch.compiler.is_compiling():
        return False
    return current_level() is None and not has_dispatch_mode() and not inside_dual_level()


def is_traced() -> bool:
    """Whether operations are being noted for later, as by `torch.compile`, `make_fx` and fake tensors."""
    return torch.compiler.is_compiling() or not all(getattr(mode, "only_looks", False) for mode in dispatch_modes())


def can_look_at(tensor: Tensor) -> bool:
    """Whether the values of a tensor may be read, also beside a transform that does not wrap it."""
    if torch.compiler.is_compiling() or has_dispatch_mode() or is_wrapped(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor is the same number to everybody: no derivative is asked for by it, and no transform wraps it."""
    if tensor.requires_grad or is_wrapped(tensor):
        return False
    return not inside_dual_level() or torch.autograd.forward_ad.unpack_dual(tensor).tangent is None


def derivative_is_final(*values: object) -> bool:
    """Whether nobody can ask for a derivative of what is pulled back from these values: no transform, no graph.

    Then the pullback runs faster without recording one: sums of cotangents are made in place.
    """
    return is_plain_eager() and not any(isinstance(v, Tensor) and v.requires_grad for v in values)


def may_overwrite(own: Tensor, other: Tensor | float) -> bool:
    """Whether `own`, a tensor that the caller alone holds, may be overwritten by the result of an operation on both.

    Not where a derivative or a transform would ask for the old value, or the result is of another shape or dtype.
    """
    if torch.is_grad_enabled():
        return False
    if isinstance(other, Tensor) and (own.shape != other.shape or own.dtype != other.dtype):
        return False
    return is_plain_eager()
