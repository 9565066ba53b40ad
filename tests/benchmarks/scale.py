"""What the runner of `funcattr.scale` takes beside the method, and how its memory grows: `python -m tests.benchmarks.scale`.

The bare loop is the one that a user would write: stack a batch, take the scores, call the method, put rows together and
write each shard with `torch.save`. A second one writes nothing. Rounds of the three alternate, so that what else the
machine does falls on all of them. Then the arithmetic of a large run, from the figures that were measured here.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import funcattr
from funcattr import scale

SHARD, BATCH = 1024, 64
OPTIONS = {"rules": "epsilon_plus"}


def network() -> nn.Module:
    """A small convolutional network. [N, 3, 32, 32] -> [N, 10]"""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)),
    ).eval()


class Images:
    """Images made one by one, as a data set reads them."""

    def __init__(self, count: int) -> None:
        self.x = torch.randn(min(count, 2000), 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index % len(self.x)]


def bare(model: nn.Module, data: Images, folder: Path | None) -> None:
    """The loop without a runner; it writes shards to the folder, if there is one."""
    for first in range(0, len(data), SHARD):
        rows = []
        for start in range(first, min(first + SHARD, len(data)), BATCH):
            x = torch.stack([data[i] for i in range(start, min(start + BATCH, first + SHARD, len(data)))])
            with torch.no_grad():
                output = model(x)
            target = output.argmax(1)
            scores = output.gather(1, target[:, None])[:, 0]
            rows.append((target, scores, funcattr.lrp(model, x, target, rules="epsilon_plus")))
        if folder is not None:
            torch.save([torch.cat(each) for each in zip(*rows, strict=True)], folder / f"{first}.pt")


def run(model: nn.Module, data: Images, folder: Path) -> None:
    """The same with the runner."""
    scale.run("lrp", model, data, folder, target="top", options=OPTIONS, shard_size=SHARD, batch_size=BATCH)


def seconds(function: Callable[[Path], Any]) -> tuple[float, float]:
    """Of the wall clock, and of the processor in the thread that computes."""
    with tempfile.TemporaryDirectory() as folder:
        began, worked = time.perf_counter(), time.thread_time()
        function(Path(folder))
        return time.perf_counter() - began, time.thread_time() - worked


def overhead(rounds: int, count: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each loop, round by round."""
    model, data = network(), Images(count)
    loops: dict[str, Callable[[Path], Any]] = {
        "bare loop": lambda folder: bare(model, data, None),
        "bare loop that writes": lambda folder: bare(model, data, folder),
        "scale.run": lambda folder: run(model, data, folder),
    }
    for loop in loops.values():  # imports and caches
        seconds(loop)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            found[name].append(seconds(loop))
    return found


def show(found: dict[str, list[tuple[float, float]]], count: int) -> None:
    """Print a line for each loop."""
    print(f"{count} images of 3 x 32 x 32, lrp, shards of {SHARD}, batches of {BATCH}; medians of {_rounds(found)} rounds")
    for name, times in found.items():
        wall, work = (statistics.median(column) for column in zip(*times, strict=True))
        ratios = [own[0] / other[0] for own, other in zip(times, found["bare loop"], strict=True)]
        ratio = statistics.median(ratios)
        print(f"  {name:<24}{wall:7.2f} s  {work:7.2f} s of its thread  {100 * (ratio - 1):+6.1f} % to the bare loop")


def _rounds(found: dict[str, list[tuple[float, float]]]) -> int:
    return len(next(iter(found.values())))


def growth(counts: Sequence[int]) -> list[tuple[int, float]]:
    """The largest memory so far after runs of more and more rows, in MiB."""
    model, found = network(), []
    for count in counts:
        seconds(lambda folder, count=count: run(model, Images(count), folder))
        found.append((count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=20000, help="of the run whose memory is measured, 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    show(overhead(options.rounds, options.images), options.images)
    if options.rows:
        for count, memory in growth((options.rows // 10, options.rows // 2, options.rows)):
            print(f"  largest memory after {count:6} rows: {memory:6.0f} MiB")


if __name__ == "__main__":
    main()
