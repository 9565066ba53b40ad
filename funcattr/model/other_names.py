"""Other names of a replaced value: what a caller holds of a tensor that a module has written in place.

`nn.ReLU(inplace=True)` changes what its caller gave it, and returns that. Who replaces the value at a site of it gives
the caller another tensor; what the caller still has under its own name is then not what the module made of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from .._torch import Place, place, pytree, without_torch_function
from ..calls.memories import Memories, Memory, overlap
from ..calls.operations import DROPOUTS, FORM_QUERIES, LIKE, VIEWS, Known, bound, is_getter, known
from ..calls.written import may_write, written
from ..errors import AliasedWriteError

Entry = tuple[str, type]
"""A call of a module, as a `SiteMode` keeps it in `modules`."""
_OVERWRITES = frozenset(["copy_", "fill_", "zero_"])
"""Functions that write every value of their first argument, and read none of them."""


class OtherNames:
    """Watches a call of the model, and tells when a replaced value is read by another name."""

    def __init__(self) -> None:
        self._memories = Memories()
        self._out_of_date: dict[Memory, list[tuple[Place, str]]] = {}
        self._writers: dict[Memory, dict[Any, tuple[Place, tuple[Entry, ...]]]] = {}
        # Of the result of a write on record, which runs out of place: what it stands for.
        self._written_as: dict[Memory, list[tuple[Memory, Place]]] = {}
        self._in_place_of: dict[Memory, list[tuple[Memory, Place, str]]] = {}
        self._refusal: AliasedWriteError | None = None

    def replaced(self, before: Any, after: Any, site: str, left: Entry | None) -> None:
        """The value at a site was replaced.

        Args:
            before: The value, a structure of tensors.
            after: What goes on in its place.
            site: The site's name.
            left: The call of the module whose output it is; None for what a module is given.
        """
        with without_torch_function():
            olds, news = list(_tensors(before)), list(_tensors(after))
            pairs = zip(olds, news, strict=True) if len(olds) == len(news) else ((o, n) for o in olds for n in news)
            for old, new in pairs:
                memory, own = self._memories.about(old), self._memories.about(new)
                if memory is None or memory is own:  # written over by the edit itself, under every name
                    continue
                if own is not None:
                    self._in_place_of.setdefault(own, []).append((memory, place(old), site))
                if left is not None and self.is_written(old, left):
                    self._put_out_of_date(memory, place(old), site)

    def is_written(self, tensor: Tensor, by: Entry) -> bool:
        """Whether a call of a module wrote in place into the memory of a tensor."""
        memory = self._memories.of(tensor)
        if memory is None or memory not in self._writers:
            return False
        where = place(tensor)
        return any(
            any(entry is by for entry in entries) and overlap(where, there)
            for there, entries in self._writers[memory].values()
        )

    def ran(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, modules: list[Entry]
    ) -> str | None:
        """A torch function ran, while these calls of modules were running.

        Returns:
            The site whose value it read by another name; None if it read none.
        """
        writes = may_write(func) or "out" in kwargs
        if not writes and not self._out_of_date:
            return None
        with without_torch_function():
            told = known(func)
            site = self._read(func, told, args, kwargs, out) if self._out_of_date else None
            if writes and (
                told.operation.name not in DROPOUTS or bound(told.operation, args, kwargs, "training", True)
            ):
                for target in written(func, args, kwargs):
                    self._wrote(target, told.name in _OVERWRITES, out, modules)
        return site

    def refuse(self, call: str, path: str, site: str | None) -> None:
        """Raise if a site's value was read by another name.

        Args:
            call: First words of the error.
            path: The module that runs.
            site: The site, None if none was.

        Raises:
            AliasedWriteError: For the site.
        """
        if site is not None:
            self._refusal = AliasedWriteError(
                f"{call}: in the module {path!r}, the value of the site {site!r} is read by another name, which what "
                "was put there does not reach: the model writes it in place. Write out of place there "
                "(nn.ReLU(inplace=False), say), or read what the module returns."
            )
            raise self._refusal

    def finished(self, call: str, output: Any) -> Any:
        """The output of the model, unless it is another name, or the model caught a refusal.

        Raises:
            AliasedWriteError: As `refuse`.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._out_of_date:
            with without_torch_function():
                self.refuse(call, "", self._site_of(output))
        return output

    def is_output(self, output: Any) -> bool:
        """Whether another name is in the model's output."""
        with without_torch_function():
            return bool(self._out_of_date) and self._site_of(output) is not None

    def _read(
        self, func: Callable[..., Any], told: Known, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> str | None:
        if told.name in FORM_QUERIES or (told.is_query and is_getter(func)):
            return None
        values: Any = (args, kwargs)
        if told.name in LIKE:
            values = args[:1]
        elif told.name in _OVERWRITES:
            values = (args[1:], kwargs)
        site = self._site_of(values)
        if site is None or told.operation.name not in VIEWS:
            return site
        # A view reads no values.
        given = {self._memories.of(t) for t in _tensors(values)}
        return site if any(self._memories.of(t) not in given for t in _tensors(out)) else None

    def _site_of(self, values: Any) -> str | None:
        for tensor in _tensors(values):
            memory = self._memories.of(tensor)
            found = () if memory is None else self._out_of_date.get(memory, ())
            for where, site in found:
                if overlap(where, place(tensor)):
                    return site
        return None

    def _wrote(self, target: Tensor, whole: bool, out: Any, modules: list[Entry]) -> None:
        memory, where = self._memories.about(target), place(target)
        if memory is None:
            return
        if whole and memory in self._out_of_date:
            self._out_of_date[memory] = [pair for pair in self._out_of_date[memory] if pair[0] != where]
        replaced = list(self._in_place_of.get(memory, ()))
        while replaced:
            before, there, site = replaced.pop()
            self._put_out_of_date(before, there, site)
            replaced += self._in_place_of.get(before, ())
        self._note_writers(memory, where, modules)
        for result in _tensors(out):
            own = self._memories.about(result)
            if own is not None and own is not memory:
                self._note_writers(own, place(result), modules)
                self._written_as.setdefault(own, []).extend([(memory, where), *self._written_as.get(memory, ())])

    def _note_writers(self, memory: Memory, where: Place, modules: list[Entry]) -> None:
        try:
            hash(where)
            key: Any = where
        except TypeError:  # of sizes that are symbols
            key = object()
        self._writers.setdefault(memory, {})[key] = where, tuple(modules)

    def _put_out_of_date(self, memory: Memory, where: Place, site: str) -> None:
        for one, there in ((memory, where), *self._written_as.get(memory, ())):
            self._out_of_date.setdefault(one, []).append((there, site))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        yield from (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor))
