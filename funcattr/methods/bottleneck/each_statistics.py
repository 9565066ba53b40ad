"""Several sites for the bottleneck, each with the statistics of its own."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from ...model.functional import as_functional
from .feature_statistics import FeatureStatistics

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AtStatistics(Protocol[P, T_co]):
    """A method that gives one result for statistics, and a dict of them by site for statistics by site."""

    __name__: str

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def __call__(self, *args: Any, statistics: Mapping[str, FeatureStatistics], **kwargs: Any) -> Any: ...


def for_each_statistics(method: Callable[P, T]) -> AtStatistics[P, T]:
    """A method that, given statistics by site, is called for one site after the other: {site: its result}.

    Raises:
        ValueError: If a site of `layer` has no statistics.
    """

    @functools.wraps(method)
    def called(*given: Any, **options: Any) -> Any:
        statistics, layer = options.get("statistics"), options.get("layer")
        if not isinstance(statistics, Mapping):
            return method(*given, **options)
        by_site = dict(statistics)
        sites = tuple(by_site)
        if layer is not None:
            model = as_functional(given[0] if given else options["model"])
            named = model.site_names(method.__name__, layer)
            sites = (model.site_name(method.__name__, layer),) if named is None else named
        for site in sites:
            if site not in by_site:
                raise ValueError(
                    f"{method.__name__}(statistics=...): expected those of the layer {site!r}, got {sorted(by_site)}."
                )
        each = {site: method(*given, **{**options, "layer": site, "statistics": by_site[site]}) for site in sites}
        return each[sites[0]] if isinstance(layer, str) and sites == (layer,) else each

    return cast(Any, called)
