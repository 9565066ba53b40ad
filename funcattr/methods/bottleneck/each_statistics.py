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

        def at(site: str) -> Any:
            if site not in statistics:
                raise ValueError(
                    f"{method.__name__}(statistics=...): expected those of the layer {site!r}, got "
                    f"{sorted(statistics)}."
                )
            return method(*given, **{**options, "layer": site, "statistics": statistics[site]})

        sites = tuple(statistics)
        if layer is not None:
            model = as_functional(given[0] if given else options["model"])
            several = model.site_names(method.__name__, layer)
            if several is None:
                return at(model.site_name(method.__name__, layer))
            sites = several
        return {site: at(site) for site in sites}

    return cast(Any, called)
