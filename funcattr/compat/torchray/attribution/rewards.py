"""Rewards of extremal perturbation, `(activation, target, variant) -> reward`."""

import torch
from torch import Tensor

from .... import FuncattrError

PRESERVE_VARIANT = "preserve"
"""Keep what makes the activation large."""
DELETE_VARIANT = "delete"
"""Hide what makes it large."""
DUAL_VARIANT = "dual"
"""Both: the first half of the activations is of what is kept, the second half of what is hidden."""


def simple_reward(activation: Tensor, target: int, variant: str) -> Tensor:
    """The activation of the target: y_c, its opposite for "delete", the difference of the halves for "dual".

    Args:
        activation: Of K masks, or of 2 K for "dual". [K, C, ...]
        target: The channel c.
        variant: "preserve", "delete" or "dual".

    Returns:
        [K, 1, ...]

    Example:
        >>> simple_reward(torch.tensor([[1.0, 2.0], [5.0, 7.0]]), 1, "dual")
        tensor([[-5.]])
    """
    _check("simple_reward", activation, target)
    return _by_variant("simple_reward", activation[:, target : target + 1], variant)


def contrastive_reward(activation: Tensor, target: int, variant: str) -> Tensor:
    """The activation of the target less the largest other one: y_c - max_{c' != c} y_c', by variant.

    Args:
        activation, target, variant: As in `simple_reward`.

    Returns:
        [K, 1, ...]

    Example:
        >>> contrastive_reward(torch.tensor([[1.0, 2.0, 9.0]]), 1, "preserve")
        tensor([[-7.]])
    """
    _check("contrastive_reward", activation, target)
    others = torch.cat([activation[:, :target], activation[:, target + 1 :]], 1)
    contrast = activation[:, target : target + 1] - others.amax(1, keepdim=True)
    return _by_variant("contrastive_reward", contrast, variant)


def _by_variant(call: str, values: Tensor, variant: str) -> Tensor:
    if variant == PRESERVE_VARIANT:
        return values
    if variant == DELETE_VARIANT:
        return -values
    if variant == DUAL_VARIANT:
        kept, hidden = values.chunk(2)
        return kept - hidden
    raise FuncattrError(f"{call}(variant={variant!r}): expected 'preserve', 'delete' or 'dual'.")


def _check(call: str, activation: Tensor, target: int) -> None:
    channels = activation.shape[1]
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < channels:
        raise FuncattrError(f"{call}(target={target!r}): expected a channel from 0 to {channels - 1}.")
