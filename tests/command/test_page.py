"""Every command of docs/command_line.md runs, in a folder with the files that the page speaks of."""

import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from funcattr.__main__ import main

from ..test_docs import ROOT, blocks
from .models import StandIn, save_text_model, small, write_factories, write_table
from .test_images import needs_demo

PAGE = (ROOT / "docs" / "command_line.md").read_text()
COMMANDS = [
    command
    for _, body in blocks(PAGE, "sh")
    for command in body.replace("\\\n", " ").splitlines()
]  # fmt: skip


def of_the_demo(command: str) -> bool:
    return "--model" not in command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    net = write_factories(tmp_path).rename("net.py")
    write_table(tmp_path / "patients.csv")
    (tmp_path / "classes.txt").write_text("cat\ndog\nbird\n")
    save_text_model(tmp_path / "reviews", {0: "bad", 1: "good"})
    torch.save(small(f"{net}:small").state_dict(), "resnet50.pth")
    Image.linear_gradient("L").convert("RGB").save("photo.jpg")
    StandIn(f"{net}:small", names=["small18", "resnet50"]).install(monkeypatch)
    return tmp_path


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "funcattr"
    main([*arguments, "--no-progress"])


def test_the_page_has_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 7
    assert sum(map(of_the_demo, COMMANDS)) == 2
    for word in ("--text", ".csv", "torchvision:", "transformers:", "net.py:", "--save", "--verify"):
        assert any(word in command for command in COMMANDS), word


@pytest.mark.parametrize("command", [c for c in COMMANDS if not of_the_demo(c)])
def test_commands_run(command: str, folder: Path) -> None:
    before = set(folder.iterdir())
    run(command)
    made = {file.suffix for file in set(folder.iterdir()) - before}
    assert made & {".png", ".html"} or "--text" in command


@needs_demo
@pytest.mark.parametrize("command", [c for c in COMMANDS if of_the_demo(c)])
def test_commands_of_the_demos_network_run(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from skimage.data import chelsea

    Image.fromarray(chelsea()).save(folder / "photo.jpg", quality=95)
    run(command)
    assert "285 Egyptian cat (output 9" in capsys.readouterr().out
