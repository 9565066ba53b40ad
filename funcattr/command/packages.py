"""Packages that only some models need."""

from importlib import import_module
from typing import Any

from .command_error import CommandError, one_line


def package(name: str, who: str, install: str) -> Any:
    """The package, if it can be imported.

    Args:
        name: Of the package, as it is imported.
        who: Needs it.
        install: What pip is to be told.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise CommandError(f"{who} needs {name.partition('.')[0]}: pip install '{install}'.") from error
    except (ImportError, RuntimeError, OSError) as error:
        raise CommandError(f"{who} needs {name}, which does not load with this torch: {one_line(error)}") from error
