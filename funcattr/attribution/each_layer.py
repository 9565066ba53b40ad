"""Several sites at once: what such methods look like, and those that need passes of their own for each site."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from ..model.functional import as_functional
from .question import Layer

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class AtLayers(Protocol[P, T_co]):
    """A method that gives one result at a site, and a dict of them by site for a list of sites."""

    __name__: str

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co: ...
    @overload
    def __call__(self, *args: Any, layer: Sequence[Layer], **kwargs: Any) -> Any: ...


def at_layers(method: Callable[P, T]) -> AtLayers[P, T]:
    """The method as it is, which takes a list of sites too."""
    return cast(Any, method)


def for_each_layer(method: Callable[P, T]) -> AtLayers[P, T]:
    """A method that, given a list of sites as `layer`, is called for one after the other: {site: its result}."""

    @functools.wraps(method)
    def called(*given: Any, **options: Any) -> Any:
        layer = options.get("layer")
        if layer is None:
            return method(*given, **options)
        model = given[0] if given else options["model"]
        sites = as_functional(model).site_names(method.__name__, layer)
        if sites is None:
            return method(*given, **options)
        return {site: method(*given, **{**options, "layer": site}) for site in sites}

    return cast(Any, called)
