"""Every method beside its unit and its peers, in one process: `python -m tests.benchmarks`.

The unit is one plain forward and backward pass (`torch.autograd.grad`) of the same model and batch, or the passes that
a loop over samples cannot do without. All candidates take turns; a ratio is the median over rounds of the candidate's
time over its unit's in the same round, and the spread is between the quartiles of those. `--compiled` adds each method
inside `torch.compile(fullgraph=True)`; captum and zennit are measured where they are installed.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .table import MODELS, Row, units

Lines = dict[str, dict[str, float]]


def compiled(row: Row, x: Tensor) -> Callable[[], Any]:
    """The row inside one compiled function, already compiled."""
    torch._dynamo.reset()
    function: Any = torch.compile(row.run, fullgraph=True)
    function(x)
    return lambda: function(x)


def measured(name: str, options: argparse.Namespace) -> Lines:
    """Ratio and quartiles of each row of a model."""
    case = MODELS[name]
    model = case.build().to(options.device).eval()
    x = case.inputs(options.batch).to(options.device)
    runs: dict[str, tuple[str, int, Callable[[], Any]]] = {}
    for row in case.rows(model):
        if options.methods and not any(word in row.name for word in options.methods):
            continue
        runs[row.name] = (row.unit, row.times, lambda row=row: row.run(x))
        if options.compiled and row.compiles:
            runs[f"{row.name}, compiled"] = (row.unit, row.times, compiled(row, x))
    plain = units(model, x, case.root)
    needed = {unit: plain[unit] for unit, _, _ in runs.values()}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        base = {unit: _seconds(run, options.device) for unit, run in needed.items()}
        for what, (unit, times, run) in runs.items():
            ratio = _seconds(run, options.device) / (times * base[unit])
            if number:  # the first round pays for memory and code that later ones find ready
                ratios[what].append(ratio)
    return {what: _summary(values) for what, values in ratios.items()}


def _seconds(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _summary(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"ratio": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    found = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    return {**found, "threads": torch.get_num_threads(), "device": device, "date": time.strftime("%Y-%m-%d")}


def plot(results: dict[str, Lines], out: Path) -> None:
    """A bar for each line, a panel for each model."""
    from matplotlib.figure import Figure  # an extra that only pictures need

    rows = max(len(lines) for lines in results.values())
    figure = Figure(figsize=(6 * len(results), 1.2 + 0.28 * rows), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        values = [line["ratio"] for line in lines.values()]
        errors = [[abs(line["ratio"] - line[end]) for line in lines.values()] for end in ("low", "high")]
        colors = ["#9aa3b2" if what.startswith(("captum", "zennit")) else "#d9822b" for what in lines]
        axes.barh(list(lines), values, xerr=errors, color=colors)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.invert_yaxis()
        axes.set(title=name, xlabel="time / unit")
    figure.savefig(out, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and save what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", help="words; rows whose name has one of them (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="each method compiled as well (minutes for each model)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture; its extension chooses the format")
    options = parser.parse_args(argv)
    results: dict[str, Lines] = {}
    for name in options.models:
        results[name] = measured(name, options)
        print(f"\n{name}, batch {options.batch}, time / unit (quartiles)")
        for what, line in results[name].items():
            print(f"  {what:<36} {line['ratio']:6.2f}  ({line['low']:.2f} - {line['high']:.2f})", flush=True)
    if options.json:
        options.json.write_text(
            json.dumps({**machine(options.device), "batch": options.batch, "results": results}, indent=1)
        )
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
