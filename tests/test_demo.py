"""The demo: its packaged data, its table and picture, and the script that made the data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from funcattr.__main__ import main
from funcattr.demo import run
from funcattr.demo.catalogue import CATALOGUE, Row
from funcattr.demo.digits import DigitNet, load_canvases, load_model
from funcattr.demo.run import Score, all_questions, demo, shown_questions, table

from .sweeps import long, sweep

ROOT = Path(__file__).resolve().parent.parent


def test_packaged_network_knows_held_out_digits() -> None:
    model, data = load_model(), load_canvases()
    assert not model.training
    with torch.no_grad():
        answers = model(data.images) > 0
    assert (answers == data.present).float().mean() > 0.99


def test_network_is_positively_homogeneous() -> None:
    model, images = load_model().double(), load_canvases().images[:4].double()
    with torch.no_grad():
        torch.testing.assert_close(model(3.5 * images), 3.5 * model(images))


def test_canvases_are_as_documented() -> None:
    images, boxes, present = load_canvases()
    assert images.shape == (300, 1, 64, 64)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert boxes.shape == (300, 10, 4)
    assert present.shape == (300, 10)
    assert present.dtype == torch.bool
    assert set(present.sum(1).tolist()) == {2, 3, 4}


def test_boxes_lie_on_the_canvas_where_a_digit_is_present_and_are_minus_one_elsewhere() -> None:
    _, boxes, present = load_canvases()
    assert (boxes[~present] == -1).all()
    top, left, bottom, right = boxes[present].unbind(1)
    for first, end in [(top, bottom), (left, right)]:
        assert first.min() >= 0
        assert end.max() <= 64
    assert (bottom - top).min() >= 8
    assert (right - left).min() >= 2
    assert torch.stack([bottom - top, right - left]).max() <= 24


def test_boxes_of_a_canvas_do_not_overlap() -> None:
    _, boxes, present = load_canvases()
    for on_canvas, here in zip(boxes, present, strict=True):
        covered = torch.zeros(64, 64, dtype=torch.int)
        for top, left, bottom, right in on_canvas[here].tolist():
            covered[top:bottom, left:right] += 1
        assert covered.max() == 1


def test_boxes_hold_bright_ink() -> None:
    images, boxes, present = load_canvases()
    for image, on_canvas, here in zip(images[:, 0], boxes, present, strict=True):
        for top, left, bottom, right in on_canvas[here].tolist():
            assert image[top:bottom, left:right].max() > 0.55  # clutter stays under 0.5, but for noise


def test_questions_ask_for_each_digit_once_and_show_a_seven_first() -> None:
    data = load_canvases()
    questions = all_questions(data)
    assert len(questions.images) == len(questions.digits) == len(questions.boxes) == int(data.present.sum())
    assert (questions.boxes >= 0).all()
    shown = shown_questions(data)
    assert len(shown.digits) == run.SHOWN
    assert shown.digits[0] == 7


def test_slow_methods_are_asked_questions_at_equal_distances() -> None:
    questions = all_questions(load_canvases())
    some = run.spread(questions, 7)
    step = len(questions.digits) / 7
    assert [int(d) for d in some.digits] == [int(questions.digits[int(k * step)]) for k in range(7)]
    assert run.spread(questions, None) is questions
    assert run.spread(some, 100) is some


@pytest.mark.parametrize("canvases", sweep(["1", "4"], quick=["1"]))
def test_demo_prints_a_row_per_method_and_saves_a_picture(
    canvases: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo.png"
    main(["demo", "--out", str(out), "--canvases", canvases, "--no-progress"])

    printed = capsys.readouterr()
    assert printed.err == ""
    for row in CATALOGUE:
        assert re.search(rf"^{row.name} +\d+ +\d+\.\d\d +\d+\.\d% +\d+\.\d% +\S+$", printed.out, re.MULTILINE), row.name
    picture = imread(out)
    shown = min(run.SHOWN, int(load_canvases().present[: int(canvases)].sum()))
    assert picture.shape[0] > 2 * 120 * shown  # two blocks of ten methods
    assert picture.shape[1] == pytest.approx(1600, abs=5)
    assert picture[..., :3].std() > 0.05


@long
def test_methods_find_the_digits_and_conserve_what_they_claim(tmp_path: Path) -> None:
    centre, *scores = demo(tmp_path / "demo.png", canvases=20, progress=False)
    assert centre.hit_rate < 0.2
    for row, score in zip(CATALOGUE, scores, strict=True):
        assert score.name == row.name
        assert score.hit_rate > 2 * centre.hit_rate
        assert (score.conservation_error is not None) == row.completeness
        assert (score.conservation_error or 0.0) < 1e-3
    mass = {score.name: score.mass for score in scores}
    assert mass["iba"] > mass["gradient"] + 0.1
    assert mass["readout_iba"] > mass["gradient"]


def test_a_new_row_of_the_catalogue_appears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Row("image_itself", lambda model, x, target: x, lambda a: a)
    monkeypatch.setattr(run, "CATALOGUE", (whole,))
    _, score = demo(tmp_path / "demo.png", canvases=2, progress=True)
    assert score.name == "image_itself"
    printed = capsys.readouterr()
    assert "image_itself" in printed.out
    assert "image_itself" in printed.err  # the progress bar's description


def test_without_matplotlib_the_table_is_still_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(run, "CATALOGUE", CATALOGUE[:2])
    demo(tmp_path / "demo.png", canvases=2, progress=False)
    printed = capsys.readouterr().out
    assert CATALOGUE[1].name in printed
    assert 'No picture. demo: it needs matplotlib: pip install "funcattr[plot]".' in printed
    assert not (tmp_path / "demo.png").exists()


def test_table_is_aligned() -> None:
    scores = [Score("(the centre)", 900, None, 0.1, 0.2, None), Score("gradient", 30, 12.345, 1.0, 0.5, 1e-7)]
    heading, first, second = table(scores).splitlines()
    assert len(heading) == len(first) == len(second)
    assert first.split() == ["(the", "centre)", "900", "-", "10.0%", "20.0%", "-"]
    assert second.split() == ["gradient", "30", "12.35", "100.0%", "50.0%", "1.0e-07"]


def test_number_of_canvases_must_be_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^demo\(canvases=...\): expected 1 or more, got 0"):
        demo(tmp_path / "demo.png", canvases=0)
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--canvases", "0"])
    assert "expected 1 or more, got 0" in capsys.readouterr().err


@long
def test_training_script_runs(tmp_path: Path) -> None:
    script = ROOT / "examples" / "train_digits.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path)]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # works uninstalled too
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "held-out accuracy per label" in printed
    DigitNet().load_state_dict(load_file(tmp_path / "digit_net.safetensors"))
    canvases = load_file(tmp_path / "canvases.safetensors")
    assert canvases["images"].shape == (20, 1, 64, 64)
    assert canvases["boxes"].shape == (20, 10, 4)
