"""Gaussian noise around inputs, drawn as Captum draws it: one seed of torch's generator gives the same numbers."""

from typing import Any

import torch
from torch import Tensor


def noise_of(x: tuple[Tensor, ...], stdevs: Any, samples: int) -> tuple[Tensor, ...]:
    """The noise of each sample of each example, in torch's default dtype. Each [N, S, ...]

    Args:
        x: The inputs. Each [N, ...]
        stdevs: The standard deviation, or one for each input.
        samples: S.
    """
    each = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(x)
    if len(each) != len(x):
        raise ValueError(f"attribute(stdevs={stdevs}): expected one number, or {len(x)} of them, one for each input.")
    return tuple(_of_one(value, float(stdev), samples) for value, stdev in zip(x, each, strict=True))


def _of_one(x: Tensor, stdev: float, samples: int) -> Tensor:
    return torch.normal(0.0, torch.full((len(x), samples, *x.shape[1:]), stdev, device=x.device))
