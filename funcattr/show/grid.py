"""A table of maps: a row for each image, a column for each method."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .arrays import Numbers
from .color_scales import SIGNED, UNSIGNED, Scale, scale_of
from .fitting import fitted, one_map
from .image_values import Channels, Each, ImageOptions, shades
from .labels import texts
from .overlay import check_opacity, color_bar, draw_image, draw_map
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 12
"""Columns side by side, that of the images counted in: with more, titles would not be legible at 1600 pixels."""

_WIDTH, _PANEL, _GAP, _LABEL, _BAR = 16.0, 2.0, 0.05, 1.1, 0.75
"""Inches: of a page at most, a panel at most, between panels, for the rows' titles, for a row's colour bar."""

_FONT = 9
"""Points."""


def grid(
    images: Numbers | Sequence[Numbers],
    maps: Mapping[str, Numbers | Sequence[Numbers]],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    channels: Channels = "first",
    range: tuple[float, float] | None = None,
    mean: Each | None = None,
    std: Each | None = None,
    signed: bool | None = None,
    quantile: float = 0.99,
    same_scale: bool = False,
    opacity: float = 0.9,
) -> "Figure":
    """Draw the maps of several methods over several images: a row for each image, a column for each method.

    The first column has the images. More than 11 methods go on below, under the images once more. The figure is at
    most 1600 pixels wide.

    Args:
        images: [N, C, H, W], or a sequence of N images of any sizes, each as in `overlay`.
        maps: Name of the method -> its maps, [N, 1, H, W] or a sequence of N maps, each as in `overlay`.
        titles: One for each image, at the left of its row.
        title: Text above all.
        channels, range, mean, std, quantile, opacity: As in `overlay`.
        signed: As in `overlay`; by default a method's maps are signed if one of them has a negative value.
        same_scale: Whether all maps of a row have one scale, with its numbers at the right, so that they can be
            compared; they are signed if one of them is. By default each map has its own.

    Returns:
        A figure that is no part of pyplot. Its axes, with the label "image" or the method's name, come block by block
        and row by row; those of colour bars and keys come last.

    Raises:
        ValueError, TypeError, RuntimeError, ImportError: As in `overlay`; and if there are not as many maps or titles
            as images, or none.

    Example:
        >>> import torch
        >>> figure = grid(torch.rand(2, 3, 8, 8), {"noise": torch.randn(2, 1, 8, 8), "one": torch.ones(2, 1, 4, 4)})
        >>> [axes.get_label() for axes in figure.axes[:3]]
        ['image', 'noise', 'one']
    """
    call, options = "grid", ImageOptions(channels, range, mean, std)
    check_opacity(call, opacity)
    pictures = [shades(call, "images", image, options) for image in _each(call, "images", images)]
    columns = _columns(call, maps, len(pictures))
    heads = texts(call, "titles", titles, len(pictures), "image")
    scales = _scales(call, columns, signed, quantile, same_scale)
    fits = {
        name: [fitted(call, _key(name), m, p.shape[:2]) for m, p in zip(column, pictures, strict=True)]
        for name, column in columns.items()
    }
    return _Table(pictures, fits, heads, title, scales, opacity, quantile, same_scale).draw(call)


def _key(name: str) -> str:
    return f"maps[{name!r}]"


def _each(call: str, name: str, batch: Numbers | Sequence[Numbers]) -> list[Numbers]:
    """The items of a batch or a sequence."""
    items = list(batch) if not isinstance(batch, Tensor | np.ndarray) or batch.ndim else []
    if not items:
        raise ValueError(f"{call}({name}=...): expected a batch of one or more, [N, ...], got none.")
    return items


def _columns(call: str, maps: Mapping[str, Numbers | Sequence[Numbers]], count: int) -> dict[str, list[np.ndarray]]:
    """Name -> N maps, each [h, w]."""
    if not maps:
        raise ValueError(f"{call}(maps={{}}): expected one method or more, as {{name: maps}}.")
    columns = {}
    for name, batch in maps.items():
        found = [one_map(call, _key(name), each, 2) for each in _each(call, _key(name), batch)]
        if len(found) != count:
            raise ValueError(f"{call}({_key(name)}=...): expected a map for each of {count} images, got {len(found)}.")
        columns[name] = found
    return columns


def _scales(
    call: str, columns: Mapping[str, list[np.ndarray]], signed: bool | None, quantile: float, same_scale: bool
) -> dict[str, list[Scale]]:
    """Name -> the scale of each of its maps."""
    if same_scale:
        rows = zip(*columns.values(), strict=True)
        scales = [scale_of(call, "maps", row, signed=signed, quantile=quantile) for row in rows]
        return dict.fromkeys(columns, scales)
    each = {}
    for name, column in columns.items():
        # One kind of colours for a method, also where it has nothing negative to say of an image.
        kind = scale_of(call, _key(name), column, signed=signed, quantile=quantile).signed
        each[name] = [scale_of(call, _key(name), [m], signed=kind, quantile=quantile) for m in column]
    return each


class _Table:
    """The places of the panels, in inches: blocks of columns below each other, each with all rows."""

    def __init__(
        self,
        pictures: list[np.ndarray],
        maps: dict[str, list[np.ndarray]],
        titles: list[str],
        title: str,
        scales: dict[str, list[Scale]],
        opacity: float,
        quantile: float,
        same_scale: bool,
    ) -> None:
        self.pictures, self.maps, self.scales, self.opacity = pictures, maps, scales, opacity
        self.quantile, self.same_scale = quantile, same_scale
        blocks = ceil(len(maps) / (COLUMNS - 1))
        per_block = ceil(len(maps) / blocks)
        names = list(maps)
        self.blocks = [names[i : i + per_block] for i in range(0, len(names), per_block)]
        self.left = _LABEL if any(titles) else 0.1
        self.right = _BAR if same_scale else 0.1
        self.panel = min(_PANEL, (_WIDTH - self.left - self.right) / (per_block + 1) - _GAP)
        self.heights = [self.panel * p.shape[0] / p.shape[1] for p in pictures]
        self.titles = [wrapped(title, columns_of(_LABEL - 0.15, _FONT)) for title in titles]
        self.width = self.left + (per_block + 1) * (self.panel + _GAP) + self.right
        self.title = wrapped(title, columns_of(self.width, 11))
        self.heads = {name: wrapped(name, columns_of(self.panel, _FONT)) for name in names}

    def draw(self, call: str) -> "Figure":
        """The figure."""
        line = 1.25 * _FONT / 72
        heads = [line * max(self.heads[name].count("\n") + 1 for name in block) + 0.12 for block in self.blocks]
        rows = sum(self.heights) + _GAP * len(self.heights)
        foot, over = 0.75, 0.2 * (self.title.count("\n") + 1) + 0.1 if self.title else 0.0
        figure = page(call, max(self.width, 4.5), over + sum(heads) + len(heads) * (rows + 0.1) + foot)
        bars, top = [], over
        if self.title:
            write(figure, 0.1, 0.1, self.title, fontsize=11, va="top")
        for block, head in zip(self.blocks, heads, strict=True):
            top += head
            for column, name in enumerate(["image", *block]):
                middle = self.left + column * (self.panel + _GAP) + self.panel / 2
                text = self.heads[name] if column else name
                write(figure, middle, top - 0.06, text, fontsize=_FONT, ha="center", va="bottom", linespacing=1.1)
            for row, height in enumerate(self.heights):
                self._row(figure, block, row, top)
                if self.same_scale:
                    right = self.left + (len(block) + 1) * (self.panel + _GAP)
                    bars.append((right, top + 0.05, height - 0.1, self.scales[block[0]][row]))
                top += height + _GAP
            top += 0.1
        for bar in bars:
            color_bar(figure, *bar)
        self._foot(figure, top + 0.1)
        return figure

    def _row(self, figure: "Figure", block: Sequence[str], row: int, top: float) -> None:
        """One image, and a block's maps of it."""
        picture, height = self.pictures[row], self.heights[row]
        if self.titles[row]:
            write(figure, self.left - 0.08, top + height / 2, self.titles[row], fontsize=_FONT, ha="right", va="center")
        axes = place(figure, self.left, top, self.panel, height)
        axes.set_label("image")
        draw_image(axes, picture)
        for column, name in enumerate(block, 1):
            axes = place(figure, self.left + column * (self.panel + _GAP), top, self.panel, height)
            axes.set_label(name)
            draw_map(axes, picture, self.maps[name][row], self.scales[name][row], self.opacity)

    def _foot(self, figure: "Figure", top: float) -> None:
        """What the colours stand for."""
        every = [scale for column in self.scales.values() for scale in column]
        share = f"the {self.quantile:.4g} quantile of |value|" if self.quantile < 1 else "the largest |value|"
        whose = "One scale for each row" if self.same_scale else "Each map has its own scale"
        write(figure, 0.1, top + 0.42, f"{whose}; full colour at {share}.", fontsize=8, color="#404040", va="center")
        left = 0.4
        for cmap, words in ((SIGNED, ("against", "0", "for")), (UNSIGNED, ("0", "", "most"))):
            if any(scale.cmap == cmap for scale in every):
                key = place(figure, left, top, 1.6, 0.1)
                key.imshow(np.linspace(0, 1, 256)[None], cmap=cmap, aspect="auto", origin="upper")
                key.set(xticks=[0, 127.5, 255], yticks=[], xticklabels=words)
                key.set_label("colour key")
                key.tick_params(labelsize=8, length=0, pad=2)
                key.spines[:].set_visible(False)
                left += 2.1
