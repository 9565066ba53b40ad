"""Every mistake at the command line is one line, with the exit status 2."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from funcattr.command import pictures

from .models import explain, refused, write_factories, write_photo, write_table

HOW = ("--size", "32", "--mean", "0", "--std", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a photo, a table and models, where the command runs."""
    monkeypatch.chdir(tmp_path)
    write_photo(tmp_path / "photo.png")
    write_table(tmp_path / "table.csv")
    write_factories(tmp_path)
    (tmp_path / "words.txt").write_text("not bad\n")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    (tmp_path / "twins.txt").write_text("cat\ncat\n1\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "photo.pth").write_bytes(b"no tensors")
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "nested.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    return tmp_path


NET = ("--model", "nets.py:small", *HOW)
TABLE = ("table.csv", "--model", "nets.py:table")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected a file or --text, got neither"),
        (("photo.png", "--text", "a"), "expected a file or --text, got both"),
        (("none.png", *NET), "none.png: no such file."),
        (("text.jpg", *NET), "expected an image, got a file that Pillow cannot read"),
        (("deep.png", *NET), "expected 8 bits for each value, got Pillow's mode"),
        (("nets.py", *NET[:2]), "expected .png, .jpg, .jpeg, .bmp, .webp, .tif, .tiff, .txt or .csv, got .py."),
        (("words.txt", *NET[:2]), "expected a model with a tokenizer of its own"),
        (("photo.png", "--model", "nets.py:small"), "takes images, --size, --mean and --std, got nothing"),
        (("photo.png", "--model", "nets.py:small", "--size", "8"), "--mean and --std, got --size"),
        (("photo.png", *NET, "--std", "0"), "--std: expected one number or 3 above 0, got [0.0]."),
        (("photo.png", *NET, "--row", "0"), "--row: it has no meaning for .png."),
        (("photo.png", *NET, "--size", "4"), "the model did not take the input [1, 3, 4, 4]: "),
        (("photo.png", *NET[2:], "--model", "resnet50"), "expected demo, torchvision:NAME, timm:NAME"),
        (("photo.png", *NET[2:], "--model", "none.py:small"), "no such file."),
        (("photo.png", *NET[2:], "--model", "nets.py:smal"), "expected a callable in nets.py; it has 'small'"),
        (("photo.png", *NET[2:], "--model", "nets.py:ready"), "expected a callable that returns the module"),
        (
            ("photo.png", *NET[2:], "--model", "nets.py:number"),
            "expected number() to return a torch.nn.Module, got int",
        ),
        (("photo.png", *NET[2:], "--model", "nets.py:broken"), "broken() raised KeyError: 'no such layer'"),
        (("photo.png", *NET[2:], "--model", "wrong.py:f"), "importing wrong.py raised ZeroDivisionError"),
        (("photo.png", *NET[2:], "--model", "nets.py:dense"), "expected outputs [1, classes], got [1, 2, 30, 30]"),
        (
            ("photo.png", *NET[2:], "--model", "transformers:no/such/name/here"),
            "no such folder here, and without network",
        ),
        (("photo.png", "--weights", "other.pth"), "the demo's network has its own weights"),
        (("photo.png", *NET, "--weights", "none.pth"), "--weights none.pth: no such file."),
        (("photo.png", *NET, "--weights", "photo.png"), "expected a file that ends in .safetensors, .pth"),
        (("photo.png", *NET, "--weights", "photo.pth"), "expected tensors only, in .pth"),
        (
            ("photo.png", *NET, "--weights", "nested.pth"),
            "expected a state_dict, names with tensors, got the keys 'model'",
        ),
        (
            ("photo.png", *NET, "--weights", "other.pth"),
            "the file lacks 'body.0.weight', 'body.0.bias', 'body.2.weight' and 3 more",
        ),
        (("photo.png", *NET, "--target", "7"), "--target 7: expected an index in 0..2"),
        (("photo.png", *NET, "--target", "cat"), "the model's classes have no names here"),
        (("photo.png", *NET, "--target", "\u00b2"), "the model's classes have no names here"),  # a digit, and no int
        (("photo.png", *NET, "--target=--1"), "the model's classes have no names here"),
        (("photo.png", *NET, "--labels", "none.txt"), "expected a text file with one name a line"),
        (("photo.png", *NET, "--labels", "two.txt"), "expected a name for each of the model's 3 outputs, got 2"),
        (
            ("photo.png", *NET, "--labels", "twins.txt", "--target", "cat"),
            "2 classes have this name. Give an index: [0, 1]",
        ),
        (("photo.png", *NET, "--labels", "twins.txt", "--target", "1"), "the index 1 and the name of [2]"),
        (("photo.png", *NET, "--method", "lrpp"), "no such method on the command line. Closest: lrp, cp_lrp."),
        (("photo.png", *NET, "--method", "noise_tunnel"), "expected the method whose maps are averaged"),
        (("photo.png", *NET, "--steps", "5"), "lrp has no such option. These do: integrated_gradients"),
        (("photo.png", *NET, "--kind", "vargrad"), "lrp has no such option. These do: noise_tunnel:METHOD."),
        (
            ("photo.png", *NET, "--method", "lrp,integrated_gradients", "--steps", "5"),
            "lrp has no such option. Say whose it is: --steps integrated_gradients=5.",
        ),
        (("photo.png", *NET, "--method", "integrated_gradients", "--steps", "x"), "expected a whole number, got 'x'"),
        (("photo.png", *NET, "--rules", "epsilom"), "lrp(rules='epsilom'): no such rulebook. Closest: 'epsilon'"),
        (
            ("photo.png", *NET, "--method", "grad_cam"),
            "expected a layer, --layer SITE. The last sites with a value for each",
        ),
        (("photo.png", *NET, "--method", "grad_cam"), "body.2 [1, 6, 13, 13]"),
        (("photo.png", *NET, "--method", "grad_cam", "--layer", "9"), "grad_cam(layer='9'): no such site '9'."),
        (
            ("photo.png", *NET, "--method", "lrp,grad_cam", "--layer", "body.2"),
            "lrp would be of the layer too, not of the input. Say whose it is: --layer grad_cam=body.2.",
        ),
        (
            ("photo.png", *NET, "--layer", "head"),
            "lrp: expected a value for each place, got [1, 3]. Layers with places: body.0",
        ),
        (("photo.png", *NET, "--method", "occlusion"), "expected the size of what is covered in pixels, --window"),
        (("photo.png", *NET, "--method", "lime"), "expected the features of an image, --feature-mask 32"),
        (("photo.png", *NET, "--method", "lime", "--feature-mask", "0"), "--feature-mask 0: expected 1 pixel or more."),
        (
            ("photo.png", *NET, "--out", "map.gif"),
            "--out map.gif: expected a file that ends in .png, .pdf, .html, got .gif.",
        ),
        (("photo.png", *NET, "--out", "no/map.png"), "expected a folder that is there, got no."),
        (("photo.png", *NET, "--save", "a.pt"), "--save a.pt: expected a file that ends in .safetensors"),
        (("photo.png", *NET, "--device", "nowhere"), "--device nowhere: expected a device that torch has here"),
        (("none.csv", *TABLE[1:], "--row", "0"), "none.csv: no such file."),
        (TABLE, "expected the number of a row, --row 0 to --row 2, got none."),
        ((*TABLE, "--row", "3"), "expected the number of a row, --row 0 to --row 2, got 3."),
        ((*TABLE, "--row", "0"), "expected a finite number in row 0, column 'label', got 'ill'."),
        ((*TABLE, "--row", "2", "--columns", "age,mass"), "expected a finite number in row 2, column 'mass', got '?'."),
        ((*TABLE, "--row", "0", "--columns", "Age"), "expected one column for each name, got 0 with 'Age'."),
        ((*TABLE, "--row", "0", "--columns", "age,mass"), "the model did not take the input [1, 2]: "),
        ((*TABLE, "--row", "0", "--grey"), "--grey: it has no meaning for .csv."),
        ((*TABLE, "--row", "0", "--columns", "age,mass,height", "--method", "rise"), "expected an image"),
        ((*TABLE, "--row", "0", "--columns", "age,mass,height", "--layer", "0"), "expected no layer"),
        (
            (*TABLE, "--row", "0", "--columns", "age,mass,height", "--method", "lime", "--feature-mask", "2"),
            "it is of images",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(arguments: tuple[Any, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        (
            "efficientnet_lite_pytorch",
            ("photo.png",),
            "needs efficientnet_lite_pytorch: pip install '.[demo]' in a clone",
        ),
        ("transformers", ("photo.png", "--model", "transformers:a"), "needs transformers: pip install 'transformers'."),
        ("PIL", ("photo.png", *NET), "it needs Pillow: pip install '.[plot]' in a clone"),
        (
            "matplotlib.figure",
            ("photo.png", *NET),
            "needs matplotlib: pip install '.[plot]' in a clone",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_missing_package_is_named(
    missing: str, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, missing, None)
    assert message in refused(capsys, *arguments)


def test_nothing_is_written_when_it_cannot_be_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(folder.iterdir())
    refused(capsys, "photo.png", *NET, "--method", "lrp,grad_cam", "--layer", "grad_cam=9", "--save", "a.safetensors")
    assert {file for file in folder.iterdir() if file.name != "__pycache__"} <= before


@pytest.mark.usefixtures("folder")
def test_warnings_of_a_method_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("warns.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n        import warnings\n"
        "        warnings.warn('careful\\nlong')\n        return super().forward(x)\ndef net():\n    return Net(3, 2)\n"
    )
    result = explain(capsys, "table.csv", "--row", 0, "--columns", "age,mass,height", "--model", "warns.py:net")
    assert result.status == 0
    assert result.err.splitlines()[0] == "warning: careful ..."


def test_the_kinds_of_pictures_all_have_a_writer(tmp_path: Path) -> None:
    for suffix in pictures.SUFFIXES:
        pictures.check_file("--out", tmp_path / f"a{suffix.upper()}", pictures.SUFFIXES)
