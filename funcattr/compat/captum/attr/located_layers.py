"""Layers, given as modules, as sites of a model that may be a plain function around the module they belong to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

import funcattr

from .attribution import apart, as_tuple

_ONE_AT_A_TIME = threading.RLock()
"""Held while modules have a `forward` of their own, which other threads would run too."""
_ARGS = "@args"
"""Follows a layer's path in the site of what it is given."""


class LocatedLayers(NamedTuple):
    """Layers of a model.

    Attributes:
        model: The model.
        names: The sites of the layers.
        words: What errors call them: by their paths; layers of a function, which has no paths, by their classes.
        is_list: Whether several were asked for, so that results are lists.
    """

    model: Callable[..., Any]
    names: tuple[str, ...]
    words: tuple[str, ...]
    is_list: bool

    def read(self, *inputs: Any) -> tuple[Any, ...]:
        """The values at the layers, which have to run once. Each a tensor or a tuple."""
        self.require_one_call(*inputs)
        return self.read_again(*inputs)

    def read_again(self, *inputs: Any) -> tuple[Any, ...]:
        """As `read`, of layers that have been read before."""
        values = values_at(self.model, self.names, self.words, apart(inputs))
        return tuple(map(_unwrapped, self.names, self.words, (values[name] for name in self.names)))

    def require_one_call(self, *inputs: Any) -> None:
        """Raise where a layer runs several times: nobody can know which of its values is meant."""
        for name, word in zip(self.names, self.words, strict=True):
            try:
                funcattr.read(self.model, _at_second_call(name))(*apart(inputs))
            except funcattr.UnknownSiteError:
                continue
            part = ":0" if name.endswith(_ARGS) else ""
            raise funcattr.FuncattrError(
                f"attribute(layer={word}): the layer runs more than once. Say which call is meant, in a function of "
                f"this package, by the layer's path in the module: "
                f"funcattr.gradient(model, x, target, layer='{_at_second_call(_path(word))}{part}')."
            )

    def parts(self, values: tuple[Any, ...]) -> list[list[str]]:
        """For each layer the sites of the tensors that its value is made of."""
        found = []
        for name, value in zip(self.names, values, strict=True):
            one = not isinstance(value, tuple) and not name.endswith(_ARGS)
            found.append([name] if one else [f"{name}:{i}" for i in range(len(as_tuple(value)))])
        return found

    def each(self, values: tuple[Any, ...], method: Callable[[list[str]], dict[str, Tensor]]) -> Any:
        """A method's results for each layer, structured as its value, from one call for all their tensors by site."""
        names = [part for parts in self.parts(values) for part in parts]
        found = method(names)
        return self.structured(values, [found[name].detach() for name in names])

    def structured(self, values: tuple[Any, ...], results: Any) -> Any:
        """Flat results, structured as the layers' values; a list where several layers were asked for."""
        rest, found = list(results), []
        for value in values:
            count = len(as_tuple(value))
            found.append(tuple(rest[:count]) if isinstance(value, tuple) else rest[0])
            rest = rest[count:]
        return found if self.is_list else found[0]

    def from_values(self, values: tuple[Any, ...]) -> Callable[..., Any]:
        """The model as a function of the tensors at the layers, followed by its inputs."""
        count = sum(len(as_tuple(value)) for value in values)

        def run(*tensors: Any) -> Any:
            rest, edits = list(tensors[:count]), {}
            for name, value in zip(self.names, values, strict=True):
                own = tuple(rest[: len(as_tuple(value))])
                wrapped = own if isinstance(value, tuple) or name.endswith(_ARGS) else own[0]
                edits[name], rest = _constant(wrapped), rest[len(own) :]
            return funcattr.edit(self.model, edits)(*tensors[count:])

        return run


def values_at(
    model: Callable[..., Any], names: tuple[str, ...], words: tuple[str, ...], inputs: tuple[Any, ...]
) -> dict[str, Any]:
    """The values at the sites `names` of a model, which errors call `words`."""
    try:
        return funcattr.read(model, *names)(*inputs)[1]
    except funcattr.UnknownSiteError as error:
        raise funcattr.UnknownSiteError(
            f"attribute(layer=...): the call of the model did not run each of {', '.join(words)}. Give a module that "
            "the forward pass calls, of the very model that runs: of no copy of it, and no container whose parts are "
            "called one by one."
        ) from error


def _constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


def _at_second_call(name: str) -> str:
    """The site of a layer at its second call: "relu#1", and of what it is given "relu#1@args"."""
    return f"{name.removesuffix(_ARGS)}#1{_ARGS if name.endswith(_ARGS) else ''}"


def _path(word: str) -> str:
    """The site that a word for a layer stands for; of a function, whose modules have no paths, a stand-in."""
    return word.strip("'") if word.startswith("'") else "path.of.layer" + word[word.index(">") + 1 :]


def _unwrapped(name: str, word: str, value: Any) -> Any:
    """A layer's value: a tensor, or a tuple of them; the only argument of a layer is a tensor."""
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        kind = type(value).__name__ + (f" of {[type(part).__name__ for part in parts]}" if parts != (value,) else "")
        raise funcattr.FuncattrError(
            f"attribute(layer={word}): expected a layer whose value is a tensor or a tuple of them, got {kind}. Name a "
            "part of it by the layer's path in the module, in a function of this package: "
            f"funcattr.gradient(model, x, target, layer='{_path(word)}:0')."
        )
    one = isinstance(value, Tensor) or (name.endswith(_ARGS) and len(parts) == 1)
    return parts[0] if one else parts


@contextmanager
def located(forward_func: Callable[..., Any], layer: Any, of_input: bool = False) -> Iterator[LocatedLayers]:
    """The layers of a model, for the time of a call.

    A module's are sites already. A function's module is the user's live one: inside the context the layer announces its
    value by a `forward` of its own, which is gone afterwards. Other threads wait meanwhile.

    Args:
        forward_func: The model.
        layer: A module, or a list of them.
        of_input: Whether what the layers are given is meant, and not what they return.
    """
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]
    for one in layers:
        if not isinstance(one, nn.Module):
            raise TypeError(f"attribute(layer=...): expected a module of the model, got {type(one).__name__}.")
    suffix, is_list = _ARGS if of_input else "", isinstance(layer, list | tuple)
    if isinstance(forward_func, nn.Module):
        model = funcattr.functionalize(forward_func)
        names = tuple(model.site_name("attribute", one) + suffix for one in layers)
        yield LocatedLayers(model, names, tuple(map(repr, names)), is_list)
        return
    names = tuple(f"layer{i}" for i in range(len(layers)))
    with _ONE_AT_A_TIME:
        before = [vars(one).get("forward") for one in layers]
        try:
            for one, name in zip(layers, names, strict=True):
                vars(one)["forward"] = _announcing(one.forward, name)
            words = tuple(f"<{type(one).__name__}>{suffix}" for one in layers)
            yield LocatedLayers(forward_func, tuple(name + suffix for name in names), words, is_list)
        finally:
            for one, forward in zip(layers, before, strict=True):
                if forward is None:
                    vars(one).pop("forward", None)
                else:
                    vars(one)["forward"] = forward


def _announcing(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    def announced(*args: Any, **kwargs: Any) -> Any:
        return funcattr.site(forward(*funcattr.site(args, f"{name}{_ARGS}"), **kwargs), name)

    return announced
