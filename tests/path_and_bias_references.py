"""Slow references of FullGrad and of blur integrated gradients, from the papers' formulas. They share no code with
funcattr.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .references import pseudo_gradient
from .relevance_references import bookkeeping
from .relevance_references.walk import Call, Handler, Walk, rewired, walk_back


def full_grad(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """The input's share and that of each call, b = f(v) - J v by forward mode, spread over the image. [N, 1, ...]"""
    shares: list[Tensor] = []

    def biased(walk: Walk, call: Call) -> Tensor:
        at = tuple(operand.detach().contiguous() for operand in call.operands)
        with sdpa_kernel(SDPBackend.MATH):
            pair: Any = torch.func.jvp(call, at, at)
        value, slope = pair

        def backward(g: Tensor) -> tuple[Tensor, ...]:
            shares.append((value - slope) * g)
            return call.pull(g)

        return rewired("biased", value, call.operands, backward)

    names = (*bookkeeping.ELEMENTWISE, *bookkeeping.SUMS, *bookkeeping.CONVOLUTIONS, *bookkeeping.DENSE, "mul", "div")
    others = ("softmax", "scaled_dot_product_attention", "batch_norm", "layer_norm", "group_norm", "instance_norm")
    handlers: dict[str, Handler | None] = dict.fromkeys(bookkeeping.BOOKKEEPING)
    handlers |= dict.fromkeys((*names, *others), biased)
    g = walk_back(handlers, model, x, target)
    return (x * g).sum(1, keepdim=True) + sum(_on_image(share, x) for share in shares)


def _on_image(share: Tensor, x: Tensor) -> Tensor:
    """Channels summed; positions by linear interpolation (by windows where there are more of them than pixels), each
    with weights that sum to 1; what has no positions evenly.
    """
    sizes = x.shape[2:]
    if share.ndim != x.ndim:
        each = share.flatten(1).sum(1) / math.prod(sizes)
        return each.reshape(-1, 1, *[1] * len(sizes)).expand(-1, 1, *sizes)
    found, windows = share.sum(1, keepdim=True), any(n > to for n, to in zip(share.shape[2:], sizes, strict=True))
    for dim, to in enumerate(sizes, 2):
        weights = _windows(found.shape[dim], to) if windows else _lines(found.shape[dim], to)
        weights = (weights / weights.sum(0)).to(x)
        found = (found.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return found


def _lines(places: int, size: int) -> Tensor:
    """[size, places]; corners not aligned."""
    weights = torch.zeros(size, places, dtype=torch.float64)
    for u in range(size):
        at = min(max((u + 0.5) * places / size - 0.5, 0), places - 1)
        low = min(int(at), max(places - 2, 0))
        weights[u, low] += 1 - (at - low)
        if places > 1:
            weights[u, low + 1] += at - low
    return weights


def _windows(places: int, size: int) -> Tensor:
    """[size, places], the mean over the places under each pixel."""
    weights = torch.zeros(size, places, dtype=torch.float64)
    for u in range(size):
        first, end = u * places // size, -(-(u + 1) * places // size)
        weights[u, first:end] = 1 / (end - first)
    return weights


def blur_integrated_gradients(model: nn.Module, x: Tensor, target: Any, layer: str, sigma: float, steps: int) -> Tensor:
    """The gradient in the middle of each step, times what the step takes off the blur."""
    found = torch.zeros_like(x)
    for s in range(steps):
        low, middle, high = (_blurred(x, sigma * (1 - (s + by) / steps)) for by in (0, 0.5, 1))
        found += pseudo_gradient("gradient", model, middle, target)[1] * (high - low)
    return found


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """One dimension after the other, with weights exp(-d^2 / 2 sigma^2) that sum to 1 over the pixels there are."""
    for dim in range(2, x.ndim) if sigma else ():
        places = range(x.shape[dim])
        rows = [[math.exp(-((u - v) ** 2) / (2 * sigma**2)) for v in places] for u in places]
        weights = x.new_tensor([[w / sum(row) for w in row] for row in rows])
        x = (x.movedim(dim, -1) @ weights.T).movedim(-1, dim)
    return x
