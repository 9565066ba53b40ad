"""Transforms by Pillow: what torchvision documents, pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from funcattr.compat.iba import get_imagenet_folder, imagenet_transform, load_monkeys, tensor_to_np_img

Image = pytest.importorskip("PIL.Image")

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(width: int, height: int):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def normalised(image) -> np.ndarray:
    return ((np.asarray(image, dtype=float) / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (256, 256), (100, 130)])
def test_the_usual_transform(size: tuple[int, int]) -> None:
    image = picture(*size)
    scale = 256 / min(size)
    width, height = (256 if side == min(size) else int(256 * side / min(size)) for side in size)
    assert max(width, height) == pytest.approx(max(size) * scale, abs=1)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    expected = normalised(resized.crop((left, top, left + 224, top + 224)))
    found = imagenet_transform()(image)
    assert found.shape == (3, 224, 224)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert imagenet_transform(64, 32)(image).shape == (3, 32, 32)


def test_tensors_become_images_again() -> None:
    image = picture(224, 224)
    found = tensor_to_np_img(imagenet_transform(224, 224)(image))
    np.testing.assert_allclose(found, np.asarray(image) / 255, atol=1e-6)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for name, count in (("n02", 2), ("n01", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            picture(300, 280).save(tmp_path / name / f"{index}.png")
        (tmp_path / name / "notes.txt").write_text("no image")
    found = get_imagenet_folder(tmp_path)
    assert (found.classes, found.targets, len(found)) == (["n01", "n02"], [0, 1, 1], 3)
    image, label = found[2]
    left, top = 22, 12  # the middle 256 of 300 x 280
    expected = picture(300, 280).crop((left, top, left + 256, top + 256)).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(image.numpy(), normalised(expected), atol=1e-5)
    assert label == 1
    assert get_imagenet_folder(tmp_path, 64)[0][0].shape == (3, 64, 64)
    assert get_imagenet_folder(tmp_path, transform=None)[0][0].size == (300, 280)
    batch = next(iter(torch.utils.data.DataLoader(found, batch_size=3)))
    assert batch[0].shape == (3, 3, 224, 224)


def test_a_small_image_gets_a_black_border(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    Image.new("RGB", (101, 256), (255, 255, 255)).save(tmp_path / "class" / "white.png")
    image = get_imagenet_folder(tmp_path, 256)[0][0]
    columns = (image.numpy().transpose(1, 2, 0) * STD + MEAN).mean((0, 2))
    np.testing.assert_allclose(columns, [0] * 77 + [1] * 101 + [0] * 78, atol=1e-6)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="get_imagenet_folder"):
        get_imagenet_folder(tmp_path)


def test_the_photograph_is_scikit_images_and_says_so() -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image comes with the extra 'demo'")
    with pytest.warns(UserWarning, match="scikit-image's cat, class 285"):
        photo, target = load_monkeys(pil=True)
    assert target == 285
    np.testing.assert_array_equal(np.asarray(photo), data.chelsea())
    with pytest.warns(UserWarning, match="load_monkeys"):
        square, _ = load_monkeys()
    assert square.shape == (224, 224, 3)
    with pytest.warns(UserWarning, match="load_monkeys"):
        whole, _ = load_monkeys(center_crop=False, size=None)
    np.testing.assert_array_equal(whole, data.chelsea())
