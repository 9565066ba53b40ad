"""The sites of edges, as a user lists them: names, modules, and patterns of names."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ...model.functional import FunctionalModel, Site

Sites = Site | Sequence[Site]
"""A site, a pattern, or a list of them."""


def listed(call: str, model: FunctionalModel, argument: str, sites: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of some sites, those that a pattern matches in the model's order; and those of them that were named.

    Raises:
        TypeError, ValueError, UnknownSiteError: As in `FunctionalModel.site_names`.
    """
    given = [sites] if isinstance(sites, str | nn.Module) else sites
    if not isinstance(given, list | tuple):
        raise TypeError(
            f"{call}({argument}=...): expected a site or a list of sites, names or modules, got {type(sites).__name__}."
        )
    names = model.site_names(call, given, argument) or ()
    named = [site for site in given if not (isinstance(site, str) and model.is_pattern(site))]
    return names, tuple([model.site_name(call, site, argument) for site in named])
