"""The demo's picture: the maps of all methods, with the right box and each map's maximum marked on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..show.grid import grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASKED, HIT, MISS = ("white", "-"), ("#00e676", "-"), ("#ff1744", "--")
"""Colour and style of a box: of the digit, of a hit and of a miss. A miss is dashed, for those who see no red."""


class Column(NamedTuple):
    """One method's answers."""

    title: str
    subtitle: str
    maps: Tensor
    """[N, 1, H, W]"""
    hits: Tensor
    """Whether each map's maximum is in the box, bool. [N]"""


def save_gallery(out: Path, images: Tensor, digits: Tensor, boxes: Tensor, columns: Sequence[Column]) -> None:
    """Draw each question's image and each method's map of it, with the digit's box and the map's maximum.

    Args:
        out: The file; its extension chooses the format.
        images: In 0..1. [N, 1, H, W]
        digits: The digit asked for. [N]
        boxes: (top, left, bottom, right) in pixels. [N, 4]
        columns: The methods' answers.
    """
    headed = {f"{column.title}\n{column.subtitle}": column for column in columns}
    figure = grid(
        images,
        {head: column.maps for head, column in headed.items()},
        titles=[f"where is\nthe {digit}?" for digit in digits.tolist()],
        title="Where does the network see the digit? Box: the digit. Circle: the map's maximum. Dashed: a miss.",
    )
    panels: dict[str, list[Axes]] = {}
    for axes in figure.axes:
        panels.setdefault(str(axes.get_label()), []).append(axes)
    for n, axes in enumerate(panels["image"]):
        _outline(axes, boxes[n % len(boxes)].tolist(), *ASKED)
    for head, column in headed.items():
        for axes, box, answer, hit in zip(panels[head], boxes.tolist(), column.maps[:, 0], column.hits, strict=True):
            color, style = HIT if hit else MISS
            _outline(axes, box, color, style)
            row, left = divmod(int(answer.argmax()), answer.shape[1])
            axes.plot(left, row, "o", markersize=6, markerfacecolor="none", markeredgecolor=color, markeredgewidth=1.4)
    figure.savefig(out)


def _outline(axes: "Axes", box: Sequence[float], color: str, style: str) -> None:
    """The box's border. Pixel centres have integer coordinates, so edges lie half a pixel before them."""
    from matplotlib.patches import Rectangle

    top, left, bottom, right = box
    corner = (left - 0.5, top - 0.5)
    size = (right - left, bottom - top)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=1.3, linestyle=style))
