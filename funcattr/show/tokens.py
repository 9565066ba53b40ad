"""Words on a background that shows their relevance, for notebooks, files and terminals."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from .arrays import Numbers, finite
from .color_scales import AGAINST, FOR, full_color
from .labels import texts


class ColoredTokens(NamedTuple):
    """Coloured words. A notebook shows them; a terminal, where it prints them.

    Attributes:
        html: A `<div>` with styles of its own, for a file or a page.
        ansi: Text with 24-bit colour codes, for a terminal.
    """

    html: str
    ansi: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.ansi


def tokens(
    words: Sequence[str], relevance: Numbers, *, titles: Sequence[str] | None = None, quantile: float = 0.99
) -> ColoredTokens:
    """Write words on red where their relevance is positive, on blue where it is negative, on white where it is 0.

    All rows have one scale, so that they can be compared. It needs no matplotlib.

    Args:
        words: One text for each token, as it is to be read. What does not print is written as an escape.
        relevance: One number for each token, [T], or rows of them, for several classes say, [K, T].
        titles: One for each row.
        quantile: Share of the numbers whose magnitude is below full colour; 1 clips nothing.

    Returns:
        A `ColoredTokens`: `html`, and `ansi` for terminals. In HTML, a word under the mouse says its number.

    Raises:
        ValueError: If there are more numbers than words or fewer, not as many titles as rows, a number is NaN or
            infinite, or the quantile is not above 0 and up to 1.
        TypeError, RuntimeError: As in `overlay`.

    Example:
        >>> colored = tokens(["a", "<b>"], [0.0, -2.0])
        >>> "&lt;b&gt;" in colored.html, "<b>" in colored.ansi
        (True, True)
    """
    call = "tokens"
    values = finite(call, "relevance", relevance)
    if isinstance(words, str):
        raise TypeError(f"{call}(words=...): expected a list of words, got one text. Split it as the model does.")
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            f"{call}(relevance=...): expected one number for each token, [T], or rows of them, [K, T], got "
            f"{list(values.shape)}. Sum over the features of a token first, and take one example."
        )
    rows = np.atleast_2d(values)
    if rows.shape[1] != len(words):
        more = "more numbers than words" if rows.shape[1] > len(words) else "more words than numbers"
        raise ValueError(
            f"{call}(words=..., relevance=...): expected one number for each word, got {more}: "
            f"{rows.shape[1]} numbers, {len(words)} words. Are special or padding tokens in only one of them?"
        )
    heads = [_printable(title) for title in texts(call, "titles", titles, len(rows), "row")]
    limit, says = full_color(call, [rows], quantile)
    legend = f"red: for, blue: against; full colour at {limit:.3g}, {says}"
    written = [_printable(word) for word in words]
    return ColoredTokens(_html(written, rows, heads, limit, legend), _ansi(written, rows, heads, limit, legend))


def _printable(text: str) -> str:
    """Text whose control characters are escaped: they would break lines, or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _html(words: Sequence[str], rows: np.ndarray, titles: Sequence[str], limit: float, legend: str) -> str:
    lines = []
    for title, row in zip(titles, rows, strict=True):
        spans = "\n".join(
            f'<span style="background:rgb{paper};color:{"#fff" if dark else "#000"};padding:1px 3px;margin:1px;'
            f'border-radius:3px;white-space:pre-wrap;display:inline-block" title="{value:.4g}">{escape(word)}</span>'
            for word, value, (paper, dark) in zip(words, row, _papers(row, limit), strict=True)
        )
        head = f'<b style="margin-right:6px">{escape(title)}</b>' if title else ""
        lines.append(f'<div style="margin-bottom:6px">{head}{spans}</div>')
    note = f'<div style="color:#555;font-size:80%">{escape(legend)}</div>'
    style = "background:#fff;color:#000;font-family:sans-serif;line-height:1.7;padding:6px"
    return f'<div style="{style}">\n' + "\n".join(lines) + f"\n{note}\n</div>"


def _ansi(words: Sequence[str], rows: np.ndarray, titles: Sequence[str], limit: float, legend: str) -> str:
    lines = []
    for title, row in zip(titles, rows, strict=True):
        colored = (
            f"\x1b[48;2;{paper[0]};{paper[1]};{paper[2]};38;2;{ink};{ink};{ink}m{word}\x1b[0m"
            for word, (paper, dark) in zip(words, _papers(row, limit), strict=True)
            for ink in (255 if dark else 0,)
        )
        lines.append((f"\x1b[1m{title}\x1b[0m " if title else "") + " ".join(colored))
    return "\n".join([*lines, f"\x1b[2m{legend}\x1b[0m"])


def _papers(row: np.ndarray, limit: float) -> list[tuple[tuple[int, int, int], bool]]:
    """Background of each word, (red, green, blue) in 0..255, and whether it is too dark for black letters."""
    share = (row / limit).clip(-1, 1)[:, None]
    ends = np.where(share > 0, _rgb(FOR), _rgb(AGAINST))
    colors = np.rint(255 + np.abs(share) * (ends - 255)).astype(int)
    dark = colors @ [0.299, 0.587, 0.114] < 128
    return [((int(r), int(g), int(b)), bool(d)) for (r, g, b), d in zip(colors, dark, strict=True)]


def _rgb(color: str) -> np.ndarray:
    """#ff0000 -> [255, 0, 0]"""
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
