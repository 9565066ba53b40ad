"""Relevance that is zero wherever the value it belongs to is zero.

Most rules give a value x the relevance R = x g. Then what computed z for a relu max(z, 0) is told of outputs z > 0
only: the others have no relevance to hand on. And g need not be multiplied by x where the next rule does not ask for
it, such as a sum's, which hands the same g to all its terms. From R alone nobody could know either.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .inplace import plus, times


class Proportional:
    """A relevance that is zero wherever its value is. It is multiplied out once, and holds nothing after that.

    Attributes:
        g: The relevance; if x is given, what it is divided by x.
        x: The value, or if `rectified` max(value, 0), of g's shape and dtype; None where g is the relevance.
        rectified: Whether the relevance is zero wherever the value is not above zero, as if only a relu read it.
        owned: Whether nobody else holds g.
    """

    __slots__ = ("g", "owned", "rectified", "x")

    def __init__(self, g: Tensor, x: Tensor | None = None, *, rectified: bool = False, owned: bool = False) -> None:
        self.g, self.x, self.rectified, self.owned = g, x, rectified, owned

    @property
    def shape(self) -> torch.Size:
        return self.g.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.g.dtype

    @property
    def gives_own(self) -> bool:
        """Whether `product` is a tensor that nobody else holds."""
        return self.owned or self.x is not None

    def product(self) -> Tensor:
        """The relevance."""
        g, x = self.g, self.x
        del self.g, self.x  # whoever still knows this object need not hold its tensors
        if x is None:
            return g
        return times(g, x) if self.owned else x * g


Relevance = Tensor | Proportional


def multiplied(relevance: Relevance) -> Tensor:
    """The relevance as a tensor."""
    return relevance.product() if isinstance(relevance, Proportional) else relevance


def proportional(x: Tensor, g: Tensor, *, owned: bool = False) -> Relevance:
    """The relevance x * g, not multiplied yet if both are of one shape and real dtype; `owned` as there."""
    if x.shape == g.shape and x.dtype == g.dtype and not x.is_complex():
        return Proportional(g, x, owned=owned)
    return times(g, x) if owned else x * g


def handed_on(
    relevance: Proportional, through: Callable[[Tensor], Tensor], *, rectified: bool = False, owned: bool = False
) -> Proportional:
    """The relevance of the values that became its own, as by a view or a maximum, which make a zero of each zero.

    Args:
        relevance: Of the results.
        through: What it goes back through.
        rectified: Whether they make a zero of whatever is not above zero too.
        owned: Whether `through` gives a tensor of its own; else it gives what it takes, or a view of it.
    """
    rectified, owned = rectified or relevance.rectified, owned or relevance.gives_own
    return Proportional(through(relevance.product()), rectified=rectified, owned=owned)


def together(relevance: Proportional, other: Proportional) -> Proportional:
    """The sum of two relevances of one value."""
    first, second = (relevance, other) if relevance.owned else (other, relevance)
    rectified = first.rectified and second.rectified
    both_factored = first.x is not None and second.x is not None and first.rectified == second.rectified
    if both_factored and first.dtype != torch.float16:  # x (g + g'), whose sum is above the largest half soon
        g = plus(first.g, second.g) if first.owned else first.g + second.g
        return Proportional(g, first.x, rectified=rectified, owned=True)
    first, second = (relevance, other) if relevance.gives_own else (other, relevance)
    own, a, b = first.gives_own, first.product(), second.product()
    return Proportional(plus(a, b) if own else a + b, rectified=rectified, owned=True)
