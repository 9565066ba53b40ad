"""Gaussian noise around values: how many samples, how wide, and the numbers themselves."""

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from .baselines import broadcasts
from .draws import normal
from .examples import merged
from .levels import is_plain_eager
from .loops import positive

Stdev = float | Tensor | tuple[Any, ...] | dict[str, Any]


def sample_count(call: str, samples: int | None, noise: Any, noised: Any) -> int:
    """The number of samples, and the shapes of pre-drawn noise checked."""
    if noise is None:
        return positive(call, "samples", 5 if samples is None else samples)
    values, structure = pytree.tree_flatten(noised)
    given, other = pytree.tree_flatten(noise)
    if structure != other or not all(isinstance(e, Tensor) for e in given):
        raise ValueError(f"{call}(noise=...): expected tensors structured as what gets the noise.")
    for e, value in zip(given, values, strict=True):
        fits = e.ndim == value.ndim + 1 and e.shape[1] in (1, len(value)) and e.shape[2:] == value.shape[1:]
        if not fits or len(e) != len(given[0]) or len(e) == 0:
            shape = ["S", f"{len(value)} or 1", *value.shape[1:]]
            raise ValueError(f"{call}(noise=...): expected shape {shape}, got {list(e.shape)}.")
    if samples is not None and samples != len(given[0]):
        raise ValueError(f"{call}(samples={samples}): the noise given has {len(given[0])} samples.")
    return len(given[0])


def spread_of(call: str, noised: Any, stdev: Any, relative: bool) -> list[Tensor]:
    """The noise's standard deviation for each value that gets noise. Each [N or 1, ...]"""
    values, structure = pytree.tree_flatten(noised)
    if isinstance(stdev, int | float | Tensor):
        given: list[Any] = [stdev] * len(values)
    else:
        given, other = pytree.tree_flatten(stdev)
        if other != structure:
            raise ValueError(f"{call}(stdev=...): expected one, or {len(values)} of them as x is structured.")
    return [_one_spread(call, value, s, relative) for value, s in zip(values, given, strict=True)]


def _one_spread(call: str, value: Tensor, stdev: Any, relative: bool) -> Tensor:
    if not value.is_floating_point():
        raise TypeError(
            f"{call}(x=...): expected floating-point inputs to add noise to, got {value.dtype}. "
            "Token ids get it at the site of their embedding: site=."
        )
    if isinstance(stdev, bool) or not isinstance(stdev, int | float | Tensor):
        raise TypeError(f"{call}(stdev=...): expected a number or a tensor, got {type(stdev).__name__}.")
    if not isinstance(stdev, Tensor) and not stdev >= 0:
        raise ValueError(f"{call}(stdev={stdev}): expected a number of at least 0.")
    if isinstance(stdev, Tensor) and is_plain_eager() and not bool((stdev >= 0).all()):
        raise ValueError(f"{call}(stdev=...): expected numbers of at least 0, got negative ones or NaN.")
    spread = stdev.to(value) if isinstance(stdev, Tensor) else value.new_tensor(stdev)
    if not broadcasts(spread.shape, value.shape):
        raise ValueError(
            f"{call}(stdev=...): expected a shape that broadcasts to {list(value.shape)}, got {list(spread.shape)}."
        )
    spread = spread.reshape(*[1] * (value.ndim - spread.ndim), *spread.shape)
    if not relative:
        return spread
    trailing = tuple(range(1, value.ndim))
    return spread * (value.amax(trailing, keepdim=True) - value.amin(trailing, keepdim=True) if trailing else 0)


def scaled_noise(noised: Any, noise: Any, spread: list[Tensor], index: Tensor, seed: int) -> Any:
    """What is added to the copies. Structured as what gets the noise, each [N * c, ...]"""
    values, structure = pytree.tree_flatten(noised)
    if noise is None:
        drawn = [normal(index, v.shape[1:], v, seed, i).unsqueeze(0) for i, v in enumerate(values)]
    else:
        drawn = [e[index].transpose(0, 1).to(v) for e, v in zip(pytree.tree_leaves(noise), values, strict=True)]
    added = [e * s.unsqueeze(1) for e, s in zip(drawn, spread, strict=True)]
    full = [merged(e.expand(len(v), *e.shape[1:])) for e, v in zip(added, values, strict=True)]
    return pytree.tree_unflatten(full, structure)
