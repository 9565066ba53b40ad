"""The description of a model: its classes, their code as far as it can be known, its numbers and its tensors."""

import hashlib
import inspect
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .._torch import HOOK_TABLES
from ..model.functional import FunctionalModel
from .description import described, of_tensor
from .own import Own


def described_model(model: Any) -> dict[str, Any]:
    """What a manifest says of a model.

    Raises:
        TypeError: If it is a function, which nobody can describe from the outside.
    """
    if isinstance(model, Own):
        inside = described_model(model.value) if isinstance(model.value, nn.Module) else {}
        return {"own": model.name, "version": model.version} | inside
    if isinstance(model, FunctionalModel):
        kept = {"edits": described(dict(model.structure.edits), "run(model=...)")} if model.structure.edits else {}
        tensors = {**model.params, **model.buffers}
        return _of(model.structure.model, tensors) | kept
    return _of(model, dict(_tensors(model)) if isinstance(model, nn.Module) else {})


def _of(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"run(model=...): expected a module, got {type(model).__name__}, whose meaning the run's manifest cannot "
            "say. A model that is a function comes with a name and a version: scale.Own(model, name=..., version=...)."
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    classes = {_name(type(module)): type(module) for module in modules.values()}
    return {
        "class": _name(type(model)),
        "code": _digest({name: _code(kind) for name, kind in classes.items()}),
        "structure": _digest({name: [_name(type(m)), _simple(m)] for name, m in modules.items()}),
        "tensors": _digest({name: of_tensor(tensor) for name, tensor in tensors.items()}),
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _code(kind: type) -> str:
    """The source of a class and of its bases; torch's are known by its version, others may have no source."""
    own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins")]
    return "".join(map(_source, own))


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return f"no source of {_name(kind)}"


def _simple(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside its tensors and modules and is plain data; and its hooks' names."""
    kept = {name: value for name, value in vars(module).items() if not name.startswith("_") and _is_plain(value)}
    hooks = [hook for table in HOOK_TABLES for hook in _values(vars(module).get(table))]
    return {**{k: repr(v) for k, v in sorted(kept.items())}, "hooks": [_hook(hook) for hook in hooks]}


def _values(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else []


def _hook(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | torch.Size):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
