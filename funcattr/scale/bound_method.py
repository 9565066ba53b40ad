"""A method, named or one's own, bound to a model and its options."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .description import described
from .own import Own, released

TUNNEL = "noise_tunnel"


def read_method(method: Any) -> str | Own:
    """A method as people give it: its public name, the public function itself, or an `Own`.

    Raises:
        TypeError: If it is another function, whose meaning nobody can tell from the outside.
        ValueError: If there is no method of that name.
    """
    if isinstance(method, Own):
        if not callable(method.value):
            raise TypeError(f"run(method={method}): expected a function in it, got {type(method.value).__name__}.")
        return method
    if isinstance(method, str):
        _public(method.removeprefix(f"{TUNNEL}:"))
        return method
    name = getattr(method, "__name__", "")
    if callable(method) and name in _methods() and _methods()[name] is method:
        return name
    shown = getattr(method, "__qualname__", None) or type(method).__name__
    raise TypeError(
        f"run(method=...): expected the name of a method of funcattr, its function or an Own, got {shown}, whose "
        "meaning the run's manifest cannot say. Options go into options={...}; a function of your own, "
        f"(model, x, target, **options) -> attributions, comes with a name and a version: scale.Own({name or 'f'}, "
        "name=..., version=...)."
    )


def described_method(method: str | Own) -> Any:
    """What a manifest says of it."""
    return described(method, "run(method=...)")


class BoundMethod:
    """`(x, target, generator) -> attributions` of a method, a model and options.

    Args:
        method: As from `read_method`; "noise_tunnel:lrp" is the tunnel around `lrp`, each with its own options.
        model: The model.
        options: Keywords of the method.

    Raises:
        TypeError: If the method has no such option, or the run says it (a generator).
    """

    def __init__(self, method: str | Own, model: Any, options: Mapping[str, Any]) -> None:
        options, model = released(options), released(model)
        inner = None
        if isinstance(method, str) and method.startswith(f"{TUNNEL}:"):
            inner, function = _public(method.removeprefix(f"{TUNNEL}:")), _methods()[TUNNEL]
        else:
            function = _public(method) if isinstance(method, str) else method.value
        parameters = inspect.signature(function).parameters
        of_inner = {} if inner is None else inspect.signature(inner).parameters
        _check_options(method, options, {**parameters, **of_inner})
        self.takes_generator = "generator" in parameters
        self.takes_target = "target" in parameters
        if inner is None:
            self._call: Callable[..., Any] = partial(function, model, **options)
        else:
            # Made once: the tunnel remembers of a method whether its examples are separate.
            own = {name: value for name, value in options.items() if name in of_inner and name not in parameters}
            rest = {name: value for name, value in options.items() if name not in own}
            self._call = partial(function, partial(inner, model, **own), **rest)

    def __call__(self, x: Any, target: Any, seed: int) -> Any:
        """The attributions of a batch; draws are those of the seed."""
        more = {"generator": seed} if self.takes_generator else {}
        return self._call(x, target, **more) if self.takes_target else self._call(x, **more)


def _check_options(method: str | Own, options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    called = method if isinstance(method, str) else method.name
    if "generator" in options:
        raise TypeError(
            "run(options={'generator': ...}): every draw of a run is a function of its seed: run(seed=...)."
        )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()) and isinstance(method, Own):
        return
    for name in options:
        if name not in parameters:
            closest = difflib.get_close_matches(name, parameters, n=1)
            hint = f" Closest: {closest[0]!r}." if closest else ""
            raise TypeError(f"run(options={{{name!r}: ...}}): {called} has no such option.{hint}")


def _methods() -> dict[str, Callable[..., Any]]:
    """The public functions that explain a model's inputs, by name."""
    package = importlib.import_module(__name__.partition(".")[0])
    named = {name: value for name, value in vars(package).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: value for name, value in named.items() if _explains(inspect.signature(value).parameters)}


def _explains(parameters: Mapping[str, Any]) -> bool:
    return "x" in parameters and ("model" in parameters or "method" in parameters)


def _public(name: str) -> Callable[..., Any]:
    methods = {name: method for name, method in _methods().items() if name != TUNNEL}
    if name in methods:
        return methods[name]
    if name == TUNNEL:
        raise ValueError(
            f"run(method={TUNNEL!r}): expected the method whose maps are averaged too: '{TUNNEL}:gradient'."
        )
    closest = difflib.get_close_matches(name, methods, n=3) or ["lrp", "gradient", "integrated_gradients"]
    raise ValueError(f"run(method={name!r}): no such method. Closest: {', '.join(map(repr, closest))}.")
