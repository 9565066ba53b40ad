"""A batch of examples, and copies of it: counted, repeated, and told apart again.

Copies of an example are neighbours: the batch [N, ...] becomes [N * times, ...], example by example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor

from ._torch import pytree
from .copies import Copier

Dim = int | str
"""The dimension of a tensor that holds examples, or NO_DIM."""
NO_DIM = "none"
"""Stands for None where a tree of dimensions has it as a leaf."""


def batch_of(call: str, x: Any) -> int:
    """The number of examples of the inputs `x`: a tensor [N, ...], or a tuple or dict of them.

    Raises:
        TypeError: If `x` holds something that is no tensor.
        ValueError: If an input has no batch, or the inputs have different ones.
    """
    leaves = inputs_of(call, x)
    if any(value.shape[0] != leaves[0].shape[0] for value in leaves):
        shapes = [list(v.shape) for v in leaves]
        raise ValueError(f"{call}(x=...): expected inputs with one batch dimension in common, got shapes {shapes}.")
    return leaves[0].shape[0]


def inputs_of(call: str, x: Any) -> list[Tensor]:
    """The tensors of the inputs `x`, each with a batch.

    Raises:
        TypeError: If `x` holds something that is no tensor, or nothing.
        ValueError: If an input has no batch.
    """
    leaves = pytree.tree_leaves(x)
    for value in leaves or [x]:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{call}(x=...): expected a tensor, a tuple or a dict of tensors, got {type(value).__name__}."
            )
        if value.ndim == 0 or value.shape[0] == 0:
            raise ValueError(f"{call}(x=...): expected a batch of at least one example, got shape {list(value.shape)}.")
    return leaves


def repeated(value: Any, examples: int, times: int) -> Any:
    """A tree with each of its tensors [N, ...] repeated to [N * times, ...]; what has no batch of N stays as it is."""
    if times == 1:
        return value
    return along(value, examples, lambda tensor: each_repeated(tensor, times))


def each_repeated(rows: Tensor, times: int) -> Tensor:
    """The rows of a tensor, each so many times. [N, ...] -> [N * times, ...]"""
    return repeat(rows, "n ... -> (n times) ...", times=times)


class Rows(NamedTuple):
    """The examples of a batch of copies: so many neighbours of each, or of those at some rows.

    Attributes:
        times: How many.
        few: Rows of a batch; None for all of them.
    """

    times: int
    few: Tensor | None = None

    @property
    def is_batch(self) -> bool:
        """Whether they are the examples as they are."""
        return self.times == 1 and self.few is None

    def of(self, value: Any, examples: int) -> Any:
        """A tree with the rows of each of its tensors [N, ...]; what has no batch of N stays as it is."""
        return value if self.is_batch else along(value, examples, self.at)

    def at(self, value: Tensor) -> Tensor:
        """The rows of a tensor. [N, ...] -> [N * times, ...]"""
        return each_repeated(value if self.few is None else value[self.few], self.times)

    def among(self, values: list[Any]) -> list[Any]:
        """The same of a list."""
        kept = values if self.few is None else [values[i] for i in self.few.tolist()]
        return [value for value in kept for _ in range(self.times)]


def along(value: Any, examples: int, change: Callable[[Tensor], Tensor]) -> Any:
    """A tree with each of its tensors [N, ...] changed as the examples are; what has no batch of N stays as it is."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor if tensor.ndim == 0 or tensor.shape[0] != examples else change(tensor)

    # Inside of objects too, such as a cache of keys and values; Dynamo takes no objects but trees.
    return pytree.tree_map_only(Tensor, leaf, value) if torch.compiler.is_dynamo_compiling() else Copier(leaf)(value)


def moved(value: Tensor, dim: Dim) -> Tensor:
    """A tensor with its examples in front; one without a dimension of them becomes a batch of one."""
    return value.unsqueeze(0) if dim == NO_DIM else value.movedim(int(dim), 0)


def has_dim(value: Tensor, dim: Dim) -> bool:
    """Whether a tensor has the dimension that is to hold its examples."""
    return dim == NO_DIM or -value.ndim <= int(dim) < value.ndim


def back(value: Tensor, dim: Dim) -> Tensor:
    """The inverse of `moved`."""
    return value.squeeze(0) if dim == NO_DIM else value.movedim(0, int(dim))


def merged(samples: Tensor) -> Tensor:
    """A tensor for each example and sample, as one batch. [N, S, ...] -> [N * S, ...]"""
    return rearrange(samples, "n s ... -> (n s) ...")


def parted(batch: Tensor, times: int) -> Tensor:
    """The inverse of `merged`. [N * S, ...] -> [N, S, ...]"""
    return rearrange(batch, "(n s) ... -> n s ...", s=times)


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a tensor of `shape` can be expanded to the shape `to`."""
    trailing = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, other) for size, other in trailing)
