"""Images in any of the usual ranges are the same shades; others are refused with the way out."""

from typing import Any

import numpy as np
import pytest
import torch

from funcattr.show.image_values import ImageOptions, shades

PLAIN = ImageOptions("first", None, None, None)
PHOTO = torch.arange(60).reshape(3, 4, 5) * 4  # 0..236


def of(image: Any, rank: int = 2, **options: Any) -> np.ndarray:
    return shades("f", "image", image, PLAIN._replace(**options), rank)


EXPECTED = PHOTO.permute(1, 2, 0).numpy() / 255
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (PHOTO.to(torch.uint8), {}),
        (PHOTO, {}),
        (PHOTO.permute(1, 2, 0).numpy().astype(np.uint8), {"channels": "last"}),
        (PHOTO / 255, {}),
        (PHOTO.double() / 255, {}),
        (PHOTO.float(), {"range": (0, 255)}),
        (PHOTO / 127.5 - 1, {"range": (-1, 1)}),
        (PHOTO.to(torch.uint8), {"range": (0.0, 255.0)}),
        ((PHOTO / 255 - MEAN[:, None, None]) / STD[:, None, None], {"mean": MEAN, "std": STD}),
        ((PHOTO / 255 - MEAN[:, None, None]) / STD[:, None, None], {"mean": MEAN.tolist(), "std": STD.numpy()}),
        (
            (PHOTO / 255 - MEAN[:, None, None]) / STD[:, None, None],
            {"mean": MEAN[:, None, None], "std": STD[:, None, None]},
        ),
        ((PHOTO / 255 - 0.5) / 0.5, {"mean": 0.5, "std": 0.5}),
        ((PHOTO / 255).permute(1, 2, 0), {"channels": "last"}),
        ((PHOTO.permute(1, 2, 0) / 255 - MEAN) / STD, {"channels": "last", "mean": MEAN, "std": STD}),
    ],
)  # fmt: skip
def test_one_photo_in_many_ranges(image: Any, options: dict[str, Any]) -> None:
    found = of(image, **options)
    assert found.shape == (4, 5, 3)
    np.testing.assert_allclose(found, EXPECTED, atol=1e-6)


def test_grey_images_have_one_channel_or_none() -> None:
    grey = PHOTO[0] / 255
    for found in (of(grey), of(grey[None]), of(grey[..., None], channels="last")):
        np.testing.assert_allclose(found, EXPECTED[..., 0])


def test_volumes_have_one_dimension_more() -> None:
    volume = torch.rand(3, 2, 4, 5)
    np.testing.assert_allclose(of(volume, rank=3), volume.permute(1, 2, 3, 0).numpy())
    np.testing.assert_allclose(of(volume[0], rank=3), volume[0].numpy())


def test_rounding_of_half_precision_is_no_error() -> None:
    found = of(torch.tensor([[1.004, -0.004]]))
    assert found.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("channels", ["first", "last"])
def test_the_order_of_channels_is_not_guessed(channels: str) -> None:
    both = torch.rand(3, 5, 3)
    expected = both.permute(1, 2, 0) if channels == "first" else both
    np.testing.assert_allclose(of(both, channels=channels), expected.numpy())


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (torch.zeros(4, 5, 3), {}, r"^f\(image=.*, channels='first'\): expected \[C, H, W\] with 1 or 3 channels, got "
         r"\[4, 5, 3\]\. Are its channels last\? Say channels='last'"),
        (torch.zeros(3, 4, 5), {"channels": "last"},
         r"expected \[H, W, C\] .* Are its channels first\? Say channels='first'"),
        (torch.zeros(2, 3, 4, 5), {}, r"got \[2, 3, 4, 5\]\. Give one image of the batch: image\[0\]"),
        (torch.zeros(4, 6, 6), {}, r"got \[4, 6, 6\]\. Pick or mix channels first; grey images may also be \[H, W\]"),
        (torch.zeros(3, 0, 5), {}, r"expected \[C, H, W\]"),
        (torch.zeros(5), {}, r"expected \[C, H, W\]"),
        (torch.zeros(3, 4, 5), {"channels": "RGB"}, r"^f\(channels='RGB'\): expected 'first', \[C, H, W\], or 'last'"),
        (torch.full((3, 4, 5), 2.0), {},
         r"^f\(image=\.\.\.\): expected floats in 0\.\.1, got 2\.\.2\. If it is normalised, say mean="),
        (torch.full((3, 4, 5), -0.5), {},
         r"expected floats in 0\.\.1, got -0\.5\.\.-0\.5\..*range=\(low, high\): \(0, 255\)"),
        (PHOTO + 100, {}, r"expected integers in 0\.\.255, got 100\.\.336"),
        (PHOTO / 1.0, {"range": (0, 200)}, r"expected 0\.\.200, got 0\.\.236\. Give the range that it is in"),
        (PHOTO / 1.0, {"range": (1, 1)}, r"^f\(range=\(1, 1\)\): expected \(low, high\) with low < high"),
        (PHOTO / 1.0, {"range": (0, float("inf"))}, r"with low < high"),
        (PHOTO / 25, {"mean": 0.5, "std": 0.5},
         r"expected 0\.\.1 after x \* std \+ mean, got 0\.5\.\.5\.22\. Are these the mean"),
        (PHOTO / 255, {"mean": 0.5}, r"^f\(mean=\.\.\., std=\.\.\.\): expected both, got one"),
        (PHOTO / 255, {"mean": 0.5, "std": 0.5, "range": (0, 1)}, r"expected a range or a normalisation, got both"),
        (PHOTO / 255, {"mean": [0.5, 0.5], "std": 1.0},
         r"^f\(mean=\.\.\.\): expected one number or one for each of the 3 channels"),
        (torch.tensor([[0.0, float("nan")]]), {}, r"^f\(image=\.\.\.\): expected finite numbers, got nan at \[0, 1"),
    ],
)  # fmt: skip
def test_other_images_are_refused(image: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(image, **options)


def test_booleans_are_no_shades() -> None:
    with pytest.raises(
        TypeError, match=r"^f\(image=\.\.\.\): expected integers or floats, got booleans.*image\.float\(\)"
    ):
        of(torch.zeros(4, 5, dtype=torch.bool))
