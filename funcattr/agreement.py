"""Agreement of two results that were computed by different ways."""

from typing import Any

import torch
from torch import Tensor

from ._torch import pytree


def same_numbers(expected: Any, actual: Any, *, size: float = 1.0) -> bool:
    """Whether the tensors of two results are alike: shapes, and values up to the rounding of another order of sums.

    The tolerance is the square root of the dtype's rounding, of the value and of `size` + the largest one.

    Args:
        expected, actual: Results of one structure.
        size: Of what was added up: a map that is zero up to rounding has no size of its own. An output has, `size=0`.
    """
    leaves = zip(pytree.tree_leaves(expected), pytree.tree_leaves(actual), strict=True)
    return all(_alike(e, a, size) for e, a in leaves if isinstance(e, Tensor))


def _alike(expected: Tensor, actual: Tensor, size: float) -> bool:
    if expected.shape != actual.shape:
        return False
    if not expected.is_floating_point() and not expected.is_complex():
        return torch.equal(expected, actual)
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    largest = 0.0 if expected.numel() == 0 else float(expected.detach().abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(expected, actual, rtol=tolerance, atol=tolerance * (size + largest), equal_nan=True)
