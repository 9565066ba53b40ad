"""What the demo shows: a network, questions about images whose answers are known, and the methods that are asked."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Questions(NamedTuple):
    """Where is this thing?"""

    images: Tensor
    """As the network takes them. [N, C, H, W]"""
    targets: Tensor
    """The class that is asked for. [N]"""
    boxes: Tensor
    """The right answers: (top, left, bottom, right) in pixels, ends exclusive. [N, 4]"""
    things: tuple[str, ...]
    """What is asked for, in words."""

    def first(self, count: int | None) -> "Questions":
        """The first `count` of the questions; all for None."""
        return Questions(self.images[:count], self.targets[:count], self.boxes[:count], self.things[:count])

    def in_order(self, order: list[int]) -> "Questions":
        """The questions of these numbers."""
        things = tuple(self.things[i] for i in order)
        return Questions(self.images[order], self.targets[order], self.boxes[order], things)


class Row(NamedTuple):
    """A method as the demo calls it."""

    name: str
    attribute: Callable[[nn.Module, Tensor, Tensor], Tensor]
    """(model, x [N, C, H, W], target [N]) -> attributions, of x's shape or the layer's."""
    reduction: Callable[[Tensor], Tensor]
    """Attributions -> maps [N, 1, h, w]."""
    completeness: bool = False
    """Whether the attributions of an example are meant to sum to the target's output."""
    asked: int | None = None
    """How many of the questions it is asked, the first ones; None for all. For methods of many passes."""
    passes: int = 3
    """What a question costs in forward passes, for the progress bar: a reverse pass counts for two."""


class Tour(NamedTuple):
    """A network, questions, and methods."""

    name: str
    """Of the picture's file."""
    question: str
    """Over the picture."""
    model: nn.Module
    questions: Questions
    """The first ones are in the picture."""
    rows: tuple[Row, ...]
    shown: int
    """Questions in the picture."""
    batch: int
    """Questions that are asked at once."""
    range: tuple[float, float]
    """What black and white are to the network."""
    head: str
    """Over the table."""
    notes: str
    """Under the table: what is to be seen in it, and why."""

    def asked(self, row: Row) -> Questions:
        """The questions that a method is asked."""
        return self.questions.first(row.asked)
