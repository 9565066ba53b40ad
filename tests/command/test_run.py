"""`funcattr run`: a folder of images into files, which say what `funcattr explain` says of each image."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from funcattr import scale
from funcattr.__main__ import main

from ..scale.runs import content
from ..test_docs import ROOT, blocks
from .models import Result, explain, write_factories

pytest.importorskip("pyarrow", reason="runs write Parquet")


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> Result:
    """Run `funcattr run` with these arguments, without a progress bar."""
    status, _ = 0, capsys.readouterr()
    try:
        main(["run", *map(str, arguments), "--no-progress"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    printed = capsys.readouterr()
    return Result(status, printed.out, printed.err)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, one of them in a folder of its own, and one that is none."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "c.jpg", "more/d.png", "e.png")):
        noise = torch.randint(256, (40, 48, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(images / name)
    (images / "broken.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("not an image, and not named as one")
    write_factories(tmp_path)
    return images


def how(folder: Path) -> list[Any]:
    return ["--model", f"{folder.parent / 'nets.py'}:small", "--size", 32, "--mean", 0.5, "--std", 0.25]


def test_a_folder_gives_what_explain_gives_each_image(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "maps"
    result = run(capsys, folder, *how(folder), "--out", out, "--shard-size", 4, "--batch-size", 2)
    assert result.status == 0 and "5 of 6 images" in result.out
    assert "broken.png" in result.err and "cannot read" in result.err
    found = scale.open(out)
    assert found.ids == ["a.png", "b.png", "broken.png", "c.jpg", "e.png", "more/d.png"]
    explain(
        capsys, folder / "more/d.png", *how(folder), "--save", tmp_path / "one.safetensors", "--out", tmp_path / "p.png"
    )
    saved = load_file(tmp_path / "one.safetensors")
    torch.testing.assert_close(found["more/d.png"].attribution, saved["attributions.lrp"][0])
    assert found["more/d.png"].target == int(saved["target"])
    before = content(out)
    assert run(capsys, folder, *how(folder), "--out", out, "--shard-size", 4, "--batch-size", 2).status == 0
    assert content(out) == before
    assert "differs in" in run(capsys, folder, *how(folder), "--out", out, "--seed", 1).err


def test_options_targets_and_maps(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names").write_text("cat\ndog\nbird\n")
    more = [
        "--method",
        "noise_tunnel:gradient",
        "--samples",
        3,
        "--sigma",
        0.1,
        "--as-map",
        "max_abs",
        "--dtype",
        "float16",
    ]
    target = ["--target", "dog", "--labels", tmp_path / "names"]
    result = run(capsys, folder, *how(folder), *more, *target, "--out", tmp_path / "maps")
    assert result.status == 0 and "target:       1 dog" in result.out and "samples=3" in result.out
    row = scale.open(tmp_path / "maps")["b.png"]
    assert row.attribution.shape == (1, 32, 32) and row.attribution.dtype == torch.float16 and row.target == 1
    mask = ["--method", "feature_ablation", "--feature-mask", 16]
    assert run(capsys, folder, *how(folder), *mask, "--out", tmp_path / "squares").status == 0
    assert len(scale.open(tmp_path / "squares")["a.png"].attribution.unique()) <= 4


def test_ranks_take_their_shares(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [folder, *how(folder), "--shard-size", 2]
    run(capsys, *asked, "--out", tmp_path / "one")
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    for rank, printed in (("1", False), ("0", True)):
        monkeypatch.setitem(os.environ, "RANK", rank)
        assert ("model:" in run(capsys, *asked, "--out", tmp_path / "two").out) == printed
    assert content(tmp_path / "two") == content(tmp_path / "one")


PAGE = (ROOT / "docs" / "many_images.md").read_text()
COMMANDS = [line for _, body in blocks(PAGE, "sh") for line in body.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("command", COMMANDS, ids=["run", "torchrun"])
def test_the_commands_of_the_page_run(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "nets.py").rename("net.py")
    program, _, arguments = command.partition(" run ")
    assert program in ("funcattr", "torchrun --nproc-per-node 8 -m funcattr")
    on_cpu = arguments.replace("--device cuda", "--device cpu")
    assert run(capsys, *shlex.split(on_cpu)).status == 0
    assert len(scale.open("maps")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "lrp,gradient"], "expected one method"),
        (["--method", "grad_cam"], "expected a layer, --layer SITE"),
        (["--target", "0,1"], "expected one target"),
        (["--as-map", "total"], "expected one of 'max_abs', 'sum'"),
        (["--device", "nowhere"], "expected a device"),
        (["--max-errors", "0"], "1 examples have failed"),
        (["--workers", "2"], "expected engine='ray' with it"),
    ],
)
def test_refusals(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, folder, *how(folder), "--out", tmp_path / "maps", *arguments)
    assert result.status == 2 and message in result.err
    assert len(result.err.splitlines()) == 1 and result.err.startswith("funcattr run: ")
