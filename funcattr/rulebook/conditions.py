"""Conditions on the reverse pass: masks of the cotangents that go on from sites."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Dim, back, has_dim, moved
from ..torch_state import can_look_at


def lists_channels(mask: Tensor) -> bool:
    """Whether a tensor is a list of channels, and no mask that multiplies."""
    return not (mask.is_floating_point() or mask.is_complex()) and mask.dtype != torch.bool


def channel_range(mask: Tensor) -> tuple[int, int]:
    """The lowest and the highest channel that a tensor lists; -1, which is none, where it lists none or hides them."""
    if not lists_channels(mask) or not mask.numel() or not can_look_at(mask):
        return -1, -1
    return int(mask.min()), int(mask.max())


class Conditions(NamedTuple):
    """Masks of the cotangents at sites.

    Attributes:
        masks: Site -> mask that multiplies the cotangent there, or None for all of it. A floating-point or boolean mask
            is [C], [N, C] or of the site's own shape; an integer tensor lists channels, [m] or [N, m], -1 for none.
        exclusive: Whether only what passes through the sites goes on; the sites then lie one after the other.
        channel_dim: Dimension of the channels of a site, with its examples in front.
        highest: The highest channel in the lists of a site, for masks whose values cannot be looked at in the pass.
        caller: The first words of errors.
        example_dim: Dimension that holds examples at the sites; NO_DIM where none does.

    Raises:
        ValueError: In the pass, if a mask, a channel or `channel_dim` does not fit its site.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> only = funcattr.rules.Conditions({"0": torch.tensor([1.0, 0.0, 0.0])})  # the first of three hidden units
        >>> g = funcattr.attribute(model, torch.ones(1, 2), 0, conditions=only).cotangent
        >>> torch.allclose(g[0], model[1].weight[0, 0] * model[0].weight[0])
        True
    """

    masks: dict[str, Tensor | None]
    exclusive: bool = False
    channel_dim: int = 1
    highest: dict[str, int] | None = None
    caller: str = "attribute(conditions=...)"
    example_dim: Dim = 0

    def at(self, site: str, arrived: list[Any], pending: dict[int, Any]) -> list[Any]:
        """The cotangents that go on from a site which the walk has reached, beside those pending elsewhere."""
        if self.exclusive:
            # The walk goes against the order of execution, so what is pending now has come by other ways.
            pending.clear()
        mask = self.masks[site]
        if mask is None or arrived[0] is None:
            return arrived
        return [arrived[0] * self._broadcast(site, mask, arrived[0])]

    def _broadcast(self, site: str, mask: Tensor, cotangent: Tensor) -> Tensor:
        if not has_dim(cotangent, self.example_dim):
            raise ValueError(
                f"{self.caller}: no dimension {self.example_dim} that could hold examples at {site!r}, "
                f"{list(cotangent.shape)}."
            )
        shape = moved(cotangent, self.example_dim).shape
        rank, dim = len(shape), self.channel_dim % len(shape)
        if not -rank < self.channel_dim < rank or dim == 0:
            raise ValueError(
                f"{self.caller}: channel_dim={self.channel_dim} is no dimension of channels at {site!r}, {list(shape)}."
            )
        lowest, highest = channel_range(mask)
        highest = max(highest, (self.highest or {}).get(site, -1))
        if lowest < -1 or highest >= shape[dim]:
            wrong = lowest if lowest < -1 else highest
            raise ValueError(f"{self.caller}: no channel {wrong} at {site!r}, which has {shape[dim]} channels.")
        if lists_channels(mask):
            channels = torch.arange(shape[dim], device=mask.device)
            mask = (mask[..., None] == channels).any(-2)
        elif mask.shape == cotangent.shape:
            return mask.to(cotangent)
        if mask.shape[-1:] != shape[dim : dim + 1] or mask.ndim > 2 or (mask.ndim == 2 and len(mask) != shape[0]):
            raise ValueError(
                f"{self.caller}: expected a mask [{shape[dim]}], [{shape[0]}, {shape[dim]}] or "
                f"{list(cotangent.shape)} at {site!r}, got {list(mask.shape)}."
            )
        broadcast = [1] * rank
        broadcast[dim], broadcast[0] = mask.shape[-1], mask.shape[0] if mask.ndim == 2 else 1
        return back(mask.reshape(broadcast).to(cotangent), self.example_dim)
