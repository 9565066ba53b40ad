"""Two processes that shard models over gloo on the CPU: `python -m tests.sharded OUT [--every]` writes what they found.

They are forked from this one, so that the imports are made once.
"""

import json
import sys
import tempfile
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from . import cases

WORLD = 2


def _rank(rank: int, store: str, out: str, every: bool) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # pytest does not see this process
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = cases.run(every)
    of_ranks: list[Any] = [None] * WORLD
    dist.all_gather_object(of_ranks, found)
    if rank == 0:
        Path(out).write_text(json.dumps(of_ranks))
    dist.destroy_process_group()


def main(out: str, every: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_rank, (f"{folder}/store", out, every), nprocs=WORLD, start_method="fork")


if __name__ == "__main__":
    main(sys.argv[1], "--every" in sys.argv[2:])
