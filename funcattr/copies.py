"""Copies of Python values as deep as it takes: containers, objects, bound methods, partials, closures.

What one object holds in two places is one object in the copy too. Tensors are copied as the caller says.
"""

import copy
import enum
import functools
import io
import logging
import random
import threading
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ._torch import pytree

ATOMS = frozenset([bool, int, float, complex, str, bytes, type(None), range, slice, torch.Size, torch.dtype])
"""Kinds of value that hold no other value and cannot be written; most attributes are of these."""


def is_fixed(value: Any) -> bool:
    """Whether a value holds nothing that can be written."""
    kind = type(value)
    return kind in ATOMS or (kind is tuple and (ATOMS.issuperset(map(type, value)) or all(map(is_fixed, value))))


DRAWING = (random.Random, np.random.Generator, np.random.RandomState)
"""Generators of random numbers that are none of torch's."""
_SHARED = (
    *(type, types.ModuleType, enum.Enum, threading.Thread, io.IOBase, logging.Logger, logging.Handler),
    *(weakref.ref, BaseException, torch.UntypedStorage, torch.TypedStorage),
)
"""Classes whose instances stand for something outside of the program's values."""
_HEAP_TYPE = 1 << 9
_MISSING = object()


class Copier:
    """Copies values; each object once.

    Args:
        tensor: The copy of a tensor.
        copies: Copies that are there already, by the id of their original.
    """

    def __init__(self, tensor: Callable[[Tensor], Tensor], copies: Mapping[int, Any] | None = None) -> None:
        self._copy_of = tensor
        self.copies: dict[int, Any] = dict(copies or {})

    def __call__(self, value: Any) -> Any:
        """The copy of a value: itself where nothing in it can be written."""
        kind = type(value)
        if kind in ATOMS:
            return value
        done = self.copies.get(id(value), _MISSING)
        if done is not _MISSING:
            return done
        if isinstance(value, Tensor):
            return self._keep(value, self.tensor(value))
        if isinstance(value, nn.Module):
            return self.module(value)
        make = _MAKERS.get(kind)
        return self._other(value) if make is None else make(self, value)

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of a tensor."""
        return self._copy_of(tensor)

    def module(self, module: nn.Module) -> nn.Module:
        """The copy of a module; here the module itself."""
        return module

    def _keep(self, value: Any, made: Any) -> Any:
        self.copies[id(value)] = made
        return made

    def mapping(self, value: Any) -> Any:
        """A dict, with modules and functions among its keys copied too."""
        made = self._keep(value, copy.copy(value))
        made.clear()
        made.update((self._key(key), self(held)) for key, held in value.items())
        return made

    def _key(self, key: Any) -> Any:
        return self(key) if isinstance(key, nn.Module | Tensor | tuple | types.FunctionType) else key

    def _list(self, value: list[Any]) -> list[Any]:
        made: list[Any] = self._keep(value, value.copy())
        if not all(map(is_fixed, value)):
            made[:] = map(self, value)
        return made

    def _deque(self, value: "deque[Any]") -> "deque[Any]":
        made: deque[Any] = self._keep(value, deque(maxlen=value.maxlen))
        made.extend(map(self, value))
        return made

    def _set(self, value: Any) -> Any:
        return self._keep(value, type(value)(map(self._key, value)))

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if is_fixed(value):
            return value
        items = list(map(self, value))
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return self._keep(value, tuple.__new__(type(value), items))

    def _method(self, value: types.MethodType) -> Any:
        owner, function = self(value.__self__), self(value.__func__)
        same = owner is value.__self__ and function is value.__func__
        return value if same else types.MethodType(function, owner)

    def _builtin_method(self, value: types.BuiltinMethodType) -> Any:
        owner = value.__self__
        if owner is None or isinstance(owner, types.ModuleType | type):
            return value
        return getattr(self(owner), value.__name__)

    def _partial(self, value: "functools.partial[Any]") -> Any:
        made = type(value)(self(value.func), *map(self, value.args), **{k: self(v) for k, v in value.keywords.items()})
        vars(made).update({name: self(held) for name, held in vars(value).items()})
        return self._keep(value, made)

    def _function(self, value: types.FunctionType) -> Any:
        # What a function closes over is the user's own, such as the list that a hook appends to; but not a module, nor
        # a tensor of one.
        if not any(self._is_moved(held) for held in held_by(value)):
            return value
        cells = tuple(types.CellType() for _ in value.__closure__ or ())
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, cells or None)
        self._keep(value, made)
        for cell, before in zip(cells, value.__closure__ or (), strict=True):
            for content in _contents(before):
                cell.cell_contents = self._moved(content)
        made.__defaults__ = value.__defaults__ and tuple(map(self._moved, value.__defaults__))
        named = (value.__kwdefaults__ or {}).items()
        made.__kwdefaults__ = value.__kwdefaults__ and {name: self._moved(held) for name, held in named}
        made.__qualname__, made.__doc__, made.__module__ = value.__qualname__, value.__doc__, value.__module__
        vars(made).update({name: self._moved(held) for name, held in vars(value).items()})
        return made

    def _moved(self, value: Any) -> Any:
        return self(value) if self._is_moved(value) else value

    def _is_moved(self, value: Any) -> bool:
        """Whether a function gets the copy of what it holds."""
        return isinstance(value, Tensor | nn.Module) or self._reaches(value, set())

    def _reaches(self, value: Any, seen: set[int]) -> bool:
        """Whether something that has a copy, such as a module of the tree, is within reach."""
        if id(value) in self.copies:
            return True
        if type(value) in ATOMS or isinstance(value, Tensor | nn.Module) or id(value) in seen:
            return False
        seen.add(id(value))
        return any(self._reaches(held, seen) for held in held_by(value))

    def _other(self, value: Any) -> Any:
        """Of a value of any other kind: an object is copied if a class statement made its class."""
        if isinstance(value, np.ndarray):
            return self._keep(value, value.copy())
        if isinstance(value, torch.Generator):
            return self._keep(value, value.clone_state())
        if isinstance(value, DRAWING):
            return self._keep(value, copy.deepcopy(value))
        if isinstance(value, tuple):
            return self._tuple(value)
        return self._object(value) if _is_copied(type(value)) else value

    def _object(self, value: Any) -> Any:
        try:
            made = copy.copy(value)
        except Exception:  # what cannot be copied is shared, as a lock or a connection is
            return value
        if made is value:
            return value
        self._keep(value, made)
        for name, held in _attributes(value):
            new = self(held)
            if new is held:
                continue
            if name in getattr(made, "__dict__", ()):
                made.__dict__[name] = new
            else:
                object.__setattr__(made, name, new)
        if isinstance(value, dict):
            dict.clear(made)
            dict.update(made, {self._key(key): self(held) for key, held in dict.items(value)})
        elif isinstance(value, list):
            list.__setitem__(made, slice(None), [self(held) for held in list.__iter__(value)])
        return made


_MAKERS: Mapping[type, Callable[[Any, Any], Any]] = {
    **dict.fromkeys((dict, OrderedDict, defaultdict), Copier.mapping),
    **dict.fromkeys((set, frozenset), Copier._set),
    list: Copier._list,
    tuple: Copier._tuple,
    deque: Copier._deque,
    functools.partial: Copier._partial,
    types.MethodType: Copier._method,
    types.BuiltinMethodType: Copier._builtin_method,
    types.FunctionType: Copier._function,
    types.SimpleNamespace: Copier._object,
}


def _is_copied(kind: type) -> bool:
    """Whether instances of a class hold nothing but values; one with a `__del__` would close what it holds twice."""
    return bool(kind.__flags__ & _HEAP_TYPE) and not hasattr(kind, "__del__") and not issubclass(kind, _SHARED)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)


def held_by(value: Any) -> Iterator[Any]:
    """The values that a value holds, as far as a copy goes into it."""
    if isinstance(value, dict):
        yield from (*value.keys(), *value.values())
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, types.BuiltinMethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.FunctionType):
        yield from (content for cell in value.__closure__ or () for content in _contents(cell))
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *vars(value).values())
    if _is_copied(type(value)) or isinstance(value, types.SimpleNamespace):
        yield from (held for _, held in _attributes(value))


def _contents(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # not filled yet
        return ()


def copied(value: Any) -> Any:
    """A copy whose tensors are clones, so that nothing that is done to it is seen from outside."""
    if torch.compiler.is_dynamo_compiling():  # which takes no objects but trees
        return pytree.tree_map_only(Tensor, torch.clone, value)
    return Copier(torch.clone)(value)
