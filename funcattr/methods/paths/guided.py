"""Guided integrated gradients: the path that changes what has small gradients first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...sampling.loops import wide
from .walk import Walk


@dataclass(frozen=True)
class guided:  # noqa: N801  (a path reads as a word: path=guided())
    """The path that at each step moves the values with the smallest gradients, near to the straight line.

    A = sum_s d y_t / d x (z(s)) * (z(s + 1) - z(s)). At each step the distance to x, sum |x - z|, falls by the same
    amount: first by values that lag behind the straight line by more than `distance`, then by the `fraction` of values
    with the smallest |gradient|, then by the next, none further ahead of the line than `distance`.

    Steps need each other, so one gradient runs at a time. Values of equal gradients go in their order.

    Args:
        fraction: Share of the values that are moved together, from above 0 to 1.
        distance: How far a value may be from the straight line, as a share of its own way; 0 is the straight line, 1
            leaves every value free.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> funcattr.integrated_gradients(model, torch.randn(5, 3), 1, path=funcattr.paths.guided()).shape
        torch.Size([5, 3])

    References:
        Kapishnikov et al., 2021, arXiv:2106.09788.
    """

    fraction: float = 0.25
    distance: float = 0.02

    def __post_init__(self) -> None:
        if not (0 < self.fraction <= 1 and 0 <= self.distance <= 1):
            raise ValueError(f"{self!r}: expected a fraction from above 0 to 1, and a distance from 0 to 1, as shares.")

    @property
    def starts_at_baseline(self) -> bool:
        """Whether its start is the baseline."""
        return True

    def integral(self, walk: Walk) -> Tensor:
        """The gradient, integrated along the path. Shaped as the root"""
        start, end = walk.start.squeeze(1), walk.root

        def body(point: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            gradient = walk.gradients(point.unsqueeze(1))[0].squeeze(1)
            alpha = (step + 1) / walk.steps
            least, most = ((start + (alpha + by).clamp(0, 1) * (end - start)) for by in (-self.distance, self.distance))
            left = (1 - alpha) * (end - start).abs().flatten(1).sum(1)
            after = self._next(point, gradient, least.to(end), most.to(end), end, left).reshape(end.shape).to(end.dtype)
            return after, (gradient * (after - point)).to(wide(end.dtype))

        return walk.one_by_one(body)

    def _next(self, point: Tensor, gradient: Tensor, least: Tensor, most: Tensor, end: Tensor, left: Tensor) -> Tensor:
        """The next point: at the distance `left` [N] from the end. [N, D]"""
        # Half precision is too coarse for sums over a whole input.
        given = (point, gradient, least, most, end)
        point, gradient, least, most, end = (v.flatten(1).to(wide(v.dtype)) for v in given)
        point = torch.where((end - point).abs() > (end - least).abs(), least, point)
        room = (most - point).abs()
        need = (end - point).abs().sum(1) - left
        order = torch.where(room == 0, torch.inf, gradient.abs()).argsort(dim=1, stable=True)
        group = int(self.fraction * (room.shape[1] - 1)) + 1
        groups = -(-room.shape[1] // group)
        sums = torch.nn.functional.pad(room.gather(1, order), (0, groups * group - room.shape[1]))
        sums = sums.reshape(-1, groups, group).sum(2)
        share = ((need.unsqueeze(1) - (sums.cumsum(1) - sums)) / torch.where(sums == 0, 1, sums)).clamp(0, 1)
        share = share.repeat_interleave(group, 1)[:, : room.shape[1]]
        return point + torch.zeros_like(room).scatter(1, order, share) * (most - point)
