"""Private copies of a module tree: the structure is new for each call, the tensors are shared."""

import types
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy as copy_of
from typing import Any, NamedTuple

from torch import Tensor, nn

from .._torch import TENSOR_TABLES, own_attributes, renew_flat_weights
from .refusals import PLAIN
from .sites import enter_module, leave_module, pass_module

_CONTAINERS = frozenset((dict, OrderedDict, list, tuple, set))
_TABLES = frozenset(vars(nn.Module()))
"""Attributes of every module: its parameters, its modules, its hooks."""
_OWN = frozenset([*TENSOR_TABLES, "forward"])
"""Attributes that a copy gets of its own in any case."""


class Part(NamedTuple):
    """A module of a tree.

    Attributes:
        name: Its qualified name.
        module: The module.
        moving: Attributes that a private copy cannot share: containers, modules, bound methods.
        tensors: (table, name in it, qualified name) of its parameters and buffers.
    """

    name: str
    module: nn.Module
    moving: tuple[str, ...]
    tensors: tuple[tuple[str, str, str], ...]


def parts_of(model: nn.Module) -> tuple[Part, ...]:
    """The modules of a tree, the root first."""
    return tuple(Part(name, module, _moving(module), _tensors(name, module)) for name, module in model.named_modules())


def _moving(module: nn.Module) -> tuple[str, ...]:
    # Most of a module's attributes are plain, or tables of hooks with nothing in them.
    return tuple(
        name
        for name, value in vars(module).items()
        if type(value) not in PLAIN and name not in _OWN and not (name in _TABLES and not value)
    )


def _tensors(name: str, module: nn.Module) -> tuple[tuple[str, str, str], ...]:
    prefix = f"{name}." if name else ""
    tables = ((table, vars(module)[table]) for table in TENSOR_TABLES)
    return tuple((table, own, prefix + own) for table, held in tables for own, t in held.items() if t is not None)


def sited_copy(parts: Sequence[Part]) -> tuple[Part, ...]:
    """A tree copied for one call: a new object a module, all tensors shared; each tells the active mode where it is."""
    copies: dict[int, nn.Module] = {}
    for part in parts:
        copy = copies[id(part.module)] = object.__new__(type(part.module))
        copy.__dict__.update(own_attributes(part.module))
    for part, copy in zip(parts, copies.values(), strict=True):
        attributes = copy.__dict__
        for name in part.moving:
            value = attributes[name]
            if type(value) in _CONTAINERS and name not in _TABLES:
                value = copy_of(value)  # what a model keeps there during a call stays with the call
            attributes[name] = _moved(value, copies)
        attributes["forward"] = _sited_forward(copy, part.name)
    return tuple(Part(p.name, copy, p.moving, p.tensors) for p, copy in zip(parts, copies.values(), strict=True))


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


def fill(parts: Sequence[Part], tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Put a call's tensors into its own copy of the modules, as functional_call does, with nothing to put back.

    `names` leads from each place of a tensor to its name among `tensors`.
    """
    for part in parts:
        attributes = vars(part.module)
        for table, own, place in part.tensors:
            attributes[table][own] = tensors[names[place]]


def _sited_forward(module: nn.Module, name: str) -> Callable[..., Any]:
    # A plain function, no partial: Dynamo asks a graph module's forward for its code.
    def forward(*args: Any, **kwargs: Any) -> Any:
        return _forward(module, name, *args, **kwargs)

    return forward


def _forward(module: nn.Module, name: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(module, nn.RNNBase):
        renew_flat_weights(module)
    args, kwargs = enter_module(name, type(module), args, kwargs)
    output = type(module).forward(module, *args, **kwargs)
    return leave_module(output, name) if getattr(module, "is_site", True) else pass_module(output, name)
