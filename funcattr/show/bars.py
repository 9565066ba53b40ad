"""Bars for the attributions of named features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Numbers, finite
from .color_scales import AGAINST, FOR, NEUTRAL
from .labels import texts
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES, _BARS, _ROW, _FONT = 2.6, 3.6, 0.3, 9
"""Inches for the names, for the bars, of a bar; and points."""


def bars(
    names: Sequence[str], attributions: Numbers, *, x: Numbers | None = None, k: int = 10, title: str = ""
) -> "Figure":
    """Draw a bar for each feature of one example, the largest on top, with its number; red for, blue against.

    Args:
        names: One for each feature.
        attributions: One number for each feature. [D]
        x: Values of the features, written behind their names. [D]
        k: How many features of the largest magnitude have a bar of their own; the rest is summed into one.
        title: Text above.

    Returns:
        A figure that is no part of pyplot.

    Raises:
        ValueError: If there are not as many names, or values, as attributions, or none; a number is NaN or infinite; or
            `k` < 1.
        TypeError, RuntimeError, ImportError: As in `overlay`.

    Example:
        >>> figure = bars(["age", "weight", "height"], [0.5, -2.0, 0.1], k=2)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['weight', 'age', '1 other']
    """
    call = "bars"
    values = finite(call, "attributions", attributions)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{call}(attributions=...): expected one number for each feature of one example, [D], got "
            f"{list(values.shape)}. Give attributions[0], say."
        )
    labels = texts(call, "names", names, len(values), "number")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"{call}(k={k!r}): expected an int.")
    if k < 1:
        raise ValueError(f"{call}(k={k}): expected 1 or more.")
    labels = labels if x is None else _with_values(call, labels, x)
    order = np.argsort(-np.abs(values), kind="stable")
    first, rest = order[:k], order[k:]
    rows = [(labels[i], float(values[i]), FOR if values[i] > 0 else AGAINST) for i in first]
    if len(rest):
        rows.append((f"{len(rest)} other{'s' if len(rest) > 1 else ''}", float(values[rest].sum()), NEUTRAL))
    return _drawn(call, rows, title)


def _with_values(call: str, names: Sequence[str], x: Numbers) -> list[str]:
    inputs = finite(call, "x", x)
    if inputs.shape != (len(names),):
        raise ValueError(f"{call}(x=...): expected a value for each of {len(names)} names, got {list(inputs.shape)}.")
    return [f"{name} = {value:.4g}" for name, value in zip(names, inputs, strict=True)]


def _drawn(call: str, rows: Sequence[tuple[str, float, str]], title: str) -> "Figure":
    """(label, length, color) of each bar, from the top."""
    labels = [wrapped(label, columns_of(_NAMES - 0.2, _FONT)) for label, _, _ in rows]
    lengths = [length for _, length, _ in rows]
    # A label of several lines needs a row of its own height.
    heights = np.array([max(_ROW, 0.16 * (label.count("\n") + 1) + 0.08) for label in labels])
    middles = heights.cumsum() - heights / 2
    title = wrapped(title, columns_of(_NAMES + _BARS, 11))
    head, foot = (0.2 * (title.count("\n") + 1) if title else 0.0) + 0.15, 0.55
    figure = page(call, _NAMES + _BARS + 0.2, head + heights.sum() + foot)
    axes = place(figure, _NAMES, head, _BARS, heights.sum())
    drawn = axes.barh(middles, lengths, height=0.22, color=[color for _, _, color in rows])
    axes.bar_label(drawn, [f"{length:+.3g}" for length in lengths], padding=3, fontsize=_FONT - 1)
    axes.set_yticks(middles, labels, fontsize=_FONT, parse_math=False)
    axes.set_ylim(heights.sum(), 0)
    # Room at both ends for the numbers.
    least, most = min(0.0, *lengths), max(0.0, *lengths)
    room = 0.25 * (most - least) or 1.0
    axes.set_xlim(least - (room if least < 0 or most == 0 else 0), most + (room if most > 0 or least == 0 else 0))
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=_FONT - 1)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("attribution", fontsize=_FONT)
    if title:
        write(figure, 0.15, 0.1, title, fontsize=11, va="top")
    return figure
