"""The results of a run, by the ids of its examples."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .columns import Columns
from .errors import ScaleError
from .formats import FORMATS
from .job import columns_from_json, shard_path
from .manifest import NAME, read_manifest
from .shard_format import Block, Row


class Results:
    """What a run has left in a folder: rows by id, in the order of the data. Made by `open` and `run`.

    `results[id]` is the row of an example, `id in results` says whether it is there, `len(results)` how many are, and
    `for row in results` goes through them, of which memory holds a batch at a time.

    Attributes:
        folder: Where it is.
        manifest: What was run.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest["run"]
        self._columns: Columns = columns_from_json(manifest["columns"])
        self._format = FORMATS[self.manifest["files"]]
        size, count = self.manifest["shard_size"], self.manifest["data"]["count"]
        every = range(-(-count // size))
        self._shards = [shard for shard in every if self._path(shard).exists()]
        self.missing = sorted(set(every) - set(self._shards))
        """Numbers of the shards that are not there yet."""

    @cached_property
    def _places(self) -> dict[int | str, tuple[int, int]]:
        """Id -> shard, row."""
        return {
            each: (shard, row)
            for shard in self._shards
            for row, each in enumerate(self._format.read_columns(self._path(shard), ["id"])["id"])
        }

    @property
    def ids(self) -> list[int | str]:
        """Ids of the examples that are there, in the order of the data."""
        return list(self._places)

    @property
    def errors(self) -> dict[int | str, str]:
        """Id -> error of the examples that failed."""
        found: dict[int | str, str] = {}
        for shard in self._shards:
            columns = self._format.read_columns(self._path(shard), ["id", "error"])
            found |= {
                each: text for each, text in zip(columns["id"], columns["error"], strict=True) if text is not None
            }
        return found

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, each: object) -> bool:
        return each in self._places

    def __iter__(self) -> Iterator[Row]:
        for shard in self._shards:
            for _, block in self._blocks(shard):
                yield from (block.row(i) for i in range(len(block)))

    def __getitem__(self, each: int | str) -> Row:
        shard, row = self._place(each)
        start, block = next(self._blocks(shard, row, row + 1))
        return block.row(row - start)

    def attributions(self, ids: Iterable[int | str] | None = None) -> Any:
        """The attributions of examples, stacked. [n, ...]

        Args:
            ids: Of the examples, in the order that is wanted; None for all.

        Returns:
            A tensor, or a mapping of tensors where the method returned one.

        Raises:
            ScaleError: If one of them failed, or their shapes differ.
            KeyError: If there is no such example.
        """
        wanted = self.ids if ids is None else list(ids)
        by_shard: dict[int, dict[int, list[int]]] = {}
        for place, each in enumerate(wanted):
            shard, row = self._place(each)
            by_shard.setdefault(shard, {}).setdefault(row, []).append(place)
        found: list[Any] = [None] * len(wanted)
        for shard, rows in by_shard.items():
            for start, block in self._blocks(shard, min(rows), max(rows) + 1):
                for i in range(len(block)):
                    for place in rows.get(start + i, ()):
                        found[place] = self._succeeded(block.row(i))
        if found and isinstance(found[0], Mapping):
            return {name: _stacked([one[name] for one in found]) for name in found[0]}
        return _stacked(found)

    def check(self) -> None:
        """Read every byte, and compare it with the files' checksums.

        Raises:
            BrokenShardError: If a file was changed.
        """
        for _ in self:
            pass

    def __repr__(self) -> str:
        there = "" if not self.missing else f", {len(self.missing)} shards missing"
        return f"Results({str(self.folder)!r}: {len(self)} examples{there})"

    def _path(self, shard: int) -> Path:
        return shard_path(self.folder, shard, self._format)

    def _blocks(self, shard: int, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Block]]:
        return self._format.read_blocks(self._path(shard), self._columns, first, last)

    def _place(self, each: int | str) -> tuple[int, int]:
        if each not in self._places:
            raise KeyError(f"Results({str(self.folder)!r})[{each!r}]: no example has this id. Results.ids lists them.")
        return self._places[each]

    def _succeeded(self, row: Row) -> Any:
        if row.error is not None:
            raise ScaleError(f"Results.attributions: the example {row.id!r} has none: {row.error}")
        return row.attribution


def _stacked(parts: list[Tensor]) -> Tensor:
    if len({part.shape for part in parts}) > 1:
        raise ScaleError("Results.attributions: the shapes differ. Take the rows one by one: results[id].attribution.")
    return torch.stack(parts)


def open(out: str | Path) -> Results:
    """The results that a run has left in a folder, of a run that still goes on too.

    Args:
        out: The folder.

    Returns:
        Rows by the examples' ids.

    Raises:
        ScaleError: If there is no run in it.

    Example:
        >>> import tempfile, torch
        >>> from funcattr import scale
        >>> folder = tempfile.mkdtemp()
        >>> _ = scale.run("gradient", torch.nn.Linear(3, 2), torch.ones(2, 3), folder, target=1, ids=["a", "b"])
        >>> found = scale.open(folder)
        >>> found.ids, found["b"].target, found.attributions(["b", "a"]).shape
        (['a', 'b'], 1, torch.Size([2, 3]))
    """
    folder = Path(out)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ScaleError(f"open({str(out)!r}): expected the folder of a run, got one without {NAME}.")
    return Results(folder, manifest)
