"""The results of one network as a picture: methods by measures, and how far the measures agree."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..show.pages import page, place, write
from .report import correlations, in_order, mean_of, taken
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW, _COLUMN, _NAMES, _HEAD = 0.2, 0.6, 2.2, 1.35
"""Inches: of a row, of a column, of the methods' names, above the tables."""

_CELL, _TEXT = 7.0, 8.5
"""Points."""

_LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Of red, green and blue: text on dark cells has to be white."""


def save_picture(out: Path, subject: Subject, known: dict[str, Any]) -> None:
    """Draw the means of each method by each measure, coloured by their ranks, and Kendall's tau between measures.

    Args:
        out: The file; its extension chooses the format.
        subject: What was asked.
        known: What was found, as `Results.of` has it.
    """
    measures, methods = taken(known), in_order(subject, known)
    means = np.array([[mean_of(known, name, measure) for measure in measures] for name in methods])
    turned = np.array([[m.signed(v) for m, v in zip(measures, row, strict=True)] for row in means])
    judging = [m for m in measures if m.better != "neither"]
    width, height = _COLUMN * len(measures), _ROW * len(methods)
    side = _COLUMN * 0.75 * len(judging)
    figure = page("truth", _NAMES + width + 1.9 + side + 0.3, _HEAD + max(height, side + 0.4) + 0.5)
    write(figure, 0.2, 0.15, subject.title, size=12, va="top")
    legend = "Numbers: means over the questions. Colour: the rank in the column, dark is best; grey: none."
    write(figure, 0.2, 0.45, legend, size=_TEXT, va="top")

    scores = place(figure, _NAMES, _HEAD, width, height)
    judged = np.array([m.better != "neither" for m in measures])
    shades = np.where(judged, np.array([_shares(column) for column in turned.T]).T, np.nan)
    _table(scores, shades, np.vectorize(_short)(means), "YlGnBu", (-0.1, 1.25))
    scores.set_yticks(range(len(methods)), methods, size=_TEXT)
    scores.set_xticks(range(len(measures)), [_titled(m.name) for m in measures], size=_TEXT, rotation=40, ha="left")

    tau = np.array(correlations(subject, known, judging))
    beside = place(figure, _NAMES + width + 1.6, _HEAD, side, side)
    _table(beside, tau, np.vectorize(_short)(tau), "RdBu", (-1.3, 1.3))
    beside.set_yticks(range(len(judging)), [_titled(m.name) for m in judging], size=_TEXT)
    beside.set_xticks(range(len(judging)), [_titled(m.name) for m in judging], size=_TEXT, rotation=40, ha="left")
    write(figure, _NAMES + width + 1.6, _HEAD + side + 0.1, "Kendall's tau: do two measures order the methods alike?",
          size=_TEXT, va="top")  # fmt: skip
    figure.savefig(out)


def _table(axes: "Axes", shades: Any, texts: Any, colors: str, limits: tuple[float, float]) -> None:
    import matplotlib

    palette = matplotlib.colormaps[colors].with_extremes(bad="0.9")
    axes.imshow(np.ma.masked_invalid(shades), cmap=palette, aspect="auto", vmin=limits[0], vmax=limits[1])
    colored = palette(np.ma.masked_invalid((shades - limits[0]) / (limits[1] - limits[0])))
    dark = colored[..., :3] @ _LUMINANCE < 0.5
    for (row, column), text in np.ndenumerate(texts):
        axes.text(
            column, row, text, ha="center", va="center", size=_CELL, color="white" if dark[row, column] else "0.1"
        )
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _shares(column: Any) -> Any:
    """The share of the other methods that each one is better than; equal ones half. Not a number stays so."""
    known = column[~np.isnan(column)]
    below = np.array([(known < value).sum() + 0.5 * ((known == value).sum() - 1) for value in column])
    return np.where(np.isnan(column), np.nan, below / max(1, len(known) - 1))


def _titled(name: str) -> str:
    return name.replace("_", " ")


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
