"""The demo's pictures: the maps of all methods, with the right box and each map's maximum marked on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ..metrics import pointing_game
from ..show.grid import grid
from .tour import Tour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASKED, HIT, MISS = ("white", "-"), ("#00e676", "-"), ("#ff1744", "--")
"""Colour and style of a box: of what is asked for, of a hit, and of a miss, dashed for those who see no red."""


class Column(NamedTuple):
    """One method's answers."""

    title: str
    subtitle: str
    maps: Tensor
    """[N, 1, H, W]"""


def save_gallery(out: Path, tour: Tour, columns: Sequence[Column]) -> None:
    """Draw each question's image and each method's map of it, with the right box and the map's maximum.

    Args:
        out: The file; its extension chooses the format.
        tour: What is shown, a row for each of its first questions.
        columns: The methods' answers.
    """
    questions = tour.questions.first(tour.shown)
    headed = {f"{column.title}\n{column.subtitle}": column for column in columns}
    figure = grid(
        questions.images,
        {head: column.maps for head, column in headed.items()},
        titles=[f"where is\nthe {thing}?" for thing in questions.things],
        title=f"{tour.question} Box: the right answer. Circle: the map's maximum. Dashed: a miss.",
        range=tour.range,
    )
    panels: dict[str, list[Axes]] = {}
    for axes in figure.axes:
        panels.setdefault(str(axes.get_label()), []).append(axes)
    for n, axes in enumerate(panels["image"]):
        _outline(axes, questions.boxes[n % len(questions.boxes)].tolist(), *ASKED)
    for head, column in headed.items():
        hits = pointing_game(column.maps, questions.boxes)
        for axes, box, answer, hit in zip(panels[head], questions.boxes.tolist(), column.maps[:, 0], hits, strict=True):
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
