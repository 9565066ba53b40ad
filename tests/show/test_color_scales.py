"""Scales: signed or not, full at a quantile, truthful about it."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from funcattr.show.color_scales import AGAINST, FOR, Scale, full_color, scale_of

RISING = np.arange(1.0, 101.0)


def scale(*values: np.ndarray, signed: bool | None = None, quantile: float = 0.99, limits: Any = None) -> Scale:
    return scale_of("f", "map", values, signed=signed, quantile=quantile, limits=limits)


def test_a_map_with_a_negative_value_is_signed_around_zero() -> None:
    found = scale(RISING, -RISING / 2)
    assert found.signed and found.cmap == "RdBu_r" and found.low == -found.high
    assert found.norm()(0.0) == 0.5
    assert mpl.colormaps[found.cmap](0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.01)


def test_other_maps_begin_at_zero_even_if_no_value_does() -> None:
    found = scale(RISING + 10)
    assert not found.signed and found.cmap == "inferno" and found.low == 0.0
    assert scale(RISING, signed=True).low == -scale(RISING).high


def test_one_pixel_does_not_set_the_scale() -> None:
    values = np.append(RISING, 1e6)
    assert scale(values).high == pytest.approx(np.quantile(values, 0.99)) and scale(values).high < 101
    assert scale(values, quantile=1.0).high == 1e6


def test_the_note_is_true() -> None:
    assert full_color("f", [RISING], 0.9)[1] == "clipped at the 0.9 quantile of |value|"
    assert full_color("f", [RISING], 1.0)[1] == "up to the largest |value|"
    lone = np.zeros(1000)
    lone[3] = -2.0
    assert full_color("f", [lone], 0.99) == (2.0, "up to the largest |value|")
    assert full_color("f", [0 * lone], 0.99) == (1.0, "all values are 0")


def test_strength_is_the_distance_from_the_colour_of_nothing() -> None:
    assert scale(RISING, -RISING, quantile=1.0).strength(np.array([-100, -50, 0, 200])).tolist() == [1, 0.5, 0, 1]
    assert scale(RISING, limits=(50, 100)).strength(np.array([50, 75, 100])).tolist() == [0, 0.5, 1]


def test_what_lies_below_the_first_colour_covers_no_image() -> None:
    # RISE's maps have no 0: limits say what counts. The least values hid the image most.
    assert scale(RISING, limits=(50, 100)).strength(np.array([0, 40, 50, 200])).tolist() == [0, 0, 0, 1]


def test_limits_take_the_place_of_the_quantile() -> None:
    found = scale(RISING, limits=(20, 30))
    assert (found.low, found.high, found.signed) == (20.0, 30.0, False)
    assert scale(RISING, limits=(-3, 3)).signed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 0.0}, r"^f\(quantile=0\.0\): expected a share above 0 and up to 1"),
        ({"quantile": 99}, r"^f\(quantile=99\)"),
        ({"signed": False}, r"^f\(map=\.\.\., signed=False\): expected no negative values, got -100\. .*maps\.abs_sum"),
        ({"limits": (1, 1)}, r"^f\(limits=\(1, 1\)\): expected \(low, high\)"),
        ({"limits": (-1, 2)}, r"^f\(limits=\(-1, 2\)\): expected \(-v, v\) for a signed map"),
        ({"limits": (0, 2)}, r"expected \(-v, v\) for a signed map"),
        ({"limits": (0, float("nan"))}, r"expected \(low, high\)"),
    ],
)
def test_impossible_scales_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale(RISING, -RISING, **options)


def lightness(color: Any) -> float:
    return float(np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722]))


def seen_without_red(color: Any) -> np.ndarray:
    """A colour as deuteranopes see it (Vienot, Brettel and Mollon, 1999), in linear light."""
    red, green, blue = (c**2.2 for c in to_rgb(color))
    yellow = 0.29275 * red + 0.70725 * green
    return np.array([yellow, yellow, -0.02234 * red + 0.02234 * green + blue])


def test_colours_are_told_apart_without_red_and_green() -> None:
    ends = [mpl.colormaps["RdBu_r"](share) for share in (0.1, 0.5, 0.9)]
    for one, other in ((ends[0], ends[1]), (ends[0], ends[2]), (ends[1], ends[2]), (FOR, AGAINST)):
        assert np.abs(seen_without_red(one) - seen_without_red(other)).max() > 0.15
    rising = [lightness(mpl.colormaps["inferno"](share)) for share in np.linspace(0, 1, 20)]
    assert (np.diff(rising) > 0).all()
