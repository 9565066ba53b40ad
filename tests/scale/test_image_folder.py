"""A folder of images as a data set: what Pillow would cut off when it converts it is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from funcattr import scale

pytest.importorskip("PIL")
from PIL import Image


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).movedim(2, 0) / 255


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, color in (("b/2.png", "blue"), ("1.PNG", "red"), ("notes.txt", None)):
        if color is None:
            (tmp_path / name).write_text("no image")
        else:
            Image.new("RGB", (3, 2), color).save(tmp_path / name)
    data = scale.ImageFolder(tmp_path, pixels)
    assert data.ids == ["1.PNG", "b/2.png"] and len(data) == 2
    assert data[0].shape == (3, 2, 3) and data[0][:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_eight_bits_are_taken(mode: str, tmp_path: Path) -> None:
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new("RGB", (2, 2), "white").convert(mode).save(tmp_path / name)
    assert scale.ImageFolder(tmp_path, pixels)[0].min() == 1


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_more_bits_are_an_error_of_the_image(dtype: type, mode: str, tmp_path: Path) -> None:
    """Pillow makes white of all beyond 255, a 256th of what 16 bits hold."""
    Image.fromarray(np.full((2, 2), 1000, dtype)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=rf"^ImageFolder: expected 8 bits for each value in deep\.tif, got .*'{mode}'"):
        scale.ImageFolder(tmp_path, pixels)[0]
