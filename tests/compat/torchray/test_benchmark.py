"""The pointing game on small data sets in the formats of PASCAL VOC and COCO, which the tests write."""

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image
from torch import Tensor, nn

import funcattr
from funcattr.compat.torchray import benchmark
from funcattr.compat.torchray.benchmark import (
    COCO_CLASSES,
    VOC_CLASSES,
    CocoDetection,
    PointingGame,
    PointingGameBenchmark,
    VOCDetection,
    coco_as_class_ids,
    coco_as_image_name,
    coco_as_image_size,
    coco_as_mask,
    get_dataset,
    voc_as_class_ids,
    voc_as_image_name,
    voc_as_image_size,
    voc_as_mask,
)
from funcattr.compat.torchray.benchmark.__main__ import METHODS, main
from funcattr.compat.torchray.benchmark.example import example_image

CAT, DOG = VOC_CLASSES.index("cat"), VOC_CLASSES.index("dog")
BOXES = {
    # (left, top, right, bottom) as VOC counts: from 1, ends inclusive.
    "000001": [("cat", (3, 5, 20, 24)), ("dog", (41, 31, 60, 44))],
    "000002": [("dog", (11, 11, 50, 40))],
    "000003": [("cat", (1, 1, 2, 2)), ("cat", (59, 43, 60, 44))],
}
WIDTH, HEIGHT = 60, 44


def colored(objects: Any) -> Image.Image:
    """Grey, cats red and dogs blue."""
    pixels = np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
    for name, (left, top, right, bottom) in objects:
        pixels[top - 1 : bottom, left - 1 : right] = (255, 0, 0) if name == "cat" else (0, 0, 255)
    return Image.fromarray(pixels)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(tmp_path: Path, marked: tuple[str, ...] = ()) -> Path:
    """A folder in the format of VOC, whose objects of some kinds are marked as difficult."""
    home = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (home / folder).mkdir(parents=True)
    (home / "ImageSets/Main/test.txt").write_text("".join(f"{name}\n" for name in BOXES))
    (home / "ImageSets/Main/val.txt").write_text("000002  1\n000003 -1\n")
    for name, objects in BOXES.items():
        colored(objects).save(home / "JPEGImages" / f"{name}.jpg", quality=100, subsampling=0)
        found = "".join(
            f"<object><name>{kind}</name><difficult>{int(kind in marked)}</difficult>"
            f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for kind, (left, top, right, bottom) in objects
        )
        (home / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size>{found}</annotation>"
        )
    return tmp_path


def expected_mask(name: str, kind: str) -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    for other, (left, top, right, bottom) in BOXES[name]:
        for row in range(HEIGHT):
            for column in range(WIDTH):
                mask[row, column] |= other == kind and left <= column + 1 <= right and top <= row + 1 <= bottom
    return mask


def test_voc_is_read(voc: Path) -> None:
    for root in (voc, voc / "VOCdevkit", voc / "VOCdevkit" / "VOC2007"):
        dataset = VOCDetection(root, "2007", "test")
        assert len(dataset) == 3 and dataset.images == list(BOXES) and dataset.classes == VOC_CLASSES
    image, label = dataset[0]
    assert image.size == (WIDTH, HEIGHT) and image.mode == "RGB"
    assert dataset.as_image_size(label) == voc_as_image_size(label) == (WIDTH, HEIGHT)
    assert dataset.as_image_name(label) == voc_as_image_name(label) == "000001"
    assert dataset.get_image_url(0).endswith("VOC2007/JPEGImages/000001.jpg")
    assert label["annotation"]["object"][1]["bndbox"] == {"xmin": "41", "ymin": "31", "xmax": "60", "ymax": "44"}
    assert voc_as_class_ids(label) == sorted([CAT, DOG]) and voc_as_class_ids(dataset[2][1]) == [CAT]
    for index, name in enumerate(BOXES):
        for kind in ("cat", "dog", "sofa"):
            mask = voc_as_mask(dataset[index][1], VOC_CLASSES.index(kind))
            assert torch.equal(mask, expected_mask(name, kind))
    assert VOCDetection(voc, "2007", "val", limiter=1).images == ["000002"]
    options: Any = {"transform": lambda image: image.size, "target_transform": voc_as_image_name}
    assert VOCDetection(voc, "2007", "test", limiter=slice(1, 3), **options)[0] == ((WIDTH, HEIGHT), "000002")
    batch, labels = dataset.collate([(torch.zeros(2), label), (torch.ones(2), None)])
    assert batch.tolist() == [[0.0, 0.0], [1.0, 1.0]] and labels == [label, None]
    assert [image.size for image, _ in dataset] == [(WIDTH, HEIGHT)] * 3
    with pytest.raises(funcattr.FuncattrError, match=r"^VOCDetection\(root=.*, image_set='train'\): expected"):
        VOCDetection(voc)
    with pytest.raises(funcattr.FuncattrError, match=r"^VOCDetection\(download=True\): nothing is downloaded"):
        VOCDetection(voc, "2007", "test", download=True)


# --- COCO ------------------------------------------------------------------------------------------------------------


def packed(counts: list[int]) -> str:
    """COCO's packing of runs as text, written from its description: five bits a character, differences."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            done = value == (-1 if bits & 0x10 else 0)
            text += chr((bits if done else bits | 0x20) + 48)
            if done:
                break
    return text


def runs(mask: np.ndarray) -> list[int]:
    """Zeros and ones in turn, column by column."""
    counts, value = [0], False
    for pixel in mask.T.flatten():
        if bool(pixel) != value:
            counts, value = [*counts, 0], bool(pixel)
        counts[-1] += 1
    return counts


BLOBS = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    (tmp_path / "val2014").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in ("one.jpg", "two.jpg"):
        colored([]).save(tmp_path / "val2014" / name)
    size = {"width": WIDTH, "height": HEIGHT}
    long = np.zeros((HEIGHT, WIDTH), dtype=bool)
    long[:, 20:] = True
    table = {
        "images": [{"id": 7, "file_name": "two.jpg", **size}, {"id": 3, "file_name": "one.jpg", **size}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}],
        "annotations": [
            {"image_id": 3, "category_id": 17, "iscrowd": 0, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]},
            {"image_id": 3, "category_id": 90, "iscrowd": 1, "segmentation": {"counts": runs(BLOBS)}},
            {"image_id": 7, "category_id": 90, "iscrowd": 1, "segmentation": {"counts": packed(runs(BLOBS))}},
            {"image_id": 7, "category_id": 1, "iscrowd": 1, "segmentation": {"counts": packed(runs(long))}},
        ],
    }
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(table))
    return tmp_path


def test_coco_is_read(coco: Path) -> None:
    dataset = get_dataset("coco", "val2014", coco)
    assert isinstance(dataset, CocoDetection)
    assert dataset.images == ["one.jpg", "two.jpg"] and dataset.classes is COCO_CLASSES
    image, label = dataset[0]
    assert image.size == (WIDTH, HEIGHT) == dataset.as_image_size(label) == coco_as_image_size(dataset, label)
    assert dataset.as_image_name(label) == coco_as_image_name(dataset, label) == "one"
    person, cat, toothbrush = (COCO_CLASSES.index(name) for name in ("person", "cat", "toothbrush"))
    assert coco_as_class_ids(label) == dataset.as_class_ids(label) == [cat, toothbrush]
    assert coco_as_class_ids(dataset[1][1]) == [person, toothbrush]
    square = coco_as_mask(dataset, label, cat)
    assert square.nonzero().amin(0).tolist() == [5, 10] and square.nonzero().amax(0).tolist() == [15, 20]
    assert square.sum() == 11 * 11
    for index in (0, 1):
        assert torch.equal(coco_as_mask(dataset, dataset[index][1], toothbrush), torch.from_numpy(BLOBS))
    of_person = dataset.as_mask(dataset[1][1], person)
    assert of_person[:, 20:].all() and of_person.sum() == 40 * HEIGHT
    assert coco_as_mask(dataset, label, person).sum() == 0
    limited = CocoDetection(coco / "val2014", coco / "annotations" / "instances_val2014.json", limiter=1)
    assert len(limited) == 1
    with pytest.raises(funcattr.FuncattrError, match=r"^CocoDetection\(annFile=.*\): no such file. Nothing is"):
        get_dataset("coco", "val2017", coco)


def test_categories_that_are_not_cocos_are_refused(coco: Path) -> None:
    listed = coco / "annotations" / "instances_val2014.json"
    table = json.loads(listed.read_text())
    table["annotations"][0]["category_id"] = 12
    listed.write_text(json.dumps(table))
    with pytest.raises(funcattr.FuncattrError, match=r"^CocoDetection\(.*\): expected COCO's 80 categories, .* got 12"):
        get_dataset("coco", "val2014", coco)


def test_names_of_data_sets_and_classes(voc: Path) -> None:
    assert (len(VOC_CLASSES), len(COCO_CLASSES), len(set(COCO_CLASSES))) == (20, 80, 80)
    assert isinstance(get_dataset("voc_2007", "val", voc, limiter=1), VOCDetection)
    with pytest.raises(funcattr.FuncattrError, match=r"^get_dataset\('imagenet'\): expected 'voc_2007'"):
        get_dataset("imagenet", "val", voc)
    with pytest.raises(funcattr.FuncattrError, match=r"dataset_dir=None\): expected a folder"):
        get_dataset("voc_2007", "val")


# --- the game --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 15])
def test_a_hit_is_a_pixel_nearer_than_the_tolerance(tolerance: float) -> None:
    mask = torch.rand(12, 9, generator=torch.Generator().manual_seed(0)) < 0.04
    assert 0 < mask.sum() < 10
    game = PointingGame(3, tolerance)
    for row in range(12):
        for column in range(9):
            nearest = min(math.dist((row, column), place) for place in mask.nonzero().tolist())
            assert game.evaluate(mask, (column, row)) == (1 if nearest < tolerance else -1)


def test_accuracies_are_by_class_and_their_mean() -> None:
    game = PointingGame(4)
    for class_id, hits in ((0, [1, 1, -1, 1]), (2, [-1, 1, 0]), (3, [0])):
        for hit in hits:
            game.aggregate(hit, class_id)
    assert game.class_accuracies.tolist() == [0.75, 0.0, 0.5, 0.0]
    assert float(game.accuracy) == pytest.approx(0.3125)
    assert str(game) == "31.2% [0:75.0% 1: 0.0% 2:50.0% 3: 0.0%]"
    game.reset()
    assert game.hits.sum() == game.misses.sum() == 0
    with pytest.raises(funcattr.FuncattrError, match=r"^PointingGame\.aggregate\(hit=2\): expected 1, 0 or -1"):
        game.aggregate(2, 0)


def test_difficult_images_are_small_objects_beside_others(voc: Path) -> None:
    dataset = VOCDetection(voc, "2007", "test")
    labels = [dataset[i][1] for i in range(3)]
    every, hard = (PointingGameBenchmark(dataset, 3, difficult=difficult) for difficult in (False, True))
    assert every.num_classes == 20
    # (column, row): in the cat's box, and outside of it, where (row, column) would be inside.
    assert every.evaluate(labels[0], CAT, (10, 23)) == hard.evaluate(labels[0], CAT, torch.tensor([10, 23])) == 1
    assert every.evaluate(labels[0], CAT, (23, 10)) == hard.evaluate(labels[0], CAT, (23, 10)) == -1
    # A dog alone; cats alone.
    assert (every.evaluate(labels[1], DOG, (20, 20)), hard.evaluate(labels[1], DOG, (20, 20))) == (1, 0)
    assert (every.evaluate(labels[2], CAT, (57, 42)), hard.evaluate(labels[2], CAT, (57, 42))) == (1, 0)
    large = labels[0] | {"annotation": labels[0]["annotation"] | {"object": [
        {"name": "cat", "bndbox": {"xmin": "1", "ymin": "1", "xmax": "60", "ymax": "11"}},
        labels[0]["annotation"]["object"][1],
    ]}}  # fmt: skip
    assert (every.evaluate(large, CAT, (5, 5)), hard.evaluate(large, CAT, (5, 5))) == (1, 0)  # a quarter exactly
    # A list of what counts, in place of the definition; images that it has not count.
    hard.difficult_flags = {"000001": [c == DOG for c in range(20)], "000002": [True] * 20}
    assert [hard.evaluate(labels[0], c, (10, 23)) for c in (CAT, DOG)] == [0, -1]
    assert hard.evaluate(labels[1], DOG, (20, 20)) == hard.evaluate(labels[2], CAT, (57, 42)) == 1


def test_objects_that_voc_marks_as_difficult_do_not_count_alone(tmp_path: Path) -> None:
    dataset = VOCDetection(written(tmp_path, marked=("cat",)), "2007", "test")
    game, label = PointingGameBenchmark(dataset, 3), dataset[0][1]
    assert (game.evaluate(label, CAT, (10, 10)), game.evaluate(label, DOG, (50, 40))) == (0, 1)
    label["annotation"]["object"].append({"name": "cat", "difficult": "0", "bndbox": dict.fromkeys(
        ("xmin", "ymin", "xmax", "ymax"), "1"
    )})  # fmt: skip
    assert game.evaluate(label, CAT, (10, 10)) == 1  # on the one that is marked: beside another it counts


# --- the command -----------------------------------------------------------------------------------------------------


def color_detector() -> nn.Module:
    """Knows cats by red and dogs by blue. [N, 3, H, W] -> [N, 20]"""
    first, last = nn.Conv2d(3, 2, 1), nn.Linear(2, 20)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])[:, :, None, None])
        first.bias.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        last.weight.zero_()
        last.bias.zero_()
        last.weight[CAT, 0] = last.weight[DOG, 1] = 10.0
    return nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def no_module() -> int:
    return 3


MODEL = f"{__name__}:color_detector"


@pytest.mark.parametrize("method", METHODS)
def test_the_command_plays_every_method(method: str, voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--layer", "1"] if method in ("grad_cam", "linear_approx", "excitation_backprop") else []
    if method == "contrastive_excitation_backprop":
        options = ["--layer", "1", "--contrast-layer", "3"]
    few = ["--samples", "60", "--steps", "2", "--size", "44", "--tolerance", "3", "--limit", "2"]
    assert main([str(voc), "--model", MODEL, "--method", method, *options, *few]) == 0
    printed = capsys.readouterr().out
    assert f"{method} on voc_2007 test, all: " in printed and f"{method} on voc_2007 test, difficult: " in printed
    if method in ("grad_cam", "linear_approx", "excitation_backprop"):
        assert f"{method} on voc_2007 test, all: 100.0%" in printed and "  dog: 100.0% of 2" in printed
    if method == "center":
        assert "all: 25.0%" in printed and "  dog: 50.0% of 2" in printed and "  cat: 0.0% of 1" in printed


def test_the_command_plays_on_coco(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", MODEL, "--method", "center", "--dataset", "coco", "--subset", "val2014"]
    assert main([str(coco), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "  person: 100.0% of 1" in printed and "  toothbrush: 100.0% of 2" in printed


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (["--method", "grad_cam"], "--method grad_cam: it needs --layer"),
        (["--method", "contrastive_excitation_backprop", "--layer", "1"], "it needs --contrast-layer"),
        (["--model", "nowhere:f"], "--model nowhere:f: expected package.module:function"),
        (["--model", "math:tau2"], "--model math:tau2: expected package.module:function"),
        (["--model", f"{__name__}:no_module"], "expected that it returns a module, got int"),
        (["--subset", "train"], "VOCDetection("),
    ],
)
def test_a_mistake_in_the_command_is_one_line(
    changed: list[str], match: str, voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(voc), "--model", MODEL, "--method", "gradient", *changed]) == 2
    printed = capsys.readouterr()
    assert match in printed.err and printed.err.count("\n") == 1 and printed.out == ""


# --- the example -----------------------------------------------------------------------------------------------------


def test_the_example_image_has_two_things_and_a_plot() -> None:
    pytest.importorskip("skimage")
    x = example_image((48, 64))
    assert x.shape == (1, 3, 48, 64) and example_image(32).shape == (1, 3, 32, 32)
    assert -2.2 < x.min() < x.max() < 2.7
    matplotlib.use("agg")
    benchmark.plot_example(torch.cat([x, x]), torch.rand(2, 1, 6, 8), "grad-cam", [285, 967])
    titles = [axis.get_title() for axis in pyplot.gcf().axes]
    assert titles == ["input image", "grad-cam, category 285", "input image", "grad-cam, category 967"]
    pyplot.close("all")
    with pytest.raises(funcattr.FuncattrError, match=r"^plot_example: expected a map for each of 2 images, got 1"):
        benchmark.plot_example(torch.cat([x, x]), x[:, :1], "grad-cam", 285)


def test_a_plot_is_saved(tmp_path: Path) -> None:
    matplotlib.use("agg")
    benchmark.plot_example(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 2, 2), "rise", 5, save_path=str(tmp_path / "a.png"))
    pyplot.close("all")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.size[0] > 100


def test_transforms_resize_the_smaller_side_and_normalise() -> None:
    image = Image.fromarray(np.full((10, 20, 3), (255, 0, 51), dtype=np.uint8))
    x = benchmark.get_transform(size=5)(image)
    assert x.shape == (3, 5, 10) and benchmark.get_transform()(image).shape == (3, 224, 448)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    torch.testing.assert_close(x.mean((1, 2)), torch.tensor(expected), rtol=1e-5, atol=1e-5)
    assert benchmark.get_transform(size=(4, 9))(image).shape == (3, 4, 9)
    for name in ("voc_2007", "coco"):  # networks of Caffe
        x = benchmark.get_transform(name, 7)(image)
        assert x.shape == (3, 7, 14)
        expected = [255 - 123.68, 0 - 116.779, 51 - 103.939]
        torch.testing.assert_close(x.mean((1, 2)), torch.tensor(expected), rtol=1e-5, atol=1e-3)
    with pytest.raises(funcattr.FuncattrError, match=r"^get_transform\(dataset='mnist'\)"):
        benchmark.get_transform("mnist")


def test_weights_that_are_not_free_are_refused() -> None:
    with pytest.raises(funcattr.FuncattrError, match=r"^get_model\(arch='vgg16', dataset='voc'\): TorchRay's weights"):
        benchmark.get_model()
    with pytest.raises(funcattr.FuncattrError, match="convert_to_fully_convolutional=True is refused"):
        benchmark.get_model(dataset="imagenet", convert_to_fully_convolutional=True)
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(funcattr.FuncattrError, match="it needs torchvision: pip install torchvision"):
            benchmark.get_example_data()
