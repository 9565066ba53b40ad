"""What a person at the command line can set right, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import FuncattrError

_MISTAKES = (FuncattrError, ValueError, TypeError, RuntimeError, ImportError, IndexError, OSError)


class CommandError(Exception):
    """The command cannot do this: what was expected, what came, and the way out. It is printed without a traceback."""


@contextmanager
def refusing(what: str = "") -> Iterator[None]:
    """Errors of a model or of a method as refusals, in one line behind `what`."""
    try:
        yield
    except _MISTAKES as error:
        raise CommandError(what + one_line(error)) from error


def one_line(error: BaseException) -> str:
    """An error's message, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
