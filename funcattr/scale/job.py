"""The shards of a run: which there are, which are done, and how one is computed."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .columns import Columns
from .errors import AnotherRunError, BrokenShardError, TooManyErrorsError, writing
from .examples import Examples, Failure
from .files import whole_file
from .formats import FORMATS
from .question import Question
from .rows import RowOf, rows_of
from .seeds import own_draws
from .shard_format import ShardFormat

Tell = Callable[[int], Any]
"""Is told of how many examples are done."""


@dataclass
class Job:
    """All that a shard is computed of; another process may have a copy.

    Attributes:
        question: What is asked about each batch.
        examples: The data.
        out: The folder.
        digest: Of the run, from its manifest.
        columns: Of the files.
        files: Their format.
        shard_size, batch_size: Examples in each.
        max_errors: How many examples may fail, None for any number.
    """

    question: Question
    examples: Examples
    out: Path
    digest: str
    columns: Columns
    files: str
    shard_size: int
    batch_size: int
    max_errors: int | None

    def draws(self) -> AbstractContextManager[None]:
        """Global generators that are as before, afterwards."""
        return own_draws(self.question.device)

    @property
    def format(self) -> ShardFormat:
        """Of the files."""
        return FORMATS[self.files]

    @property
    def count(self) -> int:
        """How many shards there are."""
        return -(-len(self.examples) // self.shard_size)

    def path(self, shard: int) -> Path:
        """Where a shard is."""
        return shard_path(self.out, shard, self.format)

    def positions(self, shard: int) -> range:
        """Of a shard's examples in the data."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.examples)))

    def is_done(self, shard: int) -> bool:
        """Whether a shard's file is there and whole.

        Raises:
            BrokenShardError: If it is not whole.
            AnotherRunError: If it is another run's.
        """
        try:
            footer = self.format.read_footer(self.path(shard))
        except FileNotFoundError:
            return False
        if footer.says.get("run") != self.digest or footer.says.get("shard") != shard:
            raise AnotherRunError(
                f"run(out={str(self.out)!r}): {self.path(shard).name} is of another run than the manifest beside it. "
                "Move it elsewhere, or give another folder."
            )
        if footer.rows != len(self.positions(shard)):
            raise BrokenShardError(
                f"{self.path(shard)}: expected {len(self.positions(shard))} rows, got {footer.rows}."
            )
        return True

    def compute(self, shard: int, failed: int, tell: Tell) -> int:
        """Compute a shard and write its file; the number of examples that failed so far.

        Args:
            shard: Its number.
            failed: How many examples failed in shards before it.
            tell: Is told of how many examples are done.

        Raises:
            TooManyErrorsError: If more than `max_errors` have failed; the shard is not written.
            WriteError: If the file cannot be written.
        """
        says = {
            "run": self.digest,
            "shard": shard,
            "device": self.question.device.type,
            "threads": torch.get_num_threads(),
        }
        with (
            writing(self.out),
            whole_file(self.path(shard)) as file,
            self.format.write(file, self.columns, says) as written,
            ThreadPoolExecutor(1) as beside,
        ):
            last = None
            for positions in batches(self.positions(shard), self.batch_size):
                rows = self.rows(positions)
                failed += sum(row.failure is not None for row in rows)
                self._check_failures(failed, positions, rows)
                if last is not None:
                    last.result()
                # A batch is written while the next is computed; two at most are in memory.
                last = beside.submit(written.add, [self.examples.ids[p] for p in positions], rows)
                tell(len(positions))
            if last is not None:
                last.result()
        return failed

    def rows(self, positions: Sequence[int]) -> list[RowOf]:
        """The rows of a batch, as the columns take them."""
        return rows_of(self.question, self.examples, positions, self.columns.dtype, self.columns.check)

    def _check_failures(self, failed: int, positions: Sequence[int], rows: Sequence[RowOf]) -> None:
        if self.max_errors is None or failed <= self.max_errors:
            return
        last, failure = next(
            (p, r.failure) for p, r in zip(reversed(positions), reversed(rows), strict=True) if r.failure
        )
        raise TooManyErrorsError(
            f"run(max_errors={self.max_errors}): {failed} examples have failed. The last, {self.examples.ids[last]!r}: "
            f"{failure.text} The shards that are complete stay; with a larger max_errors the run goes on."
        ) from failure.error


def shard_path(out: Path, shard: int, files: ShardFormat) -> Path:
    """The file of a shard."""
    return out / f"shard-{shard:06d}{files.suffix}"


def batches(positions: range, size: int) -> Iterator[range]:
    """The positions, cut into batches."""
    return (positions[start : start + size] for start in range(0, len(positions), size))


def columns_of(question: Question, examples: Examples, dtype: torch.dtype, ragged: bool, tries: int) -> Columns:
    """The columns of a run's files, from the first example that can be explained.

    Raises:
        Exception: What the method raised, if none of the first `tries` examples can be explained.
    """
    first: Failure | None = None
    for position in range(min(tries, len(examples))):
        (row,) = rows_of(question, examples, [position], dtype)
        if row.failure is None:
            shapes = {name: list(part.shape) for name, part in row.attributions.items()}
            ids = "str" if isinstance(examples.ids[0], str) else "int"
            return Columns(ids, type(row.target).__name__, shapes, dtype, ragged)
        first = first or row.failure
    assert first is not None
    first.error.add_note(f"run: none of the first {min(tries, len(examples))} examples could be explained.")
    raise first.error


def columns_as_json(columns: Columns) -> dict[str, Any]:
    """As a manifest holds them."""
    return json.loads(json.dumps({**columns._asdict(), "dtype": str(columns.dtype).removeprefix("torch.")}))


def columns_from_json(data: dict[str, Any]) -> Columns:
    """As a manifest has them."""
    return Columns(**{**data, "dtype": getattr(torch, data["dtype"])})
