"""The reward that extremal perturbation makes large: a number for each perturbed copy of the input."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ...attribution.targets import Target, cotangent_of, is_class, score

Reward = Literal["simple", "contrastive"] | Callable[[Tensor, Any], Tensor]


def reward_of(call: str, reward: Reward, output: Tensor, target: Target) -> Tensor:
    """The reward of each copy, of an output and a target that has been repeated for the copies. [K, ...] -> [K]

    Raises:
        ValueError: If `reward` is another word, or a function that returns no number per copy.
        TypeError: If it is neither, or its numbers are integers.
    """
    if callable(reward):
        return _checked(call, reward(output, target), output)
    if reward == "simple":
        # As published, a class means its average over space here, which the penalty weight is made for.
        return score(call, output, target) / (_positions(output) if is_class(target) else 1)
    if reward == "contrastive":
        return _contrast(call, output, target)
    if isinstance(reward, str):
        raise ValueError(f"{call}(reward={reward!r}): expected 'simple', 'contrastive' or a function.")
    raise TypeError(f"{call}(reward=...): expected a word or a function, got {type(reward).__name__}.")


def _contrast(call: str, output: Tensor, target: Target) -> Tensor:
    """y_c - max_{c' != c} y_c', averaged over space."""
    if not is_class(target):
        raise ValueError(f"{call}(reward='contrastive'): expected a class, or one class per example, as the target.")
    if output.ndim < 2 or output.shape[1] < 2:
        raise ValueError(
            f"{call}(reward='contrastive'): expected an output with two classes or more, "
            f"got shape {list(output.shape)}."
        )
    hot = cotangent_of(call, output, target)
    own = torch.where(hot == 0, 0.0, output * hot).sum(1)
    others = torch.where(hot == 0, output, -torch.inf).amax(1)
    return (own - others).flatten(1).mean(1) if output.ndim > 2 else own - others


def _positions(output: Tensor) -> int:
    return output[0, 0].numel() if output.ndim > 2 else 1


def _checked(call: str, values: Any, output: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != output.shape[:1]:
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{call}(reward=<function>): expected one number per copy, shape [{output.shape[0]}], got {got}."
        )
    if not values.is_floating_point():
        raise TypeError(f"{call}(reward=<function>): expected floating-point numbers, got {values.dtype}.")
    return values
