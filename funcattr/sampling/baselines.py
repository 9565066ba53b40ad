"""Baselines: the input that stands for "nothing there", as one value, one for each example, or a distribution."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.inputs import as_dict
from ..attribution.question import own
from ..batch import batch_of, broadcasts, merged
from ..torch_state import is_plain_eager

Baseline = float | int | Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A number, or a tensor of the inputs' shape or broadcast to it ([1, ...]); for several inputs, a structure of them."""


class distribution:  # noqa: N801  (a baseline reads as a word: baseline=distribution(images))
    """Rows that a method averages over, or draws from, in place of one baseline.

    Args:
        rows: Baselines, [B, ...]; for several inputs a tuple or dict of them, whose rows belong together.

    Returns:
        A baseline for `integrated_gradients`, `deep_lift`, `feature_ablation`, `lime` and the Shapley values (the mean
        over all rows), for `expected_gradients` and a keyword of `noise_tunnel` (each sample draws a row, with
        replacement).

    Raises:
        TypeError, ValueError: If `rows` are no tensors with one number of rows in common.

    Example:
        >>> import torch, funcattr
        >>> rows = funcattr.distribution(torch.zeros(10, 3))
        >>> funcattr.integrated_gradients(torch.nn.Linear(3, 2), torch.ones(1, 3), 0, baseline=rows).shape
        torch.Size([1, 3])
    """

    def __init__(self, rows: Any) -> None:
        self.rows = as_dict(rows)
        self.count = batch_of("distribution", self.rows)

    def at(self, index: Tensor) -> Any:
        """The rows at some positions. [c] -> [c, ...]"""
        return pytree.tree_map(lambda rows: rows[index], self.rows)

    def check(self, call: str, x: Any) -> None:
        """Raise unless a row is structured and shaped as an example of `x`."""
        shapes = [list(leaf.shape[1:]) for leaf in pytree.tree_leaves(x)]
        given = [list(leaf.shape[1:]) for leaf in pytree.tree_leaves(self.rows)]
        if pytree.tree_structure(x) != pytree.tree_structure(self.rows) or shapes != given:
            raise ValueError(f"{call}(baseline=distribution(...)): expected rows of shapes {shapes}, got {given}.")

    def like(self, call: str, x: Any) -> "distribution":
        """The rows in the dtypes of the inputs, checked, and on their device."""
        self.check(call, x)
        where = f"{call}(baseline=distribution(...))"
        return distribution(pytree.tree_map(lambda rows, value: cast_like(where, rows, value), self.rows, x))

    def __repr__(self) -> str:
        return f"distribution({self.count} rows)"

    def samples(self, index: Tensor) -> Any:
        """Rows as the inputs of samples. [c] -> each [1, c, ...]"""
        return pytree.tree_map(lambda row: row.unsqueeze(0), self.at(index))


def as_batch(values: Any, examples: int, count: int) -> Any:
    """Values of examples and samples as one batch. Each [N or 1, c or 1, ...] -> [N * c, ...]"""
    return pytree.tree_map(lambda v: merged(v.expand(examples, count, *v.shape[2:])), values)


def baseline_like(call: str, x: Any, baseline: Any) -> Any:
    """The baseline, structured and shaped as the inputs.

    Raises:
        TypeError: If a part of the baseline is neither a number nor a tensor, or complex beside real inputs.
        ValueError: If its structure or a shape does not fit the inputs, or their dtype has not its values.
    """
    leaves, structure = pytree.tree_flatten(x)
    if isinstance(baseline, int | float | Tensor):
        parts: list[Any] = [baseline] * len(leaves)
    else:
        parts, given = pytree.tree_flatten(as_dict(baseline))
        if given != structure:
            raise ValueError(
                f"{call}(baseline=...): expected a number, or {len(leaves)} baselines structured as the inputs"
                f"{_names(' by name: ', x)}, got {type(baseline).__name__} of {len(parts)}{_names(': ', baseline)}."
            )
    return own(pytree.tree_unflatten([_like(call, v, b) for v, b in zip(leaves, parts, strict=True)], structure))


def _names(before: str, value: Any) -> str:
    """The names of a mapping's parts, for errors: the integer tensors of x are constants, and have no baseline."""
    return before + ", ".join(map(str, value)) if isinstance(value, Mapping) else ""


def _like(call: str, value: Tensor, baseline: Any) -> Tensor:
    if isinstance(baseline, int | float) and not isinstance(baseline, bool):
        if not _has(value.dtype, baseline):
            expected = f"an integer, as the inputs are ({value.dtype}), in their range"
            if value.is_floating_point() or value.is_complex():
                expected = f"a number in the range of the inputs' dtype, {value.dtype}"
            raise ValueError(f"{call}(baseline={baseline}): expected {expected}.")
        return torch.full_like(value, baseline)
    if not isinstance(baseline, Tensor):
        raise TypeError(f"{call}(baseline=...): expected numbers and tensors, got {type(baseline).__name__}.")
    if not broadcasts(baseline.shape, value.shape):
        raise ValueError(
            f"{call}(baseline=...): expected the input's shape {list(value.shape)} or one that broadcasts to it, "
            f"got {list(baseline.shape)}. Many baselines are a distribution: baseline=distribution(rows)."
        )
    return cast_like(f"{call}(baseline=...)", baseline, value).expand_as(value)


def _has(dtype: torch.dtype, number: float) -> bool:
    """Whether a dtype has the number, which floating-point ones may round."""
    if dtype.is_floating_point or dtype.is_complex:
        return not isfinite(number) or abs(number) <= torch.finfo(dtype).max
    lowest, highest = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return float(number).is_integer() and lowest <= number <= highest


def cast_like(where: str, values: Tensor, like: Tensor) -> Tensor:
    """The values in the dtype of the inputs, which may round them, but makes no others of them."""
    if values.is_complex() and not like.is_complex():
        raise TypeError(f"{where}: expected real values, as the inputs are ({like.dtype}), got {values.dtype}.")
    found = values.to(like)
    if values.dtype == like.dtype or not is_plain_eager():
        return found
    if like.is_complex() or like.is_floating_point():
        if bool((found.isinf() & ~values.to(like.device).isinf()).any()):
            raise ValueError(
                f"{where}: expected values in the range of the inputs' dtype {like.dtype}, got larger ones, of "
                f"{values.dtype}."
            )
    elif bool((found != values.to(like.device)).any()):
        raise ValueError(
            f"{where}: expected values that the inputs' dtype {like.dtype} has, got others, of {values.dtype}. Round "
            "them yourself, or give floating-point inputs."
        )
    return found
