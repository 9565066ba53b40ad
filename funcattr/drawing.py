"""Generators of random numbers that a function may draw from: found, and put back as they were."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .copies import DRAWING, held_by, is_fixed


@contextmanager
def own_draws(device: torch.device, drawing: Iterable[Any]) -> Iterator[None]:
    """Draws that leave no trace: in the random states of torch, NumPy and Python, and in generators that are held.

    Args:
        device: Of the draws.
        drawing: What may draw: functions, models, and all that they hold.
    """
    puts_back = [_state_of(generator) for generator in generators_in(drawing)]
    state, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(legacy)
        for put_back in puts_back:
            put_back()


def generators_in(values: Iterable[Any]) -> list[Any]:
    """The generators that values hold, in closures and objects too, and as globals of their functions' own modules."""
    found, seen, left = list[Any](), set[int](), list(values)
    kept = list(left)  # an id stands for its value as long as that lives
    while left:
        value = left.pop()
        if id(value) in seen or is_fixed(value) or isinstance(value, Tensor | type | ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, (torch.Generator, *DRAWING)):
            found.append(value)
            continue
        held = [*held_by(value), *(_globals_of(value) if isinstance(value, FunctionType) else ())]
        kept += held
        left += held
    return found


def _globals_of(function: FunctionType) -> Iterator[Any]:
    """The globals that a function may read; of functions those of its own module only."""
    for name in _names_in(function.__code__):
        value = function.__globals__.get(name)
        if not isinstance(value, FunctionType) or value.__globals__ is function.__globals__:
            yield value


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def _state_of(generator: Any) -> Callable[[], None]:
    """What puts a generator back as it is now."""
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.Generator):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return partial(generator.set_state, generator.get_state())
