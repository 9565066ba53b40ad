"""The course of a search: of an information bottleneck, its readout network, or extremal masks."""

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ..methods.bottleneck.iba import InformationBottleneck
from ..methods.bottleneck.train_readout import ReadoutTraining
from ..methods.extremal.extremal_perturbation import ExtremalPerturbation
from .arrays import as_array
from .color_scales import NEUTRAL, QUALITATIVE
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH, _TALL, _LEFT, _LEGEND = 5.2, 1.5, 0.95, 1.7
"""Inches: of a panel, and the room beside it."""


def history(search: InformationBottleneck | ExtremalPerturbation | ReadoutTraining, *, title: str = "") -> "Figure":
    """Draw the numbers that a search has noted at its steps, a panel each, with a line for each example and mask.

    Of more than 8 lines each is thin and grey, and the black one is their median.

    Args:
        search: What `bottleneck.iba_search`, `masks.extremal_search` or `bottleneck.train_readout` returned.
        title: Text above.

    Returns:
        A figure that is no part of pyplot. A panel says so if some of its numbers are NaN or infinite.

    Raises:
        TypeError: If it is no such result.
        ImportError: If matplotlib is not installed.
        RuntimeError: As in `overlay`.

    Example:
        >>> import torch, funcattr
        >>> x = torch.ones(1, 3, 16, 16)
        >>> search = funcattr.masks.extremal_search(lambda x: x.mean((1, 2, 3)), x, radius=3, steps=5)
        >>> [axes.get_ylabel() for axes in history(search).axes]
        ['reward', 'penalty']
    """
    call = "history"
    # Each of [..., T].
    if isinstance(search, InformationBottleneck):
        noted = {"loss": search.loss, "information (bits)": search.information, "gradient norm": search.gradient_norm}
        axis, kinds = "step", ("example",)
    elif isinstance(search, ReadoutTraining):
        noted = {"loss": search.loss, "information (bits)": search.information}
        axis, kinds = "epoch", ()
    elif isinstance(search, ExtremalPerturbation):
        noted = {"reward": search.reward, "penalty": search.penalty}
        axis, kinds = "step", ("example", "mask")
    else:
        raise TypeError(
            f"{call}(search=...): expected what iba_search, extremal_search or train_readout returned, got "
            f"{type(search).__name__}. The methods iba and extremal_perturbation return no history."
        )
    panels = {name: as_array(call, name, values).astype(np.float64) for name, values in noted.items()}
    counts = next(iter(panels.values())).shape[:-1]
    labels = [
        ", ".join(f"{kind} {i}" for kind, i, count in zip(kinds, where, counts, strict=True) if count > 1)
        for where in product(*map(range, counts))
    ]
    title = wrapped(title, columns_of(_WIDTH, 11))
    head = (0.2 * (title.count("\n") + 1) if title else 0.0) + 0.15
    few = len(labels) <= len(QUALITATIVE)
    beside = _LEGEND if few and len(labels) > 1 else 0.15
    figure = page(call, _LEFT + _WIDTH + beside, head + len(panels) * (_TALL + 0.15) + 0.45)
    if title:
        write(figure, _LEFT, 0.1, title, fontsize=11, va="top")
    for index, (name, values) in enumerate(panels.items()):
        lines = values.reshape(-1, values.shape[-1])
        steps = np.arange(1, lines.shape[1] + 1)
        axes = place(figure, _LEFT, head + index * (_TALL + 0.15), _WIDTH, _TALL)
        for line, label, color in zip(lines, labels, QUALITATIVE if few else [NEUTRAL] * len(lines), strict=False):
            width, alpha = (1.4, 1.0) if few else (0.5, 0.5)
            marker = "." if len(steps) == 1 else ""  # a single step is a point
            axes.plot(steps, line, color=color, label=label, marker=marker, linewidth=width, alpha=alpha)
        if not few:
            axes.plot(steps, np.median(lines, 0), color="black", linewidth=1.8, label="median")
        if bad := int((~np.isfinite(lines)).sum()):
            says = f"{bad} of {lines.size} numbers are NaN or infinite"
            axes.text(0.5, 0.9, says, transform=axes.transAxes, ha="center", fontsize=8, color="#b2182b")
        axes.set_ylabel(name, fontsize=9)
        axes.tick_params(labelsize=8, labelbottom=index == len(panels) - 1)
        axes.locator_params(axis="y", nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[-1].set_xlabel(axis, fontsize=9)
    if beside == _LEGEND:
        figure.axes[0].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.03))
    return figure
