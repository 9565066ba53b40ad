"""Descriptions of what a module keeps beside its parameters, buffers and modules: numbers, tensors, functions."""

import inspect
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .description import described, of_tensor

_KNOWN = ("torch", __name__.partition(".")[0], "builtins")
"""Packages whose functions are known by name: their versions stand in the manifest."""
_PLAIN = (bool, int, float, complex, str, bytes, range, slice, torch.dtype)
_INTERNAL = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
"""Names that every module has; what of them counts is described elsewhere."""


class AttributeDescriber:
    """Describes attributes of a model's modules as data that JSON holds.

    Numbers, texts and containers of them are their own, tensors and arrays their bytes, functions their code with what
    they close over. Of any other object it is the class alone, for nobody knows what of it the model reads.

    Args:
        model: The model; its modules are described elsewhere, and stand for themselves here.
        tensors: Its parameters and buffers, likewise.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        # Kept alive, so that no other object gets an id of theirs.
        self._met: list[Any] = []
        self._numbers: dict[int, int] = {}
        for part in (*model.modules(), *model.parameters(), *model.buffers(), *tensors.values()):
            self._meet(part)

    def _meet(self, part: Any) -> None:
        self._numbers.setdefault(id(part), len(self._met))
        self._met.append(part)

    def of_module(self, module: nn.Module) -> dict[str, Any]:
        """What a module keeps, by name."""
        kept = {name: v for name, v in vars(module).items() if name == "training" or name not in _INTERNAL}
        # The module of a functional model has a forward around the user's, if there is one.
        forward = getattr(kept.get("forward"), "patched", kept.get("forward"))
        kept = {name: v for name, v in kept.items() if name != "forward"}
        return {name: self(v) for name, v in sorted(kept.items())} | (
            {} if forward is None else {"forward": self(forward)}
        )

    def __call__(self, value: Any) -> Any:
        """One value."""
        name = name_of(type(value))
        if isinstance(value, Enum):
            return {name: value.name}
        if value is None or isinstance(value, _PLAIN):
            return repr(value)
        if id(value) in self._numbers:
            return {"met": self._numbers[id(value)]}
        self._meet(value)  # a value may hold itself
        if isinstance(value, Tensor):
            return _of_tensor(value)
        if isinstance(value, nn.Module):
            held = {"parameters": dict(value.named_parameters()), "buffers": dict(value.named_buffers())}
            return {name: self.of_module(value) | self(held), "modules": self(dict(value.named_children()))}
        if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
            return described(value, name)
        if isinstance(value, Mapping):
            return {name: [[self(key), self(part)] for key, part in value.items()]}
        if isinstance(value, list | tuple | deque):
            return {name: [self(part) for part in value]}
        if isinstance(value, set | frozenset):
            return {name: _in_order(value)}
        if is_dataclass(value) and not isinstance(value, type):
            return {name: {field.name: self(getattr(value, field.name, None)) for field in fields(value)}}
        return self._callable(value)

    def _callable(self, value: Any) -> Any:
        if isinstance(value, partial):
            return {"partial": [self(part) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, MethodType):
            return {"method": value.__func__.__qualname__, "of": self(value.__self__)}
        if not callable(value) or not hasattr(value, "__qualname__"):
            return {"class": name_of(type(value))}
        if not isinstance(value, FunctionType) or value.__module__.partition(".")[0] in _KNOWN:
            return {"function": name_of(value)}
        held = [value.__defaults__, value.__kwdefaults__, *map(_content, value.__closure__ or ())]
        code = _code(value.__code__) if value.__name__ == "<lambda>" else source_of(value)  # a line may have several
        return {"function": name_of(value), "code": code, "with": [self(part) for part in held]}


def name_of(value: Any) -> str:
    """The full name of a class or function."""
    return f"{getattr(value, '__module__', None) or 'torch'}.{value.__qualname__}"


def source_of(value: Any) -> str:
    """The source of a class or function, if there is one."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return f"no source of {name_of(value)}" if isinstance(value, type) else _code(value.__code__)


def _code(code: CodeType) -> str:
    """What a function does, by its compiled code."""
    constants = [
        _code(part) if isinstance(part, CodeType) else repr(_in_order(part) if isinstance(part, frozenset) else part)
        for part in code.co_consts
    ]
    return repr((code.co_code.hex(), code.co_names, code.co_varnames, constants))


def _in_order(members: Any) -> list[str]:
    """The members of a set, which go through it in another order in each process; of others than data the class."""
    return sorted(repr(part) if part is None or isinstance(part, _PLAIN) else name_of(type(part)) for part in members)


def _of_tensor(value: Tensor) -> dict[str, Any]:
    if value.is_meta or value.layout != torch.strided:
        return {"tensor": list(value.shape), "dtype": str(value.dtype), "layout": str(value.layout)}
    return of_tensor(value)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put there yet
        return None
