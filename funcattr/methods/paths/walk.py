"""The seam of paths: a way from a start to the input, and the gradients on it."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...attribution.attribute import pulled
from ...attribution.question import Question
from ...attribution.targets import score
from ...sampling.baselines import as_batch, distribution
from ...sampling.loops import loop, wide
from .lines import at_values


class Walk(NamedTuple):
    """What a path is asked for.

    Attributes:
        question: The model and its inputs.
        root: The tensor that is attributed to, the input or the value at a site. [N, ...]
        start: Its value at the baseline. [N or 1, 1, ...]
        steps: How many steps the path takes.
        chunk: How many of them run at once, where they do not need each other.
        progress: Whether a bar is shown.
    """

    question: Question
    root: Tensor
    start: Tensor
    steps: int
    chunk: int
    progress: bool

    def gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients at some points, and the scores there. [N, c, ...] -> [N, c, ...], [N, c]"""
        count = points.shape[1]
        asked = at_values(self.question, self.root, as_batch(points, self.question.examples, count), count)
        found = pulled(asked)
        scores = score(asked.call, found.output, asked.target).reshape(-1, count)
        return found.cotangent.reshape(points.shape), scores.to(wide(scores.dtype))

    def scores(self, points: Tensor) -> Tensor:
        """The scores at some points. [N, c, ...] -> [N, c]"""
        count = points.shape[1]
        asked = at_values(self.question, self.root, as_batch(points, self.question.examples, count), count)
        scores = asked.scores().reshape(-1, count)
        return scores.to(wide(scores.dtype))

    def total(self, part: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over all steps of what `part` gives for a chunk of them. [c] -> [N, ...]"""

        def body(carry: Any, index: Tensor) -> Any:
            index = index.to(wide(self.root.dtype))
            return (part(index) if carry is None else carry + part(index)), ()

        call, device = self.question.call, self.root.device
        summed: Any = loop(call, body, None, self.steps, self.chunk, device=device, progress=self.progress)[0]
        return summed

    def one_by_one(self, body: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
        """The sum over steps that need each other: `body(point, step) -> next point, part`. [N, ...]"""

        def step(carry: tuple[Tensor, Tensor], index: Tensor) -> Any:
            after, part = body(carry[0], index.to(wide(self.root.dtype)))
            return (after, carry[1] + part), ()

        begin = self.start.squeeze(1).expand(self.root.shape).clone()
        zero = torch.zeros_like(self.root, dtype=wide(self.root.dtype))
        call, device = self.question.call, self.root.device
        return loop(call, step, (begin, zero), self.steps, 1, device=device, progress=self.progress)[0][1]


class Path(Protocol):
    """A way from a start to the input."""

    @property
    def starts_at_baseline(self) -> bool:
        """Whether its start is the baseline, and not its own."""
        ...

    def integral(self, walk: Walk) -> Tensor:
        """The gradient, integrated along the way. Shaped as the root"""
        ...


def straight_points(walk: Walk, alpha: Tensor) -> Tensor:
    """The points at some places of the straight line. [c] -> [N, c, ...]"""
    end = walk.root.unsqueeze(1)
    alpha = alpha.reshape(1, -1, *[1] * (end.ndim - 2))
    return (walk.start + alpha * (end - walk.start)).to(end.dtype)


def require_plain(question: Question, path: Any, baseline: Any, quadrature: str, times_difference: bool) -> None:
    """Raise unless a path other than the straight line can be gone.

    Raises:
        TypeError: If it is no path, or there are several inputs, or complex ones.
        ValueError: If it is given what only the straight line reads.
    """
    if not hasattr(path, "integral"):
        raise TypeError(_wrong(question, path, "expected None or a path of funcattr.paths, such as paths.guided()."))
    if not isinstance(question.x, Tensor) and question.layer is None:
        what = "expected one tensor x, or a layer; several inputs go along the straight line only."
        raise TypeError(_wrong(question, path, what))
    if question.layer is None and question.x.is_complex():
        what = f"expected real inputs, got {question.x.dtype}; complex ones go along the straight line only."
        raise TypeError(_wrong(question, path, what))
    if isinstance(baseline, distribution):
        raise ValueError(
            _wrong(question, path, "expected one baseline; a distribution goes along straight lines only.")
        )
    if not path.starts_at_baseline and not (isinstance(baseline, int | float) and baseline == 0):
        raise ValueError(
            _wrong(question, path, "the path has a start of its own, the blurred x; it takes no baseline=.")
        )
    if not times_difference:
        what = "times_difference=False is for the straight line, where one difference is in front of all slopes."
        raise ValueError(_wrong(question, path, what))
    if quadrature != "gausslegendre":
        what = f"the path has a rule of its own; quadrature={quadrature!r} is for the straight line."
        raise ValueError(_wrong(question, path, what))


def _wrong(question: Question, path: Any, what: str) -> str:
    return f"{question.call}(path={path!r}): {what}"
