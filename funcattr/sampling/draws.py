"""Random numbers as a pure function of (seed, stream, sample): the same whatever the chunks, and in compiled code."""

from typing import Any

import torch
from torch import Tensor

Generator = int | torch.Generator
"""A seed, or a generator from which one is drawn."""

_LOW, _MASK = 2**32 - 1, 2**64 - 1


def seed_from(call: str, generator: Any) -> int:
    """The seed that `generator=` stands for; a `torch.Generator` moves on by one draw, the global one never does."""
    if isinstance(generator, int) and not isinstance(generator, bool):
        return (generator + 2**63) % 2**64 - 2**63  # operators take 64 bits with a sign
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"{call}(generator=...): expected a seed or a torch.Generator, got {type(generator).__name__}.")
    if torch.compiler.is_dynamo_compiling():
        raise TypeError(f"{call}(generator=...): torch.compile cannot trace a torch.Generator. Give a seed, an int.")
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def normal(samples: Tensor, shape: torch.Size | tuple[int, ...], like: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Standard normal numbers, the same for a sample whichever others are drawn with it. [c] -> [c, *shape]"""
    return _drawn("normal", samples, list(shape), like.dtype, like.device, seed, stream)


def uniform(samples: Tensor, shape: torch.Size | tuple[int, ...], like: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1). [c] -> [c, *shape]"""
    return _drawn("uniform", samples, list(shape), like.dtype, like.device, seed, stream)


def integers(
    samples: Tensor, high: int, shape: torch.Size | tuple[int, ...] = (), *, seed: int, stream: int = 0
) -> Tensor:
    """Uniform integers in [0, high). [c] -> [c, *shape]"""
    return _drawn("integers", samples, list(shape), torch.int64, samples.device, seed, stream, high)


def permutations(samples: Tensor, size: int, *, seed: int, stream: int = 0) -> Tensor:
    """Random orders of 0 .. size - 1. [c] -> [c, size]"""
    return _drawn("permutations", samples, [size], torch.int64, samples.device, seed, stream)


# An operator of its own, so that compiled code draws the very numbers that eager code does, and `vmap` lets it pass.
@torch.library.custom_op("funcattr::drawn", mutates_args=())
def _drawn(
    kind: str,
    samples: Tensor,
    shape: list[int],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    stream: int,
    high: int = 0,
) -> Tensor:
    result = torch.empty((len(samples), *shape), dtype=dtype, device=device)
    generator = torch.Generator(device)
    for row, sample in zip(result, samples.tolist(), strict=True):
        generator.manual_seed(_key(seed, stream, sample))
        if kind == "permutations":
            torch.randperm(shape[0], generator=generator, out=row)
        elif kind == "integers":
            row.random_(0, high, generator=generator)
        elif kind == "uniform":
            row.uniform_(generator=generator)
        else:
            row.normal_(generator=generator)
    return result


@_drawn.register_fake
def _(
    kind: str,
    samples: Tensor,
    shape: list[int],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
    stream: int,
    high: int = 0,
) -> Tensor:
    return torch.empty((len(samples), *shape), dtype=dtype, device=device)


def _key(seed: int, stream: int, sample: int) -> int:
    """A 64-bit key; its lower half, which is all that the CPU's generator takes, is another one for each sample."""
    base = _mixed(_mixed(seed) + stream)
    return (base & ~_LOW) | ((base + sample * 0x9E3779B1) & _LOW)


def _mixed(number: int) -> int:
    """Splitmix64: neighbouring numbers to numbers with nothing in common."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
