"""Curves: the mean score of each method, and its area in the legend."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr import show


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_mean_over_examples_is_drawn_with_its_area() -> None:
    scores = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.1, 0.2]])
    figure = show.curves({"mean": scores, "_one $x$": [1.0, 1.0, 0.0]}, title="deletion")
    axes = figure.axes[0]
    first, second = axes.lines
    np.testing.assert_allclose(np.asarray(first.get_ydata()), [1.0, 0.3, 0.1], atol=1e-6)
    np.testing.assert_allclose(np.asarray(first.get_xdata()), [0, 0.5, 1])
    assert legend(figure) == ["0.425  mean", "0.750  _one $x$"]
    assert first.get_color() != second.get_color()
    assert len(axes.collections) == 1  # a band for several examples only
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("share removed", "score", "deletion")


def test_the_band_is_one_standard_error() -> None:
    scores = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    (band,) = show.curves({"m": scores}).axes[0].collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert heights.max() == pytest.approx(2 + 1 / 3**0.5) and heights[heights > 0.5].min() == pytest.approx(
        2 - 1 / 3**0.5
    )


def test_shares_may_be_uneven() -> None:
    figure = show.curves({"m": [1.0, 1.0, 0.0]}, shares=[0.0, 0.8, 1.0], xlabel="share inserted")
    assert legend(figure) == ["0.900  m"] and figure.axes[0].get_xlabel() == "share inserted"


def test_many_methods_are_told_apart() -> None:
    figure = show.curves({f"m{i}": [1.0, 0.0] for i in range(32)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 32


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({}, {}, r"^curves\(scores=\.\.\.\): expected 1 to 32 methods, as \{name: scores\}, got 0"),
        ({f"m{i}": [1.0, 0.0] for i in range(33)}, {}, r"got 33"),
        ({"a": [1.0]}, {},
         r"^curves\(scores\['a'\]=\.\.\.\): expected two scores or more, \[T\] or \[N, T\], got \[1\]"),
        ({"a": [1.0, 0.0], "b": [1.0, 0.0, 0.0]}, {},
         r"^curves\(scores=\.\.\.\): expected as many scores .*'a': 2, 'b': 3"),
        ({"a": [1.0, float("nan")]}, {}, r"^curves\(scores\['a'\]=\.\.\.\): expected finite numbers, got nan at \[1\]"),
        ({"a": [1.0, 0.0]}, {"shares": [0.0, 0.5, 1.0]},
         r"^curves\(shares=\.\.\.\): expected one for each of 2 scores, got \[3\]"),
        ({"a": [1.0, 0.0]}, {"shares": [1.0, 0.0]}, r"^curves\(shares=\.\.\.\): expected shares that rise, in 0\.\.1"),
        ({"a": [1.0, 0.0]}, {"shares": [0.0, 100.0]}, r"expected shares that rise, in 0\.\.1, got 0\.\.100"),
    ],
)  # fmt: skip
def test_bad_input_is_named(scores: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.curves(scores, **options)
