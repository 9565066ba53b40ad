"""Other names of a replaced value: what a caller holds of a tensor that a module has written in place.

`nn.ReLU(inplace=True)` changes what its caller gave it, and returns that. Who replaces the value at a site of it gives
the caller another tensor; what the caller still has under its own name is then not what the module made of it.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from .._torch import pytree, without_torch_function
from ..calls.memories import Memories, Memory
from ..calls.operations import OF_FORM, known
from ..calls.written import may_write, written
from ..errors import AliasedWriteError

Entry = tuple[str, type]
"""A call of a module, as a `SiteMode` keeps it in `modules`."""


class OtherNames:
    """Watches a call of the model, and tells when a replaced value is read by another name.

    Attributes:
        names: Memory that is out of date, and the site whose value was replaced.
    """

    def __init__(self) -> None:
        self.names: dict[Memory, str] = {}
        self._memories = Memories()
        self._writers: dict[Memory, tuple[Entry, ...]] = {}
        self._written_as: dict[Memory, list[Memory]] = {}
        self._in_place_of: dict[Memory, tuple[Memory, str]] = {}

    def replaced(self, before: Any, after: Any, site: str, left: Entry | None) -> None:
        """The value at a site was replaced.

        Args:
            before: The value, a structure of tensors.
            after: What goes on in its place.
            site: The site's name.
            left: The call of the module whose output it is; None for what a module is given.
        """
        if after is before:
            return
        with without_torch_function():
            kept = {self._memories.about(t) for t in _tensors(after)}
            for tensor in _tensors(before):
                memory = self._memories.about(tensor)
                if memory is None or memory in kept:
                    continue
                if left is None:
                    self._in_place_of.update((new, (memory, site)) for new in kept if new is not None)
                elif any(writer is left for writer in self._writers.get(memory, ())):
                    self.names.update(dict.fromkeys((memory, *self._written_as.get(memory, ())), site))

    def ran(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], out: Any, modules: list[Entry]) -> None:
        """A torch function ran, while these calls of modules were running."""
        if not may_write(func) and "out" not in kwargs:
            return
        with without_torch_function():
            results = [memory for t in _tensors(out) if (memory := self._memories.about(t)) is not None]
            for target in written(func, args, kwargs):
                memory = self._memories.about(target)
                if memory is None:
                    continue
                if memory in self._in_place_of:
                    before, site = self._in_place_of[memory]
                    self.names[before] = site
                # On record a call runs out of place, and what it gives stands for what it was to write.
                for one in (memory, *results):
                    self._writers[one] = tuple(modules)
                    self._written_as.setdefault(one, []).append(memory)

    def site_of(self, values: Any, func: Callable[..., Any] | None = None) -> str | None:
        """The site whose value is read by another name, by `func` or as the model's output; None if none is."""
        if not self.names or (func is not None and known(func).name in OF_FORM):
            return None
        with without_torch_function():
            for tensor in _tensors(values):
                memory = self._memories.of(tensor)
                if memory is not None and memory in self.names:
                    return self.names[memory]
        return None

    def check(self, call: str, path: str, values: Any, func: Callable[..., Any] | None = None) -> None:
        """The same, as an error.

        Args:
            call: First words of it.
            path: The module that runs.
            values: The arguments of `func`, or the model's output.
            func: A torch function.

        Raises:
            AliasedWriteError: If a replaced value is read by another name.
        """
        site = self.site_of(values, func)
        if site is not None:
            raise AliasedWriteError(
                f"{call}: in the module {path!r}, the value of the site {site!r} is read by another name, which what "
                "was put there does not reach: the module of that site writes in place. Write out of place there "
                "(nn.ReLU(inplace=False)), or read what the module returns."
            )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
