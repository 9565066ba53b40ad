"""Sharded models: a call gathers each parameter where it is read, and leaves out the hooks that would shard again.

What `fully_shard` and `parallelize_module` do to a model is to spread its tensors, not to change its function. Their
hooks write into the modules that they were put on, and run autograd Functions that no transform and no rule can pass.
So the copy of a call has neither: where its forward reads a parameter, it is given the whole of it.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import (
    HOOK_TABLES,
    TENSOR_TABLES,
    FullyShard,
    cast_floating,
    fully_shard_of,
    fully_sharded_tensors,
    gathered,
    is_old_fsdp,
    is_sharded,
    layout_hook,
    may_be_sharded,
)
from ..errors import UnsupportedOperationError


class Sharded(NamedTuple):
    """A tensor of a module that is spread over processes.

    Attributes:
        shard: This process's part, a DTensor.
        whole: Gathers the whole, which every process of the mesh has to do at the same time.
    """

    shard: Tensor
    whole: Callable[[], Tensor]


class Sharding(NamedTuple):
    """How a module is sharded.

    Attributes:
        kind: The module's class without what sharding added to it.
        tensors: Its sharded tensors by name.
        hooks: The tables of hooks of its copies, by name.
        before: Those tables as they are on the module.
        by_layout: Whether its forward runs on parts of tensors.
    """

    kind: type[nn.Module]
    tensors: Mapping[str, Sharded]
    hooks: Mapping[str, Mapping[int, Any]]
    before: Mapping[str, Mapping[int, Any]]
    by_layout: bool

    def shards(self, table: Mapping[str, Any]) -> dict[str, Tensor]:
        """The shards of the sharded tensors of a table, in place of whole ones that the module may have just now."""
        return {name: tensor.shard for name, tensor in self.tensors.items() if name in table}

    def class_of_copy(self, kind: type[nn.Module]) -> Any:
        """The class of a copy, one of `kind`, that gathers what its forward reads."""
        read = {name: property(partial(_read, name, tensor.whole)) for name, tensor in self.tensors.items()}
        return type(kind.__name__, (kind,), {**read, "sharding": self})


def shardings(model: nn.Module) -> dict[int, Sharding]:
    """The sharded modules of a tree, by id.

    Raises:
        UnsupportedOperationError: If one is sharded in a way that cannot be left out.
    """
    if not may_be_sharded():
        return {}
    modules = list(model.named_modules())
    managed = {
        (id(owner), name): (path, tensor)
        for path, module in modules
        for owner, name, tensor in fully_sharded_tensors(module)
    }
    found = {id(module): _sharding(path, module, managed) for path, module in modules}
    made = {key: sharding for key, sharding in found.items() if sharding is not None}
    laid_out = [s for s in made.values() if s.by_layout]
    if managed and laid_out:
        raise UnsupportedOperationError(
            "functionalize(model=...): cannot gather a model that is sharded by fully_shard and by parallelize_module "
            "at once. Use one of them."
        )
    return made


def _sharding(path: str, module: nn.Module, managed: Mapping[tuple[int, str], Any]) -> Sharding | None:
    if is_old_fsdp(module):
        raise UnsupportedOperationError(
            f"functionalize(model=...): cannot gather the parameters of {path or 'the model'!r}: it is a "
            "FullyShardedDataParallel, which keeps them as one flat tensor. Shard it by "
            "torch.distributed.fsdp.fully_shard."
        )
    of_copy = getattr(type(module), "sharding", None)
    if isinstance(of_copy, Sharding):
        return of_copy
    tensors: dict[str, Sharded] = {}
    for table in TENSOR_TABLES:
        for name, tensor in vars(module)[table].items():
            by_fsdp = managed.get((id(module), name))
            if by_fsdp is not None:
                _, one = by_fsdp
                if one.extended:
                    raise UnsupportedOperationError(
                        f"functionalize(model=...): cannot gather {_joined(path, name)!r}: its class has a way of its "
                        "own to be gathered (fsdp_pre_all_gather). Shard a tensor of torch's own class."
                    )
                tensors[name] = Sharded(one.shard, one.whole)
            elif is_sharded(tensor):
                tensors[name] = Sharded(tensor, partial(gathered, tensor))
    by_fsdp = fully_shard_of(module)
    before = {table: vars(module)[table] for table in HOOK_TABLES}
    layouts = frozenset(_layout_hooks(path, before))
    if by_fsdp is None and not tensors and not layouts:
        return None
    by_layout = bool(layouts) or any((id(module), name) not in managed for name in tensors)
    casts = {} if by_fsdp is None else _casts(by_fsdp)
    left_out = layouts if by_fsdp is None else layouts | (by_fsdp.before | by_fsdp.after) - casts.keys()
    hooks = {
        table: type(held)(
            (key, hook if hook is True else casts.get(key, hook)) for key, hook in held.items() if key not in left_out
        )
        if "forward" in table or "backward" in table  # what follows a load is no part of a call
        else type(held)()
        for table, held in before.items()
    }
    kind = type(module) if by_fsdp is None else by_fsdp.kind
    return Sharding(kind, tensors, hooks, before, by_layout)


def _layout_hooks(path: str, tables: Mapping[str, Mapping[int, Any]]) -> Iterator[int]:
    for table in ("_forward_pre_hooks", "_forward_hooks"):
        for key, hook in tables[table].items():
            is_layout = layout_hook(hook)
            if is_layout is None:
                raise UnsupportedOperationError(
                    f"functionalize(model=...): cannot leave out a hook of {path or 'the model'!r} that lays its "
                    "tensors out over processes: it runs a function of its own. Use the styles of "
                    "torch.distributed.tensor.parallel (ColwiseParallel, RowwiseParallel, ...)."
                )
            if is_layout:
                yield key


def _casts(by_fsdp: FullyShard) -> dict[int, Any]:
    """What stands in the place of the hooks of `fully_shard`: they cast where its policy says so."""
    casts = {}
    if by_fsdp.inputs is not None:
        casts.update(dict.fromkeys(by_fsdp.before, partial(_cast_inputs, by_fsdp.inputs)))
    if by_fsdp.outputs is not None:
        casts.update(dict.fromkeys(by_fsdp.after, partial(_cast_outputs, by_fsdp.outputs)))
    return casts


def _cast_inputs(dtype: torch.dtype, module: nn.Module, args: Any, kwargs: Any) -> Any:
    return cast_floating(dtype, args), cast_floating(dtype, kwargs)


def _cast_outputs(dtype: torch.dtype, module: nn.Module, args: Any, output: Any) -> Any:
    return cast_floating(dtype, output)


def _read(name: str, whole: Callable[[], Tensor], module: nn.Module) -> Tensor:
    held = next(vars(module)[table][name] for table in TENSOR_TABLES if name in vars(module)[table])
    return whole() if is_sharded(held) else held  # what is bound is no shard


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
