"""Statistics of a tensor in simpler operations: `decompose` these in a rulebook."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UnsupportedOperationError

Dims = int | tuple[int, ...] | list[int] | None


def var(
    input: Tensor,
    dim: Dims | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    **named: Any,
) -> Tensor:
    """Mean squared deviation from the mean, over count - correction."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = _dims(input, named.get("axis", dim))
    taken = correction if correction is not None else 0 if unbiased is False else 1
    centred = input - input.mean(dims, keepdim=True)
    count = math.prod(input.shape[d] for d in dims)
    return (centred * centred).sum(dims, keepdim=keepdim) / (count - taken)


def std(input: Tensor, *args: Any, **named: Any) -> Tensor:
    """The square root of the variance."""
    return var(input, *args, **named).sqrt()


def vector_norm(
    x: Tensor, ord: float | str = 2, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Tensor:
    """The p-norm of all values, or over some dimensions."""
    x = x if dtype is None else x.to(dtype)
    dims = _dims(x, dim)
    if ord in (2, "fro"):
        return (x * x).sum(dims, keepdim=keepdim).sqrt()
    if ord == math.inf:
        return x.abs().amax(dims, keepdim=keepdim)
    if not isinstance(ord, int | float) or ord <= 0:
        raise UnsupportedOperationError(f"vector_norm(ord={ord!r}): no decomposition. Give it a rule of its own.")
    return x.abs().pow(ord).sum(dims, keepdim=keepdim).pow(1 / ord)


def norm(
    input: Tensor,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    out: None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The p-norm, in the spelling of `torch.norm`."""
    return vector_norm(input, 2 if p is None else p, dim, keepdim, dtype=dtype)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
    """A tensor over its p-norm."""
    return input / vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """X / (k + alpha mean x^2)^beta over neighbouring channels. [N, C, *spatial]"""
    squares = (input * input).flatten(2).unsqueeze(1)
    padded = F.pad(squares, (0, 0, size // 2, (size - 1) // 2))
    mean = F.avg_pool2d(padded, (size, 1), stride=1).squeeze(1).reshape(input.shape)
    return input / (mean * alpha + k).pow(beta)


def _dims(x: Tensor, dim: Any) -> tuple[int, ...]:
    if dim is None or dim in ((), []):
        return tuple(range(x.ndim))
    return tuple(d % x.ndim for d in (dim if isinstance(dim, tuple | list) else (dim,)))
