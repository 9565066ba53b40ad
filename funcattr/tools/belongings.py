"""What is the user's: tensors, modules with all that hangs on them, random states and torch's settings."""

import random
from collections import deque
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._torch import function_modes, local, version

_ATOMS = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, torch.Generator)
_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


class Belongings:
    """Takes note of what is the user's; `changes` says what is no longer as it was.

    It follows attributes, lists, dicts and objects from the roots on. For tensors it notes identity, bytes, version,
    `.grad` and `requires_grad`; for modules and objects their attributes; for containers what is in them, hooks so.

    Args:
        roots: Models, inputs, and what else a call was given.
    """

    def __init__(self, *roots: Any) -> None:
        self._tensors = list[tuple[str, Tensor, Tensor, int, Tensor | None, bool]]()
        self._parts = list[tuple[str, Any, list[tuple[str, Any]]]]()
        seen = dict[int, Any]()  # holds what it has seen, or another object could get the same id
        pending = [(f"argument {i}", root) for i, root in enumerate(roots)]
        while pending:
            path, value = pending.pop()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            if isinstance(value, Tensor):
                kept = value.detach().clone()
                self._tensors.append((path, value, kept, version(value), value.grad, value.requires_grad))
                continue
            parts = list(_parts(value))
            if parts or _is_container(value):
                self._parts.append((path, value, parts))
                pending += [(f"{path}.{name}", part) for name, part in parts]
        self._state = _state()

    def changes(self) -> Iterator[str]:
        """Compare with what was noted: a line for each thing that was written, added, removed or replaced."""
        for path, value, kept, noted, grad, requires_grad in self._tensors:
            if not torch.equal(*map(_bytes, (value, kept))):
                yield f"{path}: the tensor has other values than before"
            if version(value) != noted:
                yield f"{path}: the tensor was written in place"
            if value.grad is not grad:
                yield f"{path}: its .grad is another one"
            if value.requires_grad != requires_grad:
                yield f"{path}: its requires_grad is another one"
        for path, value, parts in self._parts:
            now = list(_parts(value))
            names, before = [name for name, _ in now], [name for name, _ in parts]
            if names != before:
                yield f"{path}: has {sorted(set(names) ^ set(before)) or names} more, less or elsewhere"
                continue
            for (name, part), (_, old) in zip(now, parts, strict=True):
                if part is not old:
                    yield f"{path}.{name}: is another object than before"
        now = _state()
        yield from (f"{name} is not what it was" for name in now if now[name] != self._state[name])

    def check(self) -> None:
        """Raise for the first change.

        Raises:
            AssertionError: If there is one.
        """
        for change in self.changes():
            raise AssertionError(change)

    def __len__(self) -> int:
        """The number of tensors, modules, objects and containers that were noted."""
        return len(self._tensors) + len(self._parts)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | tuple | set | deque)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Name and object of all that hangs directly on something."""
    if isinstance(value, (*_ATOMS, *_CODE)):
        return
    if isinstance(value, dict | MappingProxyType):  # others may make what they give, such as one that loads
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | deque):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"{{{id(part)}}}", part) for part in value)
    if hasattr(value, "__dict__") and (isinstance(value, nn.Module) or not type(value).__module__.startswith("torch")):
        yield from vars(value).items()


def _bytes(value: Tensor) -> Tensor:
    """The memory of a tensor, so that NaN equals NaN and 0 is not -0."""
    if value.is_meta:
        return torch.empty(0)
    own = local(value.detach())
    plain = own.resolve_conj().resolve_neg().contiguous().flatten()
    return plain.view(torch.uint8) if plain.numel() else plain


def _state() -> dict[str, Any]:
    """Random states and settings of the process, as values that can be compared."""
    numpy: Any = np.random.get_state()
    backends = torch.backends
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "the random state of CUDA": [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_initialized()
        else None,
        "Python's random state": random.getstate(),
        "NumPy's random state": (numpy[0], numpy[1].tobytes(), *numpy[2:]),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.is_autocast_enabled()": torch.is_autocast_enabled("cpu"),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.backends.cudnn": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "torch.backends.cuda.matmul.allow_tf32": backends.cuda.matmul.allow_tf32,
        "the torch function modes": list(map(id, function_modes())),
    }
