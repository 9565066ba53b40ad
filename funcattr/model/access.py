"""Values at a model's sites: read, replaced, or computed without the rest of the model."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..copies import copied
from .functional import FunctionalModel, Site, functionalize
from .sites import Reader, SiteMode

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword inputs of a call."""


def read(model: Callable[..., Any], *sites: Site) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A function that calls the model and also returns the values at some sites.

    Args:
        model: A module, a `FunctionalModel` or a callable.
        sites: Names of sites: module paths (`"layer4"`, `"relu#1"` for the second call of a reused module) or the names
            that a callable gives to `site`; modules of the model; or patterns of names (`"layers.*.mlp"`).

    Returns:
        `(*inputs, **kwargs) -> (output, {name of the site: value})`. Values are copies, as they were when passed.

    Raises:
        TypeError: If a site is no string and no module.
        UnknownSiteError: By the returned function, if a site does not exist or is not reached.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(inplace=True))
        >>> y, values = funcattr.read(model, "0")(torch.ones(1, 2))
        >>> torch.equal(values["0"].relu(), y)
        True
    """
    function = functionalize(model)
    names = (function.site_names("read", sites, "sites") or ()) if sites else ()
    return _reading("read", function, *names)


def _reading(call: str, function: FunctionalModel, *sites: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def run(*inputs: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        reader = Reader(sites)
        with reader:
            output = function(*inputs, **kwargs)
        reader.require(call, sites, function.sites)
        return output, {name: reader.values[name] for name in sites}

    return run


def edit(model: Callable[..., Any], edits: Mapping[Any, Callable[[Any], Any]]) -> FunctionalModel:
    """A model whose values at some sites are replaced by a function of them: noise, an ablation, a steering vector.

    Args:
        model: A module, a `FunctionalModel` or a callable.
        edits: Site (its name, a module of the model, or a pattern of names) to `value -> value`; the result goes on in
            place of the value.

    Returns:
        A `FunctionalModel` of the edited call, for any method. Its parameters can be bound, and its sites read, edited
        again (after this edit) and made the root, as before.

    Raises:
        TypeError: If an edit is not callable.
        ValueError: If one site is given twice, by its name and as the module.
        UnknownSiteError: By the returned function, if a site does not exist or is not reached.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> funcattr.edit(model, {"0": lambda h: 0 * h + 5})(torch.ones(1, 2))
        tensor([[5., 5., 5.]])
    """
    function = functionalize(model)
    named = function.by_site("edit", edits, "edits")
    for name, change in named.items():
        if not callable(change):
            raise TypeError(
                f"edit(edits={{{name!r}: ...}}): expected a function of the value, got {type(change).__name__}."
            )
    return function.edited(named)


def values_at(call: str, model: FunctionalModel, sites: tuple[str, ...], inputs: Inputs) -> dict[str, Any]:
    """The values at some sites; only the part of the model up to the last of them runs.

    Raises:
        UnknownSiteError: If a site does not exist or is not reached.
    """
    positional, keyword = copied(inputs)
    if torch.compiler.is_dynamo_compiling():  # which drops unused computations anyway
        if model.structure.traced:
            raise NotImplementedError(
                f"{call}: inside torch.compile a module has no sites. Give functionalize(model), made outside of the "
                "compiled function."
            )
        return _reading(call, model, *sites)(*positional, **keyword)[1]
    model, stop = model.ready(), _Stop(sites)
    try:
        with stop:
            model(*positional, **keyword)
    except _Reached:
        return stop.values
    stop.require(call, sites, model.sites)
    raise AssertionError("a call that passes all sites is stopped")


class _Reached(BaseException):
    """Leaves the model once the last value has been seen; no Exception, which a model may catch."""


class _Stop(SiteMode):
    """Ends the call once all sites asked for have been passed, and keeps their values."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__(sites)
        self.values: dict[str, Any] = {}

    def visit(self, value: Any, name: str) -> Any:
        self.values[name] = pytree.tree_map_only(Tensor, torch.clone, value)
        if len(self.values) == len(self.asked):
            raise _Reached
        return value
