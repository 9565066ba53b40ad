"""Which tensors may share memory: what an in-place write, run out of place, leaves out of date."""

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .._torch import pytree
from ..calls.operations import VIEWS
from ..errors import AliasedWriteError
from .tracked import ByIdentity


class _Node:
    """A tensor in the tree of views; `call` tells siblings of one `split` (disjoint) from other views."""

    def __init__(self, tensor: Tensor, parent: "_Node | None", call: object, index: Any) -> None:
        self.tensor = weakref.ref(tensor)
        self.parent, self.call, self.index = parent, call, index
        self.children: list[weakref.ref[_Node]] = []  # weak, so that a tree is no cycle for the collector

    def below(self) -> Iterator["_Node"]:
        yield self
        for child in self.living_children():
            yield from child.below()

    def living_children(self) -> Iterator["_Node"]:
        yield from (child for ref in self.children if (child := ref()) is not None)


class Aliases:
    """Views by their base, values overwritten in place by their new value, and values out of date."""

    def __init__(self) -> None:
        self._nodes = ByIdentity[_Node]()
        self._current = ByIdentity[Tensor]()
        self._stale = ByIdentity[tuple[Tensor, Any]]()
        self.written = False

    def add_views(self, base: Tensor, views: list[Tensor], index: Any = None) -> None:
        """Note that `views`, the results of one call, may share memory with `base` (never with each other)."""
        parent = self._nodes.get(base)
        if parent is None:
            parent = self._nodes[base] = _Node(base, None, None, None)
        call = object()
        for view in views:
            if view is not base:
                node = self._nodes[view] = _Node(view, parent, call, index)
                parent.children.append(weakref.ref(node))

    def note(self, name: str, args: tuple[Any, ...], out: Any) -> Any:
        """Note the views that the function `name` may have made, and give back its result."""
        if name in VIEWS and args and isinstance(args[0], Tensor):
            views = [v for v in pytree.tree_leaves(out) if isinstance(v, Tensor)]
            self.add_views(args[0], views, args[1] if name == "__getitem__" else None)
        return out

    def read(self, tensor: Tensor, caller: str, path: str) -> Tensor:
        """What a call in the module `path` gets where it names `tensor`; AliasedWriteError if that is out of date."""
        tensor = self.current(tensor)
        if self.written and self.is_stale(tensor):
            raise AliasedWriteError(
                f"{caller}: in the module {path!r}, a tensor is read that shares memory with one written in place "
                "through another view. Write out of place there (y = y + 1, not y += 1), or clone() the view."
            )
        return tensor

    def read_all(self, values: Any, caller: str, path: str) -> Any:
        """The same for every tensor in plain containers."""
        if isinstance(values, Tensor):
            return self.read(values, caller, path)
        if type(values) in (tuple, list):
            return type(values)([self.read_all(v, caller, path) for v in values])
        if type(values) is dict:
            return {k: self.read_all(v, caller, path) for k, v in values.items()}
        return values

    def current(self, tensor: Tensor) -> Tensor:
        """The value that the name `tensor` stands for after the writes so far."""
        while (newer := self._current.get(tensor)) is not None:
            tensor = newer
        return tensor

    def is_stale(self, tensor: Tensor) -> bool:
        """Whether `tensor` shares memory that was written through another name."""
        return tensor in self._stale

    def is_known_view(self, tensor: Tensor) -> bool:
        return tensor in self._nodes

    def write(self, target: Tensor, value: Tensor) -> None:
        """Let `target` stand for `value`; what shares its memory is out of date."""
        if value is target:  # dropout in eval mode gives back its input
            return
        self.written = True
        node = self._nodes.get(target)
        if node is not None:
            for other in self._overlapping(node):
                if (tensor := other.tensor()) is not None and tensor is not target:
                    self._stale[tensor] = (value, node.index if other is node.parent else None)
        self._current[target] = value

    def refresh(self, target: Tensor, index: Any, value: Any) -> None:
        """Before `target[index] = value`: the second half of `target[index] += ...` makes `target` right again."""
        target = self.current(target)
        written, where = self._stale.get(target) or (None, None)
        if written is not None and value is written and repr(index) == repr(where):
            del self._stale[target]

    def _overlapping(self, node: _Node) -> Iterator[_Node]:
        yield from node.below()
        while node.parent is not None:
            yield node.parent
            for sibling in node.parent.living_children():
                if sibling.call is not node.call:
                    yield from sibling.below()
            node = node.parent
