"""Comparing attributions, and the loop that a mapped call should equal."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree


def assert_equal(actual: Any, expected: Any, *, tolerance: float = 1e-9, told: str = "") -> None:
    """Same shape and dtype, and values equal to `tolerance` of the largest expected one; NaN equals NaN.

    The scale is at least 1e-3: nets compute with numbers about 1, whose rounding is what an exact zero shows.

    Args:
        actual, expected: Tensors, or structures of them.
        tolerance: The largest difference, in units of the largest expected value.
        told: What the comparison is about, the first words of a failure.

    Raises:
        AssertionError: If they differ.
    """
    leaves, structure = pytree.tree_flatten(expected)
    found, other = pytree.tree_flatten(actual)
    require(structure == other, f"{told}: structure {other}, expected {structure}")
    for a, e in zip(found, leaves, strict=True):
        _assert_equal(a, e, tolerance, f"{told}: " if told else "")


def _assert_equal(actual: Tensor, expected: Tensor, tolerance: float, told: str) -> None:
    require(actual.shape == expected.shape, f"{told}shape {tuple(actual.shape)}, expected {tuple(expected.shape)}")
    require(actual.dtype == expected.dtype, f"{told}dtype {actual.dtype}, expected {expected.dtype}")
    if not expected.numel():
        return
    scale = max(1e-3, expected.detach().nan_to_num().abs().max().item())
    torch.testing.assert_close(
        *(actual / scale, expected / scale), rtol=0, atol=tolerance, equal_nan=True, msg=lambda text: told + text
    )


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError unless something holds; an assert statement of a library says nothing outside of pytest.

    Raises:
        AssertionError: If it does not hold.
    """
    if not holds:
        raise AssertionError(message)


def loop(function: Callable[..., Any], *batches: Any) -> Any:
    """What `torch.vmap(function)` should give: a Python loop over dimension 0 of tensors, or of structures."""
    count = len(pytree.tree_leaves(batches)[0])
    results = [function(*(pytree.tree_map(lambda v, i=i: v[i], b) for b in batches)) for i in range(count)]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *results)
