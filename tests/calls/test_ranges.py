"""An affine function of a sigmoid is a gate where its values at an end are 0."""

import math

import pytest
import torch

from funcattr.calls.ranges import RANGES, Range

FAR = torch.tensor([-80.0, 80.0]).double()


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_the_values_far_off(name: str) -> None:
    homes = (torch, torch.special, torch.nn.functional)
    function = next(getattr(home, name) for home in homes if hasattr(home, name))
    low, high = function(FAR).tolist()
    assert RANGES[name].low == pytest.approx(low)
    assert RANGES[name].high == pytest.approx(high) or (math.isinf(RANGES[name].high) and high > 1e30)


@pytest.mark.parametrize(
    ("scale", "shift", "op"),
    [
        (1, 0, "sigmoid"),
        (-1, 1, "sigmoid"),
        (3, -3, "sigmoid"),
        (1 / 3, -1 / 3, "sigmoid"),
        (math.nan, 0, "sigmoid"),
        (2, -1, "tanh"),
        (-2, 1, "tanh"),
        (1, 0.5, "sigmoid"),
        (-1, -0.5, "sigmoid"),
        (0.9, 0.1, "sigmoid"),
        (1, -0.5, None),
        (1, math.nan, None),
    ],
)
def test_a_gate_has_one_sign_or_ends_at_0(scale: float, shift: float, op: str | None) -> None:
    assert RANGES["sigmoid"].scaled(scale).shifted(shift).op == op


def test_a_range_by_what_nobody_can_tell() -> None:
    assert RANGES["tanh"].scaled(0.5).shifted(0.5).op == "sigmoid"
    assert RANGES["tanh"].scaled(math.nan).shifted(1).op is None
    assert RANGES["sigmoid"].scaled(math.nan).shifted(1).op is None
    assert RANGES["erf"].scaled(-1).op == "erf"


def test_a_power_of_a_gate_is_one() -> None:
    assert RANGES["sigmoid"].raised(2.0) == Range("", 0.0, 1.0)
    assert RANGES["exp"].raised(0.5) == RANGES["exp"]
    assert RANGES["sigmoid"].scaled(1e200).raised(2.0) == Range("", 0.0, math.inf)
    assert RANGES["tanh"].raised(2.0) is None
    assert RANGES["sigmoid"].raised(-1.0) is None and RANGES["sigmoid"].raised(math.nan) is None


def test_a_constant_over_a_range() -> None:
    assert RANGES["exp"].op is None
    assert RANGES["exp"].shifted(2.0).dividing(3.0) == Range("exp", 1.5, 0.0)
    assert RANGES["exp"].shifted(2.0).has_one_sign and RANGES["exp"].shifted(-1.0).scaled(-1.0).has_one_sign is False
    assert not RANGES["exp"].shifted(math.nan).has_one_sign


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0, 1, True), (None, None, True), (None, 1, True), (0, None, True), (0.1, 1, False), (0, 0.9, False)],
)
def test_a_clamp_that_changes_nothing(low: float | None, high: float | None, found: bool) -> None:
    assert RANGES["sigmoid"].within(low, high) is found
    assert not Range("tanh", 0.5, math.nan).within(0, 1)
