"""An input at several strengths of a perturbation, and copies of it perturbed by a mask."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ... import maps
from ...torch_state import can_look_at

Perturbation = Literal["blur", "fade"] | Callable[[Tensor], Tensor]
"""What becomes of an input where a mask is 0: a word, or a function of x that returns a pyramid."""


def perturbation_pyramid(
    x: Tensor, *, perturbation: Literal["blur", "fade"] = "blur", levels: int = 8, max_blur: float = 20.0
) -> Tensor:
    """The input at increasing strengths of a perturbation, the strongest first.

    blur: y_l = g_{sigma_l} * x, sigma_l = (1 - l / (L - 1)) max_blur, zeros around the image
    fade: y_l = l / (L - 1) x

    Args:
        x: Images. [N, C, H, W]
        perturbation: "blur" or "fade".
        levels: L, at least 2.
        max_blur: Standard deviation of the strongest blur, in pixels.

    Returns:
        Levels in x's dtype; the last is x. [N, L, C, H, W]

    Raises:
        TypeError: If x is not of floating point.
        ValueError: If x is not [N, C, H, W], or an option is none of these.

    Example:
        >>> perturbation_pyramid(torch.ones(1, 1, 1, 1), perturbation="fade", levels=3).flatten()
        tensor([0.0000, 0.5000, 1.0000])

    References:
        Fong et al., 2019, arXiv:1910.08485, section 3.4; TorchRay's `Perturbation`.
    """
    if not x.is_floating_point():
        raise TypeError(f"perturbation_pyramid(x=...): expected floating-point images, got {x.dtype}.")
    if x.ndim != 4:
        raise ValueError(f"perturbation_pyramid(x=...): expected images [N, C, H, W], got shape {list(x.shape)}.")
    return pyramid_of("perturbation_pyramid", x, perturbation, levels, max_blur)


def pyramid_of(call: str, x: Tensor, perturbation: str, levels: int, max_blur: float) -> Tensor:
    """`perturbation_pyramid` whose errors start with `call`."""
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
        raise ValueError(f"{call}(levels={levels!r}): expected 2 levels or more, the perturbed input and the input.")
    strengths = [level / (levels - 1) for level in range(levels)]
    if perturbation == "fade":
        return torch.stack([x * strength for strength in strengths], 1)
    if perturbation != "blur":
        ways = "'blur' or 'fade'" if call == "perturbation_pyramid" else "'blur', 'fade' or a function"
        raise ValueError(f"{call}(perturbation={perturbation!r}): expected {ways}.")
    if not 0 < max_blur < math.inf:
        raise ValueError(f"{call}(max_blur={max_blur}): expected a standard deviation in pixels above 0.")
    sigmas = [(1 - strength) * max_blur for strength in strengths]
    # A level next to the image may be blurred by less than changes anything.
    visible = [sigma if sigma >= maps.LEAST_SIGMA else 0.0 for sigma in sigmas]
    return torch.stack([maps.smooth(x, sigma, padding="constant") for sigma in visible], 1)


def perturb(pyramid: Tensor, mask: Tensor) -> Tensor:
    """Copies of an input that are kept where the mask is 1, and perturbed the more the lower it is.

    z = (1 - f) y_k + f y_{k + 1};  k = floor(m (L - 1)), f = m (L - 1) - k

    Args:
        pyramid: Of `perturbation_pyramid`, or any other whose last level is the input. [N, L, C, H, W]
        mask: Masks in [0, 1], any number for each example. [N, M, H, W]

    Returns:
        Copies in the pyramid's dtype. [N, M, C, H, W]

    Raises:
        ValueError: If the shapes do not fit, or a value is outside of [0, 1].

    Example:
        >>> pyramid = perturbation_pyramid(torch.ones(1, 1, 1, 2), perturbation="fade")
        >>> perturb(pyramid, torch.tensor([[[[0.25, 1.0]]]])).flatten()
        tensor([0.2500, 1.0000])

    References:
        TorchRay's `Perturbation.apply` (Fong et al., 2019, arXiv:1910.08485).
    """
    if pyramid.ndim != 5 or mask.ndim != 4 or pyramid.shape[0] != mask.shape[0] or pyramid.shape[3:] != mask.shape[2:]:
        raise ValueError(
            "perturb: expected a pyramid [N, L, C, H, W] and masks [N, M, H, W], "
            f"got shapes {list(pyramid.shape)} and {list(mask.shape)}."
        )
    if can_look_at(mask) and not bool(((mask >= 0) & (mask <= 1)).all()):
        low, high = float(mask.min()), float(mask.max())
        raise ValueError(
            f"perturb(mask=...): expected masks in [0, 1], got {low:.4g} to {high:.4g}. Clamp them, if that is meant."
        )
    return interpolated(with_slopes(pyramid), mask)


def with_slopes(pyramid: Tensor) -> Tensor:
    """Each level and the way from it to the next, side by side. [N, L, C, H, W] -> [N, L, 2 C, H, W]"""
    last = torch.zeros_like(pyramid[:, :1])
    return torch.cat([pyramid, torch.cat([pyramid.diff(dim=1), last], 1)], 2)


def interpolated(levels: Tensor, mask: Tensor) -> Tensor:
    """`perturb` of a pyramid that has its slopes. [N, L, 2 C, H, W], [N, M, H, W] -> [N, M, C, H, W]"""
    count, channels = levels.shape[1:3]
    place = mask * (count - 1)
    level = place.detach().floor()
    index = level.long()[:, :, None, None].expand(-1, -1, 1, channels, -1, -1)
    found = levels[:, None].expand(-1, mask.shape[1], -1, -1, -1, -1).gather(2, index).squeeze(2)
    start, slope = found.split(channels // 2, 2)
    return torch.addcmul(start, slope, (place - level).to(levels.dtype)[:, :, None])
