"""Models that are spread over two processes: each method gives what it gives on the plain model, or names the way out.

The processes run once, and the tests look at what they found; `tests/sharded/cases.py` lists the calls.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from ..sweeps import OPTION, long

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")

Found = list[dict[str, Any]]

REFUSED = {
    "refused: heads for each process": "on its parts of tensors (parallelize_module) the model gives another output",
    "refused: a layout of one's own": "cannot leave out a hook of 'the model' that lays its tensors out",
    "refused: both ways at once": "sharded by fully_shard and by parallelize_module at once",
    "refused: FullyShardedDataParallel": "it is a FullyShardedDataParallel, which keeps them as one flat tensor",
    "refused: bound to a part": "FunctionalModel.bind(params=...): expected the whole of 'embedding.weight'",
    "refused: pickled": "a sharded model can neither be copied nor pickled",
    "refused: copied": "a sharded model can neither be copied nor pickled",
    "refused: written in between": "a tensor of the model or its input was written in place between the call",
    "refused: folded": "functionalize(fold=True): the model's parameters are spread over processes",
    "refused: compiled": "a sharded model cannot be gathered inside torch.compile",
}
"""All that is refused, and by which words."""


def _processes(folder: Path, *options: str) -> Found:
    out = folder / "found.json"
    command = [sys.executable, "-m", "tests.sharded", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Found:
    every = ["--every"] if request.config.getoption(OPTION) else []
    return _processes(tmp_path_factory.mktemp("sharded"), *every)


def _given(found: Found) -> list[tuple[str, Any]]:
    return [(name, value) for rank in found for name, value in rank.items() if not name.startswith("refused")]


def test_gives_what_it_gives_on_the_plain_model(found: Found) -> None:
    assert len(found) == 2 and found[0].keys() == found[1].keys()
    wrong = {name: value for name, value in _given(found) if isinstance(value, str) or not value[0] < 1e-6}
    assert not wrong


def test_the_methods_that_matter_most_are_among_the_calls(found: Found) -> None:
    for method in ("gradient", "lrp", "attnlrp", "integrated_gradients", "noise_tunnel", "iba"):
        assert {f"fsdp: {method}", f"parallel: {method}"} <= found[0].keys()


def test_touches_nothing_of_the_user(found: Found) -> None:
    assert not [name for name, value in _given(found) if not value[1]]


def test_names_what_it_refuses(found: Found) -> None:
    refused = {name: value for rank in found for name, value in rank.items() if name.startswith("refused")}
    assert refused and all(isinstance(value, str) and REFUSED[name] in value for name, value in refused.items())


@long
def test_every_refusal_and_every_row_was_tried(found: Found) -> None:
    from ..contract import ROWS

    rows = {f"{name}: row {row.name}" for row in ROWS for name in ("fsdp", "parallel")}
    assert rows | REFUSED.keys() <= found[0].keys()
