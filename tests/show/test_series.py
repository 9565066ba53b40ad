"""Signals as lines over the colours of their attributions."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr import maps, show

from .examples import waves

X, A = waves(2, 40), waves(2, 40) - 0.5


def test_each_channel_is_a_line_over_its_colours_on_one_scale() -> None:
    *panels, bar = show.series(X, A, names=["left", "right"]).axes
    limit = np.quantile(np.abs(A.double().numpy()), 0.99)
    for axes, signal, row, name in zip(panels, X, A, ("left", "right"), strict=True):
        np.testing.assert_allclose(np.asarray(axes.lines[-1].get_ydata()), signal.double().numpy())
        (drawn,) = axes.images
        colors: Any = drawn.get_array()
        np.testing.assert_array_equal(colors[0], row.double().numpy())
        assert drawn.get_clim() == pytest.approx((-limit, limit)) and drawn.get_cmap().name == "RdBu_r"
        assert axes.get_xlim() == (-0.5, 39.5) and axes.get_ylabel() == name
    assert bar.get_ylim() == pytest.approx((-limit, limit))


def test_one_attribution_for_all_channels_and_fewer_times_are_spread() -> None:
    few = waves(1, 10)
    first, second, _ = show.series(X, few).axes
    expected = maps.resize(few[None].double(), (40,))[0, 0].numpy()
    for axes in (first, second):
        np.testing.assert_allclose(axes.images[0].get_array()[0], expected)  # pyright: ignore[reportOptionalSubscript]


def test_a_single_and_a_constant_signal() -> None:
    figure = show.series(torch.ones(30), torch.zeros(30))
    axes, _ = figure.axes
    low, high = axes.get_ylim()
    assert low < 1 < high
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("x", "attributions", "options", "message"),
    [
        (X[None], A, {},
         r"^series\(x=\.\.\.\): expected one signal, \[C, T\] or \[T\], got \[1, 2, 40\]\. Give .*: x\[0\]"),
        (X, A[None], {}, r"^series\(attributions=\.\.\.\): expected one signal"),
        (X, waves(3, 40), {},
         r"^series\(attributions=\.\.\.\): expected 2 channels as the signal has, or 1 for all, got 3"),
        (X, waves(2, 50), {}, r"^series\(attributions=\.\.\.\): .* which is larger"),
        (X, A, {"names": ["one"]}, r"^series\(names=\.\.\.\): expected 2 texts, one for each channel, got 1"),
        (torch.zeros(65, 4), torch.zeros(65, 4), {}, r"^series\(x=\.\.\.\): expected at most 64 channels, got 65"),
        (X, torch.full((2, 40), torch.nan), {}, r"^series\(attributions=\.\.\.\): expected finite numbers"),
        (X, A, {"signed": False}, r"^series\(attributions=\.\.\., signed=False\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(x: Any, attributions: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.series(x, attributions, **options)
