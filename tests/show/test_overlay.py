"""An overlay holds the photo in grey, the map with its scale, and says where it is clipped."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr import maps, show

from .examples import waves

IMAGE, SIGNED = waves(3, 24, 32), waves(1, 24, 32) - 0.5


def layers(axes: Any) -> tuple[Any, Any]:
    photo, drawn = axes.images
    return photo, drawn


def test_a_signed_map_is_drawn_around_zero_over_a_photo_in_light_grey() -> None:
    axes, bar = show.overlay(IMAGE, SIGNED, title="a map").axes
    photo, drawn = layers(axes)
    grey = np.tensordot([0.299, 0.587, 0.114], IMAGE.double().numpy(), 1)
    np.testing.assert_allclose(photo.get_array(), 0.4 + 0.6 * grey, atol=1e-6)
    assert photo.get_cmap().name == "gray" and photo.get_clim() == (0.0, 1.0)
    np.testing.assert_array_equal(drawn.get_array(), SIGNED[0].double().numpy())
    limit = np.quantile(np.abs(SIGNED.double().numpy()), 0.99)
    assert drawn.get_cmap().name == "RdBu_r" and drawn.get_clim() == pytest.approx((-limit, limit))
    assert bar.get_ylim() == pytest.approx((-limit, limit))
    assert axes.get_title() == "a map"


def test_an_unsigned_map_is_drawn_from_zero_over_a_dark_photo() -> None:
    values = SIGNED.abs()
    figure = show.overlay(IMAGE, values, quantile=0.9, opacity=0.5)
    photo, drawn = layers(figure.axes[0])
    assert photo.get_array().max() <= 0.8
    limit = np.quantile(values.double().numpy(), 0.9)
    assert drawn.get_cmap().name == "inferno" and drawn.get_clim() == pytest.approx((0, limit))
    expected = 0.5 * np.sqrt((values[0].double().numpy() / limit).clip(0, 1))
    np.testing.assert_allclose(drawn.get_alpha(), expected)
    assert [text.get_text() for text in figure.texts] == ["Colour: clipped at the 0.9 quantile of |value|."]


def test_pictures_stand_upright_whatever_the_users_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl

    monkeypatch.setitem(mpl.rcParams, "image.origin", "lower")
    monkeypatch.setitem(mpl.rcParams, "image.cmap", "jet")
    axes = show.overlay(IMAGE, SIGNED).axes[0]
    assert all(image.origin == "upper" for image in axes.images)
    assert axes.get_ylim() == (23.5, -0.5)


def test_small_maps_are_enlarged_and_keep_the_scale_of_their_own_values() -> None:
    small = waves(1, 6, 8)
    drawn = layers(show.overlay(IMAGE, small).axes[0])[1]
    expected = maps.resize(small[None].double(), (24, 32))[0, 0]
    np.testing.assert_allclose(drawn.get_array(), expected.numpy())
    assert drawn.get_clim()[1] == pytest.approx(np.quantile(small.double().numpy(), 0.99))


def test_limits_are_the_ends_of_the_scale() -> None:
    figure = show.overlay(IMAGE, SIGNED + 1, limits=(0.5, 1.5))
    assert layers(figure.axes[0])[1].get_clim() == (0.5, 1.5)
    assert "given limits" in figure.texts[0].get_text()


def test_an_image_with_channels_last_and_a_normalised_one_are_the_same_picture() -> None:
    expected = layers(show.overlay(IMAGE, SIGNED).axes[0])[0].get_array()
    normalised = (IMAGE - 0.5) / 0.25
    for image, options in (
        (IMAGE.permute(1, 2, 0), {"channels": "last"}),
        (normalised, {"mean": 0.5, "std": 0.25}),
        (IMAGE * 255, {"range": (0, 255)}),
    ):
        found: Any = show.overlay(image, SIGNED, **options)  # pyright: ignore[reportArgumentType]
        np.testing.assert_allclose(layers(found.axes[0])[0].get_array(), expected, atol=1e-6)


def test_slices_of_a_volume_have_one_scale_and_one_bar() -> None:
    volume, values = waves(1, 5, 12, 16), waves(1, 5, 12, 16) - 0.4
    *panels, bar = show.overlay(volume, values, slices=[0, 3, -1], title="scan").axes
    assert [axes.get_title() for axes in panels] == ["slice 0", "slice 3", "slice 4"]
    for axes, index in zip(panels, (0, 3, 4), strict=True):
        photo, drawn = layers(axes)
        np.testing.assert_allclose(photo.get_array(), 0.4 + 0.6 * volume[0, index].double().numpy(), atol=1e-6)
        np.testing.assert_array_equal(drawn.get_array(), values[0, index].double().numpy())
        assert drawn.get_clim() == bar.get_ylim()


def test_nothing_is_drawn_flat_without_a_warning() -> None:
    figure = show.overlay(IMAGE, torch.zeros(1, 24, 32))
    drawn = layers(figure.axes[0])[1]
    assert drawn.get_clim() == (0.0, 1.0) and not drawn.get_array().any() and not np.any(drawn.get_alpha())
    assert figure.texts[0].get_text() == "Colour: all values are 0."
    figure.canvas.draw()


@pytest.mark.parametrize("size", [1e-300, 1e-7, 1e7, 1e300])
def test_numbers_of_any_size_are_drawn_alike(size: float) -> None:
    figure = show.overlay(IMAGE, SIGNED.double() * size)
    figure.canvas.draw()
    expected = layers(show.overlay(IMAGE, SIGNED.double()).axes[0])[1].get_alpha()
    np.testing.assert_allclose(layers(figure.axes[0])[1].get_alpha(), expected, rtol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(4, 400), (400, 4), (1, 1)])
def test_odd_shapes_have_room_for_bar_and_title(height: int, width: int) -> None:
    figure = show.overlay(waves(height, width), waves(height, width), title="a title of some length")
    figure.canvas.draw()
    title = figure.axes[0].title.get_window_extent()
    assert figure.bbox.x0 <= title.x0 and title.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map": torch.full((1, 24, 32), torch.nan)},
         r"^overlay\(map=\.\.\.\): expected finite numbers, got nan at \[0, 0, 0\]"),
        ({"map": torch.zeros(1, 1, 24, 32)}, r"^overlay\(map=\.\.\.\): expected one map"),
        ({"map": torch.zeros(1, 24, 24)}, r"^overlay\(map=\.\.\.\): .* not proportionate"),
        ({"image": IMAGE[None]}, r"^overlay\(image=\.\.\., channels='first'\): .* image\[0\]"),
        ({"image": IMAGE * 4}, r"^overlay\(image=\.\.\.\): expected floats in 0\.\.1"),
        ({"opacity": 1.5}, r"^overlay\(opacity=1\.5\): expected a share in 0\.\.1"),
        ({"quantile": 2.0}, r"^overlay\(quantile=2\.0\)"),
        ({"signed": False}, r"^overlay\(map=\.\.\., signed=False\)"),
        ({"slices": [0]}, r"^overlay\(map=\.\.\.\): expected a map of the image's size \[3, 24, 32\]"),
        ({"image": IMAGE[:1][None], "map": SIGNED[None], "slices": [1]}, r"^overlay\(slices=\[1\]\): .* in 0\.\.0"),
        ({"image": IMAGE[:1][None], "map": SIGNED[None], "slices": []},
         r"^overlay\(slices=\[\]\): expected one or more"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"image": IMAGE, "map": SIGNED} | change
    with pytest.raises(ValueError, match=message):
        show.overlay(**call)


@pytest.mark.parametrize(
    "change", [{"limits": 3}, {"limits": (1,)}, {"limits": "ab"}, {"slices": 2}, {"slices": [1.7]}, {"slices": ["1"]}]
)
def test_numbers_of_another_kind_are_named(change: dict[str, Any]) -> None:
    volume: dict[str, Any] = {"image": IMAGE, "map": SIGNED.expand(3, -1, -1)} if "slices" in change else {}
    call: dict[str, Any] = {"image": IMAGE, "map": SIGNED} | volume | change
    with pytest.raises(
        TypeError, match=r"^overlay\((limits=.*\): expected \(low, high\)|slices=.*\): expected a list of ints)"
    ):
        show.overlay(**call)
