"""A run that is killed, or cannot write, damages nothing and goes on: no row is lost, none is there twice."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from funcattr import scale
from funcattr.scale.files import clear_leftovers, whole_file

from ..sweeps import long
from .runs import content, images, network

pq = pytest.importorskip("pyarrow.parquet", reason="runs write Parquet")

ROOT = Path(__file__).resolve().parents[2]
SIZES: dict[str, Any] = {"shard_size": 6, "batch_size": 3}


class Runs:
    """Processes of runs, forked from one that has imported torch, `tests/scale/nursery.py`."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.scale.nursery"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def start(self, out: Path, **how: Any) -> int:
        """The process of a run that has begun."""
        return self._ask({"start": str(out), **how})

    def end(self, process: int) -> int:
        """How a run ended."""
        return self._ask({"end": process})

    def _ask(self, what: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    process = Runs()
    yield process
    process.close()


def undisturbed(out: Path) -> dict[str, str]:
    """The same run in this process, from the beginning to the end."""
    asked: dict[str, Any] = {"target": "top", "options": {"samples": 2}, "seed": 3, **SIZES}
    return content(scale.run("noise_tunnel:gradient", network(), images(30), out, **asked).folder)


@pytest.mark.parametrize("moments", [pytest.param(2, id="2"), pytest.param(20, id="20", marks=long)])
def test_a_run_that_is_killed_goes_on_and_is_bitwise_the_undisturbed_one(
    moments: int, runs: Runs, tmp_path: Path
) -> None:
    expected, clock, cut_off = undisturbed(tmp_path / "whole"), random.Random(5), 0
    for moment in range(moments):
        out = tmp_path / f"out{moment // 4}"
        before = shards(out)
        process = runs.start(out, slowly=0.01)
        time.sleep(clock.uniform(0.0, 0.25))
        os.kill(process, signal.SIGKILL)
        cut_off += runs.end(process) == -signal.SIGKILL
        assert before.items() <= shards(out).items() <= expected.items()  # what was whole stays as it was
        if moment % 4 == 3 or moment == moments - 1:
            assert content(undisturbed_in(out)) == expected
            assert scale.open(out).ids == list(range(30))
    assert cut_off > moments // 2


def shards(out: Path) -> dict[str, str]:
    """The finished files of a folder; what a dead writer has left begins with a dot."""
    return {name: hash for name, hash in content(out).items() if name[0] != "."} if out.exists() else {}


def undisturbed_in(out: Path) -> Path:
    """Let the run go on to its end; unfinished files of dead writers are gone then."""
    undisturbed(out)
    return out


def test_ranks_that_run_side_by_side_do_not_disturb_each_other(runs: Runs, tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "whole")
    ranks = [runs.start(tmp_path / "out", environment={"RANK": str(rank), "WORLD_SIZE": "2"}) for rank in range(2)]
    assert [runs.end(process) for process in ranks] == [0, 0]
    assert content(tmp_path / "out") == expected


def test_leftovers_of_the_dead_are_cleared_and_files_of_the_living_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".shard-000001.parquet.abc.tmp"
    dead.write_bytes(b"half")
    other = tmp_path / "notes.tmp"
    other.write_bytes(b"the user's")
    with whole_file(tmp_path / "shard-000000.parquet") as file:
        file.write(b"whole")
        clear_leftovers(tmp_path)
        assert not dead.exists() and other.exists()
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"shard-000000.parquet", "notes.tmp"}


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def half() -> None:
        with whole_file(tmp_path / "a") as file:
            file.write(b"half")
            raise KeyError("half")

    with pytest.raises(KeyError, match="half"):
        half()
    assert list(tmp_path.iterdir()) == []
    with whole_file(tmp_path / "a") as file:
        file.write(b"first")
    with whole_file(tmp_path / "a", replace=False) as file:
        file.write(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def lengths(whole: int) -> list[int]:
    """Where a file may have been cut off."""
    return [0, 3, whole // 2, whole - 9, whole - 1]


def test_a_truncated_shard_is_named_and_computed_anew(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path)
    path = tmp_path / "shard-000002.parquet"
    whole = path.read_bytes()
    for length in lengths(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(scale.BrokenShardError, match=r"shard-000002\.parquet: it cannot be read as Parquet"):
            scale.open(tmp_path).ids  # noqa: B018
        with pytest.warns(UserWarning, match=r"shard-000002\.parquet.*It is computed anew"):
            assert undisturbed(tmp_path) == expected


def test_a_changed_byte_is_found_when_it_is_read(tmp_path: Path) -> None:
    undisturbed(tmp_path)
    path = tmp_path / "shard-000001.parquet"
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(scale.BrokenShardError, match=r"shard-000001\.parquet"):
        scale.open(tmp_path).check()
    with pytest.raises(scale.BrokenShardError, match=r"shard-000001\.parquet"):
        scale.open(tmp_path).attributions()


def errors_of(out: Path) -> str:
    """What a run in another process had to say."""
    return (out.parent / "errors").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the size of a file, as Linux has them")
def test_a_full_disk_is_a_named_error_and_what_is_whole_stays(runs: Runs, tmp_path: Path) -> None:
    expected, out = undisturbed(tmp_path / "whole"), tmp_path / "out"
    largest = max(path.stat().st_size for path in (tmp_path / "whole").glob("*.parquet"))
    assert runs.end(runs.start(out, limit=largest - 500)) == 1
    assert "funcattr.scale.errors.WriteError: run(out=" in errors_of(out)
    assert "File too large. The shards that are complete stay" in errors_of(out)
    left = content(out)
    assert left.items() <= expected.items() and not [name for name in left if name[0] == "."]
    assert content(undisturbed_in(out)) == expected


@pytest.mark.parametrize("at", ["open", "write", "fsync", "replace"])
def test_no_space_at_any_step_leaves_the_folder_as_it_was(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = partial(scale.run, "gradient", network(), images(12), tmp_path, target=1, **SIZES)
    asked(part=(0, 2))
    before = content(tmp_path)

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        if at == "open":
            broken.setattr("funcattr.scale.files._opened", full)
        elif at == "write":
            broken.setattr("funcattr.scale.parquet.ParquetShard.add", full)
        else:
            broken.setattr(os, at, full)
        with pytest.raises(scale.WriteError, match=r"cannot write there: No space left on device"):
            asked()
    assert content(tmp_path) == before
    assert asked().missing == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user's folder needs two users")
def test_a_folder_that_may_not_be_written_to_is_a_named_error(runs: Runs) -> None:
    with tempfile.TemporaryDirectory() as folder:  # those of pytest are for their owner only
        out = Path(folder) / "out"
        undisturbed(out)
        (out / "shard-000003.parquet").unlink()
        before = content(out)
        for each in (out, out.parent):
            each.chmod(0o755)
        assert runs.end(runs.start(out, user=65534)) == 1
        assert "WriteError: run(out=" in errors_of(out) and "Permission denied" in errors_of(out)
        assert content(out) == before


def test_memory_holds_a_batch_and_no_shard(tmp_path: Path) -> None:
    """What is read of the data is let go: of all examples a few are alive at once."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    class Watched:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> torch.Tensor:
            nonlocal most
            most = max(most, len(alive))
            x = torch.randn(3, 8, 8)
            alive.add(x)
            return x

    scale.run("gradient", network(), Watched(), tmp_path, target=1, shard_size=20, batch_size=5)
    assert most <= 10
