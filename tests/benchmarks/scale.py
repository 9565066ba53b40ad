"""What the runner of `funcattr.scale` takes beside the method: `python -m tests.benchmarks.scale`.

The bare loop is the one that a user would write: stack a batch, take the scores, call the method. A second one also
writes its results with `torch.save`. Rounds of them and of the runner alternate, so that what else the machine does
falls on all. Then the memory of runs of more and more rows, each in a process of its own; and the arithmetic of a run
over ImageNet from what writing and reading its maps takes here.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import funcattr
from funcattr import scale
from funcattr.scale.columns import Columns
from funcattr.scale.parquet import ParquetShard
from funcattr.scale.question import Question
from funcattr.scale.rows import RowOf

SHARD, BATCH = 1024, 64
OPTIONS = {"rules": "epsilon_plus"}


def network() -> nn.Module:
    """A small convolutional network. [N, 3, 32, 32] -> [N, 10]"""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)),
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
    """Print a line for each loop: medians, and what the fastest rounds say, which other programs disturb least."""
    rounds = len(found["bare loop"])
    print(f"{count} images of 3 x 32 x 32, lrp, shards of {SHARD}, batches of {BATCH}; medians of {rounds} rounds")
    base = found["bare loop"]
    for name, times in found.items():
        wall, work = (statistics.median(column) for column in zip(*times, strict=True))
        more = [statistics.median(own[i] / other[i] for own, other in zip(times, base, strict=True)) for i in (0, 1)]
        least = min(own[1] for own in times) / min(other[1] for other in base)
        print(
            f"  {name:<22}{wall:6.2f} s {_percent(more[0])}   its thread {work:6.2f} s {_percent(more[1])}   "
            f"fastest {_percent(least)}",
            flush=True,
        )


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+5.1f} %"


def own_share(count: int) -> float:
    """The share of the runner's own work in its thread, beside the calls of the method and the reading of images.

    Other programs disturb it less than a comparison of two loops, for it is measured within one.
    """
    model, asked = network(), [0.0]

    class Timed(Images):
        def __getitem__(self, index: int) -> Tensor:
            began = time.thread_time()
            found = super().__getitem__(index)
            asked[0] += time.thread_time() - began
            return found

    def ask(*args: Any) -> Any:
        began = time.thread_time()
        found = plain(*args)
        asked[0] += time.thread_time() - began
        return found

    data, plain = Timed(count), Question.ask
    with mock.patch.object(Question, "ask", ask):
        _, whole = seconds(lambda folder: run(model, data, folder))
    return whole / asked[0] - 1


def growth(counts: Sequence[int]) -> list[tuple[int, float]]:
    """The largest memory of a run of so many rows, each in a process of its own, in MiB."""
    found = []
    for count in counts:
        code = f"from tests.benchmarks.scale import grown; grown({count})"
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        found.append((count, float(printed)))
    return found


def grown(count: int) -> None:
    """Print the largest memory of this process after a run of so many rows, in MiB."""
    torch.set_num_threads(1)
    seconds(lambda folder: run(network(), Images(count), folder))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


IMAGENET, RANKS = 1_281_167, 8


def plan(overhead_of_one: float) -> None:
    """Print what a run over ImageNet on eight cards takes beside the method, from what its files take here."""
    print(f"ImageNet, {IMAGENET:,} images on {RANKS} cards, from files of 64 rows written and read here:")
    for what, shape in (("attributions", (3, 224, 224)), ("maps", (1, 224, 224))):
        for dtype in (torch.float16, torch.float32):
            size, write, read = _files(shape, dtype)
            name = str(dtype).removeprefix("torch.")
            hours = write * IMAGENET / RANKS / 3600
            print(
                f"  {what:<13}{name:<8} {size / 1e3:4.0f} kB an image, {size * IMAGENET / 1e9:4.0f} GB; written beside "
                f"the card in {1e3 * write:.2f} ms an image, {hours:.2f} h a rank; a row by id {1e3 * read:.0f} ms",
                flush=True,
            )
    minutes = overhead_of_one * IMAGENET / RANKS / 60
    print(f"  the runner itself {1e6 * overhead_of_one:.0f} us an image, {minutes:.1f} min a rank")
    print("  the method on a card, and how fast images are read, are not measured here")


def _files(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[float, float, float]:
    """Bytes, seconds to write, and seconds to read one row by its id, of relevance in a random network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)
    )
    data, method = torch.randn(64, 3, 224, 224), scale.Own(_first_channels, "channels", str(shape[0]))
    wrote = []
    with tempfile.TemporaryDirectory() as folder:
        asked: dict[str, Any] = {"target": 0, "dtype": dtype, "score": False, "options": {"count": shape[0]}}
        found = scale.run(method, model, data, Path(folder) / "run", batch_size=64, **asked)
        rows = [RowOf({"attribution": row.attribution.numpy()}, 0) for row in found]
        columns = Columns("int", "int", {"attribution": list(shape)}, dtype, False)
        for _ in range(3):
            with open(Path(folder) / "file", "wb") as file, ParquetShard(file, columns, {}) as shard:
                began = time.perf_counter()
                shard.add(range(64), rows)
            wrote.append(time.perf_counter() - began)
        began = time.perf_counter()
        _ = found[40].attribution
        read = time.perf_counter() - began
        return (Path(folder) / "file").stat().st_size / 64, min(wrote) / 64, read


def _first_channels(model: nn.Module, x: Tensor, target: int, *, count: int) -> Tensor:
    # In units that float16 holds: the scores of a random network are small.
    return 1e4 * funcattr.lrp(model, x, target, rules="epsilon_plus")[:, :count]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=20000, help="of the run whose memory is measured, 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    found = overhead(options.rounds, options.images)
    show(found, options.images)
    shares = [own_share(options.images) for _ in range(options.rounds)]
    print(
        f"  the runner's own work, within its runs: {_percent(1 + statistics.median(shares))} of the rest", flush=True
    )
    if options.rows:
        for count, memory in growth((options.rows // 10, options.rows // 2, options.rows)):
            print(f"  largest memory of a run of {count:6} rows: {memory:6.0f} MiB", flush=True)
    work = min(work for _, work in found["bare loop"]) / options.images
    plan(statistics.median(shares) * work)


if __name__ == "__main__":
    main()
