"""The pullback by torch.func of a function that runs the model, for methods that search."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import LOOK, FuncattrError, UnsupportedOperationError
from ..model.module_tree import module_that_raised

_PASSES_NOT = {
    "saved tensor hooks": (
        "a checkpointed part (torch.utils.checkpoint), which torch.func does not run again. Leave the checkpointing "
        "out for this call: model.eval(), if it is of the training only, or model.gradient_checkpointing_disable()."
    ),
    "autograd.Function": (
        "an autograd Function that torch.func cannot pass (it has no setup_context), or reentrant checkpointing, which "
        "is one. Write that part in plain torch functions, or leave the checkpointing out for this call."
    ),
}
"""Words of torch's error -> what it means."""


def func_pullback(call: str, function: Callable[..., Any], primal: Tensor, has_aux: bool = False) -> Any:
    """As `torch.func.vjp`, which the caller may pull once, without a graph of the gradient as `torch.func.grad` keeps.

    Raises:
        UnsupportedOperationError: If the model has a part that torch.func cannot pass.
    """
    if torch.compiler.is_dynamo_compiling():
        return torch.func.vjp(function, primal, has_aux=has_aux)
    try:
        return torch.func.vjp(function, primal, has_aux=has_aux)
    except RuntimeError as error:
        what = next((what for words, what in _PASSES_NOT.items() if words in str(error)), None)
        if what is None or isinstance(error, FuncattrError):
            raise
        path = module_that_raised(error)
        where = "" if path is None else f"in the module {path!r}, "
        raise UnsupportedOperationError(f"{call}: {where}cannot differentiate {what} {LOOK}") from error
