"""Descriptions of values as data that JSON holds: equal descriptions compute equal numbers."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..rulebook.rulebook import Rulebook
from .own import Own

_HERE = __name__.partition(".")[0]


def described(value: Any, where: str) -> Any:
    """A description of a value, which changes when the value does.

    Numbers, texts, lists, tuples and mappings of them are their own; a tensor is its shape, dtype and a hash of its
    bytes; a function of funcattr's or torch's is its name; what funcattr has made (a rulebook, statistics, a baseline,
    a target) is described by its parts.

    Args:
        value: The value.
        where: What the user wrote, for the error: "run(options={'baseline': ...})".

    Raises:
        TypeError: If it is something whose meaning nobody can tell from the outside, such as a function of the user's.
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Own):
        return {"own": value.name, "version": value.version}
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject:  # whose bytes are addresses
            raise _opaque(value, where, "An array of objects")
        return {"array": list(array.shape), "dtype": str(array.dtype), "sha256": _hash(array.tobytes())}
    if isinstance(value, torch.dtype | torch.device | torch.Size):
        return {"torch": str(value)}
    if isinstance(value, Mapping):
        items = [(described(k, where), described(v, f"{where}[{k!r}]")) for k, v in value.items()]
        return dict(items) if all(isinstance(k, str) for k, _ in items) else {"items": [list(item) for item in items]}
    if type(value) is list:
        return [described(part, where) for part in value]
    if type(value) is tuple:
        return {"tuple": [described(part, where) for part in value]}
    if isinstance(value, partial):
        parts = {"args": value.args, "keywords": value.keywords}
        return {"partial": described(value.func, where)} | described({k: v for k, v in parts.items() if v}, where)
    if isinstance(value, Rulebook):
        rows = [_without_nothing(row._asdict()) for row in value.entries]
        kept = {"name": value.name, "unlisted": value.unlisted, "space": value.space, "expects": list(value.expects)}
        return {"rulebook": kept | {"rows": described(rows, where)}}
    if isinstance(value, type) or (callable(value) and hasattr(value, "__name__") and not is_dataclass(value)):
        return _function(value, where)
    if isinstance(value, nn.Module):
        raise _opaque(value, where, "A layer is given by its name; any other module")
    if type(value).__module__.partition(".")[0] == _HERE:
        return {"class": _name(type(value)), "parts": described(_parts(value), where)}
    raise _opaque(value, where, "Anything of your own")


def of_tensor(value: Tensor) -> dict[str, Any]:
    """Shape, dtype and a hash of the bytes."""
    return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "sha256": tensor_hash(value)}


def tensor_hash(value: Tensor) -> str:
    """A hash of a tensor's bytes, in the order of its elements."""
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if plain.numel() == 1:  # which is contiguous with any stride, and no bytes with another than 1
        plain = plain.clone(memory_format=torch.contiguous_format)
    return _hash(plain.view(torch.uint8).numpy() if plain.numel() else b"")


def _hash(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _without_nothing(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        k: tuple(v) if isinstance(v, tuple) else v
        for k, v in row.items()
        if v is not None and v is not False and v != "*"
    }


def _parts(value: Any) -> dict[str, Any]:
    named = getattr(value, "_asdict", None)
    if isinstance(value, tuple):
        return {"items": list(value)} if named is None else named()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    # A declaration of a rule holds for the very object, and says so by its id (`calls/declarations.py`).
    kept = {
        name: "declared" if type(part) is int and part == id(value) else part
        for name, part in vars(value).items()
        if name[:2] != "__"
    }
    return kept


def _function(value: Any, where: str) -> Any:
    """The name of a function or class of funcattr's or torch's; what a function there was made with comes with it."""
    name = _name(value)
    home = str(getattr(value, "__module__", None) or "torch").partition(".")[0]
    if home in (_HERE, "torch") and _found(value) is value:
        return {"function": name}
    if home == "torch" and (spelled := torch.overrides.resolve_name(value)):
        return {"function": spelled}
    if home == _HERE and isinstance(value, FunctionType):
        made = inspect.getclosurevars(value).nonlocals
        # A copy: a function that a factory there has made, or one behind a wrapper of the same name.
        return {"function": name} | ({"made_with": described(dict(made), where)} if made else {})
    raise _opaque(value, where, "A function of your own")


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None) or 'torch'}.{getattr(value, '__qualname__', value.__name__)}"


def _found(value: Any) -> Any:
    """What is found where a function says that it is."""
    try:
        found = import_module(value.__module__)
        for part in value.__qualname__.split("."):
            found = getattr(found, part)
    except (AttributeError, ImportError, TypeError, ValueError):
        return None
    return found


def _opaque(value: Any, where: str, what: str) -> TypeError:
    shown = getattr(value, "__qualname__", None) or type(value).__name__
    return TypeError(
        f"{where}: expected data, something of funcattr's, or an Own, got {shown}, whose meaning the run's manifest "
        f"cannot say. {what} comes with a name and a version: scale.Own({shown.rpartition('.')[2]}, name=..., "
        "version=...)."
    )
