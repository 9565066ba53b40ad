"""The benchmark command on a small net: what it measures, what it saves, and what it refuses. No figure is judged."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import funcattr

from .benchmarks import overhead, shares
from .benchmarks.__main__ import main
from .benchmarks.table import MODELS, masks, path, small_images, tunnel, units
from .sweeps import long

FIGURES = {"ratio", "low", "high", "seconds"}
RUN = "--models chain --rounds 1 --batch 1 --device cpu".split()
LOOPS = ["noise_tunnel", "integrated_gradients", "rise"]
measures_memory = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")


def _run(tmp_path: Path, *words: str) -> dict[str, Any]:
    """What the command saves; it draws as well."""
    main([*RUN, *words, "--json", str(tmp_path / "figures.json"), "--plot", str(tmp_path / "figures.png")])
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((tmp_path / "figures.json").read_text())


def test_table_has_a_line_for_each_row_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = _run(tmp_path, "--methods", "deconvnet", "rise")
    lines = saved["results"]["chain"]
    assert list(lines) == ["deconvnet", "rise"]
    assert all(line.keys() == FIGURES and min(line.values()) > 0 for line in lines.values())
    assert (saved["batch"], saved["device"]) == (1, "cpu")
    printed = capsys.readouterr().out
    assert all(f"  {what} " in printed for what in lines)
    assert "memory" not in printed


def test_operations_are_maps_or_others() -> None:
    x, weight = torch.ones(1, 8, 64, 64), torch.ones(8, 8, 3, 3)
    of_map, of_relu = (shares.operations(run) for run in (lambda: F.conv2d(x, weight), lambda: torch.exp(x)))
    assert of_map.maps > 0 and of_relu.maps == 0 and of_relu.others > 0
    gradient = shares.operations(lambda: torch.func.grad(lambda x: F.conv2d(x, weight).exp().sum())(x))
    assert gradient.maps > of_map.maps / 5 and gradient.others > 0


def test_a_methods_time_has_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    shares.main("--model vgg16 --size 32 --batch 1 --rounds 1 --methods guided".split())
    _, heads, plain, guided = capsys.readouterr().out.splitlines()
    assert heads.split() == ["whole", "maps", "others", "between", "bound"]
    name, *numbers = plain.split()
    whole, maps, others, between = map(float, numbers)
    assert name == "plain" and whole == 1 and abs(maps + others + between - whole) < 0.02
    assert guided.split()[0] == "guided_backprop" and min(maps, others) > 0


def test_a_methods_bound_is_its_operations_and_what_is_between_at_best(capsys: pytest.CaptureFixture[str]) -> None:
    shares.main(["--model", "vgg16", "--size", "32", "--batch", "1", "--rounds", "1", "--methods", "guided", "at best"])
    _, _, _, guided, best = capsys.readouterr().out.splitlines()
    (_, maps, others, _, bound), (*_, between) = (
        line.split()[1:] for line in (guided, best.replace("at best", "best"))
    )
    assert abs(float(maps) + float(others) + float(between) - float(bound)) < 0.02


@long
@measures_memory
def test_memory_stands_in_the_same_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _run(tmp_path, "--methods", "deconvnet", "--memory")["results"]["chain"].values()
    assert line.keys() == {*FIGURES, "memory"}
    assert 0.2 < line["memory"] < 5  # both keep the net's maps
    assert f"{line['memory']:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "sizes", "words", "rows"),
    [
        ("batch", [1, 3], ["--methods", "deconvnet"], ["deconvnet"]),
        ("samples", [1, 6], [], LOOPS),
        ("depth", [1, 2], ["--methods", "epsilon_plus"], ["lrp epsilon_plus"]),
    ],
)
def test_growth_has_a_point_for_each_size(
    kind: str, sizes: list[int], words: list[str], rows: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = _run(tmp_path, "--growth", kind, "--sizes", *map(str, sizes), *words)
    found = saved["results"]["chain"]
    assert (saved["growth"], saved["sizes"], list(found)) == (kind, sizes, rows)
    for points in found.values():
        assert [point["size"] for point in points] == sizes
        assert all(point.keys() == {*FIGURES, "size"} and min(point.values()) > 0 for point in points)
    printed = capsys.readouterr().out
    assert f"growing with {kind}" in printed
    assert all(f"  {what} " in printed for what in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sizes 1 2", "--sizes are those of --growth"),
        ("--growth batch --memory", "--memory is for the table"),
        ("--growth depth --models vgg16", "not of vgg16; possible are vit_b_16, chain"),
        ("--growth samples --models bert_base", "not of bert_base"),
        ("--growth batch --sizes 0", "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert message in capsys.readouterr().err


def test_units_of_loops_are_passes_over_their_chunks() -> None:
    model, x = MODELS["chain"].build(depth=1), small_images(2)
    fm = funcattr.functionalize(model)
    for row in (tunnel, path, masks):
        assert [row(fm, samples).times for samples in (1, 4, 6, 16)] == [1, 1, 1.5, 4]
    plain = units(model, x, None, chunk=3)
    assert plain["backward of samples"]().shape == (6, 3, 64, 64)
    assert plain["forward of samples"]().shape == (6, 10)
    assert plain["backward"]().shape == x.shape


def test_the_cost_of_a_call_on_record_has_a_line_for_each_function(capsys: pytest.CaptureFixture[str]) -> None:
    overhead.main(["--functions", "add", "conv2d", "--rounds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["add", "conv2d"]
    for line in lines:
        found = dict(re.findall(r"(autograd|gradient|no rule|epsilon) +(\d+\.\d)", line))
        assert len(found) == 4
        assert all(float(number) > 0 for number in found.values())
