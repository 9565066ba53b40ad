"""Measures of maps [N, 1, H, W] against regions, boxes or masks of pixels: does the map point into the region?

A box [N, 4] is (top, left, bottom, right) in pixels of the map, ends exclusive: its pixels are the (row, column)
with top <= row < bottom and left <= column < right. A mask is bool, of the maps' shape. A region without a pixel on
the map (a box of -1 at each edge, say) is never hit.
"""

import math

import torch
from torch import Tensor


def pointing_game(maps: Tensor, regions: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Whether each map's maximum lies in its region, or nearer to it than a tolerance.

    hit_n = min_{p in region_n} |p - argmax maps_n|^2 < tolerance^2, or argmax maps_n in region_n

    The first maximum in reading order counts. A constant map, or one with a NaN, points nowhere and never hits.

    Args:
        maps: One map per example. [N, 1, H, W] or [N, H, W]
        regions: Boxes (top, left, bottom, right) in pixels, ends exclusive, [N, 4]; or which pixels are right, bool,
            [N, 1, H, W] or [N, H, W].
        tolerance: Distance in pixels that a hit may stay away from the region; 0 asks for the inside. TorchRay's
            benchmark takes 15 for photographs.

    Returns:
        Bool. [N]

    Raises:
        ValueError: If the shapes do not fit each other, or `tolerance` is negative.

    Example:
        >>> maps = torch.zeros(1, 1, 8, 8)
        >>> maps[0, 0, 2, 5] = 1.0
        >>> pointing_game(maps, torch.tensor([[3, 4, 6, 8]]))
        tensor([False])
        >>> pointing_game(maps, torch.tensor([[3, 4, 6, 8]]), tolerance=1.5)
        tensor([True])
        >>> pointing_game(maps, maps > 0)
        tensor([True])

    References:
        Zhang et al., 2016, arXiv:1608.00507; Fong et al., 2019, arXiv:1910.08485 (TorchRay).
    """
    maps, regions = _checked("pointing_game", maps, regions)
    if not tolerance >= 0:
        raise ValueError(f"pointing_game(tolerance=...): expected a distance of 0 or more, got {tolerance}.")

    height, width = maps.shape[-2:]
    peak = maps.flatten(1).argmax(1)[:, None]  # [N, 1]
    pixels = torch.arange(height * width, device=maps.device)
    squared = (pixels // width - peak // width) ** 2 + (pixels % width - peak % width) ** 2  # [N, H * W]
    # Squared distances are integers, so the bound is one too, and no rounding moves it.
    bound = max(1, math.ceil(min(tolerance * tolerance, height * height + width * width)))
    return (_inside(maps, regions) & (squared < bound)).any(1) & _points(maps)


def mass_in_region(maps: Tensor, regions: Tensor) -> Tensor:
    """The share of each map's n highest pixels that lie in its region, n being the number of pixels of the region.

    1 where the region holds just the map's highest pixels; for a random map about the region's share of the area.
    It depends on the order of the pixels only, so maps of different scale and sign can be compared. Equal
    pixels count in reading order. A constant map, one with a NaN, or a region without pixels gives 0.

    Args:
        maps: One map per example. [N, 1, H, W] or [N, H, W]
        regions: Boxes (top, left, bottom, right) in pixels, ends exclusive, [N, 4]; or which pixels are right, bool,
            [N, 1, H, W] or [N, H, W].

    Returns:
        Shares in 0..1, of the maps' dtype. [N]

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> maps = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> mass_in_region(maps, torch.tensor([[2, 0, 4, 4]]))
        tensor([1.])
        >>> mass_in_region(maps, torch.tensor([[0, 2, 4, 4]]))
        tensor([0.5000])
    """
    maps, regions = _checked("mass_in_region", maps, regions)

    inside = _inside(maps, regions)
    size = inside.sum(1)  # [N]

    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    among_highest = torch.arange(inside.shape[1], device=maps.device) < size[:, None]
    found = (inside.gather(1, order) & among_highest).sum(1)
    precise = torch.promote_types(maps.dtype, torch.float32)  # half precision cannot count that far
    share = found.to(precise) / size.clamp(min=1)  # an empty region finds nothing: 0
    return share.masked_fill(~_points(maps), 0.0).to(maps.dtype)


def energy_in_region(maps: Tensor, regions: Tensor) -> Tensor:
    """The share of each map's positive values that lies in its region.

    sum_{p in region_n} max(0, maps_np) / sum_p max(0, maps_np)

    1 where all that speaks for the target lies in the region; for a random map about the region's share of the
    area. Of an image made of several photographs, one of them the region, it is the score of the grid pointing game.

    Args:
        maps: One map per example; evidence for the target is positive. [N, 1, H, W] or [N, H, W]
        regions: Boxes (top, left, bottom, right) in pixels, ends exclusive, [N, 4]; or which pixels are right, bool,
            [N, 1, H, W] or [N, H, W].

    Returns:
        Shares in 0..1, of the maps' dtype; 0 for a map without positive values, or with a NaN. [N]

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> maps = torch.tensor([[[1.0, 3.0], [-5.0, 0.0]]])
        >>> energy_in_region(maps, torch.tensor([[0, 1, 2, 2]]))
        tensor([0.7500])

    References:
        Wang et al., 2020, arXiv:1910.01279; Boehle et al., 2021, arXiv:2104.00032 (grid pointing game).
    """
    maps, regions = _checked("energy_in_region", maps, regions)

    precise = torch.promote_types(maps.dtype, torch.float32)
    positive = maps.flatten(1).clamp(min=0).to(precise)
    # Of the largest one: sums of tiny numbers would be lost, and those of huge ones infinite.
    largest = positive.detach().amax(1, keepdim=True)
    positive = positive / torch.where(largest > 0, largest, 1)
    total = positive.sum(1)
    found = torch.where(_inside(maps, regions), positive, 0).sum(1)
    share = torch.where(total > 0, found / torch.where(total > 0, total, 1), 0)
    return share.nan_to_num(0.0).to(maps.dtype)


def _points(maps: Tensor) -> Tensor:
    """Whether some pixel of each map is higher than another, and none is NaN. [N, H, W] -> [N]"""
    return maps.flatten(1).amax(1) > maps.flatten(1).amin(1)


def _inside(maps: Tensor, regions: Tensor) -> Tensor:
    """Which pixels of the maps lie in their regions, in reading order. -> [N, H * W]"""
    if regions.ndim > 2:
        return regions.flatten(1)
    height, width = maps.shape[-2:]
    top, left, bottom, right = (edge[:, None] for edge in _pixel_ranges(regions, height, width))  # [N, 1] each
    rows, columns = torch.arange(height, device=maps.device), torch.arange(width, device=maps.device)
    in_rows, in_columns = (top <= rows) & (rows < bottom), (left <= columns) & (columns < right)
    return (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1)


def _pixel_ranges(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First and one-past-last row and column of the boxes' pixels on the map, as integers. 4 x [N]"""
    if boxes.is_floating_point():
        # Pixel r is in [top, bottom) iff ceil(top) <= r < ceil(bottom). NaN becomes 0 at both ends: no pixel.
        boxes = boxes.masked_fill(boxes.isnan().any(-1, keepdim=True), 0.0).ceil().clamp(0, max(height, width))
    top, left, bottom, right = boxes.long().unbind(-1)
    return top.clamp(0, height), left.clamp(0, width), bottom.clamp(0, height), right.clamp(0, width)


def _checked(call: str, maps: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """The maps without their channel dimension, [N, H, W], and the regions on their device, once they fit."""
    shape = list(maps.shape)
    if maps.ndim not in (3, 4) or (maps.ndim == 4 and shape[1] != 1) or 0 in shape[1:]:
        raise ValueError(
            f"{call}(maps=...): expected shape [N, 1, H, W] or [N, H, W], got {shape}. "
            "Reduce channels first, with funcattr.maps.max_abs for instance."
        )
    if not maps.is_floating_point():
        raise ValueError(f"{call}(maps=...): expected a floating-point dtype, got {maps.dtype}.")
    count, height, width = shape[0], *shape[-2:]
    is_mask = regions.dtype == torch.bool
    fitting = ([count, 1, height, width], [count, height, width]) if is_mask else ([count, 4],)
    if list(regions.shape) not in fitting:
        raise ValueError(
            f"{call}(regions=...): expected shape [{count}, 4], a box (top, left, bottom, right) per map, or a mask "
            f"of dtype bool, {[count, 1, height, width]} or {[count, height, width]}; "
            f"got {list(regions.shape)} of {regions.dtype}."
        )
    return maps.reshape(count, height, width), regions.to(maps.device)
