"""Refusals, by name, of the parts of a model that hide their operations: scripted, compiled or patched ones."""

import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .._torch import OptimizedModule, is_compiled_function
from ..copies import ATOMS
from ..errors import UnsupportedOperationError
from .wrappers import is_wrapper, refuse_more

_NO_FUNCTIONS = ATOMS | {dict, OrderedDict, list, tuple, set, torch.Tensor, nn.Parameter}


def refuse_opaque(model: Callable[..., Any]) -> None:
    """Raise UnsupportedOperationError for the first part of `model` that hides what it computes."""
    named: Iterator[tuple[str, Any]] = iter([("", model)])
    if isinstance(model, nn.Module):
        named = model.named_modules()
    classes: set[type] = set()
    for path, part in named:
        if _is_opaque(part):
            raise _opaque_error(path, part)
        if not isinstance(part, nn.Module):
            continue
        if is_wrapper(part):
            refuse_more(repr(path), part)
            continue
        outside = () if type(part) in classes else _named_by_forward(type(part))
        classes.add(type(part))
        for name, value in (*vars(part).items(), *outside):
            if type(value) not in _NO_FUNCTIONS and _is_opaque(value) and name != "_compiled_call_impl":
                raise _opaque_error(path, value, f"its {name!r} is")


def _is_opaque(value: Any) -> bool:
    scripted = (torch.jit.ScriptModule, torch.jit.ScriptFunction, OptimizedModule)
    return isinstance(value, scripted) or is_compiled_function(value)


def _named_by_forward(module: type[nn.Module]) -> Iterator[tuple[str, Any]]:
    """A module's forward and the globals and class attributes whose names its code uses.

    Something scripted among them would compute unseen. A global of an attribute's name counts too: better refused
    without need than missed.
    """
    forward = module.forward
    yield "forward", forward
    if isinstance(forward, types.FunctionType):
        for cell_name, cell in zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True):
            yield from ((cell_name, value) for value in _contents(cell))
        for name in _names_in(forward.__code__):
            yield name, forward.__globals__.get(name)
            yield name, getattr(module, name, None)


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Global and attribute names in a function's code, comprehensions and inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()


def _opaque_error(path: str, part: Any, what: str = "it is") -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"functionalize(model=...): cannot see through {path or 'the model'!r}: {what} a {type(part).__name__}. "
        "Pass the eager module or function, and compile or script the call of funcattr instead."
    )
