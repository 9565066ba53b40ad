"""What there is to a format of shards' files: how they are written, batch by batch, and read, row by row."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from torch import Tensor

from .columns import Columns
from .rows import RowOf

KEY = "funcattr"
"""Of what a file's metadata say: the run, the shard, and more by format."""
GROUP = 2**22
"""Bytes of attributions that are read at once for the sake of one row."""


class Footer(NamedTuple):
    """What a file says of itself.

    Attributes:
        says: Its metadata, as the run wrote them.
        rows: How many there are.
    """

    says: dict[str, Any]
    rows: int


class Row(NamedTuple):
    """What a run found of an example.

    Attributes:
        id: Of the example.
        target: The class or index; None where the target was a function.
        score: The model's output there, or None.
        error: Why there is no attribution, or None.
        attribution: As the method returned it, without a dimension of examples; a mapping if that was one. None where
            there is an error.
    """

    id: int | str
    target: int | tuple[int, ...] | None
    score: float | None
    error: str | None
    attribution: Any


def row_of(each: int | str, target: Any, score: float | None, error: str | None, parts: dict[str, Tensor]) -> Row:
    """The row of what a file holds of an example; `parts` are its attributions by column."""
    whole: Any = {name.partition(".")[2]: part for name, part in parts.items()} or None
    if "attribution" in parts:
        whole = parts["attribution"]
    return Row(each, tuple(target) if isinstance(target, list) else target, score, error, whole)


class Block(Protocol):
    """Rows of a shard that were read at once."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row: ...


class ShardFile(Protocol):
    """A file that takes the rows of a shard; it is whole when the context ends without an error."""

    def add(self, ids: Sequence[Any], rows: Sequence[RowOf]) -> None: ...


class ShardFormat(NamedTuple):
    """A format.

    Attributes:
        suffix: Of the files' names.
        require: Raises where a package is missing.
        write: `(file, columns, metadata) -> what takes the rows`.
        read_footer: What a file says of itself. BrokenShardError if it is not whole.
        read_columns: `(path, names) -> lists by name`, of the columns "id", "target", "score" and "error".
        read_blocks: `(path, columns, first, last) -> (number of its first row, block) for each`.
    """

    suffix: str
    require: Callable[[], Any]
    write: Callable[[BinaryIO, Columns, dict[str, Any]], AbstractContextManager[ShardFile]]
    read_footer: Callable[[Path], Footer]
    read_columns: Callable[[Path, Sequence[str]], dict[str, list[Any]]]
    read_blocks: Callable[..., Iterator[tuple[int, Block]]]
