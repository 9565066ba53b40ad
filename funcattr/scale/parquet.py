"""Shards as Parquet files: a row for each example, which other programs read too."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..extras import needed
from .columns import Columns
from .errors import BrokenShardError
from .rows import RowOf
from .shard_format import GROUP, KEY, Footer, Row, ShardFormat, row_of

_KEY = KEY.encode()
Array = np.ndarray[Any, Any]


class ParquetShard:
    """A file that takes the rows of a shard, batch by batch.

    Args:
        file: Where they go.
        columns: The run's.
        says: The file's metadata.
    """

    def __init__(self, file: BinaryIO, columns: Columns, says: dict[str, Any]) -> None:
        self.columns = columns
        size = sum(int(np.prod(shape)) for shape in columns.shapes.values()) * columns.dtype.itemsize
        self._group = max(1, GROUP // max(1, size))
        self._form = _schema(columns).with_metadata({_KEY: json.dumps(says, sort_keys=True).encode()})
        # Values hardly repeat, and what a value may be is of no use for a search.
        how: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
        self._writer = arrow_parquet().ParquetWriter(file, self._form, compression="zstd", compression_level=1, **how)

    def add(self, ids: Sequence[Any], rows: Sequence[RowOf]) -> None:
        """Write the rows of a batch."""
        pa, columns = arrow(), self.columns
        arrays: dict[str, Any] = {
            "id": list(ids),
            "target": [row.target for row in rows],
            "score": [row.score for row in rows],
            "error": [None if row.failure is None else row.failure.text for row in rows],
        }
        arrays = {name: pa.array(values, self._form.field(name).type) for name, values in arrays.items()}
        for name, shape in columns.shapes.items():
            parts = [row.attributions.get(name) for row in rows]
            kind = self._form.field(name).type
            arrays[name] = _lists(parts, kind) if columns.ragged else _fixed_lists(parts, kind, int(np.prod(shape)))
            if columns.ragged:
                shapes = [None if part is None else list(part.shape) for part in parts]
                arrays[f"{name}.shape"] = pa.array(shapes, pa.list_(pa.int32()))
        self._writer.write_table(pa.Table.from_pydict(arrays, schema=self._form), row_group_size=self._group)

    def __enter__(self) -> "ParquetShard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Write the file's end, without which nobody takes it for whole."""
        with nullcontext() if error is None else suppress(Exception):
            self._writer.close()


def arrow() -> Any:
    """pyarrow, of the extra `scale`."""
    return needed("scale", "pyarrow", ".[scale]")


def arrow_parquet() -> Any:
    """Its module of Parquet files."""
    return needed("scale", "pyarrow.parquet", ".[scale]")


def _schema(columns: Columns) -> Any:
    pa = arrow()
    number = {torch.float16: pa.float16(), torch.float32: pa.float32(), torch.float64: pa.float64()}[columns.dtype]
    element = pa.field("element", number, nullable=False)
    fields = [
        pa.field("id", pa.string() if columns.ids == "str" else pa.int64(), nullable=False),
        pa.field("target", pa.list_(pa.int64()) if columns.target == "tuple" else pa.int64()),
        pa.field("score", pa.float64()),
        pa.field("error", pa.string()),
    ]
    for name, shape in columns.shapes.items():
        if columns.ragged:
            fields += [pa.field(name, pa.list_(element)), pa.field(f"{name}.shape", pa.list_(pa.int32()))]
        else:
            says = {"shape": json.dumps(shape)}
            fields.append(pa.field(name, pa.list_(element, int(np.prod(shape))), metadata=says))
    return pa.schema(fields)


def _fixed_lists(parts: Sequence[Array | None], kind: Any, size: int) -> Any:
    pa = arrow()
    values = np.zeros((len(parts), size), dtype=kind.value_type.to_pandas_dtype())
    for row, part in zip(values, parts, strict=True):
        if part is not None:
            row[:] = part.reshape(-1)
    missing = np.array([part is None for part in parts])
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=mask)


def _lists(parts: Sequence[Array | None], kind: Any) -> Any:
    pa = arrow()
    flat = [None if part is None else part.reshape(-1) for part in parts]
    sizes = [0 if part is None else len(part) for part in flat]
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    values = [part for part in flat if part is not None]
    joined = pa.array(np.concatenate(values) if values else np.zeros(0), kind.value_type)
    mask = pa.array([part is None for part in flat]) if len(values) < len(flat) else None
    return pa.ListArray.from_arrays(offsets, joined, type=kind, mask=mask)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_footer(path: Path) -> Footer:
    """What the end of a shard's file says; a file without an end is not whole.

    Raises:
        BrokenShardError: If it cannot be read.
    """
    with _opened(path) as file:
        said = (file.schema_arrow.metadata or {}).get(_KEY)
        if said is None:
            raise BrokenShardError(f"{path}: it is no shard of funcattr's. Move it elsewhere.")
        return Footer(json.loads(said), file.metadata.num_rows)


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of a shard as lists, without the others being read."""
    with _opened(path) as file, _reading(path):
        return file.read(columns=list(names)).to_pydict()


class _Table:
    """Rows that were read at once."""

    def __init__(self, table: Any, columns: Columns) -> None:
        self._table, self._columns = table, columns

    def __len__(self) -> int:
        return self._table.num_rows

    def row(self, i: int) -> Row:
        """One of them."""
        table = self._table
        each, target, score, error = (table[name][i].as_py() for name in ("id", "target", "score", "error"))
        parts: dict[str, Tensor] = {}
        if error is None:
            for name, shape in self._columns.shapes.items():
                shape = table[f"{name}.shape"][i].as_py() if self._columns.ragged else shape
                parts[name] = _tensor_of(table[name][i]).reshape(shape)
        return row_of(each, target, score, error, parts)


def read_blocks(path: Path, columns: Columns, first: int = 0, last: int | None = None) -> Iterator[tuple[int, _Table]]:
    """Blocks of a shard's rows, those from `first` up to before `last`, each with the number of its first."""
    with _opened(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if start + count > first and (last is None or start < last):
                with _reading(path):
                    table = file.read_row_group(group)
                yield start, _Table(table, columns)
            start += count


def _tensor_of(scalar: Any) -> Tensor:
    """The numbers of a list in a table, as a tensor of one dimension with memory of its own."""
    return torch.from_numpy(scalar.values.to_numpy(zero_copy_only=False).copy())


def _opened(path: Path) -> Any:
    with _reading(path):
        return arrow_parquet().ParquetFile(path, page_checksum_verification=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors of Parquet's as a broken shard."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, arrow().ArrowException) as error:
        raise BrokenShardError(
            f"{path}: it cannot be read as Parquet, for it is truncated or was changed ({error}). Delete it and run "
            "the same call again: it is computed anew."
        ) from error


PARQUET = ShardFormat(".parquet", arrow, ParquetShard, read_footer, read_columns, read_blocks)
