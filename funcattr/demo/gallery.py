"""The demo's picture, a row per question and a column per method. Leaves matplotlib's global state alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

PAPER, INK, FAINT, HIT, MISS = "#0e1117", "#f0f2f6", "#8b93a3", "#5ee08a", "#ff5d6c"
"""Background, text, lesser text, the box and maximum of a hit and of a miss."""

HEAT = LinearSegmentedColormap.from_list(
    "evidence", ["#b8f2ff", "#3aa0ff", "#1b3a8a", "#000000", "#8a2a1b", "#ff8a3a", "#fff3b8"]
)
"""Evidence against in blue, none in black, for in orange."""

PANEL, LABEL, HEADER, FOOTER, RIGHT = 1.35, 1.15, 1.1, 0.5, 0.3
"""Inches: a panel's side, the room for the questions at its left, over, under and at the right of all panels."""


class Column(NamedTuple):
    """One method's answers."""

    title: str
    subtitle: str
    maps: Tensor
    """[N, H, W]"""
    hits: Tensor
    """Whether each map's maximum is in the box, bool. [N]"""


def save_gallery(out: Path, images: Tensor, digits: Tensor, boxes: Tensor, columns: Sequence[Column]) -> None:
    """Draw each question's image and each method's map of it, with the digit's box and the map's maximum.

    Args:
        out: The file; its extension chooses the format.
        images: In 0..1. [N, H, W]
        digits: The digit asked for. [N]
        boxes: (top, left, bottom, right) in pixels. [N, 4]
        columns: The methods' answers.
    """
    figure, grid = _grid(rows=len(images), columns=1 + len(columns))
    _header(grid[0][0], "canvas", "")
    for axes, column in zip(grid[0][1:], columns, strict=True):
        _header(axes, column.title, column.subtitle)

    for n, (first, *others) in enumerate(grid):
        image, box = images[n].numpy(), boxes[n].tolist()
        question = f"where is\nthe {int(digits[n])}?"
        first.text(-0.12, 0.5, question, color=INK, fontsize=12, ha="right", va="center", transform=first.transAxes)
        first.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _outline(first, box, INK)
        for axes, column in zip(others, columns, strict=True):
            answer, color = column.maps[n].numpy(), HIT if column.hits[n] else MISS
            axes.imshow(_heat(answer, image), interpolation="nearest")
            _outline(axes, box, color)
            row, left = np.unravel_index(np.argmax(answer), answer.shape)
            axes.plot(
                left,
                row,
                "o",
                markersize=6,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=1.4,
            )

    figure.savefig(out, facecolor=PAPER)


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    """An empty dark page with a legend at its foot, and its panels, row by row."""
    width, height = LABEL + PANEL * columns + RIGHT, HEADER + PANEL * rows + FOOTER
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    margins = {
        "left": LABEL / width,
        "right": 1 - RIGHT / width,
        "bottom": FOOTER / height,
        "top": 1 - HEADER / height,
    }
    panels = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**margins, "wspace": 0.06, "hspace": 0.06})
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[], facecolor=PAPER)
        axes.spines[:].set_visible(False)
    legend = "orange: evidence for the digit     blue: against     box: the digit     circle: the maximum"
    title = "Where does the network see the digit?"
    figure.text(margins["left"], 1 - 0.42 / height, title, color=INK, fontsize=15, fontweight="bold")
    figure.text(0.5, 0.18 / height, legend, color=FAINT, fontsize=8.5, ha="center")
    return figure, [list(line) for line in panels]


def _header(axes: Axes, title: str, subtitle: str) -> None:
    """A column's name over what it achieved."""
    axes.text(0.5, 1.19, title, color=INK, fontsize=9.5, ha="center", va="baseline", transform=axes.transAxes)
    axes.text(0.5, 1.06, subtitle, color=FAINT, fontsize=8.5, ha="center", va="baseline", transform=axes.transAxes)


def _outline(axes: Axes, box: Sequence[float], color: str) -> None:
    """The box's border. Pixel centres have integer coordinates, so edges lie half a pixel before them."""
    top, left, bottom, right = box
    corner = (left - 0.5, top - 0.5)
    axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=color, linewidth=1.2))


def _heat(answer: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A map in colour, with the image shining through. [H, W] -> [H, W, 3]"""
    answer = np.nan_to_num(answer)
    # Full colour begins under the maximum: one outlying pixel would leave all others dark.
    magnitude = np.abs(answer)
    scale = np.quantile(magnitude, 0.997) or magnitude.max() or 1.0
    colors = HEAT(0.5 + 0.5 * np.clip(answer / scale, -1, 1))[..., :3]
    return 1 - (1 - colors) * (1 - 0.25 * image[..., None])
