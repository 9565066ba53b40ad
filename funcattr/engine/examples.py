"""A batch of examples run several times over: inputs, targets and options repeated along with each other.

Copies of an example are neighbours: the batch [N, ...] becomes [N * times, ...], example by example.
"""

from typing import Any

import torch.utils._pytree as pytree
from einops import rearrange, repeat
from torch import Tensor

from .targets import Target, pointing


def batch_of(call: str, x: Any) -> int:
    """The number of examples of the inputs `x`: a tensor [N, ...], or a tuple or dict of them.

    Raises:
        TypeError: If `x` holds something that is no tensor.
        ValueError: If an input has no batch, or the inputs have different ones.
    """
    leaves = pytree.tree_leaves(x)
    for value in leaves or [x]:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{call}(x=...): expected a tensor, a tuple or a dict of tensors, got {type(value).__name__}."
            )
        if value.ndim == 0 or value.shape[0] == 0:
            raise ValueError(f"{call}(x=...): expected a batch of at least one example, got shape {list(value.shape)}.")
        if value.shape[0] != leaves[0].shape[0]:
            shapes = [list(v.shape) for v in leaves]
            raise ValueError(f"{call}(x=...): expected inputs with one batch dimension in common, got shapes {shapes}.")
    return leaves[0].shape[0]


def repeated(value: Any, examples: int, times: int) -> Any:
    """A tree with each of its tensors [N, ...] repeated to [N * times, ...]; what has no batch of N stays as it is."""

    def leaf(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != examples:
            return tensor
        return repeat(tensor, "n ... -> (n times) ...", times=times)

    return value if times == 1 else pytree.tree_map_only(Tensor, leaf, value)


def repeated_target(call: str, target: Target, examples: int, times: int) -> Target:
    """The target of a batch in which each example is repeated; a function of the output stays as it is.

    Raises:
        ValueError: If it has not one class for each example.
    """
    if isinstance(target, pointing):
        inner: Any = repeated_target(call, target.target, examples, times)
        return pointing(inner)
    if isinstance(target, tuple):
        indices: Any = tuple(repeated_target(call, index, examples, times) for index in target)
        return indices
    if isinstance(target, list):
        _check_count(call, [len(target)], examples)
        return [index for index in target for _ in range(times)]
    if not isinstance(target, Tensor):
        return target
    if target.ndim and not target.is_floating_point():
        _check_count(call, list(target.shape), examples)
    return repeated(target, examples, times)


def _check_count(call: str, shape: list[int], examples: int) -> None:
    if shape != [examples]:
        raise ValueError(
            f"{call}(target=...): expected one class per example, shape [{examples}], got shape {shape}. "
            "An int gives all examples the same class."
        )


def merged(samples: Tensor) -> Tensor:
    """A tensor for each example and sample, as one batch. [N, S, ...] -> [N * S, ...]"""
    return rearrange(samples, "n s ... -> (n s) ...")


def parted(batch: Tensor, times: int) -> Tensor:
    """The inverse of `merged`. [N * S, ...] -> [N, S, ...]"""
    return rearrange(batch, "(n s) ... -> n s ...", s=times)
