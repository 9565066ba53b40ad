"""A run on Ray in a process of its own, which is there to be killed: `python -m tests.scale.driver FOLDER SECONDS`."""

import sys
from pathlib import Path
from typing import Any

import torch

from funcattr import scale

from .nursery import Slow
from .runs import images, network

ASKED: dict[str, Any] = {"target": "top", "options": {"samples": 2, "sigma": 0.1}, "seed": 4, "shard_size": 3}


def run(out: Path, seconds: float, **how: Any) -> scale.Results:
    """The run, with data whose every example takes some seconds."""
    return scale.run("noise_tunnel:gradient", network(), Slow(images(24), seconds), out, **ASKED, **how)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), float(sys.argv[2]), engine="ray", workers=2)
