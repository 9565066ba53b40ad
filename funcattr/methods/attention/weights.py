"""The attention weights that a question's sites have, checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...attribution.question import Layer, Question


def listed(sites: Layer | Sequence[Layer] | None) -> Sequence[Layer] | None:
    """A list of sites; one site or pattern is a list of one."""
    return [sites] if isinstance(sites, str | nn.Module) else sites


def require_sites(question: Question) -> None:
    """Raise without sites, which these methods cannot do without."""
    if not question.begins:
        raise TypeError(
            f'{question.call}(layer=None): expected sites of attention weights, such as "layers.*.self_attn@weights".'
        )


def weights_of(question: Question, values: Any, *, of_one_sequence: bool = True) -> list[Tensor]:
    """The values at the sites in their order, each [N, heads, queries, keys].

    Args:
        question: Whose sites they are.
        values: The value of its site; by site, with several.
        of_one_sequence: Whether the tokens of each site must be those of the one before.

    Raises:
        ValueError: If a site's value is shaped in another way.
    """
    each = [values[site] for site in question.layers] if question.layers else [values]
    for site, value in zip(question.begins, each, strict=True):
        square = not of_one_sequence or value.shape[-2:] == each[0].shape[-1:] * 2
        if value.ndim != 4 or not square:
            expected = "[N, heads, T, T] with one T at all sites" if of_one_sequence else "[N, heads, queries, keys]"
            raise ValueError(
                f"{question.call}(layer={site!r}): expected attention weights {expected}, got shape "
                f'{list(value.shape)}. Name the sites of self-attention: "layers.*.self_attn@weights".'
            )
    return each


def multiplied(matrices: Iterable[Tensor]) -> Tensor:
    """M_L ... M_1 of the matrices M_1, ..., M_L. Each [N, T, T]"""
    first, *others = matrices
    for matrix in others:
        first = matrix @ first
    return first


def identity_like(weights: Tensor) -> Tensor:
    """The identity of as many tokens. [T, T]"""
    return torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
