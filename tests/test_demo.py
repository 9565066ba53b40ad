"""The demo: its packaged data, its table and picture, and the script that made the data."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

import funcattr
from funcattr.__main__ import main
from funcattr.demo import digit_tour, photo_tour, photos, run
from funcattr.demo.digit_tour import ROWS, all_questions
from funcattr.demo.run import demo
from funcattr.demo.scores import Score, score_table
from funcattr.demo.tour import Row
from funcattr.metrics.datasets.digits import DigitNet, load_canvases, load_model
from funcattr.metrics.datasets.photos import HIGH, LOW, load_network, pixels_of

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


def test_questions_ask_for_each_digit_once_and_the_first_for_a_seven() -> None:
    data = load_canvases()
    questions = all_questions(data)
    assert len(questions.images) == len(questions.targets) == len(questions.boxes) == int(data.present.sum())
    assert (questions.boxes >= 0).all()
    assert questions.targets[0] == 7 and questions.things[0] == "7"
    asked = {(image.numpy().tobytes(), int(d)) for image, d in zip(questions.images, questions.targets, strict=True)}
    canvases, digits = data.present.nonzero().unbind(1)
    assert asked == {(data.images[c].numpy().tobytes(), int(d)) for c, d in zip(canvases, digits, strict=True)}
    for image, digit, box in zip(*questions.first(20)[:3], strict=True):
        canvas = [i for i, other in enumerate(data.images) if torch.equal(other, image)]
        assert box.tolist() == data.boxes[canvas[0], digit].tolist()


def test_slow_methods_are_asked_the_first_questions() -> None:
    tour = digit_tour.digit_tour(20)
    slow, quick = tour.rows[-1], tour.rows[0]
    assert slow.asked == 20 and quick.asked is None
    assert tour.asked(slow).things == tour.questions.things[:20]
    assert len(tour.asked(quick).things) == len(tour.questions.things)


def test_both_things_of_a_pair_of_photographs_are_among_the_first_classes_of_the_network() -> None:
    network, questions = load_network(), photos.load_questions()
    assert not network.training
    assert questions.images.shape == (12, 3, photos.SIDE, 2 * photos.SIDE)
    assert questions.things[:4] == ("cat", "espresso", "cat", "tripod")
    with torch.no_grad():
        outputs = network(questions.images)
    before = (outputs > outputs.gather(1, questions.targets[:, None])).sum(1)
    assert before.max() <= 2
    for image, target, (top, left, bottom, right) in zip(*questions[:3], strict=True):
        assert (top, bottom, right - left) == (0, photos.SIDE, photos.SIDE)
        with torch.no_grad():  # the box holds the photograph of what is asked for
            assert network(image[None, :, :, left:right]).argmax() == target


def test_photographs_reach_the_network_as_it_was_trained() -> None:
    grey = torch.full((20, 30), 255, dtype=torch.uint8)
    assert photos.as_input(pixels_of(grey)).shape == (1, 3, photos.SIDE, photos.SIDE)
    torch.testing.assert_close(photos.as_input(pixels_of(grey)), torch.full((1, 3, photos.SIDE, photos.SIDE), HIGH))
    torch.testing.assert_close(photos.as_input(pixels_of(0 * grey)).min(), torch.tensor(LOW))
    sides = torch.zeros(4, 8, 3, dtype=torch.uint8)
    sides[:, :2] = sides[:, 6:] = 255  # what the square in the middle leaves out
    assert photos.as_input(pixels_of(sides)).max().item() == pytest.approx(LOW)


@pytest.mark.parametrize("canvases", sweep(["1", "4"], quick=["1"]))
def test_demo_prints_a_row_per_method_and_saves_a_picture(
    canvases: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["demo", "--out", str(tmp_path), "--canvases", canvases, "--no-photos", "--no-progress"])

    printed = capsys.readouterr()
    assert printed.err == ""
    for row in ROWS:
        scores = rf"^{row.name} +\d+ +\d+\.\d\d +\d+\.\d% +\d+\.\d% +\d+\.\d% +\S+$"
        assert re.search(scores, printed.out, re.MULTILINE), row.name
    picture = imread(tmp_path / "digits.png")
    shown = min(6, int(load_canvases().present[: int(canvases)].sum()))
    assert picture.shape[0] > 2 * 120 * shown  # two blocks of ten methods
    assert picture.shape[1] == pytest.approx(1600, abs=5)
    assert picture[..., :3].std() > 0.05
    assert not (tmp_path / "photos.png").exists()


def test_photographs_are_asked_about_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = ("grad_cam", "lrp_epsilon_plus")
    monkeypatch.setattr(photo_tour, "ROWS", tuple(row for row in photo_tour.ROWS if row.name in cheap))
    monkeypatch.setattr(digit_tour, "ROWS", ROWS[:1])
    scores = demo(tmp_path, canvases=1, progress=False)
    assert list(scores) == ["photos", "digits"]
    printed = capsys.readouterr().out
    assert printed.startswith("3 methods; about a minute")
    assert printed.index("Where is the cat?") < printed.index("Where is the digit?")
    assert "lrp_epsilon_plus warns: lrp: 0.0" in printed  # nearly all relevance goes to the network's biases
    assert imread(tmp_path / "photos.png").shape[1] <= 1605


def test_without_its_packages_the_demo_says_so_and_asks_about_digits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    monkeypatch.setattr(digit_tour, "ROWS", ROWS[:1])
    assert list(demo(tmp_path, canvases=1, progress=False)) == ["digits"]
    assert "No photographs: " in capsys.readouterr().out
    with pytest.raises(ImportError, match=r"it needs efficientnet_lite_pytorch: pip install '.\[demo\]' in a clone"):
        load_network()


@long
def test_methods_find_the_digits_and_conserve_what_they_claim(tmp_path: Path) -> None:
    centre, *scores = demo(tmp_path, canvases=20, photos=False, progress=False)["digits"]
    assert centre.hit_rate < 0.2
    for row, score in zip(ROWS, scores, strict=True):
        assert score.name == row.name
        assert score.hit_rate > 0.8
        assert (score.conservation_error is not None) == row.completeness
        assert (score.conservation_error or 0.0) < 1e-3
    mass = {score.name: score.mass for score in scores}
    assert mass["iba"] > mass["gradient"] + 0.1
    assert mass["readout_iba"] > mass["gradient"]
    assert mass["smoothgrad"] > mass["gradient"]


@long
def test_what_is_said_under_the_table_of_photographs(tmp_path: Path) -> None:
    centre, *scores = demo(tmp_path, canvases=1, progress=False)["photos"]
    energy = {score.name: score.energy for score in scores}
    assert centre.energy == pytest.approx(0.5, abs=0.01)
    for name in ("gradient", "guided_backprop"):
        assert energy[name] < 0.7
    for name in ("grad_cam", "layer_cam", "guided_grad_cam", "lrp_epsilon_plus", "lrp_gamma_box"):
        assert energy[name] > 0.8


@long
def test_what_is_said_under_the_table_of_digits() -> None:
    questions = all_questions(load_canvases()).first(100)
    model, x, digits, boxes = load_model(), questions.images, questions.targets, questions.boxes

    def hits(attributions: torch.Tensor) -> float:
        pointed = funcattr.metrics.pointing_game(funcattr.maps.max_abs(attributions), boxes)
        return pointed.double().mean().item()

    def tunnel(sigma: float) -> torch.Tensor:
        method = partial(funcattr.gradient, model)
        return funcattr.noise_tunnel(method, x, digits, samples=20, sigma=sigma)

    assert hits(tunnel(0.05)) > hits(tunnel(0.1)) + 0.05
    options: dict[str, Any] = {"areas": 0.06, "lr": 0.03, "smooth": 0.08, "spacing": 4, "radius": 8.0, "steps": 60}
    some = {"x": x[:30], "target": digits[:30], "perturbation": "fade", **options}
    boxes = boxes[:30]
    assert hits(funcattr.extremal_perturbation(model, **some, jitter=False)) > 0.9
    assert hits(funcattr.extremal_perturbation(model, **some, jitter=True)) < 0.9
    assert funcattr.rise(model, x[:2], digits[:2], samples=300, cells=8, activation=None).abs().min() > 0.1


def test_a_new_row_appears(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Row("image_itself", lambda model, x, target: x, lambda a: a)
    monkeypatch.setattr(digit_tour, "ROWS", (whole,))
    _, score = demo(tmp_path, canvases=2, photos=False, progress=True)["digits"]
    assert score.name == "image_itself"
    printed = capsys.readouterr()
    assert "image_itself" in printed.out
    assert "image_itself" in printed.err  # the progress bar's description


def test_the_progress_bar_goes_by_what_methods_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(name, lambda model, x, target: x, lambda a: a, passes=n) for name, n in (("one", 1), ("nine", 9))]
    monkeypatch.setattr(digit_tour, "ROWS", tuple(rows))
    seen = []

    class Bar(run.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            seen.append((n or 0) / self.total)
            return super().update(n)

    monkeypatch.setattr(run, "tqdm", Bar)
    demo(tmp_path, canvases=2, photos=False, progress=False)
    assert seen == pytest.approx([0.1, 0.9])


def test_without_matplotlib_the_table_is_still_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(digit_tour, "ROWS", ROWS[:2])
    demo(tmp_path / "pictures", canvases=2, photos=False, progress=False)
    printed = capsys.readouterr().out
    assert ROWS[1].name in printed
    assert "No picture. demo: it needs matplotlib: pip install '.[plot]' in a clone of funcattr." in printed
    assert not (tmp_path / "pictures").exists()


def test_table_is_aligned() -> None:
    scores = [
        Score("(the centre)", 900, None, 0.1, 0.2, 0.3, None),
        Score("gradient", 30, 12.345, 1.0, 0.5, 0.25, 1e-7),
    ]
    heading, first, second = score_table(scores).splitlines()
    assert len(heading) == len(first) == len(second)
    assert first.split() == ["(the", "centre)", "900", "-", "10.0%", "20.0%", "30.0%", "-"]
    assert second.split() == ["gradient", "30", "12.35", "100.0%", "50.0%", "25.0%", "1.0e-07"]


def test_number_of_canvases_must_be_positive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^demo\(canvases=...\): expected 1 or more, got 0"):
        demo(tmp_path, canvases=0)
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
