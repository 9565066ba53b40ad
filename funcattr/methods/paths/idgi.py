"""Important direction gradient integration: each rise along a path, shared out by the squared gradient."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...sampling.loops import wide
from .walk import Walk, straight_points


class _Points(Protocol):
    @property
    def starts_at_baseline(self) -> bool: ...
    def points(self, walk: Walk, alpha: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class idgi:  # noqa: N801  (a path reads as a word: path=idgi())
    """The rise of the score at each step of a path, shared out by the squared gradient: nothing cancels within a step.

    A = sum_s g_s^2 / |g_s|^2 (f(z(s + 1)) - f(z(s))),    g_s = d y_t / d x (z(s))

    It sums to f(x) - f(start) exactly, with any number of steps, but for those that begin where the gradient is 0.

    Args:
        path: The path whose steps they are: None for the straight line, or `blur(sigma)`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        >>> x = torch.randn(5, 3)
        >>> a = funcattr.integrated_gradients(model, x, 1, path=funcattr.paths.idgi(), steps=3)
        >>> bool(funcattr.metrics.completeness(model, x, 1, a).abs().max() < 1e-5)
        True

    References:
        Yang et al., 2023, arXiv:2303.14242.
    """

    path: _Points | None = None

    def __post_init__(self) -> None:
        if self.path is not None and not hasattr(self.path, "points"):
            raise TypeError(f"idgi(path={self.path!r}): expected None or a path of fixed points, blur(sigma).")

    @property
    def starts_at_baseline(self) -> bool:
        """Whether its start is the baseline."""
        return self.path is None or self.path.starts_at_baseline

    def integral(self, walk: Walk) -> Tensor:
        """The rises along the path, shared out. Shaped as the root"""

        def points(alpha: Tensor) -> Tensor:
            return straight_points(walk, alpha) if self.path is None else self.path.points(walk, alpha)

        def part(index: Tensor) -> Tensor:
            g, before = walk.gradients(points(index / walk.steps))
            squares = g.to(wide(g.dtype)).square()
            length = squares.flatten(2).sum(2)
            rise = (walk.scores(points((index + 1) / walk.steps)) - before) / torch.where(length == 0, 1, length)
            return (squares * rise.reshape(*rise.shape, *[1] * (g.ndim - 2))).sum(1)

        return walk.total(part)
