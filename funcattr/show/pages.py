"""Empty figures with panels at places in inches. They are no part of pyplot, and switch no backend."""

import re
from typing import TYPE_CHECKING, Any

from ..extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PIECE = re.compile(r"[^ _\-./]*[ _\-./]?")
"""What of a line stays together."""

DPI = 100
"""Dots per inch of a figure, so that one of 16 inches has 1600 pixels."""


def require_matplotlib(call: str) -> None:
    """Raises: ImportError, if it is not installed."""
    needed(call, "matplotlib.figure", ".[plot]")


def page(call: str, width: float, height: float) -> "Figure":
    """An empty white figure, in inches.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    require_matplotlib(call)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def place(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes in a figure, in inches from its upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def write(figure: "Figure", left: float, top: float, text: str, **options: Any) -> None:
    """Text in a figure, in inches from its upper left corner. A dollar sign is a dollar sign."""
    across, down = figure.get_size_inches()
    figure.text(left / across, 1 - top / down, text, parse_math=False, **options)


def wrapped(text: str, characters: int) -> str:
    """Text in lines of at most so many characters, broken at spaces and behind `_`, `-`, `.` and `/`."""
    lines: list[str] = []
    for given in text.split("\n"):
        line = ""
        for piece in _PIECE.findall(given):
            while len(line + piece.rstrip()) > characters:
                room = 0 if line and len(piece.rstrip()) <= characters else characters - len(line)
                lines.append((line + piece[:room]).rstrip())
                line, piece = "", piece[room:]
            line += piece
        lines.append(line.rstrip())
    return "\n".join(lines)


def columns_of(width: float, points: float) -> int:
    """How many characters of a font size fit into a width in inches, as a rule."""
    return max(1, int(width / (0.6 * points / 72)))
