"""The guard of a call: it reads only what is its own, and writes nothing of the user's.

Parameters are too large to be copied for each call, so a call has names of its own for their memory. When the model is
about to write there, that memory is copied, and the call's names stand for the copy from then on.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import (
    function_modes,
    has_own_memory,
    is_plain,
    memories_of,
    memory_of,
    move_to_a_copy,
    pytree,
    versions,
    without_torch_function,
)
from ..calls.linear_map import in_one_piece
from ..calls.written import may_write, written
from ..errors import LOOK, AliasedWriteError, FuncattrError, UnsupportedOperationError
from ..torch_state import is_traced
from .sites import Fold, SiteMode

Named = Mapping[str, Tensor]
_LISTS = frozenset([list, tuple])


class BreachError(Exception):
    """What a guard finds, until a module says where it is."""

    def __init__(self, kind: type[FuncattrError], what: str) -> None:
        super().__init__(what)
        self.kind, self.what = kind, what

    def at(self, path: str) -> FuncattrError:
        """The error, in the module `path`."""
        return self.kind(f"in the module {path!r}, {self.what}")


class Guard:
    """Looks at a call's torch functions before they run, and moves memory that they are about to write.

    Args:
        users: The user's own tensors, by name, none of which the call should meet.
        shared: The call's names for memory that is the user's.
        bound: Tensors that the user bound, by name.
        folded: All tensors that the call computes with, by name, if it folds some of them.

    Attributes:
        touched: Memory of these tensors, if the call has written there.
    """

    def __init__(self, users: Named, shared: list[Tensor], bound: Named, folded: Named | None = None) -> None:
        own = set(map(id, bound.values()))
        self._users = {id(t): name for name, t in users.items() if id(t) not in own}
        self._shared, self._bound = shared, bound
        self._tensors = {id(t): t for t in (*(folded or bound).values(), *shared)}
        self._versions = self._counts()
        self._memory: dict[int | None, list[Tensor]] | None = None
        self._left: set[int] = set()
        self.touched: set[int | None] = set()
        self._own: set[int] = set()

    def look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a torch function of the call runs.

        Raises:
            BreachError: If it reads a tensor of the user's own, or writes where that cannot be undone.
        """
        if torch.compiler.is_dynamo_compiling():  # a part of the model that compiles itself, such as torch.cond
            return
        users = self._users.keys()
        values = (*args, *kwargs.values()) if kwargs else args
        if not users.isdisjoint(map(id, values)):
            raise self._foreign(values)
        if not _LISTS.isdisjoint(map(type, values)):
            # Such as the tensors of `cat`, and the weights of a recurrent layer.
            for value in values:
                if type(value) in _LISTS and not users.isdisjoint(map(id, value)):
                    raise self._foreign(value)
        if self._left:
            with without_torch_function():
                self._check_left(values)
        if may_write(func) or "out" in kwargs:
            with without_torch_function():  # what follows is no part of the model
                for tensor in written(func, args, kwargs):
                    if id(tensor) in self._tensors or not has_own_memory(tensor):  # else it lies beside all of these
                        self._before_write(tensor)

    def check(self) -> None:
        """After the call: raise if memory of the user's was written all the same.

        Raises:
            AliasedWriteError: By an operation that no torch function mode sees.
        """
        counts = self._counts()
        if counts == self._versions:
            return
        for i, (tensor, before, now) in enumerate(zip(self._shared, self._versions, counts, strict=True)):
            if now != before and i not in self._own:
                raise AliasedWriteError(
                    f"a tensor of the model of shape {list(tensor.shape)} was written by its forward, in an operation "
                    "that cannot be seen (a C++ extension, say). It has other values now."
                )

    def _counts(self) -> list[int]:
        with without_torch_function():  # no mode around needs to see this
            return versions(self._shared)

    def _foreign(self, tensors: Iterable[Any]) -> BreachError:
        name = next(self._users[id(t)] for t in tensors if id(t) in self._users)
        return BreachError(
            UnsupportedOperationError,
            f"the call reads the tensor {name!r} of the user's model, not the call's own: "
            "the model reaches it by a way that cannot be copied (a global, a class attribute, a generator, an object "
            "with __del__). Reach it by an attribute of the module; or, where nothing is bound, give the model as a "
            f"plain function: lambda x: model(x). {LOOK}",
        )

    def _before_write(self, target: Tensor) -> None:
        memory = memory_of(target)
        if memory is None:
            return
        if self._memory is None:
            self._memory = {number: [] for number in memories_of(list(self._tensors.values()))}
            for number, tensor in zip(memories_of(self._shared), self._shared, strict=True):
                self._memory[number].append(tensor)
        names = self._memory.get(memory)
        if names is None:
            return
        self.touched.add(memory)
        if not names:
            bound = next((name for name, t in self._bound.items() if memory_of(t) == memory), None)
            if bound is not None:
                raise self._refused(f"the tensor that is bound to {bound!r}", "Bind a copy, and expect no write")
            return
        if not all(map(is_plain, (*names, target))) or is_traced():
            raise self._refused("one of its own parameters", "Call it outside of transforms and traced code")
        move_to_a_copy([*names, target])
        del self._memory[memory]
        self._memory[memory_of(target)] = []
        self.touched.add(memory_of(target))
        self._left.add(memory)
        for i, tensor in enumerate(self._shared):
            if any(tensor is name for name in names):
                self._own.add(i)

    def _check_left(self, values: Iterable[Any]) -> None:
        for value in pytree.tree_leaves(tuple(values)):
            if isinstance(value, Tensor) and memory_of(value) in self._left:
                raise BreachError(
                    AliasedWriteError,
                    "a view of a parameter is read that was made before the parameter "
                    "was written in place. Make it after, or write out of place.",
                )

    def _refused(self, what: str, way_out: str) -> BreachError:
        return BreachError(
            UnsupportedOperationError,
            f"the model writes in place into {what}. {way_out}, or write out of place "
            "there (w = w.clamp(0), not w.clamp_(0)).",
        )


class GuardMode(TorchFunctionMode):
    """Runs a call's torch functions under the eyes of its guard, where no mode asks for sites.

    Args:
        guard: The guard.
        whole: Whether linear maps of strided tokens run in one piece.
    """

    def __init__(self, guard: Guard, whole: bool) -> None:
        super().__init__()
        self._guard, self._whole = guard, whole

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self._guard.look(func, args, kwargs)
        return _run(func, args, kwargs, self._whole)


class FoldingMode(SiteMode):
    """The same where batch norms are folded, which asks in which module a call is."""

    def __init__(self, guard: Guard, whole: bool, fold: Fold) -> None:
        super().__init__()
        self.look, self.fold, self._whole = guard.look, fold, whole

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _run(func, args, kwargs, self._whole)


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool) -> Any:
    if whole and not torch.compiler.is_dynamo_compiling():
        return in_one_piece(func, args, kwargs)
    return func(*args, **kwargs)


@contextmanager
def guarded(guard: Guard, whole: bool = False, fold: Fold | None = None) -> Iterator[None]:
    """Let a guard look at every torch function: by way of the innermost mode if that is one of sites, which is faster.

    Args:
        guard: The guard.
        whole: Whether linear maps of strided tokens run in one piece.
        fold: What runs each torch function after that, where batch norms are folded.
    """
    modes = function_modes()
    mode = modes[-1] if modes else None
    if not whole and isinstance(mode, SiteMode) and mode.look is None:
        mode.look, mode.fold = guard.look, fold
        try:
            yield
        finally:
            mode.look = mode.fold = None
        return
    with GuardMode(guard, whole) if fold is None else FoldingMode(guard, whole, fold):
        yield
