"""The table of an accelerator, rehearsed on the CPU: what it measures, prints and saves, and what it leaves out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .benchmarks import device
from .benchmarks.table import Row

SMALL = "--rehearse --models vgg16 --dtypes float32 --ways eager --rounds 1 --device cpu".split()


def _run(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code = device.main([*SMALL, *words, "--json", str(tmp_path / "figures.json")])
    return code, json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.filterwarnings("ignore")  # what the others warn of, where they are installed, is theirs
def test_each_method_has_figures_for_each_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, saved = _run(tmp_path)
    assert code == 0
    assert saved["device"] == "cpu"
    columns = saved["results"]["vgg16, float32, eager"]["batch"]
    assert list(columns) == ["1", "2"]
    for cells in columns.values():
        assert {"plain", "gradient", "guided_backprop", "lrp epsilon_plus"} <= cells.keys()
        assert all(cell["ratio"] > 0 and cell["seconds"] > 0 for cell in cells.values())
        assert cells["plain"]["ratio"] == 1
    printed = capsys.readouterr().out
    assert "| batch | 1 | 2 |" in printed
    assert "| gradient | " in printed


def test_what_the_time_does_not_suffice_for_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, saved = _run(tmp_path, "--seconds", "0")
    assert code == 0
    cells = saved["results"]["vgg16, float32, eager"]["batch"]["1"]
    assert {cell["why"] for cell in cells.values()} == {"no time"}
    assert "no time" in capsys.readouterr().out


def test_a_failure_is_shown_and_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("broken")

    case = device.MODELS["vgg16"]
    rows = [Row("broken", broken), Row("greedy", lambda x: _out_of_memory())]
    monkeypatch.setitem(device.MODELS, "vgg16", case._replace(rows=lambda model: iter(rows)))
    code, saved = _run(tmp_path)
    cells = saved["results"]["vgg16, float32, eager"]["batch"]["1"]
    assert code == 1
    assert cells["broken"]["why"] == "ValueError: broken"
    assert cells["greedy"]["why"] == "out of memory"
    assert cells["plain"]["ratio"] == 1


def _out_of_memory() -> Tensor:
    raise torch.OutOfMemoryError


def test_every_model_is_built_small(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    for name, case in device.MODELS.items():
        model, size = case.build(True).eval(), case.small_sizes[-1]
        x = case.inputs(size, True)
        assert device.plain(model, x).shape == x.shape, name
        assert next(iter(case.rows(model))).run(x).shape == x.shape, name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_script_says_so() -> None:
    script = Path(device.__file__).with_suffix(".sh")
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, env={"PYTHON": sys.executable})
    assert (done.returncode, done.stderr) == (2, "no CUDA card\n")
