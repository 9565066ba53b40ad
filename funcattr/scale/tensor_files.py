"""Shards as safetensors files: a tensor for each column of attributions, and all else as JSON in the metadata.

A shard is in memory until it is written, for what the file begins with is known at the end only.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .columns import Columns
from .errors import BrokenShardError
from .rows import RowOf
from .shard_format import GROUP, KEY, Footer, Row, ShardFormat, row_of

SMALL = ("id", "target", "score", "error")
"""Columns that are lists in the metadata."""


class TensorShard:
    """A file that takes the rows of a shard.

    Args:
        file: Where they go.
        columns: The run's.
        says: The file's metadata.
    """

    def __init__(self, file: BinaryIO, columns: Columns, says: dict[str, Any]) -> None:
        self._file, self.columns, self._says = file, columns, says
        self._ids: list[Any] = []
        self._rows: list[RowOf] = []

    def add(self, ids: Sequence[Any], rows: Sequence[RowOf]) -> None:
        """Keep the rows of a batch."""
        self._ids += ids
        self._rows += rows

    def __enter__(self) -> "TensorShard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Write the file."""
        if error is None:
            self._file.write(save(self._tensors(), {KEY: json.dumps(self._metadata(), sort_keys=True)}))

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, shape in self.columns.shapes.items():
            if self.columns.ragged:
                each = ((i, row.attributions.get(name)) for i, row in enumerate(self._rows))
                found |= {_of_row(name, i): torch.from_numpy(part.copy()) for i, part in each if part is not None}
            else:
                whole = torch.full((len(self._rows), *shape), torch.nan, dtype=self.columns.dtype)
                for place, row in zip(whole, self._rows, strict=True):
                    if name in row.attributions:
                        place.copy_(torch.from_numpy(row.attributions[name]))
                found[name] = whole
        return found

    def _metadata(self) -> dict[str, Any]:
        """One entry, for the order of several would be another in each process."""
        small = {
            "id": self._ids,
            "target": [row.target for row in self._rows],
            "score": [row.score for row in self._rows],
            "error": [None if row.failure is None else row.failure.text for row in self._rows],
            "sums": {
                name: [_sum(row.attributions[name]) if name in row.attributions else None for row in self._rows]
                for name in self.columns.shapes
            },
        }
        said = {**self._says, **small}
        return {**said, "sum": _sum_of(said)}


def _of_row(name: str, i: int) -> str:
    """The name of the tensor of one row, where shapes differ."""
    return f"{name}.{i}"


def _sum(values: Any) -> int:
    """A checksum of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(values).tobytes())


def _sum_of(said: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


# --- reading ----------------------------------------------------------------------------------------------------------


def read_footer(path: Path) -> Footer:
    """What a shard's file says of itself.

    Raises:
        BrokenShardError: If it cannot be read.
    """
    with _opened(path) as file:
        said = _said(path, file)
    return Footer({name: value for name, value in said.items() if name not in (*SMALL, "sums", "sum")}, len(said["id"]))


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of a shard as lists, without the attributions being read."""
    with _opened(path) as file:
        said = _said(path, file)
    return {name: said[name] for name in names}


class _Rows:
    """Rows that were read at once."""

    def __init__(self, path: Path, said: dict[str, Any], parts: dict[str, Any], start: int) -> None:
        self._path, self._said, self._parts, self._start = path, said, parts, start

    def __len__(self) -> int:
        return len(next(iter(self._parts.values())))

    def row(self, i: int) -> Row:
        """One of them."""
        number = self._start + i
        each, target, score, error = (self._said[name][number] for name in SMALL)
        parts: dict[str, Tensor] = {}
        if error is None:
            for name, rows in self._parts.items():
                parts[name] = rows[i].clone()
                if _sum(parts[name].numpy()) != self._said["sums"][name][number]:
                    raise _broken(self._path, f"the checksum of row {number} is another")
        return row_of(each, target, score, error, parts)


def read_blocks(path: Path, columns: Columns, first: int = 0, last: int | None = None) -> Iterator[tuple[int, _Rows]]:
    """Blocks of a shard's rows, those from `first` up to before `last`, each with the number of its first."""
    with _opened(path) as file:
        said = _said(path, file)
        end = len(said["id"]) if last is None else min(last, len(said["id"]))
        size = sum(int(np.prod(shape)) for shape in columns.shapes.values()) * columns.dtype.itemsize
        step = max(1, GROUP // max(1, size))
        for start in range(first, end, step):
            rows = range(start, min(start + step, end))
            if columns.ragged:
                there = {i: said["error"][i] is None for i in rows}
                parts: dict[str, Any] = {
                    name: [file.get_tensor(_of_row(name, i)) if there[i] else None for i in rows]
                    for name in columns.shapes
                }
            else:
                parts = {name: file.get_slice(name)[rows.start : rows.stop] for name in columns.shapes}
            yield start, _Rows(path, said, parts, start)


def _said(path: Path, file: Any) -> dict[str, Any]:
    metadata = file.metadata() or {}
    if KEY not in metadata:
        raise BrokenShardError(f"{path}: it is no shard of funcattr's. Move it elsewhere.")
    said = json.loads(metadata[KEY])
    if _sum_of({name: value for name, value in said.items() if name != "sum"}) != said.get("sum"):
        raise _broken(path, "the checksum of its metadata is another")
    return said


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file, whose errors are those of a broken shard."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> BrokenShardError:
    return BrokenShardError(
        f"{path}: it cannot be read as safetensors, for it is truncated or was changed ({why}). Delete it and run "
        "the same call again: it is computed anew."
    )


TENSORS = ShardFormat(".safetensors", lambda: None, TensorShard, read_footer, read_columns, read_blocks)
