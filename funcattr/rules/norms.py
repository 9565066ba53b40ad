"""Norms by the statistics of their input, in simpler operations, which torch differentiates any number of times.

Its own formula of the second derivative of `layer_norm`, and of batch and instance norm by the batch's statistics, has
a wrong derivative in turn (torch 2.13).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _normalized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps)"""
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _by_channel(x: Tensor, dims: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    per_channel = [t if t is None else t.reshape(-1, *[1] * (x.ndim - 2)) for t in (weight, bias)]
    return _scaled(_normalized(x, dims, eps), *per_channel)


def layer_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **_: Any,
) -> Tensor:
    """As `torch.nn.functional.layer_norm`."""
    return _scaled(_normalized(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **_: Any,
) -> Tensor:
    """As `torch.nn.functional.batch_norm`, without its update of the running statistics."""
    if running_mean is not None and not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _by_channel(input, (0, *range(2, input.ndim)), weight, bias, eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **_: Any,
) -> Tensor:
    """As `torch.nn.functional.instance_norm`, without its update of the running statistics."""
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _by_channel(input, tuple(range(2, input.ndim)), weight, bias, eps)
