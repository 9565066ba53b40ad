"""Several sites for methods that need passes of their own for each of them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from ..model.functional import as_functional

P = ParamSpec("P")
T = TypeVar("T")


def for_each_layer(method: Callable[P, T]) -> Callable[P, T]:
    """A method that, given several sites as `layer`, is called for one after the other: {site: its result}."""

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

    return cast(Callable[P, T], called)
