"""Rows beside their units: time in turns within one process, and peak memory."""

import argparse
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .measure import peak_memory, turns
from .table import Row

Lines = dict[str, dict[str, float]]
Plain = dict[str, Callable[[], Any]]


def chosen(rows: Iterable[Row], options: argparse.Namespace) -> list[Row]:
    """Those whose name has one of the words asked for."""
    return [row for row in rows if not options.methods or any(word in row.name for word in options.methods)]


def compiled(row: Row, x: Tensor) -> Row:
    """The row inside one compiled function, already compiled."""
    # Rows share their code, and each is compiled anew.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 256
    function: Any = torch.compile(row.run, fullgraph=True)
    function(x)
    return row._replace(name=f"{row.name}, compiled", run=function)


def times(rows: Iterable[Row], x: Tensor, plain: Plain, options: argparse.Namespace) -> Lines:
    """Ratio, its quartiles and seconds of each row, and of each compiled one if they were asked for."""
    found: list[Row] = []
    for row in rows:
        found += [row, compiled(row, x)] if options.compiled and row.compiles else [row]
    needed = {row.unit: plain[row.unit] for row in found}
    runs = {row.name: partial(row.run, x) for row in found}
    seconds = turns({**needed, **runs}, options.rounds, options.device)
    return {row.name: line(seconds[row.name], [row.times * unit for unit in seconds[row.unit]]) for row in found}


def line(seconds: list[float], unit: list[float]) -> dict[str, float]:
    ratios = [mine / plain for mine, plain in zip(seconds, unit, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    figures = {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}
    return {**figures, "seconds": significant(statistics.median(seconds))}


def significant(value: float) -> float:
    """The value in 4 digits."""
    return float(f"{value:.4g}")


def memory(model_name: str, rows: Iterable[Row], x: Tensor, plain: Plain, device: str) -> dict[str, float]:
    """Peak memory of each row over its unit's: on a CPU each in a process of its own, on CUDA what torch allocates."""

    def peak(what: str, run: Callable[[], Any]) -> int:
        if device.startswith("cuda"):
            return peak_on_cuda(run, device)
        return peak_memory(model_name, what, str(len(x)), module="tests.benchmarks.table")

    rows = list(rows)
    base = {unit: peak(unit, plain[unit]) for unit in {row.unit for row in rows}}
    return {row.name: round(peak(row.name, partial(row.run, x)) / base[row.unit], 3) for row in rows}


def peak_on_cuda(run: Callable[[], Any], device: str) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
