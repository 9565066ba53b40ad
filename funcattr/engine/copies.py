"""Private copies of a module tree: the structure is new for each call, the tensors are shared."""

import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from copy import copy as copy_of
from typing import Any

from torch import Tensor, nn

from .opaque import PLAIN
from .sites import enter_module, leave_module

_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set))
_TABLES = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, its modules, its hooks."""


def _structure_copy(model: nn.Module) -> nn.Module:
    """The module tree copied, one new object a module, all tensors shared."""
    copies: dict[int, nn.Module] = {}
    for module in model.modules():
        copy = copies[id(module)] = object.__new__(type(module))
        copy.__dict__.update(vars(module))
        copy.__dict__["_compiled_call_impl"] = None
        for table in ("_parameters", "_buffers", "_modules"):
            copy.__dict__[table] = dict(vars(module)[table])
    for copy in copies.values():
        attributes = vars(copy)
        for name, value in attributes.items():
            # Most of a module's attributes are plain, or tables of hooks with nothing in them.
            if type(value) in PLAIN:
                continue
            if type(value) in _CONTAINERS and name not in _TABLES:
                value = attributes[name] = copy_of(value)  # what a model keeps there during a call stays with the call
            if not (type(value) in _CONTAINERS and not value):
                attributes[name] = _moved(value, copies)
    return copies[id(model)]


def _moved(value: Any, copies: Mapping[int, nn.Module]) -> Any:
    """`value` with the tree's modules replaced by their copies, inside plain containers and bound methods too."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, types.MethodType):
        owner = copies.get(id(value.__self__))
        return value if owner is None else types.MethodType(value.__func__, owner)
    kinds = nn.Module | types.MethodType
    if type(value) in (dict, OrderedDict) and any(isinstance(v, kinds) for v in value.values()):
        return type(value)((k, _moved(v, copies)) for k, v in value.items())
    if type(value) in (list, tuple):
        items: list[Any] = list(value)
        if any(isinstance(v, kinds) for v in items):
            return type(value)(_moved(v, copies) for v in items)
    return value


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put a call's tensors into its own copy of the modules, as functional_call does, with nothing to put back."""
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for table in (vars(part)["_parameters"], vars(part)["_buffers"]):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = tensors[prefix + name]


def sited_copy(model: nn.Module) -> nn.Module:
    """A copy for one call, whose modules tell the active mode where the call is."""
    copy = _structure_copy(model)
    for name, module in copy.named_modules():
        module.__dict__["forward"] = _sited_forward(module, name)
    return copy


def _sited_forward(module: nn.Module, name: str) -> Callable[..., Any]:
    # A plain function, no partial: Dynamo asks a graph module's forward for its code.
    def forward(*args: Any, **kwargs: Any) -> Any:
        return _forward(module, name, *args, **kwargs)

    return forward


def _forward(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(module, nn.RNNBase):
        # Recurrent modules keep a list of their weights beside the table that functional_call fills.
        weights = [getattr(module, n) for n in module._flat_weights_names]
        module.__dict__["_flat_weights"] = weights
    args, kwargs = enter_module(name, type(module), args, kwargs)
    return leave_module(type(module).forward(module, *args, **kwargs), name)
