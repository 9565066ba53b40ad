"""Blur integrated gradients: the path from a blurred image to the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...sampling.loops import wide
from ..features import spatial_size
from .walk import Walk


@dataclass(frozen=True)
class blur:  # noqa: N801  (a path reads as a word: path=blur(20))
    """The path of blurred images, from a strong blur to none; its start is the most blurred one, and no baseline.

    A = sum_s d y_t / d x (z(s + 1/2)) * (z(s + 1) - z(s)),    z(s) = x blurred with sigma (1 - s / steps)

    Args:
        sigma: Standard deviation of the strongest blur, in pixels.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> x, path = torch.rand(2, 3, 8, 8), funcattr.paths.blur(4.0)
        >>> a = funcattr.integrated_gradients(model, x, 1, path=path)
        >>> bool(funcattr.metrics.completeness(model, x, 1, a, baseline=path.baseline(x)).abs().max() < 1e-4)
        True

    References:
        Xu et al., 2020, arXiv:2004.03383. Blurs are cut at the border, and weights there sum to 1.
    """

    sigma: float

    def __post_init__(self) -> None:
        if isinstance(self.sigma, bool) or not isinstance(self.sigma, int | float) or not self.sigma > 0:
            raise ValueError(f"blur(sigma={self.sigma!r}): expected a number of pixels above 0.")

    @property
    def starts_at_baseline(self) -> bool:
        """Whether its start is the baseline: it is the blurred x."""
        return False

    def baseline(self, x: Tensor) -> Tensor:
        """The start of the path, to whose score the attributions add up. [N, C, *spatial]"""
        return blurred(x, x.new_tensor([float(self.sigma)])).squeeze(1)

    def points(self, walk: Walk, alpha: Tensor) -> Tensor:
        """The images at some places of the path. [c] -> [N, c, C, *spatial]"""
        self._check(walk)
        return blurred(walk.root, float(self.sigma) * (1 - alpha))

    def integral(self, walk: Walk) -> Tensor:
        """The gradient, integrated along the path. Shaped as x"""

        def part(index: Tensor) -> Tensor:
            low, middle, high = (self.points(walk, (index + shift) / walk.steps) for shift in (0, 0.5, 1))
            return (walk.gradients(middle)[0] * (high - low)).to(wide(low.dtype)).sum(1)

        return walk.total(part)

    def _check(self, walk: Walk) -> None:
        question = walk.question
        if question.layer is not None:
            raise ValueError(f"{question.call}(path={self!r}, layer={question.layer!r}): a blur is of the input only.")
        spatial_size(question.call, walk.root)


def blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """X under blurs of several standard deviations, 0 for none. [N, C, *spatial], [c] -> [N, c, C, *spatial]"""
    sigma = sigma.to(wide(x.dtype)).clamp(min=1e-3)  # of a pixel: nothing of its neighbours
    found = x.to(sigma.dtype).unsqueeze(1).expand(-1, len(sigma), *x.shape[1:])
    for dim in range(3, found.ndim):
        places = torch.arange(found.shape[dim], dtype=sigma.dtype, device=x.device)
        weights = (-((places[:, None] - places) ** 2) / (2 * sigma.reshape(-1, 1, 1) ** 2)).softmax(2)
        found = torch.einsum("nc...l,ckl->nc...k", found.movedim(dim, -1), weights).movedim(-1, dim)
    return found.to(x.dtype)
