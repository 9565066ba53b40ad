"""Private copies of a module tree: all that a forward may write is new for each call, but the memory of parameters."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._torch import (
    COMPOSABLE_STATE,
    HOOK_TABLES,
    SUBMODULES,
    TENSOR_TABLES,
    class_of_copy,
    names_of_memory,
    renew_flat_weights,
)
from ..copies import Copier, is_fixed
from .guard import BreachError
from .offloading import is_offloading
from .sharding import Sharding, shardings
from .sites import enter_module, leave_module, site_modes
from .wrappers import Through, is_wrapper

_KEPT_APART = frozenset([*TENSOR_TABLES, SUBMODULES, *HOOK_TABLES, "forward", "_compiled_call_impl"])
"""Attributes that a copy gets of its own in any case."""


class Part(NamedTuple):
    """A module of a tree.

    Attributes:
        name: Its qualified name.
        module: The module.
        moving: Attributes that a private copy cannot share: all but numbers, strings and tuples of them.
        patched: The `forward` that was put on the instance, if it is not its class's.
        sharding: How it is sharded, if it is.
    """

    name: str
    module: nn.Module
    moving: tuple[str, ...]
    patched: Callable[..., Any] | None
    sharding: Sharding | None = None


def parts_of(model: nn.Module) -> tuple[Part, ...]:
    """The modules of a tree, the root first.

    Raises:
        UnsupportedOperationError: If one is sharded in a way that cannot be undone for a call.
    """
    modules = tuple(model.named_modules())
    sharded = shardings(modules)
    return tuple(Part(n, module, _moving(module), _patched(module), sharded.get(id(module))) for n, module in modules)


def _moving(module: nn.Module) -> tuple[str, ...]:
    if is_wrapper(module):
        return ()
    return tuple(
        n
        for n, v in vars(module).items()
        if n not in _KEPT_APART and not is_fixed(v) and not n.startswith(COMPOSABLE_STATE)
    )


def _patched(module: nn.Module) -> Callable[..., Any] | None:
    forward = vars(module).get("forward")
    if forward is None or (isinstance(forward, types.FunctionType) and hasattr(forward, "patched")):
        return getattr(forward, "patched", None)
    if isinstance(forward, types.MethodType) and forward.__self__ is module:
        return None if forward.__func__ is type(module).forward else forward
    return forward


class TreeCopier(Copier):
    """Copies modules, those too that no tree has registered.

    Attributes:
        place: Where the copying is: a module and its attribute.
        gathers: Whether the copies of sharded modules gather their tensors, and leave the hooks out that shard.
    """

    place = ""
    gathers = True

    def empty(self, module: nn.Module, sharding: Sharding | None = None) -> nn.Module:
        """A module of the same class without attributes; what refers to the original will refer to it."""
        kind = Through if is_wrapper(module) else type(module) if sharding is None else sharding.kind
        kind = class_of_copy(module, kind)
        kind = kind if sharding is None or not self.gathers else sharding.class_of_copy(kind)
        made = self.copies[id(module)] = object.__new__(kind)
        return made

    def fill(
        self,
        copy: nn.Module,
        module: nn.Module,
        moving: Sequence[str],
        name: str = "",
        sharding: Sharding | None = None,
    ) -> None:
        """Give a copy its attributes."""
        before, done = vars(module), self.copies
        attributes = copy.__dict__
        attributes.update(before)
        attributes["_compiled_call_impl"] = None
        hooks = before if sharding is None else sharding.hooks if self.gathers else sharding.before
        for table in HOOK_TABLES:
            held = hooks[table]
            attributes[table] = self(held) if held else type(held)()
        for table in (*TENSOR_TABLES, SUBMODULES):
            held = before[table] if sharding is None else {**before[table], **sharding.shards(before[table])}
            attributes[table] = {
                own: done[key] if (key := id(value)) in done else self(value) for own, value in held.items()
            }
        for attribute in moving:
            self.place = f"{name}.{attribute}" if name else attribute
            attributes[attribute] = self(before[attribute])

    def _object(self, value: Any) -> Any:
        if not is_offloading(value):
            return super()._object(value)
        for shared in (value.weights_map, value.tied_params_map):
            self.copies[id(shared)] = shared
        made = super()._object(value)
        made.offload = False  # the copy loads what its forward reads
        return made

    def module(self, module: nn.Module) -> nn.Module:
        """The copy of a module that is not of the tree."""
        made = self.empty(module)
        self.fill(made, module, _moving(module))
        patched = _patched(module)
        attributes = vars(made)
        attributes.pop("forward", None)
        if patched is not None:
            attributes["forward"] = self(patched)
        return made


class CallCopier(TreeCopier):
    """Copies modules for one call. Tensors that are no parameter or buffer get names of the call's own.

    Attributes:
        users: Those tensors of the user's, by their places.
        shared: The call's names for their memory.
    """

    def __init__(self, copies: Mapping[int, Any]) -> None:
        super().__init__(torch.detach, copies)
        self.users: dict[str, Tensor] = {}
        self.shared: list[Tensor] = []

    def tensor(self, tensor: Tensor) -> Tensor:
        """The call's name for a tensor; itself where somebody may ask for its derivative."""
        if tensor.requires_grad and not isinstance(tensor, nn.Parameter):
            return tensor
        self.users[self.place] = tensor
        self.shared.append(names_of_memory({self.place: tensor})[self.place])
        return self.shared[-1]


def sited_copy(parts: Sequence[Part], copier: TreeCopier, *, sited: bool = True) -> tuple[Part, ...]:
    """A copy of a tree, the root first.

    Args:
        parts: The modules.
        copier: Says what becomes of their tensors.
        sited: Whether each module tells the active mode where it is. Without, it is a module like the user's.
    """
    copies = [copier.empty(part.module, part.sharding) for part in parts]
    made = []
    for part, copy in zip(parts, copies, strict=True):
        copier.fill(copy, part.module, part.moving, part.name, part.sharding)
        patched = None if part.patched is None else copier(part.patched)
        if sited:
            copy.__dict__["forward"] = _sited_forward(copy, part.name, patched)
        elif patched is None:
            copy.__dict__.pop("forward", None)
        else:
            copy.__dict__["forward"] = patched
        made.append(Part(part.name, copy, part.moving, patched, part.sharding))
    return tuple(made)


def end_call(parts: Sequence[Part]) -> None:
    """Let go of the copies that a call ran."""
    # A module and its own forward are a cycle, which would keep both until a garbage collection.
    for part in parts:
        vars(part.module).pop("forward", None)


def _sited_forward(module: nn.Module, name: str, patched: Callable[..., Any] | None) -> Callable[..., Any]:
    # A plain function, no partial: Dynamo asks a graph module's forward for its code.
    def forward(*args: Any, **kwargs: Any) -> Any:
        if isinstance(module, nn.RNNBase):
            renew_flat_weights(module)
        modes = site_modes()
        args, kwargs = enter_module(modes, name, type(module), args, kwargs)
        try:
            output = type(module).forward(module, *args, **kwargs) if patched is None else patched(*args, **kwargs)
        except BreachError as breach:
            raise breach.at(name) from None
        return leave_module(output, name, modes)

    forward.patched = patched  # pyright: ignore[reportFunctionMemberAccess]
    return forward


_FORWARD = _sited_forward(nn.Identity(), "", None).__code__
"""The code that every module's `forward` of a copied tree has."""


def module_that_raised(error: BaseException) -> str | None:
    """The path of the module whose forward an error comes from; None if it comes from none."""
    path, at = None, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code is _FORWARD:
            path = at.tb_frame.f_locals["name"]
        at = at.tb_next
    return path
