"""The description of a model: its classes, their code as far as it can be known, its attributes and its tensors."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .._torch import HOOK_TABLES
from ..model.functional import FunctionalModel
from .attribute_description import AttributeDescriber, name_of, source_of
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
    classes = {name_of(type(module)): type(module) for module in modules.values()}
    describe = AttributeDescriber(model, tensors)
    parts = {name: [name_of(type(m)), describe.of_module(m), _hooks(m, describe)] for name, m in modules.items()}
    return {
        "class": name_of(type(model)),
        "code": _digest({name: _code(kind) for name, kind in classes.items()}),
        "structure": _digest(parts),
        "tensors": _digest({name: of_tensor(tensor) for name, tensor in tensors.items()}),
    }


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _code(kind: type) -> str:
    """The source of a class and of its bases; torch's are known by its version, others may have no source."""
    own = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins")]
    return "".join(map(source_of, own))


def _hooks(module: nn.Module, describe: AttributeDescriber) -> list[Any]:
    tables = (vars(module).get(table) for table in HOOK_TABLES)
    return [describe(hook) for table in tables if isinstance(table, dict) for hook in table.values()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
