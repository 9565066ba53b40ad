"""The examples of TorchRay's documentation, with another import line and nothing else, on a narrow VGG16.

The documentation is one of the project's seeds, which lie beside the repository and are no part of it. What the
examples compute is compared with the package's own methods.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import funcattr
from funcattr.compat.torchray import benchmark
from funcattr.compat.torchray.benchmark.example import example_image
from funcattr.testing.seeding import settle

from ...sweeps import long

ROOT = Path(__file__).resolve().parents[3]
PLACES = [parent / "shared" / "seeds" / "torchray_attribution_docs.txt" for parent in (ROOT, ROOT.parent)]
SEED = next((place for place in PLACES if place.is_file()), None)
HERE = "funcattr.compat.torchray"


def listings(text: str) -> list[str]:
    """The numbered listings of a page: as many lines of code as there are numbers before them."""
    lines, found, at = text.split("\n"), [], 0
    while at < len(lines):
        count = 0
        while at + count < len(lines) and lines[at + count].strip() == str(count + 1):
            count += 1
        if count:
            found.append("\n".join(lines[at + count : at + 2 * count]))
        at += max(2 * count, 1)
    return found


def test_listings_are_read_by_their_numbers() -> None:
    assert listings("text\n 1\n 2\n 3\na\n\nb\nmore\n1\nc") == ["a\n\nb", "c"]


EXAMPLES = [] if SEED is None else listings(SEED.read_text())


def title(source: str) -> str:
    (found,) = re.findall(r"^plot_example\(x, saliency, '(.*)'", source, re.MULTILINE) or ["extremal perturbation"]
    return f"{found} by hand" if "z.backward()" in source else found


def narrow_vgg() -> nn.Module:
    """VGG16 as torchvision builds it, relus in place, with few channels."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (4, 4, 0, 6, 6, 0, 8, 8, 8, 0, 8, 8, 8, 0, 8, 8, 8, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    head = [nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Dropout()]
    parts = {"features": nn.Sequential(*layers), "avgpool": nn.AdaptiveAvgPool2d(2)}
    parts |= {"flat": nn.Flatten(), "classifier": nn.Sequential(*head, nn.Linear(16, 1000))}
    return _Named(parts)


class _Named(nn.Module):
    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


MODEL, X, CLASS = settle(narrow_vgg), example_image(64).double(), 285
gradient_maps: Callable[[Tensor], Tensor] = funcattr.maps.max_abs
EXPECTED: dict[str, Callable[[], Tensor]] = {
    "gradient": lambda: gradient_maps(funcattr.gradient(MODEL, X, CLASS)),
    "guided backprop": lambda: gradient_maps(funcattr.guided_backprop(MODEL, X, CLASS)),
    "deconvnet": lambda: gradient_maps(funcattr.deconvnet(MODEL, X, CLASS)),
    "grad-cam backprop": lambda: funcattr.grad_cam(MODEL, X, CLASS, layer="features.29"),
    "linear approx": lambda: funcattr.linear_approx(MODEL, X, CLASS, layer="features.29"),
    "excitation backprop": lambda: funcattr.maps.sum(funcattr.excitation_backprop(MODEL, X, CLASS, layer="features.9")),
    "contrastive excitation backprop": lambda: funcattr.contrastive_excitation_backprop(
        MODEL, X, CLASS, layer="features.9", contrast_layer="features.30"
    ),
}


def run(source: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that an example leaves behind, once its import lines name this package."""
    matplotlib.use("agg")
    # Weights of VGG16 are half a gigabyte, and are downloaded.
    monkeypatch.setattr(benchmark, "get_example_data", lambda: (MODEL, X.clone(), CLASS, 967))
    changed = re.sub(r"^from torchray", f"from {HERE}", source, flags=re.MULTILINE)
    assert [
        a for a, b in zip(source.split("\n"), changed.split("\n"), strict=True) if a != b and "import" not in a
    ] == []
    names: dict[str, Any] = {}
    exec(compile(changed, "example", "exec"), names)
    MODEL.zero_grad(set_to_none=True)
    pyplot.close("all")
    return names


@pytest.mark.skipif(SEED is None, reason="the documentation is no part of the repository")
def test_all_examples_are_here() -> None:
    titles = [title(source) for source in EXAMPLES]
    by_hand = [f"{name} by hand" for name in EXPECTED]
    assert sorted(titles) == sorted([*EXPECTED, *by_hand, "RISE", "extremal perturbation"])


@pytest.mark.parametrize("source", [s for s in EXAMPLES if title(s).removesuffix(" by hand") in EXPECTED], ids=title)
def test_an_example_runs_and_gives_what_the_package_gives(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = EXPECTED[title(source).removesuffix(" by hand")]()
    before = {name: value.clone() for name, value in MODEL.state_dict().items()}
    found = run(source, monkeypatch)["saliency"]
    assert expected.abs().max() > 0
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.detach() / scale, expected / scale, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in MODEL.state_dict().items())


@long
@pytest.mark.parametrize("source", [s for s in EXAMPLES if title(s) in ("RISE", "extremal perturbation")], ids=title)
def test_a_long_example_runs(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run(source, monkeypatch)
    if title(source) == "RISE":
        torch.testing.assert_close(names["saliency"], funcattr.rise(MODEL, X, CLASS), rtol=1e-6, atol=1e-9)
        return
    for masks, area in ((names["masks_1"], 0.12), (names["masks_2"], 0.05)):
        assert masks.shape == (1, 1, 64, 64) and masks.min() >= 0 and masks.max() <= 1 and area < masks.mean() < 1
