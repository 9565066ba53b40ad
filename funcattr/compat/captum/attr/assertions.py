"""Errors about arguments, which here are AssertionErrors too: Captum's are, and programs may catch them."""

import functools
from collections.abc import Callable
from types import TracebackType, new_class
from typing import Any

import funcattr

_HOME = funcattr.__name__ + "."


def asserting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose errors about arguments, by this package, are AssertionErrors too; a model's own stay."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ValueError, TypeError, funcattr.FuncattrError) as error:
            kind = type(error)
            is_about_arguments = isinstance(error, ValueError | TypeError) or kind is funcattr.FuncattrError
            if isinstance(error, AssertionError) or not is_about_arguments or not _is_ours(error.__traceback__):
                raise
            raise _made(kind, error.args) from error

    return run


@functools.cache
def _asserted(kind: type[Exception]) -> type[Exception]:
    names = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__reduce__": _reduced}
    return new_class(kind.__name__, (kind, AssertionError), exec_body=lambda space: space.update(names))


def _reduced(error: Exception) -> tuple[Any, ...]:
    """For pickle, which finds no class that was made here: an error goes from a worker's process to the user's."""
    return _made, (type(error).__bases__[0], error.args)


def _made(kind: type[Exception], args: tuple[Any, ...]) -> Exception:
    return _asserted(kind)(*args)


def _is_ours(traceback: TracebackType | None) -> bool:
    """Whether the error was raised by the package, and not by what it called."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and f"{traceback.tb_frame.f_globals.get('__name__', '')}.".startswith(_HOME)
