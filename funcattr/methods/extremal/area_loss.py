"""How far a mask is from one that is 1 on a given share of its pixels and 0 elsewhere."""

import torch
from torch import Tensor


def area_loss(mask: Tensor, area: float) -> Tensor:
    """The squared distance of a mask's sorted values to those of a binary mask of the given area.

    L_a(m) = mean_n (sort(m)_n - r_n)^2, sort ascending, r = 0 for the first int(n (1 - a)) pixels and 1 for the rest

    Only the side of the threshold counts, so nothing is sorted: the mask is compared with its own `area` highest
    pixels. Pixels at the threshold itself share what is left of the area evenly, which is one of the subgradients that
    a sort would give, and the one that does not depend on their order.

    Args:
        mask: Values in [0, 1], any floating dtype. [..., H, W]
        area: Share of the pixels, between 0 and 1.

    Returns:
        One number per mask, at least 0; 0 for a binary mask of that area. [...]

    Raises:
        TypeError: If the mask is not of floating point.
        ValueError: If the area is not between 0 and 1, or the mask has fewer than two dimensions or no pixel.

    Example:
        >>> area_loss(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.25)
        tensor(0.)
        >>> area_loss(torch.ones(2, 2), 0.25)
        tensor(0.7500)

    References:
        Fong et al., 2019, arXiv:1910.08485, equation 2.
    """
    check_area("area_loss", "area", area)
    if not mask.is_floating_point():
        raise TypeError(f"area_loss(mask=...): expected floating-point values in [0, 1], got {mask.dtype}.")
    if mask.ndim < 2 or mask.shape[-1] * mask.shape[-2] == 0:
        raise ValueError(f"area_loss(mask=...): expected a shape [..., H, W], got {list(mask.shape)}.")
    values = mask.flatten(-2).to(torch.promote_types(mask.dtype, torch.float32))
    pixels = values.shape[-1]
    zeros = int(pixels * (1 - area))
    height = values.detach() - values.detach().kthvalue(zeros + 1, dim=-1, keepdim=True).values
    # Rounding is not to say which of equal pixels are the highest.
    rounding = 4 * torch.finfo(values.dtype).eps
    above, level = (height > rounding).to(values.dtype), (height.abs() <= rounding).to(values.dtype)
    ones = above + level * (pixels - zeros - above.sum(-1, keepdim=True)) / level.sum(-1, keepdim=True)
    # The mean of (m - r)^2 over the ways to choose the pixels at the threshold.
    return ((values - ones) ** 2 + ones * (1 - ones)).mean(-1).to(mask.dtype)


def check_area(call: str, name: str, area: float) -> None:
    """Raise unless `area` is a number between 0 and 1, both excluded."""
    if isinstance(area, bool) or not isinstance(area, int | float):
        raise TypeError(f"{call}({name}=...): expected a number between 0 and 1, got {type(area).__name__}.")
    if not 0 < 1 - area < 1:
        raise ValueError(f"{call}({name}={area}): expected a share of the pixels between 0 and 1, such as 0.1.")
