"""Where among the arguments of a call its tracked tensors are."""

from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor

Positions = tuple[tuple[Any, ...], ...]


def lookup(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: tuple[Any, ...]) -> Any:
    """The argument at a position."""
    key, *inside = position
    value: Any = kwargs[key] if isinstance(key, str) else args[key]
    for key in inside:
        value = value[key]
    return value


def replace(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions, values: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `values` at `positions`; containers on the way are copied."""
    new_args, new_kwargs = list(args), dict(kwargs)
    for position, value in zip(positions, values, strict=True):
        top: Any = new_kwargs if isinstance(position[0], str) else new_args
        _put(top, position, value)
    return tuple(new_args), new_kwargs


def _put(container: Any, position: Any, value: Any) -> None:
    if len(position) > 1:
        inner = container[position[0]]
        mutable = dict(inner) if isinstance(inner, dict) else list(inner)
        _put(mutable, position[1:], value)
        value = tuple(mutable) if isinstance(inner, tuple) else mutable
    container[position[0]] = value


_CONTAINERS = (list, tuple, dict)


def tracked_positions(args: tuple[Any, ...], kwargs: Mapping[str, Any], tracked: Container[Tensor]) -> Positions:
    """Where among the arguments, lists and dicts in them too, the tracked tensors are."""
    found: list[Any] = []
    for items in (enumerate(args), kwargs.items()) if kwargs else (enumerate(args),):
        for key, value in items:
            if isinstance(value, Tensor):
                if value in tracked:
                    found.append((key,))
            elif isinstance(value, _CONTAINERS):
                inside = ((), value) if isinstance(value, dict) else (tuple(value), {})
                found += ((key, *rest) for rest in tracked_positions(*inside, tracked))
    return tuple(found)
