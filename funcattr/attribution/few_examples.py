"""A few examples of a batch that stand for all of it, where rows are treated alike."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

FEW = 4


def few_of(examples: int, given: Iterable[Any]) -> Tensor | None:
    """The rows of four examples, in order; None if there are no more.

    A model may take what is missing in an example from the others, and says by a number of its own kind what is: NaN,
    infinity, zero, or an end of the range, such as the id of a padding token. So they are, of each kind, the example
    that has the most numbers of it; others are spread evenly.

    Args:
        examples: N, the number of all.
        given: What has a row for each example, [N, ...], and what has none. Plain tensors are looked at.
    """
    plain = [v for v in given if type(v) in (Tensor, Parameter) and v.layout == torch.strided]
    tensors = [v for v in plain if v.shape[:1] == (examples,)]
    if examples <= FEW or not tensors:
        return None
    counts = torch.stack([_of_each_kind(value.detach()).cpu() for value in tensors]).sum(0)
    marked = [int(of_kind.argmax()) for of_kind in counts if bool(of_kind.any())]
    spread = torch.linspace(0, examples - 1, FEW).long().tolist()
    return torch.tensor(sorted(list(dict.fromkeys([*marked, *spread]))[:FEW]))


def _of_each_kind(value: Tensor) -> Tensor:
    """How many numbers of each kind the examples have. [N, ...] -> [kinds, N]"""
    parts = torch.view_as_real(value.resolve_conj()) if value.is_complex() else value
    rows = parts.reshape(len(parts), parts[0].numel())
    there = rows[rows.isfinite()]
    ends = [] if not there.numel() else [rows == there.min(), rows == there.max()]
    missing = [~rows.isfinite(), rows == 0, *ends]
    return torch.stack([kind.sum(1) for kind in [*missing, *missing[len(ends) :]][:4]])
