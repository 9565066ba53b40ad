"""Buffers that share memory, and their clones, which share it too."""

from collections import defaultdict
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from .._torch import memory_of, names_of_memory
from ..errors import UnsupportedOperationError

Group = tuple[str, ...]
"""Names of tensors with one memory; a parameter, if there is one, comes first."""


def aliased_groups(params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> tuple[Group, ...]:
    """The groups of tensors, with at least one buffer among them, that share their memory.

    Raises:
        UnsupportedOperationError: If tensors of one memory have several dtypes.
    """
    if not buffers or torch.compiler.is_dynamo_compiling():
        return ()
    named, groups = {**params, **buffers}, defaultdict[int | None, list[str]](list)
    for name, tensor in named.items():
        groups[memory_of(tensor)].append(name)
    groups.pop(None, None)
    found = tuple(tuple(names) for names in groups.values() if len(names) > 1 and names[-1] in buffers)
    for names in found:
        if len({named[name].dtype for name in names}) > 1:
            raise UnsupportedOperationError(
                f"functionalize(model=...): the tensors {', '.join(names)} share memory, and have several dtypes. "
                "Give each its own: register_buffer(name, tensor.clone())."
            )
    return found


def cloned(
    buffers: Mapping[str, Tensor], params: Mapping[str, Tensor], groups: tuple[Group, ...], bound: Container[str]
) -> dict[str, Tensor]:
    """A clone of each buffer; those of one memory have one memory again, and a parameter's stays with it."""
    made: dict[str, Tensor] = {}
    for group in groups:
        names = [name for name in group if name not in bound]
        if names and names[0] in params:
            made.update(names_of_memory({name: buffers[name] for name in names if name in buffers}))
        elif len(names) > 1:
            whole = _memory(buffers[names[0]]).clone()
            for name in names:
                b = buffers[name]
                made[name] = whole.as_strided(b.size(), b.stride(), b.storage_offset())
    return {name: made[name] if name in made else b.clone() for name, b in buffers.items()}


def _memory(tensor: Tensor) -> Tensor:
    """All numbers of a tensor's memory."""
    return tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
