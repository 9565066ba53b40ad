"""What a method's time is made of: `python -m tests.benchmarks.shares` prints it for each method of a net of images.

In times of one plain forward and backward pass: the whole, and of it the linear maps and their adjoints, the other
operations, and what is between operations (Python, the recorder, autograd). The maps are the bound of whatever else is
made faster. "At best" is the gradient by autograd under a recorder that only sees each call (as in
`tests.benchmarks.overhead`): what lies between operations there is a bound for every method on record.

Methods take turns. Operations are timed in runs of their own, by torch's profiler, which makes the time between them
longer and so measures only them; where a run differs from the next, what is between may come out below zero. Medians
of several rounds.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import funcattr

from .measure import turns
from .overhead import at_best
from .passes import MODELS, methods

MAPS = frozenset(
    "mkldnn_convolution convolution_backward mkldnn_convolution_backward convolution cudnn_convolution thnn_conv2d "
    "slow_conv2d_forward _slow_conv2d_forward _slow_conv2d_backward addmm mm bmm linear mkldnn_linear".split()
)
"""Operations that are linear maps or their adjoints."""


class Operations(NamedTuple):
    """Seconds in operations, without those that they call."""

    maps: float
    others: float


def operations(run: Callable[[], Any]) -> Operations:
    """The seconds that torch's operations take in one run."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    maps = others = 0.0
    for event in profiled.key_averages():
        library, _, name = event.key.partition("::")
        seconds = event.self_cpu_time_total / 1e6
        if library == "aten" and name in MAPS:
            maps += seconds
        elif library == "aten":
            others += seconds
    return Operations(maps, others)


def between(parts: Sequence[float]) -> float:
    """What is between the operations of the whole, the maps and the others."""
    whole, maps, others = parts
    return whole - maps - others


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shares", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--methods", nargs="+", help="words; methods whose name has one of them (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(argv)
    x = torch.randn(options.batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    model = MODELS[options.model]().eval()
    runs = methods(model, x)
    runs["at best"] = partial(at_best, funcattr.functionalize(model), x)
    if "gradient, folded" in runs:
        runs["at best, folded"] = partial(at_best, funcattr.functionalize(model, fold=True), x)
    words = options.methods or [""]
    runs = {name: run for name, run in runs.items() if name == "plain" or any(word in name for word in words)}
    parts: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        whole = turns(runs, 1)
        (unit,) = whole["plain"]
        for name, run in runs.items():
            maps, others = operations(run)
            parts[name].append((whole[name][0] / unit, maps / unit, others / unit))
    print(f"{options.model}, batch {options.batch} at {options.size}")
    print(f"{'':<34} {'whole':>6} {'maps':>6} {'others':>7} {'between':>8} {'bound':>6}")
    found = {name: [median(values) for values in zip(*each, strict=True)] for name, each in parts.items()}
    for name, (ratio, maps, others) in found.items():
        line = f"{name:<34} {ratio:>6.2f} {maps:>6.2f} {others:>7.2f} {between((ratio, maps, others)):>8.2f}"
        best = found.get("at best, folded" if name.endswith(", folded") else "at best")
        bound = "" if best is None or name.startswith(("plain", "at best")) else f"{maps + others + between(best):.2f}"
        print(f"{line} {bound:>6}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
