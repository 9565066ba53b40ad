"""The report's picture holds its numbers."""

from typing import Any

import pytest

import funcattr
from funcattr import show
from funcattr.methods.relevance.conservation import REASONS, Conservation, Flow

from .examples import conservation


def flow(path: str, arrived: float, **lost: float) -> Flow:
    each = dict.fromkeys(REASONS, 0.0) | lost
    return Flow(path, "linear", "epsilon", arrived, arrived - sum(each.values()), each)


def bars(axes: Any) -> dict[str, list[float]]:
    return {container.get_label(): [bar.get_width() for bar in container] for container in axes.containers}


def test_what_arrives_and_what_is_lost_are_bars_in_the_order_of_the_pass() -> None:
    report = Conservation(10.0, 6.0, (flow("b", 10.0, bias=3.0, other=2.0), flow("a", 5.0, bias=-1.0)))
    left, right = show.report(report, title="lrp").axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["b  linear", "a  linear"]
    assert list(bars(left).values()) == [[10.0, 5.0]]
    assert bars(right) == {"bias": [3.0, -1.0], "other": [2.0, 0.0]}
    assert right.containers[1][0].get_x() == 3.0  # stacked
    assert left.get_ylim() == right.get_ylim() and left.get_ylim()[0] > left.get_ylim()[1]
    (legend,) = left.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["bias", "other"]


def test_the_numbers_are_in_the_head() -> None:
    report = Conservation(10.0, 6.0, (flow("b", 10.0, bias=4.0),))
    assert "start 10 = reached 6 + lost 4" in [text.get_text() for text in show.report(report).texts]


def test_of_many_calls_those_that_lose_most_are_shown() -> None:
    report = Conservation(10.0, 0.0, tuple(flow(str(i), 10.0, bias=float(i == 7), other=0.1) for i in range(40)))
    left, right = show.report(report, k=3).axes
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "0  linear",
        "1  linear",
        "7  linear",
        "37 other calls",
    ]
    assert bars(right)["other"] == pytest.approx([0.1, 0.1, 0.1, 3.7])


def test_rounding_does_not_fill_the_panel() -> None:
    report = Conservation(10.0, 10.0, (flow("b", 10.0, other=1e-7),))
    right = show.report(report).axes[1]
    assert right.get_xlim() == pytest.approx((-0.1, 0.1)) and not right.containers
    assert [text.get_text() for text in right.texts] == ["nothing but rounding"]
    assert show.report(Conservation(0.0, 0.0, (flow("b", 0.0),))).axes[1].get_xlim() == pytest.approx((-0.01, 0.01))


def test_a_report_of_a_model_is_drawn() -> None:
    assert isinstance(conservation(), Conservation)
    assert len(show.report(conservation()).axes[0].patches) == len(conservation().flows)


def test_bad_input_is_named() -> None:
    with pytest.raises(
        TypeError, match=r"^report\(conservation=\.\.\.\): expected what funcattr\.conservation returned, got int"
    ):
        show.report(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"^report\(k=0\)"):
        show.report(conservation(), k=0)
    with pytest.raises(ValueError, match=r"^report\(conservation=\.\.\.\): expected a report of one call or more"):
        show.report(Conservation(1.0, 1.0, ()))
    with pytest.raises(ValueError, match=r"expected finite relevance, got other at 'b', linear"):
        show.report(Conservation(1.0, 1.0, (flow("a", 1.0), flow("b", float("nan")))))
    assert funcattr.show.report is show.report
