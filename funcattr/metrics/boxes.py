"""Measures of maps [N, 1, H, W] against boxes [N, 4]: does the map point into the box?

A box is (top, left, bottom, right) in pixels of the map, ends exclusive: its pixels are the (row, column)
with top <= row < bottom and left <= column < right. A box without a pixel on the map (-1 at each edge, say)
is never hit.
"""

import torch
from torch import Tensor


def pointing_game(maps: Tensor, boxes: Tensor, *, tolerance: float = 0.0) -> Tensor:
    """Whether each map's maximum lies in its box, or nearer to it than a tolerance.

    hit_n = min_{p in box_n} |p - argmax maps_n|^2 < tolerance^2, or argmax maps_n in box_n

    The first maximum in reading order counts. A map with a NaN never hits.

    Args:
        maps: One map per example. [N, 1, H, W] or [N, H, W]
        boxes: (top, left, bottom, right) in pixels, ends exclusive. [N, 4]
        tolerance: Distance in pixels that a hit may stay away from the box; 0 asks for the inside. TorchRay's
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

    References:
        Zhang et al., 2016, arXiv:1608.00507; Fong et al., 2019, arXiv:1910.08485 (TorchRay).
    """
    maps = _checked("pointing_game", maps, boxes)
    if not tolerance >= 0:
        raise ValueError(f"pointing_game(tolerance=...): expected a distance of 0 or more, got {tolerance}.")

    height, width = maps.shape[-2:]
    peak = maps.flatten(1).argmax(1)  # [N]
    row, column = peak // width, peak % width
    top, left, bottom, right = _pixel_ranges(boxes, height, width)

    # The box's pixel nearest to the peak: clamping acts on rows and columns separately.
    below = row - row.maximum(top).minimum(bottom - 1)
    beside = column - column.maximum(left).minimum(right - 1)
    squared = below**2 + beside**2
    near = (squared == 0) | (squared < tolerance**2)
    exists = (top < bottom) & (left < right)
    return near & exists & ~maps.isnan().flatten(1).any(1)


def mass_in_box(maps: Tensor, boxes: Tensor) -> Tensor:
    """The share of each map's n highest pixels that lie in its box, n being the number of pixels of the box.

    1 where the box holds just the map's highest pixels; for a random map about the box's share of the area.
    It depends on the order of the pixels only, so maps of different scale and sign can be compared. Equal
    pixels count in reading order. A map with a NaN, or a box without pixels, gives 0.

    Args:
        maps: One map per example. [N, 1, H, W] or [N, H, W]
        boxes: (top, left, bottom, right) in pixels, ends exclusive. [N, 4]

    Returns:
        Shares in 0..1, of the maps' dtype. [N]

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> maps = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> mass_in_box(maps, torch.tensor([[2, 0, 4, 4]]))
        tensor([1.])
        >>> mass_in_box(maps, torch.tensor([[0, 2, 4, 4]]))
        tensor([0.5000])
    """
    maps = _checked("mass_in_box", maps, boxes)

    inside = _inside(maps, boxes)
    size = inside.sum(1)  # [N]

    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    among_highest = torch.arange(inside.shape[1], device=maps.device) < size[:, None]
    found = (inside.gather(1, order) & among_highest).sum(1)
    precise = torch.promote_types(maps.dtype, torch.float32)  # half precision cannot count that far
    share = found.to(precise) / size.clamp(min=1)  # an empty box finds nothing: 0
    share = share.masked_fill(maps.isnan().flatten(1).any(1), 0.0)
    return share.to(maps.dtype)


def energy_in_box(maps: Tensor, boxes: Tensor) -> Tensor:
    """The share of each map's positive values that lies in its box.

    sum_{p in box_n} max(0, maps_np) / sum_p max(0, maps_np)

    1 where all that speaks for the target lies in the box; for a random map about the box's share of the area. Of an
    image made of several photographs, with the box around one of them, it is the score of the grid pointing game.

    Args:
        maps: One map per example; evidence for the target is positive. [N, 1, H, W] or [N, H, W]
        boxes: (top, left, bottom, right) in pixels, ends exclusive. [N, 4]

    Returns:
        Shares in 0..1, of the maps' dtype; 0 for a map without positive values, or with a NaN. [N]

    Raises:
        ValueError: If the shapes do not fit each other.

    Example:
        >>> maps = torch.tensor([[[1.0, 3.0], [-5.0, 0.0]]])
        >>> energy_in_box(maps, torch.tensor([[0, 1, 2, 2]]))
        tensor([0.7500])

    References:
        Wang et al., 2020, arXiv:1910.01279; Boehle et al., 2021, arXiv:2104.00032 (grid pointing game).
    """
    maps = _checked("energy_in_box", maps, boxes)

    precise = torch.promote_types(maps.dtype, torch.float32)
    positive = maps.flatten(1).clamp(min=0).to(precise)
    total = positive.sum(1)
    found = torch.where(_inside(maps, boxes), positive, 0).sum(1)
    share = torch.where(total > 0, found / total.clamp(min=torch.finfo(precise).tiny), 0)
    return share.nan_to_num(0.0).to(maps.dtype)


def _inside(maps: Tensor, boxes: Tensor) -> Tensor:
    """Which pixels of the maps lie in their boxes, in reading order. [N, H, W], [N, 4] -> [N, H * W]"""
    height, width = maps.shape[-2:]
    top, left, bottom, right = (edge[:, None] for edge in _pixel_ranges(boxes, height, width))  # [N, 1] each
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


def _checked(call: str, maps: Tensor, boxes: Tensor) -> Tensor:
    """The maps without their channel dimension, [N, H, W], once they and the boxes have been found to fit."""
    shape = list(maps.shape)
    if maps.ndim not in (3, 4) or (maps.ndim == 4 and shape[1] != 1) or 0 in shape[1:]:
        raise ValueError(
            f"{call}(maps=...): expected shape [N, 1, H, W] or [N, H, W], got {shape}. "
            "Reduce channels first, with funcattr.maps.max_abs for instance."
        )
    if not maps.is_floating_point():
        raise ValueError(f"{call}(maps=...): expected a floating-point dtype, got {maps.dtype}.")
    if list(boxes.shape) != [shape[0], 4]:
        raise ValueError(
            f"{call}(boxes=...): expected shape [{shape[0]}, 4], a box (top, left, bottom, right) per map, "
            f"got {list(boxes.shape)}."
        )
    return maps.reshape(shape[0], *shape[-2:])
