"""The multipliers of single operations, and operands at which a slope is hard to take."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import funcattr
from funcattr import Rulebook, rules

DOUBLE = torch.float64
RESCALE = rules.deep_lift()
KINKS = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)
Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensor]


def multipliers(function: Function, x: Tensors, x0: Tensors, m: Tensor | None = None, book: Rulebook = RESCALE) -> Any:
    """What comes back to each operand from m (ones by default) at the result. Operands [N, ...], result [N, ...]"""
    y = function(*x)
    m = torch.ones_like(y) if m is None else m.to(y)
    found = funcattr.attribute(function, x, m, rules=book, baseline=x0, example_dims=None)  # no dimension is examples'
    return found.cotangent


def sums(function: Function, x: Tensors, x0: Tensors, book: Rulebook = RESCALE) -> tuple[float, float, float]:
    """sum m_x dx, sum m_y dy, and the size of the numbers in them, for random m_y."""
    y, y0 = (function(*operands).double() for operands in (x, x0))
    m = torch.linspace(-1.3, 1.7, y.numel(), dtype=DOUBLE).reshape(y.shape)
    back = multipliers(function, x, x0, m, book)
    parts = [_product(b.double(), a.double() - a0.double()) for b, a, a0 in zip(back, x, x0, strict=True)]
    of_y = _product(m, y - y0)
    size = max(1.0, sum(part.abs().sum().item() for part in (*parts, of_y)))
    return sum(part.sum().item() for part in parts), of_y.sum().item(), size


def _product(m: Tensor, d: Tensor) -> Tensor:
    """M d, nothing for masked positions, whose difference of infinities is NaN."""
    return torch.where(d.isnan(), 0, m * d)


def assert_sums_to_delta(
    function: Function, x: Tensors, x0: Tensors, *, book: Rulebook = RESCALE, tolerance: float = 1e-11
) -> None:
    """sum m_x dx = sum m_y dy, up to the rounding of the numbers in them."""
    found, expected, size = sums(function, x, x0, book)
    assert abs(found - expected) <= tolerance * size, (found, expected, size)


@st.composite
def pairs(draw: st.DrawFn, *shape: int, low: float = -4.0, high: float = 4.0, dtype: torch.dtype = DOUBLE) -> Any:
    """(x, x') of a shape: far, near by any power of ten, at or beside a kink, equal, both zero; element by element."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kinds = draw(st.sampled_from(["far", "near", "kink", "same", "mixed", "mixed", "mixed"]))

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=DOUBLE) * (high - low) + low

    kind = {"far": 0, "near": 1, "kink": 2, "same": 3}.get(kinds)
    which = torch.randint(0, 5, shape, generator=generator) if kind is None else torch.full(shape, kind)
    step = 10 ** uniform(-17, 0) * uniform(-1, 1).sign()
    grid = torch.tensor([k for k in KINKS if low <= k <= high] or [low], dtype=DOUBLE)
    kink = grid[torch.randint(0, len(grid), shape, generator=generator)]
    far, x = uniform(low, high), uniform(low, high)
    x = torch.where(which == 2, kink * (1 + step), torch.where(which == 4, max(0.0, low), x))
    x0 = torch.stack([far, x * (1 - step), kink * (1 - step), x, x]).gather(0, which[None])[0]
    return x.clamp(low, high).to(dtype), x0.clamp(low, high).to(dtype)
