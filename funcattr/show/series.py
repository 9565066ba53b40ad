"""Signals over the attributions of their samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .arrays import Numbers, finite
from .color_scales import scale_of
from .fitting import fitted
from .labels import texts
from .overlay import color_bar
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 64
"""Channels of a figure."""

_WIDTH, _NAMES = 8.0, 1.3
"""Inches: of a signal, and for the names of channels."""


def series(
    x: Numbers,
    attributions: Numbers,
    *,
    names: Sequence[str] | None = None,
    signed: bool | None = None,
    quantile: float = 0.99,
    title: str = "",
) -> "Figure":
    """Draw each channel of a signal as a line, over the attribution of each sample as a colour. All have one scale.

    Args:
        x: One signal. [C, T] or [T]
        attributions: Of each value, [C, T] or [T], or one for all channels of a sample, [1, T]; at fewer times, they
            are resized as by `maps.resize`.
        names: One for each channel.
        signed, quantile: As in `overlay`.
        title: Text above.

    Returns:
        A figure that is no part of pyplot: one panel for each channel, then the colour bar.

    Raises:
        ValueError: If the shapes do not fit, there are more than 64 channels, or a number is NaN or infinite.
        TypeError, RuntimeError, ImportError: As in `overlay`.

    Example:
        >>> import torch
        >>> figure = series(torch.randn(2, 100), torch.randn(2, 100), names=["left", "right"])
        >>> [axes.get_ylabel() for axes in figure.axes[:2]]
        ['left', 'right']
    """
    call = "series"
    signals, colors = (_channels(call, name, values) for name, values in (("x", x), ("attributions", attributions)))
    count, length = signals.shape
    if count > _MOST:
        raise ValueError(f"{call}(x=...): expected at most {_MOST} channels, got {count}. Choose some: x[:{_MOST}].")
    if len(colors) not in (1, count):
        raise ValueError(
            f"{call}(attributions=...): expected {count} channels as the signal has, or 1 for all, got {len(colors)}."
        )
    labels = texts(call, "names", names, count, "channel")
    scale = scale_of(call, "attributions", [colors], signed=signed, quantile=quantile)
    colors = np.broadcast_to([fitted(call, "attributions", row, (length,)) for row in colors], signals.shape)

    title = wrapped(title, columns_of(_WIDTH, 11))
    tall = 1.4 if count <= 4 else 0.7
    left = _NAMES if names else 0.6
    head, foot = (0.2 * (title.count("\n") + 1) if title else 0.0) + 0.15, 0.75
    figure = page(call, left + _WIDTH + 0.95, head + count * (tall + 0.1) + foot)
    for index, (signal, row) in enumerate(zip(signals, colors, strict=True)):
        axes = place(figure, left, head + index * (tall + 0.1), _WIDTH, tall)
        least, most = signal.min(), signal.max()
        room = 0.08 * (most - least) or 1.0
        extent = (-0.5, length - 0.5, least - room, most + room)
        axes.imshow(
            row[None],
            cmap=scale.cmap,
            norm=scale.norm(),
            alpha=0.85,
            extent=extent,
            aspect="auto",
            origin="upper",
            interpolation="nearest",
        )
        # Over dark and light colours alike: a dark line with a light edge.
        axes.plot(signal, color="white", linewidth=2.6)
        axes.plot(signal, color="black", linewidth=1.0)
        axes.set(xlim=extent[:2], ylim=extent[2:])
        axes.tick_params(labelsize=8, labelbottom=index == count - 1)
        axes.locator_params(axis="y", nbins=3)
        if names:
            name = wrapped(labels[index], columns_of(_NAMES - 0.6, 9))
            axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=4, parse_math=False)
    figure.axes[-1].set_xlabel("sample", fontsize=9)
    color_bar(figure, left + _WIDTH + 0.1, head, min(count * (tall + 0.1) - 0.1, 4.0), scale)
    write(figure, left, head + count * (tall + 0.1) + foot - 0.2, f"Colour: {scale.says}.", fontsize=8, color="#404040")
    if title:
        write(figure, left, 0.1, title, fontsize=11, va="top")
    return figure


def _channels(call: str, name: str, values: Numbers) -> np.ndarray:
    """[C, T]"""
    array = finite(call, name, values)
    if array.ndim not in (1, 2) or not array.size:
        fix = f" Give one example of the batch: {name}[0]." if array.ndim == 3 else ""
        raise ValueError(f"{call}({name}=...): expected one signal, [C, T] or [T], got {list(array.shape)}.{fix}")
    return np.atleast_2d(array)
