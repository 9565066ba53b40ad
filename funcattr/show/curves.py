"""Curves of insertion and deletion: the score as more and more of an input is shown or removed."""

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Numbers, finite
from .color_scales import QUALITATIVE
from .pages import page, place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = ("-", "--", ":", "-.")
"""With 8 colours, lines of 32 methods can be told apart."""


def curves(
    scores: Mapping[str, Numbers],
    *,
    shares: Numbers | None = None,
    xlabel: str = "share removed",
    ylabel: str = "score",
    title: str = "",
) -> "Figure":
    """Draw the model's score against the share of the input that is removed (or inserted): one curve for each method.

    area = sum_t (s_{t+1} - s_t) (y_t + y_{t+1}) / 2, the trapezoidal rule, is in the legend.

    Args:
        scores: Name of the method -> its scores, [T], or those of N examples, [N, T], whose mean is drawn, in a band of
            one standard error.
        shares: s, the shares at which the scores were taken, rising, in 0..1. [T] By default from 0 to 1 evenly.
        xlabel, ylabel, title: Texts.

    Returns:
        A figure that is no part of pyplot.

    Raises:
        ValueError: If a shape does not fit, there are fewer than 2 scores, no method or more than 32, the shares do not
            rise in 0..1, or a number is NaN or infinite.
        TypeError, RuntimeError, ImportError: As in `overlay`.

    Example:
        >>> figure = curves({"gradient": [1.0, 0.5, 0.0], "random": [1.0, 1.0, 0.0]})
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['0.500  gradient', '0.750  random']
    """
    call = "curves"
    most = len(QUALITATIVE) * len(_STYLES)
    if not 1 <= len(scores) <= most:
        raise ValueError(f"{call}(scores=...): expected 1 to {most} methods, as {{name: scores}}, got {len(scores)}.")
    each = {name: _scores(call, name, values) for name, values in scores.items()}
    lengths = {name: values.shape[1] for name, values in each.items()}
    if len({*lengths.values()}) > 1:
        raise ValueError(f"{call}(scores=...): expected as many scores of each method, got {lengths}.")
    length = next(iter(lengths.values()))
    at = np.linspace(0, 1, length) if shares is None else _shares(call, shares, length)

    per_column = 16
    widest = max(len(name) for name in each) + len("0.000  ")
    beside = -(-len(each) // per_column) * (widest * 0.6 * 8 / 72 + 0.6)
    figure = page(call, 6.3 + beside, 3.8)
    axes = place(figure, 0.8, 0.45, 5.3, 2.75)
    looks = zip(cycle(QUALITATIVE), (style for style in _STYLES for _ in QUALITATIVE), strict=False)
    for (name, values), (color, style) in zip(each.items(), looks, strict=False):
        mean = values.mean(0)
        axes.plot(at, mean, color=color, linestyle=style, linewidth=1.6, label=f"{np.trapezoid(mean, at):.3f}  {name}")
        if len(values) > 1:
            error = values.std(0, ddof=1) / np.sqrt(len(values))
            axes.fill_between(at, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    axes.set_xlim(at[0], at[-1])
    axes.set_xlabel(xlabel, fontsize=9, parse_math=False)
    axes.set_ylabel(ylabel, fontsize=9, parse_math=False)
    axes.set_title(title, fontsize=11, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the curves, where it hides none of them.
    columns = -(-len(each) // per_column)
    legend = axes.legend(
        title="area", alignment="left", fontsize=8, title_fontsize=8, frameon=False, loc="upper left",
        bbox_to_anchor=(1.01, 1.03), ncols=columns,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _scores(call: str, name: str, values: Numbers) -> np.ndarray:
    """[N, T]"""
    array = finite(call, f"scores[{name!r}]", values)
    if array.ndim not in (1, 2) or not array.size or array.shape[-1] < 2:
        raise ValueError(
            f"{call}(scores[{name!r}]=...): expected two scores or more, [T] or [N, T], got {list(array.shape)}."
        )
    return np.atleast_2d(array)


def _shares(call: str, shares: Numbers, length: int) -> np.ndarray:
    at = finite(call, "shares", shares)
    if at.shape != (length,):
        raise ValueError(f"{call}(shares=...): expected one for each of {length} scores, got {list(at.shape)}.")
    if at[0] < 0 or at[-1] > 1 or (np.diff(at) <= 0).any():
        raise ValueError(f"{call}(shares=...): expected shares that rise, in 0..1, got {at[0]:g}..{at[-1]:g}.")
    return at
