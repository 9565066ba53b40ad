"""A picture of where relevance went, from the report of `conservation`."""

from typing import TYPE_CHECKING

import numpy as np

from ..methods.relevance.conservation import REASONS, Conservation
from .color_scales import NEUTRAL, QUALITATIVE
from .pages import columns_of, page, place, wrapped, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES, _PANEL, _GAP, _ROW, _FONT = 3.2, 3.0, 0.25, 0.24, 8
"""Inches for the names of calls, of a panel, between the two, of a call; and points."""

_ROUNDING = 1e-6
"""Losses of a smaller share of all relevance than this are rounding."""


def report(conservation: Conservation, *, k: int = 25, title: str = "") -> "Figure":
    """Draw the relevance that arrives at each call, and what of it is lost there, by reason; from the output down.

    Args:
        conservation: The report of `funcattr.conservation`.
        k: How many calls that lose most have a row of their own, in the order of the pass; the rest is summed into one.
        title: Text above.

    Returns:
        A figure that is no part of pyplot: one panel of what arrives, one of what is lost.

    Raises:
        TypeError: If it is no report of `conservation`.
        ValueError: If the report has no call or a number that is not finite, or `k` < 1.
        ImportError: If matplotlib is not installed.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> figure = report(funcattr.conservation(model, torch.ones(1, 2), target=0, rules="epsilon"))
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['relevance that arrives', 'lost there']
    """
    call = "report"
    if not isinstance(conservation, Conservation):
        got = type(conservation).__name__
        raise TypeError(f"{call}(conservation=...): expected what funcattr.conservation returned, got {got}.")
    if k < 1:
        raise ValueError(f"{call}(k={k}): expected 1 or more.")
    flows = conservation.flows
    arrived = np.array([flow.arrived for flow in flows])
    lost = np.array([[flow.lost[reason] for reason in REASONS] for flow in flows]).reshape(len(flows), len(REASONS))
    if not len(flows):
        raise ValueError(f"{call}(conservation=...): expected a report of one call or more, got none.")
    if not (np.isfinite(arrived).all() and np.isfinite(lost).all()):
        bad = next(f for f in flows if not np.isfinite([f.arrived, *f.lost.values()]).all())
        raise ValueError(f"{call}(conservation=...): expected finite relevance, got other at {bad.path!r}, {bad.op}.")

    labels = [f"{flow.path}  {flow.op}" if flow.path else flow.op for flow in flows]
    if len(flows) > k:
        # A stable sort keeps the order of the pass where losses are equal.
        most = np.sort(np.argsort(-np.abs(lost).sum(1), kind="stable")[:k])
        others = np.setdiff1d(np.arange(len(flows)), most)
        labels = [*(labels[i] for i in most), f"{len(others)} other calls"]
        arrived = np.append(arrived[most], np.nan)  # of different relevance, on its way
        lost = np.concatenate([lost[most], lost[others].sum(0, keepdims=True)])
    return _drawn(call, conservation, labels, arrived, lost, title)


def _drawn(
    call: str, conservation: Conservation, labels: list[str], arrived: np.ndarray, lost: np.ndarray, title: str
) -> "Figure":
    labels = [wrapped(label, columns_of(_NAMES - 0.2, _FONT)) for label in labels]
    heights = np.array([max(_ROW, 0.14 * (label.count("\n") + 1) + 0.06) for label in labels])
    middles, tall = heights.cumsum() - heights / 2, heights.sum()
    missing = sum(conservation.lost.values())
    numbers = f"start {conservation.start:.4g} = reached {conservation.reached:.4g} + lost {missing:.4g}"
    title = wrapped(title, columns_of(_NAMES + 2 * _PANEL, 11))
    over = 0.2 * (title.count("\n") + 1) + 0.1 if title else 0.1
    head, foot = over + 0.3, 0.75
    figure = page(call, _NAMES + 2 * _PANEL + _GAP + 0.2, head + tall + foot)
    if title:
        write(figure, 0.15, 0.1, title, fontsize=11, va="top")
    write(figure, _NAMES, over, numbers, fontsize=9, va="top")

    left = place(figure, _NAMES, head, _PANEL, tall)
    left.barh(middles, np.nan_to_num(arrived), height=0.16, color=NEUTRAL)
    left.set_yticks(middles, labels, fontsize=_FONT, parse_math=False)
    right = place(figure, _NAMES + _PANEL + _GAP, head, _PANEL, tall)
    right.set_yticks([])
    everything = max(abs(conservation.start), float(np.nanmax(np.abs(arrived))))
    used = _stack(right, middles, lost, _ROUNDING * everything)
    if used:
        figure.legend(
            handles=used, loc="lower right", ncols=len(used), fontsize=_FONT, frameon=False, borderaxespad=0.1,
            columnspacing=1.2, handlelength=1.0,
        )  # fmt: skip
    else:
        # Rounding must not fill the panel.
        right.set_xlim(-0.01 * (everything or 1.0), 0.01 * (everything or 1.0))
        right.text(0.5, 0.5, "nothing but rounding", transform=right.transAxes, ha="center", fontsize=_FONT)
    for axes, label in ((left, "relevance that arrives"), (right, "lost there")):
        axes.set_ylim(tall, 0)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(label, fontsize=9)
        axes.tick_params(labelsize=_FONT)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _stack(axes: "Axes", middles: np.ndarray, lost: np.ndarray, smallest: float) -> list:
    """Bars for each reason that took more than rounding: gains go to the left of 0, losses to the right."""
    ends, used = {True: np.zeros(len(middles)), False: np.zeros(len(middles))}, []
    for reason, amounts, color in zip(REASONS, lost.T, QUALITATIVE, strict=False):
        if (np.abs(amounts) <= smallest).all():
            continue
        start = np.where(amounts > 0, ends[True], ends[False])
        used.append(axes.barh(middles, amounts, left=start, height=0.16, color=color, label=reason))
        for positive in ends:
            ends[positive] += np.where((amounts > 0) == positive, amounts, 0)
    return used
