"""Files that are there whole or not at all, and what writers that died have left."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where what dead writers leave stays
    fcntl = None

_SUFFIX = ".tmp"


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to be written, which appears under its name when it is complete and on the disk.

    Args:
        path: Its name.
        replace: Whether it replaces one of that name; else the one that was there first stays.

    Raises:
        OSError: If it cannot be written; nothing of it stays.
    """
    temporary, file = _opened(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if replace:
                os.replace(temporary, path)
            else:
                with suppress(FileExistsError):
                    os.link(temporary, path)
                temporary.unlink()
        _sync(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _opened(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked as long as its writer lives."""
    while True:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_SUFFIX}")
        file = open(temporary, "xb")  # noqa: SIM115  (it outlives this function)
        try:
            # Before it was locked, it could be taken for a dead writer's.
            if not _lock(file.fileno()) or _is_at(file.fileno(), temporary):
                return temporary, file
        except BaseException:
            file.close()
            raise
        file.close()


def clear_leftovers(folder: Path) -> None:
    """Delete unfinished files whose writers are dead. A live writer's is locked, and stays."""
    for temporary in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError), open(temporary, "rb") as file:
            if _lock(file.fileno()) and _is_at(file.fileno(), temporary):
                temporary.unlink()


def _lock(descriptor: int) -> bool:
    """Whether the file is locked now for this process alone; the system ends that with the process."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another's, or a file system without locks
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    """The folder's new name on the disk, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
