"""Sharded models: a call gathers each parameter where it is read, and leaves out the hooks that would shard again.

So it does with parameters that accelerate keeps in memory or on disk until they are needed.

What `fully_shard` and `parallelize_module` do to a model is to spread its tensors, not to change its function. Their
hooks write into the modules that they were put on, and run autograd Functions that no transform and no rule can pass.
So the copy of a call has neither: where its forward reads a parameter, it is given the whole of it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    has_hooks,
    is_fsdp,
    is_old_fsdp,
    is_sharded,
    layout_hook,
    may_be_sharded,
    memory_of,
    outside_the_pass,
    release,
    reserve,
    version_of_shard,
)
from ..calls.saved_tensors import MadeAgain
from ..errors import UnsupportedOperationError
from .offloading import has_device_hooks, offloaded_tensors


class Sharded(NamedTuple):
    """A tensor of a module that is spread over processes, or kept elsewhere.

    Attributes:
        shard: This process's part, a DTensor; or what stands for a tensor that is elsewhere, on the device "meta".
        whole: Gathers or loads the whole. To gather is for every process of the mesh to do at the same time.
        again: What gathers it once more in the reverse pass, None where it would not give the same for sure.
    """

    shard: Tensor
    whole: Callable[[], Tensor]
    again: Callable[[], Callable[[], Tensor] | None]


class Sharding(NamedTuple):
    """How a module is sharded.

    Attributes:
        path: The module's name.
        kind: The module's class without what sharding added to it.
        tensors: Its sharded tensors by name.
        hooks: The tables of hooks of its copies, by name.
        before: Those tables as they are on the module.
        by_layout: Whether its forward runs on parts of tensors.
    """

    path: str
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
        read = {name: property(partial(_read, name, tensor, self.path)) for name, tensor in self.tensors.items()}
        return type(kind.__name__, (kind,), {**read, "sharding": self})


def shardings(modules: Sequence[tuple[str, nn.Module]]) -> dict[int, Sharding]:
    """The sharded modules among those of a tree, by id.

    Raises:
        UnsupportedOperationError: If one is sharded in a way that cannot be left out.
    """
    if not _may_be_sharded([module for _, module in modules]):  # nearly always
        return {}
    managed: dict[tuple[int, str], Sharded] = {}
    for path, module in modules:
        for owner, name, tensor in fully_sharded_tensors(module):
            if tensor.extended:
                raise UnsupportedOperationError(
                    f"functionalize(model=...): cannot gather {name!r} of a module in {path or 'the model'!r}: its "
                    "class has a way of its own to be gathered (fsdp_pre_all_gather). Shard tensors of torch's own "
                    "class."
                )
            managed[id(owner), name] = Sharded(tensor.shard, tensor.whole, tensor.again)
    offloaded = {
        (id(owner), name): Sharded(tensor, load, _never)
        for _, module in modules
        for owner, name, tensor, load in offloaded_tensors(module)
    }
    elsewhere = {**managed, **offloaded}
    found = {id(module): _sharding(path, module, elsewhere) for path, module in modules}
    made = {key: sharding for key, sharding in found.items() if sharding is not None}
    laid_out = [s for s in made.values() if s.by_layout]
    if managed and laid_out:
        raise UnsupportedOperationError(
            "functionalize(model=...): cannot gather a model that is sharded by fully_shard and by parallelize_module "
            "at once, nor a part of a model whose whole is sharded. Use one of them, and give the whole model."
        )
    return made


_PLAIN = frozenset([nn.Parameter, Tensor, nn.Buffer, type(None)])


def _may_be_sharded(modules: Sequence[nn.Module]) -> bool:
    """Whether one of some modules looks sharded; quick, for it is asked at each call of a method."""
    kinds = set(map(type, modules))
    if any(hasattr(kind, "sharding") for kind in kinds) or any(map(has_device_hooks, modules)):
        return True
    if not may_be_sharded():
        return False
    return (
        any(map(is_fsdp, kinds))
        or any(map(has_hooks, modules))
        or not all(_PLAIN.issuperset(map(type, vars(m)[table].values())) for m in modules for table in TENSOR_TABLES)
    )


def _sharding(path: str, module: nn.Module, managed: Mapping[tuple[int, str], Sharded]) -> Sharding | None:
    if is_old_fsdp(type(module)):
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
            if (id(module), name) in managed:
                tensors[name] = managed[id(module), name]
            elif is_sharded(tensor):
                gather = partial(gathered, tensor)
                tensors[name] = Sharded(tensor, gather, partial(_always, gather))
    by_fsdp, layouts = (
        fully_shard_of(module),
        frozenset(_layout_hooks(path, module)) if has_hooks(module) else frozenset(),
    )
    if by_fsdp is None and not tensors and not layouts:
        return None
    before = {table: vars(module)[table] for table in HOOK_TABLES}
    by_layout = bool(layouts) or any((id(module), name) not in managed for name in tensors)
    casts = {} if by_fsdp is None else _casts(by_fsdp)
    left_out = layouts if by_fsdp is None else layouts | (by_fsdp.before | by_fsdp.after) - casts.keys()
    hooks = {table: _table_of_copy(table, held, left_out, casts) for table, held in before.items()}
    kind = type(module) if by_fsdp is None else by_fsdp.kind
    return Sharding(path, kind, tensors, hooks, before, by_layout)


def _layout_hooks(path: str, module: nn.Module) -> Iterator[int]:
    for table in ("_forward_pre_hooks", "_forward_hooks"):
        for key, hook in vars(module)[table].items():
            is_layout = layout_hook(hook)
            if is_layout is None:
                raise UnsupportedOperationError(
                    f"functionalize(model=...): cannot leave out a hook of {path or 'the model'!r} that lays its "
                    "tensors out over processes: it runs a function of its own. Use the styles of "
                    "torch.distributed.tensor.parallel (ColwiseParallel, RowwiseParallel, ...)."
                )
            if is_layout:
                yield key


def _table_of_copy(table: str, held: Any, left_out: frozenset[int], casts: Mapping[int, Any]) -> Any:
    """A table of hooks without some, and with others for some; a table of their numbers has no function to change."""
    if "forward" not in table and "backward" not in table:  # what follows a load is no part of a call
        return type(held)()
    hooks = ((key, hook if hook is True else casts.get(key, hook)) for key, hook in held.items())
    return type(held)((key, hook) for key, hook in hooks if key not in left_out)


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


def _read(name: str, sharded: Sharded, path: str, module: nn.Module) -> Tensor | None:
    tables = [vars(module)[table] for table in TENSOR_TABLES]
    if not any(name in table for table in tables):
        raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")
    held: Any = next(table[name] for table in tables if name in table)
    if held is None or not (is_sharded(held) or held.is_meta):
        return held  # it was bound, or taken away
    make, tensor = sharded.again(), sharded.whole()
    if make is None:
        return tensor
    again = MadeAgain(make, sharded.shard, version_of_shard, path)
    packing = vars(module).get(PACKING)
    if packing is not None:
        packing.note(tensor, again)
    return again.of(tensor)


def _never() -> None:
    return None


def _always(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return make


PACKING = "_funcattr_packing"
"""The attribute of a copy that has the `Packing` of its call."""


def is_packing(pack: Any) -> bool:
    """Whether what packs a saved tensor does so for a sharded model."""
    return isinstance(getattr(pack, "__self__", None), Packing)


class Packing:
    """Lets autograd save, in place of a gathered tensor, how to gather it again."""

    def __init__(self) -> None:
        self._known: dict[int, MadeAgain] = {}
        self._ended = False

    def note(self, tensor: Tensor, again: MadeAgain) -> None:
        """A tensor that was gathered just now."""
        if self._ended:  # a part of the forward that checkpointing runs again
            return
        # The number of its memory is that of no other memory before `end`, also where it is freed before.
        with outside_the_pass():
            self._known[reserve(tensor.untyped_storage())] = again

    def pack(self, tensor: Tensor) -> Any:
        memory = memory_of(tensor)
        again = None if memory is None else self._known.get(memory)
        if again is None:
            return tensor
        return again, tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype

    @staticmethod
    def unpack(saved: Any) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        again, size, stride, offset, dtype = saved
        return again().view(dtype).as_strided(size, stride, offset)

    def end(self) -> None:
        """After the forward pass."""
        self._ended = True
        for number in self._known:
            release(number)
        self._known.clear()


@contextmanager
def packed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """What autograd saves of the gathered tensors of modules, copies of a call, is how to gather them again."""
    packing = Packing()
    for module in modules:
        vars(module)[PACKING] = packing
    try:
        with torch.autograd.graph.saved_tensors_hooks(packing.pack, packing.unpack):
            yield
    finally:
        packing.end()
