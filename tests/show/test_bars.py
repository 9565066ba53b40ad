"""Bars: the largest features with their numbers, and the rest in one."""

from typing import Any

import pytest
import torch
from matplotlib.colors import to_hex

from funcattr import show
from funcattr.show.color_scales import AGAINST, FOR, NEUTRAL

NAMES, VALUES = ["a", "b", "c", "d"], torch.tensor([0.5, -2.0, 0.1, 1.0])


def drawn(figure: Any) -> list[tuple[str, float, str]]:
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    (container,) = axes.containers
    return [(label, bar.get_width(), to_hex(bar.get_facecolor())) for label, bar in zip(labels, container, strict=True)]


def test_the_largest_are_on_top_and_the_rest_is_summed() -> None:
    figure = show.bars(NAMES, VALUES, k=2, title="one")
    assert drawn(figure) == [
        ("b", -2.0, AGAINST),
        ("d", 1.0, FOR),
        ("2 others", pytest.approx(0.6), NEUTRAL),
    ]
    low, high = figure.axes[0].get_ylim()
    assert low > high  # the first bar is the upper one
    assert [text.get_text() for text in figure.axes[0].texts] == ["-2", "+1", "+0.6"]


def test_all_features_have_a_bar_if_there_are_few() -> None:
    assert [label for label, *_ in drawn(show.bars(NAMES, VALUES))] == ["b", "d", "a", "c"]
    assert [label for label, *_ in drawn(show.bars(NAMES, VALUES, k=3))] == ["b", "d", "a", "1 other"]


def test_values_stand_beside_the_names() -> None:
    figure = show.bars(NAMES, VALUES, x=torch.tensor([1.0, 20.0, 3.5, 12345.678]), k=2)
    assert [label for label, *_ in drawn(figure)] == ["b = 20", "d = 1.235e+04", "2 others"]


def test_no_attribution_is_no_bar_without_a_warning() -> None:
    figure = show.bars(NAMES, torch.zeros(4))
    assert [width for _, width, _ in drawn(figure)] == [0.0] * 4
    low, high = figure.axes[0].get_xlim()
    assert low < 0 < high
    figure.canvas.draw()


def test_long_names_are_wrapped_and_dollars_are_no_formula() -> None:
    name = "the price of a $x$ in units that nobody has ever heard of, by mass"
    figure = show.bars([name, "b"], [1.0, 2.0])
    label = figure.axes[0].get_yticklabels()[1]
    assert label.get_text().replace("\n", " ") == name and not label.get_parse_math()
    figure.canvas.draw()
    assert label.get_window_extent().x0 >= 0


def test_a_thousand_features() -> None:
    figure = show.bars([f"feature {i}" for i in range(1000)], torch.arange(1000.0), k=5)
    assert drawn(figure)[-1][0] == "995 others"


@pytest.mark.parametrize(
    ("names", "values", "options", "message"),
    [
        (NAMES, torch.zeros(3), {}, r"^bars\(names=\.\.\.\): expected 3 texts, one for each number, got 4"),
        (NAMES, torch.zeros(1, 4), {},
         r"^bars\(attributions=\.\.\.\): expected one number for each .* got \[1, 4\]\. Give attributions\[0\]"),
        ([], torch.zeros(0), {}, r"^bars\(attributions=\.\.\.\)"),
        (NAMES, torch.tensor([0.0, torch.nan, 0.0, 0.0]), {},
         r"^bars\(attributions=\.\.\.\): expected finite numbers, got nan at \[1\]"),
        (NAMES, VALUES, {"k": 0}, r"^bars\(k=0\): expected 1 or more"),
        (NAMES, VALUES, {"x": torch.zeros(3)}, r"^bars\(x=\.\.\.\): expected a value for each of 4 names, got \[3\]"),
    ],
)  # fmt: skip
def test_bad_input_is_named(names: Any, values: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.bars(names, values, **options)


@pytest.mark.parametrize("k", [1.5, True, "2"])
def test_how_many_bars_is_an_int(k: Any) -> None:
    with pytest.raises(TypeError, match=r"^bars\(k=.*\): expected an int"):
        show.bars(NAMES, VALUES, k=k)
