"""What can go wrong with a run over a data set, and with its folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FuncattrError


class ScaleError(FuncattrError, RuntimeError):
    """A run over a data set cannot go on, or its folder cannot be read."""


class AnotherRunError(ScaleError):
    """The folder holds another run; the message says in which entries they differ."""


class BrokenShardError(ScaleError):
    """A shard's file is truncated or was changed."""


class TooManyErrorsError(ScaleError):
    """More examples failed than the run was to bear."""


class WriteError(ScaleError, OSError):
    """A file cannot be written: the disk is full, or the folder may not be written to."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Errors of the file system as those of a run, which leaves the folder as it was."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            f"run(out={str(folder)!r}): cannot write there: {error.strerror or error}. The shards that are complete "
            "stay; make room, or give the folder's owner's rights, and run the same call again."
        ) from error
