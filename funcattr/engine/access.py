"""Reading and replacing the values at a model's sites."""

from collections.abc import Callable, Mapping
from typing import Any

from .functional import FunctionalModel, functionalize
from .sites import Reader


def read(model: Callable[..., Any], *sites: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A function that calls the model and also returns the values at some sites.

    Args:
        model: A module, a `FunctionalModel` or a callable.
        sites: Names of sites: module paths (`"layer4"`, `"relu#1"` for the second call of a reused module) or the names
            that a callable gives to `site`.

    Returns:
        `(*inputs, **kwargs) -> (output, {site: value})`. Values are copies, as they were when passed.

    Raises:
        TypeError: If a site is no string.
        UnknownSiteError: By the returned function, if a site does not exist or is not reached.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(inplace=True))
        >>> y, values = funcattr.read(model, "0")(torch.ones(1, 2))
        >>> torch.equal(values["0"].relu(), y)
        True
    """
    function = functionalize(model)
    for name in sites:
        if not isinstance(name, str):
            raise TypeError(f"read(sites=...): expected names of sites, got {type(name).__name__}.")
    return reading("read", function, *sites)


def reading(call: str, function: FunctionalModel, *sites: str) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """As `read`; `call` is the first words of errors."""

    def run(*inputs: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        reader = Reader(sites)
        with reader:
            output = function(*inputs, **kwargs)
        reader.require(call, sites, function.sites)
        return output, {name: reader.values[name] for name in sites}

    return run


def edit(model: Callable[..., Any], edits: Mapping[str, Callable[[Any], Any]]) -> FunctionalModel:
    """A model whose values at some sites are replaced by a function of them: noise, an ablation, a steering vector.

    Args:
        model: A module, a `FunctionalModel` or a callable.
        edits: Site to `value -> value`; the result goes on in place of the value.

    Returns:
        A `FunctionalModel` of the edited call, for any method. Its parameters can be bound, and its sites read, edited
        again (after this edit) and made the root, as before.

    Raises:
        TypeError: If an edit is not callable.
        UnknownSiteError: By the returned function, if a site does not exist or is not reached.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> funcattr.edit(model, {"0": lambda h: 0 * h + 5})(torch.ones(1, 2))
        tensor([[5., 5., 5.]])
    """
    for name, change in edits.items():
        if not callable(change):
            raise TypeError(
                f"edit(edits={{{name!r}: ...}}): expected a function of the value, got {type(change).__name__}."
            )
    return functionalize(model).edited(edits)
