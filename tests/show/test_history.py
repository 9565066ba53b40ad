"""The history of a search, a panel for each number."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr import bottleneck, show

from .examples import bottleneck_search, mask_search


def lines(axes: Any) -> dict[str, list[float]]:
    return {str(line.get_label()): [float(y) for y in line.get_ydata()] for line in axes.lines}


def test_a_bottlenecks_search_has_a_line_for_each_example() -> None:
    search = bottleneck_search(examples=2, steps=4)
    loss, information, norm = show.history(search, title="two").axes
    labels = [axes.get_ylabel() for axes in (loss, information, norm)]
    assert labels == ["loss", "information (bits)", "gradient norm"]
    for axes, numbers in ((loss, search.loss), (information, search.information), (norm, search.gradient_norm)):
        assert list(lines(axes)) == ["example 0", "example 1"]
        np.testing.assert_allclose(list(lines(axes).values()), numbers.numpy())
        assert np.asarray(axes.lines[0].get_xdata()).tolist() == [1, 2, 3, 4]
    assert norm.get_xlabel() == "step"


def test_extremal_masks_have_a_line_for_each_mask() -> None:
    reward, penalty = show.history(mask_search(areas=(0.2, 0.5))).axes
    assert list(lines(reward)) == ["mask 0", "mask 1"] and penalty.get_ylabel() == "penalty"
    both = show.history(mask_search(examples=2)).axes[0]
    assert list(lines(both)) == [f"example {n}, mask {a}" for n in range(2) for a in range(2)]


def test_of_many_examples_the_median_is_drawn() -> None:
    search = bottleneck_search(examples=9, steps=3)
    axes = show.history(search).axes[0]
    assert len(axes.lines) == 10 and axes.get_legend() is None
    np.testing.assert_allclose(lines(axes)["median"], np.median(search.loss.numpy(), 0))


def test_a_training_has_epochs() -> None:
    training = bottleneck.ReadoutTraining(torch.tensor([2.0, 1.0]), torch.tensor([0.5, 0.25]))
    loss, information = show.history(training).axes
    assert list(lines(loss).values()) == [[2.0, 1.0]] and information.get_xlabel() == "epoch"
    assert loss.get_legend() is None


def test_a_single_step_is_a_point_and_nan_is_said() -> None:
    loss, information = show.history(bottleneck.ReadoutTraining(torch.tensor([torch.nan]), torch.tensor([1.0]))).axes
    assert [text.get_text() for text in loss.texts] == ["1 of 1 numbers are NaN or infinite"]
    assert information.lines[0].get_marker() == "." and not information.texts


def test_other_results_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^history\(search=\.\.\.\): expected what iba_search, .* got Tensor\. The methods iba"
    ):
        show.history(torch.zeros(3))  # pyright: ignore[reportArgumentType]
