"""The same run on Ray: two workers, on a Ray of its own, one of which dies on the way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from funcattr import scale

from ..sweeps import long
from . import driver
from .runs import content, images, network

ray = pytest.importorskip("ray", reason="the engine ray needs Ray, the extra ray")

SIZES: dict[str, Any] = {"shard_size": 4, "batch_size": 2}


class Deadly:
    """Images; whoever reads the eleventh first is killed."""

    def __init__(self, marker: Path, parent: int) -> None:
        self.marker, self.parent = marker, parent

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Tensor:
        if index == 10 and os.getpid() != self.parent and not self.marker.exists():
            self.marker.write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 5:
            raise OSError("truncated image")
        return images(23)[index]


@long
@pytest.mark.filterwarnings("ignore")  # Ray's own, about the machine
def test_two_workers_one_of_which_dies_give_the_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path]))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    asked: dict[str, Any] = {"target": "top", "options": {"samples": 2, "sigma": 0.1}, "seed": 4, **SIZES}
    data = Deadly(tmp_path / "marker", os.getpid())
    expected = scale.run("noise_tunnel:gradient", network(), data, tmp_path / "here", **asked)
    out = tmp_path / "there"
    found = scale.run("noise_tunnel:gradient", network(), data, out, engine="ray", workers=2, **asked)
    assert (tmp_path / "marker").exists() and not ray.is_initialized()
    assert content(found.folder) == content(expected.folder)
    assert list(found.errors) == [5]
    (out / "shard-000001.parquet").unlink()
    with pytest.raises(scale.TooManyErrorsError, match="1 examples have failed"):
        scale.run("noise_tunnel:gradient", network(), data, out, engine="ray", workers=2, max_errors=0, **asked)
    assert not (out / "shard-000001.parquet").exists() and torch.get_num_threads() == 1


@long
@pytest.mark.filterwarnings("ignore")
def test_a_driver_that_is_killed_loses_nothing_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *sys.path]))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    expected, out = content(driver.run(tmp_path / "here", 0.0).folder), tmp_path / "there"
    with subprocess.Popen([sys.executable, "-m", "tests.scale.driver", str(out), "0.2"], cwd=root) as process:
        while len(list(out.glob("shard-*.parquet"))) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    whole = content(out)
    shards = {name: digest for name, digest in whole.items() if name.startswith("shard-")}
    assert 2 <= len(shards) < 8 and shards.items() <= expected.items()
    times = {name: (out / name).stat().st_mtime_ns for name in shards}
    assert content(driver.run(out, 0.0, engine="ray", workers=2).folder) == expected
    assert {name: (out / name).stat().st_mtime_ns for name in shards} == times


def test_engines_and_workers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected None or 'ray'"):
        scale.run("gradient", network(), images(4), tmp_path, target=1, engine="dask")
    with pytest.raises(ValueError, match="expected engine='ray' with it"):
        scale.run("gradient", network(), images(4), tmp_path, target=1, workers=2)
