"""Which tensors may share memory: what an in-place write, run out of place, leaves out of date."""

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


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
        self._nodes: Any = WeakIdKeyDictionary()
        self._current: Any = WeakIdKeyDictionary()
        self._stale: Any = WeakIdKeyDictionary()
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
        written, where = self._stale.get(target, (None, None))
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
