"""Shards as safetensors files hold what Parquet files do, and are found out where they were cut or changed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from funcattr import scale

from .runs import Broken, content, images, network

pytest.importorskip("pyarrow", reason="they are compared with Parquet files")
SIZES: dict[str, Any] = {"shard_size": 8, "batch_size": 4}


class Sum(nn.Module):
    """Of texts of any length. [N, T, 2] -> [N]"""

    def forward(self, x: Tensor) -> Tensor:
        return (x**2).sum((1, 2))


class TwoInputs(nn.Module):
    """Of inputs by keyword. [N, 3], [N, 2] -> [N, 2]"""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([(a * a).sum(1) * b.sum(1), b.sum(1)], 1)


TEXTS = [torch.randn(length, 2, generator=torch.Generator().manual_seed(length)) for length in (3, 5, 3, 1, 4, 5)]
TEXTS[2][0, 0] = torch.nan
PAIRS = [{"a": torch.arange(3.0) + i, "b": torch.ones(2) * i} for i in range(5)]
CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "errors": (network(), Broken(images(), unreadable=[4], nan=[9]), {"target": "top"}),
    "half": (network(), images(), {"target": 1, "dtype": torch.float16, "as_map": "sum"}),
    "texts": (Sum(), TEXTS, {"ragged": True}),
    "keywords": (TwoInputs(), PAIRS, {"target": 0, "ids": list("vwxyz")}),
    "indices": (nn.Unflatten(1, (2, 3)), torch.randn(5, 6, 2, 2), {"target": (1, 2, 0, 1), "score": False}),
}


@pytest.mark.parametrize("name", CASES)
def test_both_formats_hold_the_same(name: str, tmp_path: Path) -> None:
    model, data, options = CASES[name]
    by_row, by_column = (
        scale.run("gradient", model, data, tmp_path / files, files=files, **options, **SIZES)  # pyright: ignore[reportArgumentType]
        for files in ("parquet", "safetensors")
    )
    assert by_column.ids == by_row.ids and by_column.errors == by_row.errors and by_column.missing == []
    for found, expected in zip(by_column, by_row, strict=True):
        assert found[:4] == expected[:4]
        parts, others = (v if isinstance(v, dict) else {"": v} for v in (found.attribution, expected.attribution))
        assert parts.keys() == others.keys()
        for part, other in zip(parts.values(), others.values(), strict=True):
            if other is None:
                assert part is None and found.error is not None
            else:
                assert torch.equal(part, other) and part.dtype == other.dtype
    last = by_row.ids[-1]
    assert by_column[last][:4] == by_row[last][:4]
    by_column.check()
    assert scale.open(tmp_path / "safetensors").ids == by_row.ids


def test_files_are_readable_without_funcattr(tmp_path: Path) -> None:
    model, data = network(), Broken(images(10), unreadable=[4])
    found = scale.run("gradient", model, data, tmp_path, target=1, files="safetensors", **SIZES)
    with safe_open(tmp_path / "shard-000000.safetensors", "pt") as file:
        told = json.loads(file.metadata()["funcattr"])
        values = file.get_tensor("attribution")
    assert told["id"] == list(range(8)) and told["target"][0] == 1
    assert told["error"][4] == "OSError: truncated image 4" and told["error"].count(None) == 7
    assert values.shape == (8, 3, 8, 8) and values[4].isnan().all()
    assert torch.equal(values[5], found[5].attribution)


def test_a_run_goes_on_bitwise_and_another_format_is_another_run(tmp_path: Path) -> None:
    def go(**options: Any) -> scale.Results:
        method = "noise_tunnel:gradient"
        asked = {"samples": 2, "sigma": 0.1}
        return scale.run(method, network(), images(), tmp_path, target=1, options=asked, **SIZES, **options)

    go(files="safetensors")
    before = content(tmp_path)
    assert sorted(before) == ["_manifest.json", *(f"shard-00000{i}.safetensors" for i in range(3))]
    (tmp_path / "shard-000001.safetensors").unlink()
    assert scale.open(tmp_path).missing == [1]
    go(files="safetensors")
    assert content(tmp_path) == before
    with pytest.raises(scale.AnotherRunError, match='differs in files: "safetensors" there, "parquet" here'):
        go()
    (tmp_path / "_manifest.json").unlink()
    with pytest.raises(scale.ScaleError, match=r"the folder has shards \(shard-000000.safetensors\) and no manifest"):
        go()
    with pytest.raises(ValueError, match=r"run\(files='zarr'\): expected one of 'parquet', 'safetensors'"):
        go(files="zarr")


def test_a_file_that_was_cut_is_computed_anew(tmp_path: Path) -> None:
    def go() -> scale.Results:
        return scale.run("gradient", network(), images(), tmp_path, target=1, files="safetensors", **SIZES)

    go()
    whole, path = content(tmp_path), tmp_path / "shard-000002.safetensors"
    full = path.read_bytes()
    for length in (0, 5, 300, len(full) // 2, len(full) - 1):
        path.write_bytes(full[:length])
        with pytest.raises(scale.BrokenShardError, match=r"shard-000002\.safetensors"):
            scale.open(tmp_path).check()
        with pytest.warns(UserWarning, match=r"shard-000002\.safetensors.*It is computed anew"):
            go()
        assert content(tmp_path) == whole


@pytest.mark.parametrize("ragged", [False, True])
def test_a_byte_that_was_changed_anywhere_is_found(ragged: bool, tmp_path: Path) -> None:
    model, data, options = CASES["texts" if ragged else "errors"]
    scale.run("gradient", model, data, tmp_path, files="safetensors", **options, **SIZES)
    path = tmp_path / "shard-000000.safetensors"
    full = path.read_bytes()
    draw = torch.Generator().manual_seed(0)
    places = torch.randint(8, len(full), (60,), generator=draw).tolist() if len(full) > 400 else range(8, len(full))
    with safe_open(path, "pt") as file:
        size = int.from_bytes(full[:8], "little")
        filled = file.metadata() is not None
    assert filled
    for place in (*range(8, 24), *range(8 + size - 8, 8 + size + 8), *places):
        changed = bytearray(full)
        changed[place] ^= 0x20
        path.write_bytes(changed)
        if _is_of_no_row(full, place, size):
            continue
        with pytest.raises(scale.BrokenShardError, match=r"shard-000000\.safetensors"):
            scale.open(tmp_path).check()


def _is_of_no_row(full: bytes, place: int, size: int) -> bool:
    """Whether a byte is of a row without attributions, in which nothing can be wrong, or fills the header up."""
    if place < 8 + size:
        return full[place] == ord(" ") and not full[place : 8 + size].strip()
    told = json.loads(full[8 : 8 + size])
    for name, tensor in told.items():
        if name == "attribution":
            start, end = tensor["data_offsets"]
            row = (place - 8 - size - start) * tensor["shape"][0] // (end - start)
            return json.loads(told["__metadata__"]["funcattr"])["error"][row] is not None
    return False


def test_they_need_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    found = scale.run("gradient", network(), images(5), tmp_path / "a", target=1, files="safetensors", **SIZES)
    assert found[4].attribution.shape == (3, 8, 8)
    with pytest.raises(ImportError, match=r"scale: it needs pyarrow: pip install '\.\[scale\]'"):
        scale.run("gradient", network(), images(5), tmp_path / "b", target=1, **SIZES)
    assert not (tmp_path / "b").exists()
