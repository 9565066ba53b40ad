"""Packages that only some calls need, which extras bring."""

from importlib import import_module
from typing import Any


class MissingPackageError(ImportError):
    """A package that is not installed; the message says how to get it."""


def needed(call: str, name: str, install: str, package: str | None = None) -> Any:
    """A module of a package that may be missing.

    Args:
        call: Needs it; first words of the error.
        name: Of the module, as it is imported.
        install: What pip is to be told; an extra of this package as in a clone of it, ".[plot]".
        package: What people call the package; by default the first part of the name.

    Raises:
        MissingPackageError: If the package is not installed. What else goes wrong as it is imported, passes.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        package = package or name.partition(".")[0]
        # Not "funcattr[plot]": PyPI has another project of that name.
        where = " in a clone of funcattr" if install.startswith(".") else ""
        raise MissingPackageError(f"{call}: it needs {package}: pip install '{install}'{where}.") from error
