"""Modules that run another one as it is: those that only spread its batch, or its gradients, over devices."""

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._torch import has_hooks, original_module
from ..errors import UnsupportedOperationError


def is_wrapper(module: Any) -> bool:
    """Whether a module's forward is that of its `module`, for each example; a class made of these may do more."""
    return type(module) in (nn.DataParallel, DistributedDataParallel) and "forward" not in vars(module)


def unwrapped(model: Any) -> Any:
    """The module in a compiled, `DataParallel` or `DistributedDataParallel` one; other things as they are.

    Raises:
        UnsupportedOperationError: If a wrapper does more than to run it.
    """
    while True:
        if is_wrapper(model):
            refuse_more("the model", model)
            if has_hooks(model):
                raise UnsupportedOperationError(
                    f"functionalize(model=...): the model's {type(model).__name__} has forward hooks of its own, which "
                    "are no part of the module in it. Put them on model.module."
                )
            model = model.module
        elif (inner := original_module(model)) is not model:
            model = inner
        else:
            return model


def refuse_more(place: str, wrapper: Any) -> None:
    """Raise UnsupportedOperationError for a wrapper that computes something else than its module."""
    if getattr(wrapper, "mixed_precision", None) is not None:
        raise UnsupportedOperationError(
            f"functionalize(model=...): {place} is a {type(wrapper).__name__} with mixed_precision=, which casts "
            "parameters by hooks. Give its module under torch.autocast: lambda x: model.module(x)."
        )


class Through(nn.Module):
    """The copy of a wrapper."""

    module: nn.Module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)
