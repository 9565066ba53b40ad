"""Packages that only some models need."""

from typing import Any

from ..extras import MissingPackageError, needed
from .command_error import CommandError, one_line


def package(name: str, who: str, install: str) -> Any:
    """The package, if it can be imported.

    Args:
        name: Of the package, as it is imported.
        who: Needs it.
        install: What pip is to be told.
    """
    try:
        return needed(who, name, install)
    except MissingPackageError as error:
        raise CommandError(one_line(error)) from error
    except ModuleNotFoundError:  # of a package that this one imports
        raise
    except (ImportError, RuntimeError, OSError) as error:
        raise CommandError(f"{who} needs {name}, which does not load with this torch: {one_line(error)}") from error
