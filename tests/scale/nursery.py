"""Runs in processes of their own, forked from one that has imported torch: `python -m tests.scale.nursery`.

Each line of the input is JSON: `{"start": FOLDER, ...}` answers with the number of the process, `{"end": NUMBER}` with
its exit status, below 0 the signal that ended it. A run writes its errors into the file `errors` beside the folder.
"""

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from funcattr import scale
from funcattr.scale.parquet import arrow_parquet

from .runs import images, network


class Slow:
    """Images, each of which takes its time."""

    def __init__(self, x: Tensor, seconds: float) -> None:
        self.x, self.seconds = x, seconds

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.seconds)
        return self.x[index]


def run(out: Path, how: dict[str, Any]) -> None:
    """The run, with the environment, the limit of the size of a file, or the user that it is to have."""
    os.environ.update(how.get("environment", {}))
    if "limit" in how:
        resource.setrlimit(resource.RLIMIT_FSIZE, (how["limit"], how["limit"]))
    if "user" in how:
        os.setgid(how["user"])
        os.setuid(how["user"])
    data = Slow(images(30), how.get("slowly", 0.0))
    asked: dict[str, Any] = {"target": "top", "options": {"samples": 2}, "seed": 3, "shard_size": 6, "batch_size": 3}
    scale.run("noise_tunnel:gradient", network(), data, out, **asked)


def start(out: Path, how: dict[str, Any]) -> int:
    """The number of a new process that runs."""
    errors = (out.parent / "errors").open("w")  # now, for another user may not open it
    if process := os.fork():
        errors.close()
        return process
    status = 0
    try:
        run(out, how)
    except BaseException:
        traceback.print_exc(file=errors)
        errors.flush()
        status = 1
    os._exit(status)


def main() -> None:
    """Answer line by line."""
    torch.set_num_threads(1)
    arrow_parquet()
    for line in sys.stdin:
        how = json.loads(line)
        if "start" in how:
            print(start(Path(how.pop("start")), how), flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(how["end"], 0)[1]), flush=True)


if __name__ == "__main__":
    main()
