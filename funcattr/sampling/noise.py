"""Gaussian noise around values: the number of samples, the standard deviation, and the draws."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .._torch import pytree
from ..attribution.inputs import as_dict
from ..batch import merged
from ..torch_state import is_plain_eager
from .baselines import broadcasts
from .draws import normal
from .loops import positive

Sigma = float | Tensor | tuple[Any, ...] | Mapping[str, Any]


def check_noise(call: str, noise: Any, value: Tensor, counts: tuple[int | None, ...]) -> None:
    """Raise unless pre-drawn noise is of the shape [*counts, N or 1, ...] of what it is added to, [N, ...].

    Args:
        call: First words of errors.
        noise: As the user gave it.
        value: What gets the noise.
        counts: The leading sizes, None for any from 1 on.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        got = noise.dtype if isinstance(noise, Tensor) else type(noise).__name__
        raise TypeError(f"{call}(noise=...): expected a floating-point tensor, got {got}.")
    lead = len(counts)
    fits = noise.ndim == value.ndim + lead and noise.shape[lead] in (1, len(value))
    counted = all(
        size > 0 if count is None else size == count for size, count in zip(noise.shape, counts, strict=False)
    )
    if not fits or not counted or noise.shape[lead + 1 :] != value.shape[1:]:
        names = ["S" if count is None else count for count in counts]
        expected = [*names, f"{len(value)} or 1", *value.shape[1:]]
        raise ValueError(f"{call}(noise=...): expected shape {expected}, got {list(noise.shape)}.")


def sample_count(call: str, samples: int | None, noise: Any, noised: Any) -> int:
    """The number of samples; pre-drawn noise is checked against what gets it."""
    if noise is None:
        return positive(call, "samples", 5 if samples is None else samples)
    values, structure = pytree.tree_flatten(noised)
    given, other = pytree.tree_flatten(as_dict(noise))
    if structure != other:
        raise ValueError(f"{call}(noise=...): expected tensors structured as what gets the noise.")
    for e, value in zip(given, values, strict=True):
        check_noise(call, e, value, (None,))
        if len(e) != len(given[0]):
            raise ValueError(
                f"{call}(noise=...): expected as many samples for each input, got {[len(e) for e in given]}."
            )
    if samples is not None and samples != len(given[0]):
        raise ValueError(f"{call}(samples={samples}): the noise given has {len(given[0])} samples.")
    return len(given[0])


def spread_of(call: str, noised: Any, sigma: Any, relative: bool) -> list[Tensor]:
    """The noise's standard deviation for each value that gets noise. Each [N or 1, ...]"""
    values, structure = pytree.tree_flatten(noised)
    if isinstance(sigma, int | float | Tensor):
        given: list[Any] = [sigma] * len(values)
    else:
        given, other = pytree.tree_flatten(as_dict(sigma))
        if other != structure:
            raise ValueError(f"{call}(sigma=...): expected one, or {len(values)} of them as x is structured.")
    return [_one_spread(call, value, s, relative) for value, s in zip(values, given, strict=True)]


def _one_spread(call: str, value: Tensor, sigma: Any, relative: bool) -> Tensor:
    if not value.is_floating_point():
        raise TypeError(
            f"{call}(x=...): expected floating-point inputs to add noise to, got {value.dtype}. "
            "Token ids get it at the site of their embedding: noise_layer= of noise_tunnel."
        )
    if isinstance(sigma, bool) or not isinstance(sigma, int | float | Tensor):
        raise TypeError(f"{call}(sigma=...): expected a number or a tensor, got {type(sigma).__name__}.")
    if not isinstance(sigma, Tensor) and not sigma >= 0:
        raise ValueError(f"{call}(sigma={sigma}): expected a number of at least 0.")
    if isinstance(sigma, Tensor) and is_plain_eager() and not bool((sigma >= 0).all()):
        raise ValueError(f"{call}(sigma=...): expected numbers of at least 0, got negative ones or NaN.")
    spread = sigma.to(value) if isinstance(sigma, Tensor) else value.new_tensor(sigma)
    if not broadcasts(spread.shape, value.shape):
        raise ValueError(
            f"{call}(sigma=...): expected a shape that broadcasts to {list(value.shape)}, got {list(spread.shape)}."
        )
    spread = spread.reshape(*[1] * (value.ndim - spread.ndim), *spread.shape)
    if not relative:
        return spread
    trailing = tuple(range(1, value.ndim))
    return spread * (value.amax(trailing, keepdim=True) - value.amin(trailing, keepdim=True) if trailing else 0)


def scaled_noise(noised: Any, noise: Any, spread: list[Tensor], index: Tensor, seed: int) -> Any:
    """The noise of some samples, scaled. Structured as what gets it, each [N * c, ...]"""
    values, structure = pytree.tree_flatten(noised)
    if noise is None:
        drawn = [normal(index, v.shape[1:], v, seed, i).unsqueeze(0) for i, v in enumerate(values)]
    else:
        drawn = [
            e[index.to(e.device)].transpose(0, 1).to(v)
            for e, v in zip(pytree.tree_leaves(as_dict(noise)), values, strict=True)
        ]
    added = [e * s.unsqueeze(1) for e, s in zip(drawn, spread, strict=True)]
    full = [merged(e.expand(len(v), *e.shape[1:])) for e, v in zip(added, values, strict=True)]
    return pytree.tree_unflatten(full, structure)
