"""A grid has a row for each image and a column for each method, in blocks that are legible at 1600 pixels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from funcattr import show

from .examples import waves
from .test_every_picture import boxes

IMAGES = waves(2, 3, 16, 24)
MAPS = {"signed": waves(2, 1, 16, 24) - 0.5, "unsigned": waves(2, 1, 4, 6)}


def panels(figure: Any, label: str) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_label() == label]


def test_rows_are_images_and_columns_methods() -> None:
    figure = show.grid(IMAGES, MAPS, titles=["first", "second"], title="two methods")
    labels = [str(axes.get_label()) for axes in figure.axes]
    assert labels[:6] == ["image", "signed", "unsigned"] * 2
    for row in range(2):
        (photo,) = panels(figure, "image")[row].images
        np.testing.assert_allclose(photo.get_array(), IMAGES[row].permute(1, 2, 0).double().numpy())
        drawn = panels(figure, "signed")[row].images[1]
        np.testing.assert_array_equal(drawn.get_array(), MAPS["signed"][row, 0].double().numpy())
        assert drawn.get_cmap().name == "RdBu_r"
        assert panels(figure, "unsigned")[row].images[1].get_cmap().name == "inferno"
    written = [text.get_text() for text in figure.texts]
    for text in ("two methods", "image", "signed", "unsigned", "first", "second"):
        assert text in written
    assert written[-1] == "Each map has its own scale; full colour at the 0.99 quantile of |value|."
    tops = [axes.get_position().y0 for axes in panels(figure, "image")]
    assert tops[0] > tops[1]


def test_each_map_has_its_own_scale_by_default() -> None:
    maps = {"m": torch.stack([waves(1, 16, 24), 10 * waves(1, 16, 24)])}
    limits = [axes.images[1].get_clim()[1] for axes in panels(show.grid(IMAGES, maps), "m")]
    assert limits[1] == pytest.approx(10 * limits[0])


def test_a_method_has_one_kind_of_colours_whatever_it_says_of_an_image() -> None:
    maps = {"m": torch.stack([waves(1, 16, 24), waves(1, 16, 24) - 0.5])}
    assert [axes.images[1].get_cmap().name for axes in panels(show.grid(IMAGES, maps), "m")] == ["RdBu_r", "RdBu_r"]


def test_one_scale_for_a_row_on_request() -> None:
    figure = show.grid(IMAGES, MAPS | {"large": 10 * MAPS["unsigned"]}, same_scale=True)
    for row in range(2):
        values = np.concatenate([m[row].double().numpy().ravel() for m in (*MAPS.values(), 10 * MAPS["unsigned"])])
        limit = np.quantile(np.abs(values), 0.99)
        for name in ("signed", "unsigned", "large"):
            drawn = panels(figure, name)[row].images[1]
            assert drawn.get_clim() == pytest.approx((-limit, limit)) and drawn.get_cmap().name == "RdBu_r"
    assert len([axes for axes in figure.axes if axes.get_label() == "colour bar"]) == 2
    assert figure.texts[-1].get_text().startswith("One scale for each row")


@pytest.mark.parametrize("count", [1, 6, 11, 12, 20, 25])
def test_titles_are_legible_at_1600_pixels_for_any_number_of_methods(count: int) -> None:
    maps = {f"integrated_gradients {i}": MAPS["unsigned"] for i in range(count)}
    figure = show.grid(IMAGES, maps, titles=["Egyptian cat", "espresso, with a spoon"], same_scale=count == 11)
    width = figure.get_size_inches()[0] * figure.dpi
    assert width <= 1600.5
    in_a_row = max(sum(a.get_position().y0 == b.get_position().y0 for b in panels(figure, "image") + [
        x for name in maps for x in panels(figure, name)]) for a in panels(figure, "image"))  # fmt: skip
    assert in_a_row <= 12
    assert len(panels(figure, "image")) == 2 * -(-count // 11)
    found = boxes(figure)
    heads = [box for text, box in found if text.startswith("integrated")]
    assert len(heads) == count and min(box.height for box in heads) >= 9
    for n, (text, box) in enumerate(found):
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text
        assert not any(box.padded(-1).overlaps(other.padded(-1)) for _, other in found[n + 1 :]), text


def test_images_of_several_sizes_and_sixteen_rows() -> None:
    images: list[Tensor] = [waves(3, 8 + n, 16) for n in range(16)]
    figure = show.grid(images, {"m": [waves(1, 8 + n, 16) for n in range(16)]})
    heights = [axes.get_position().height for axes in panels(figure, "m")]
    assert len(heights) == 16 and heights == sorted(heights)


def test_all_zero_maps_are_flat() -> None:
    figure = show.grid(IMAGES, {"none": torch.zeros(2, 1, 16, 24)})
    assert all(not np.any(axes.images[1].get_alpha()) for axes in panels(figure, "none"))
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {}}, r"^grid\(maps=\{\}\): expected one method or more, as \{name: maps\}"),
        ({"maps": {"m": waves(3, 1, 16, 24)}},
         r"^grid\(maps\['m'\]=\.\.\.\): expected a map for each of 2 images, got 3"),
        ({"maps": {"m": waves(2, 3, 16, 24)}},
         r"^grid\(maps\['m'\]=\.\.\.\): expected one map, .* Reduce the channels"),
        ({"maps": {"m": waves(2, 1, 16, 16)}}, r"^grid\(maps\['m'\]=\.\.\.\): .* not proportionate"),
        ({"maps": {"m": torch.full((2, 1, 16, 24), torch.nan)}},
         r"^grid\(maps\['m'\]=\.\.\.\): expected finite numbers, got nan"),
        ({"images": IMAGES[0]}, r"^grid\(images=\.\.\., channels='first'\): expected \[C, H, W\]|maps\['signed'\]"),
        ({"images": []}, r"^grid\(images=\.\.\.\): expected a batch of one or more"),
        ({"titles": ["one"]}, r"^grid\(titles=\.\.\.\): expected 2 texts, one for each image, got 1"),
        ({"images": IMAGES - 2}, r"^grid\(images=\.\.\.\): expected floats in 0\.\.1"),
        ({"signed": False}, r"^grid\(maps\['signed'\]=\.\.\., signed=False\)"),
        ({"opacity": -1.0}, r"^grid\(opacity=-1\.0\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    call: dict[str, Any] = {"images": IMAGES, "maps": MAPS} | change
    with pytest.raises(ValueError, match=message):
        show.grid(**call)
