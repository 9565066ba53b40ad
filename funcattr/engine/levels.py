"""The levels of `torch.func` transforms (`vmap`, `grad`, ...), through the few internals that tell them."""

import importlib
from typing import Any

import torch
from torch import Tensor

_functorch: Any = importlib.import_module("torch._C._functorch")


def current_level() -> int | None:
    """Depth of the innermost running transform, None outside of any."""
    return _functorch.maybe_current_level()


def is_plain_eager() -> bool:
    """Whether tensors are real and their values may be looked at: no transform, no tracing, no compilation."""
    if torch.compiler.is_compiling():
        return False
    return current_level() is None and torch._C._len_torch_dispatch_stack() == 0


def derivative_is_final(*values: Any) -> bool:
    """Whether nobody can ask for a derivative of what is pulled back from these values: no transform, no graph.

    Then the pullback runs faster without recording one: sums of cotangents are made in place.
    """
    return is_plain_eager() and not any(isinstance(v, Tensor) and v.requires_grad for v in values)


def may_overwrite(own: Tensor, other: Tensor | float) -> bool:
    """Whether the result of an operation on both may take the place of `own`, a tensor that the caller alone holds.

    Not where a derivative or a transform would ask for the old value, or the result is of another shape or dtype.
    """
    if torch.is_grad_enabled():
        return False
    if isinstance(other, Tensor) and (own.shape != other.shape or own.dtype != other.dtype):
        return False
    return is_plain_eager()


def is_differentiated(value: Any) -> bool:
    """Whether `value` is a tensor that the innermost transform differentiates."""
    if not isinstance(value, Tensor) or not _functorch.is_gradtrackingtensor(value):
        return False
    return _functorch.maybe_get_level(value) == current_level() and value.requires_grad


def unwrapped(tensor: Tensor) -> list[Tensor]:
    """The tensors under `tensor`, one for each transform that wraps it."""
    layers: list[Tensor] = []
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        layers.append(tensor)
    return layers
