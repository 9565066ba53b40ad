"""The sites of edges, as a user lists them: names, modules, and patterns of names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..._torch import assume_constant_result
from ...errors import unknown_site
from ...model.functional import FunctionalModel, Site

Sites = Site | Sequence[Site]
"""A site or several; in a name `*`, `?` and `[...]` stand for characters between two dots."""


def listed(call: str, model: FunctionalModel, argument: str, sites: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of some sites, those that a pattern matches in the model's order; and those of them that were named.

    Raises:
        TypeError: If one is neither a name nor a module.
        ValueError: If there are none, or one is there twice.
        UnknownSiteError: If a pattern matches none.
    """
    given = [sites] if isinstance(sites, str | nn.Module) else sites
    if not isinstance(given, list | tuple):
        raise TypeError(
            f"{call}({argument}=...): expected a site or a list of sites, names or modules, got {type(sites).__name__}."
        )
    names: list[str] = []
    named: list[str] = []
    for site in given:
        name = model.site_name(call, site, argument)
        if _is_pattern(name):
            names += _matching(call, model, argument, name)
        else:
            names.append(name)
            named.append(name)
    if not names:
        raise ValueError(f"{call}({argument}=...): expected at least one site, got none.")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ValueError(f"{call}({argument}=...): the site {name!r} is there twice.")
    return tuple(names), tuple(named)


def _is_pattern(name: str) -> bool:
    return "*" in name or "?" in name or "[" in name


def _matching(call: str, model: FunctionalModel, argument: str, pattern: str) -> list[str]:
    found = [f"{name}" for name in _matches(model.sites, pattern)]  # Dynamo takes no names that it calls constant
    if not found:
        raise unknown_site(f"{call}({argument}={pattern!r})", pattern, model.sites)
    return found


@assume_constant_result
def _matches(names: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """The sites whose modules match, part by part between the dots; what follows the path of a module stays."""
    end = min((pattern.find(mark) for mark in "@#:" if mark in pattern), default=len(pattern))
    parts = pattern[:end].split(".")

    def matches(name: str) -> bool:
        own = name.split(".")
        return len(own) == len(parts) and all(fnmatchcase(*pair) for pair in zip(own, parts, strict=True))

    return tuple(name + pattern[end:] for name in names if matches(name))
