"""A map over its image, or over slices of a volume."""

import operator
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Numbers
from .color_scales import Scale, scale_of
from .fitting import fitted, one_map
from .image_values import Channels, Each, ImageOptions, shades
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _SLICE, _PER_ROW = 4.0, 2.4, 6
"""Inches: the longer side of a picture, and of one of several slices. Slices in a row."""

_LUMA = np.array([0.299, 0.587, 0.114])
"""How bright red, green and blue are (ITU-R BT.601)."""


def overlay(
    image: Numbers,
    map: Numbers,
    *,
    title: str = "",
    channels: Channels = "first",
    range: tuple[float, float] | None = None,
    mean: Each | None = None,
    std: Each | None = None,
    signed: bool | None = None,
    quantile: float = 0.99,
    limits: tuple[float, float] | None = None,
    opacity: float = 0.9,
    slices: Sequence[int] | None = None,
) -> "Figure":
    """Draw a map in colour over its image in grey, with a colour bar.

    Colours are full at the `quantile` of |map|, so that one pixel does not set the scale. A map covers the image by
    opacity * sqrt(|map| / full colour): where it is 0, the image is seen.

    Args:
        image: One image, [C, H, W], of 1 or 3 channels, or grey [H, W]. Integers are in 0..255, floats in 0..1.
        map: One map, [1, H, W] or [H, W]; a smaller one of the image's proportions is enlarged by `maps.resize`.
        title: Text above.
        channels: Where the image has its channels: `"first"`, or `"last"`, [H, W, C].
        range: (low, high) of the image's values, if it is another.
        mean, std: If the image is normalised, (pixel - mean) / std: a number each, or one for each channel.
        signed: True for a scale from blue by white at 0 to red, False for one from 0 up. By default a map is signed if
            it has a negative value.
        quantile: Share of the map's values whose magnitude is below full colour; 1 clips nothing.
        limits: (low, high), the numbers of the first and last colour, in place of the quantile; (-v, v) if signed.
        opacity: How much of the image the map hides where it is strongest, in 0..1.
        slices: Indices along D to draw of a volume, [C, D, H, W], and its map, [1, D, H, W]; all on one scale.

    Returns:
        A figure that is no part of pyplot; `figure.savefig(path)` writes it, and a notebook shows it.

    Raises:
        ValueError: If a shape or a range does not fit, a value is NaN or infinite, or the map has not the image's
            proportions.
        TypeError: If values are complex numbers.
        RuntimeError: If values cannot be looked at, as inside `vmap`.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import torch
        >>> figure = overlay(torch.rand(3, 32, 32), torch.randn(1, 8, 8), title="noise")
        >>> figure.axes[0].get_title()
        'noise'
    """
    call, options = "overlay", ImageOptions(channels, range, mean, std)
    rank = 2 if slices is None else 3
    picture = shades(call, "image", image, options, rank)
    values = one_map(call, "map", map, rank)
    scale = scale_of(call, "map", [values], signed=signed, quantile=quantile, limits=limits)
    values = fitted(call, "map", values, picture.shape[:rank])
    check_opacity(call, opacity)
    if slices is None:
        return _panels(call, [picture], [values], [title], scale, opacity, _SIDE)
    chosen = _chosen(call, slices, len(picture))
    titles = [f"slice {index}" for index in chosen]
    return _panels(call, list(picture[chosen]), list(values[chosen]), titles, scale, opacity, _SLICE, over=title)


def _chosen(call: str, slices: Sequence[int], depth: int) -> list[int]:
    """Indices of slices from the front, in 0..depth - 1."""
    try:
        chosen = [operator.index(number) for number in slices]
    except TypeError as error:  # int() would cut 1.7 off
        raise TypeError(f"{call}(slices={slices!r}): expected a list of ints, indices along D.") from error
    if not chosen or not all(-depth <= number < depth for number in chosen):
        raise ValueError(f"{call}(slices={chosen}): expected one or more indices in 0..{depth - 1}.")
    return [number % depth for number in chosen]


def _panels(
    call: str,
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    scale: Scale,
    opacity: float,
    side: float,
    over: str = "",
) -> "Figure":
    """Maps over pictures of one size, a few in a row, with one colour bar."""
    height, width = pictures[0].shape[:2]
    factor = side / max(height, width)
    tall, wide, gap, margin = height * factor, width * factor, 0.1, 0.15
    columns = min(len(pictures), _PER_ROW)
    rows = ceil(len(pictures) / columns)
    pitch = max(wide, 0.9 if len(pictures) > 1 else 2.4)  # a narrow picture still has a title
    titles = [wrapped(title, columns_of(pitch, 11)) for title in titles]
    head = 0.2 * max(title.count("\n") + 1 for title in titles) + 0.1
    over = wrapped(over, columns_of(columns * pitch, 12))
    top, bottom = margin + (0.22 * (over.count("\n") + 1) if over else 0.0), 0.45
    bar = max(tall * rows + (rows - 1) * head, 1.0)  # a bar must have room for its numbers
    across = max(columns * (pitch + gap) + 2 * margin + 0.95, 3.4)
    figure = page(call, across, top + rows * head + max(tall * rows, bar - (rows - 1) * head) + bottom)
    for index, (picture, values, title) in enumerate(zip(pictures, maps, titles, strict=True)):
        row, column = divmod(index, columns)
        left = margin + column * (pitch + gap) + (pitch - wide) / 2
        axes = place(figure, left, top + head + row * (tall + head), wide, tall)
        draw_map(axes, picture, values, scale, opacity)
        axes.set_title(title, fontsize=11, parse_math=False)
    color_bar(figure, margin + columns * (pitch + gap), top + head, bar, scale)
    if over:
        write(figure, across / 2, margin, over, fontsize=12, ha="center", va="top")
    down = figure.get_size_inches()[1]
    write(figure, margin, down - 0.2, f"Colour: {scale.says}.", fontsize=8, color="#404040", va="center")
    return figure


def draw_image(axes: "Axes", image: np.ndarray) -> None:
    """An image as it is. [H, W] or [H, W, 3], in 0..1"""
    if image.ndim == 2:
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, origin="upper", aspect="equal", interpolation="nearest")
    else:
        axes.imshow(image, origin="upper", aspect="equal", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def draw_map(axes: "Axes", image: np.ndarray, values: np.ndarray, scale: Scale, opacity: float) -> None:
    """A map over its image. The image is in grey, so that colour is the map's alone.

    It is light under signed maps, whose strong colours are dark, and dark under the others, whose strong are light.
    """
    grey = image @ _LUMA if image.ndim == 3 else image
    draw_image(axes, 0.4 + 0.6 * grey if scale.signed else 0.8 * grey)
    axes.imshow(
        values,
        cmap=scale.cmap,
        norm=scale.norm(),
        alpha=opacity * np.sqrt(scale.strength(values)),
        origin="upper",
        aspect="equal",
        interpolation="nearest",
    )


def color_bar(figure: "Figure", left: float, top: float, height: float, scale: Scale) -> None:
    """The colours of a scale with their numbers, in inches."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import ScalarFormatter

    axes = place(figure, left, top, 0.15, height)
    numbers = ScalarFormatter()
    numbers.set_powerlimits((-3, 4))
    bar = figure.colorbar(ScalarMappable(scale.norm(), scale.cmap), cax=axes, format=numbers)
    axes.set_label("colour bar")
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def check_opacity(call: str, opacity: float) -> None:
    """Raises: ValueError, if it is not in 0..1."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"{call}(opacity={opacity}): expected a share in 0..1.")
