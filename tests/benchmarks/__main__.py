"""Every method beside its unit and its peers, in one process: `python -m tests.benchmarks`.

The unit is one plain forward and backward pass (`torch.autograd.grad`) of the same model and batch, or the passes that
a loop over samples cannot do without. All candidates take turns; a ratio is the median over rounds of the candidate's
time over its unit's in the same round, and the spread is between the quartiles of those. `--compiled` adds each method
inside `torch.compile(fullgraph=True)`; captum and zennit are measured where they are installed. `--memory` adds the
peak memory over the unit's (of a loop over samples: over that of a plain pass of one chunk). `--growth` measures the
same ratios as the batch, the number of samples or the depth of the model grows.
"""

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from . import growth
from .ratios import Lines, chosen, memory, times
from .table import MODELS, units


def measured(name: str, options: argparse.Namespace) -> Lines:
    """The figures of each row of a model."""
    case = MODELS[name]
    model = case.build().to(options.device).eval()
    x = case.inputs(options.batch).to(options.device)
    rows, plain = chosen(case.rows(model), options), units(model, x, case.root)
    lines = times(rows, x, plain, options)
    peaks = memory(name, rows, x, plain, options.device) if options.memory else {}
    return {what: {**line, "memory": peaks[what]} if what in peaks else line for what, line in lines.items()}


def show(name: str, lines: Lines, batch: int) -> None:
    """Print a line for each row."""
    with_memory = any("memory" in line for line in lines.values())
    print(f"\n{name}, batch {batch}, time / unit (quartiles){', peak memory / unit' if with_memory else ''}")
    for what, line in lines.items():
        peak = f"  {line['memory']:6.2f}" if "memory" in line else ""
        print(f"  {what:<36} {line['ratio']:6.2f}  ({line['low']:.2f} - {line['high']:.2f}){peak}", flush=True)


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    found = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    return {**found, "threads": torch.get_num_threads(), "device": device, "date": time.strftime("%Y-%m-%d")}


def plot(results: dict[str, Lines], out: Path) -> None:
    """A bar for each line, a panel for each model; times, and below them memory if it was measured."""
    from matplotlib.figure import Figure  # an extra that only pictures need

    with_memory = any("memory" in line for lines in results.values() for line in lines.values())
    kinds = ["ratio", "memory"] if with_memory else ["ratio"]
    rows = max(len(lines) for lines in results.values())
    figure = Figure(figsize=(6 * len(results), (1.2 + 0.28 * rows) * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(results), squeeze=False)
    for column, (name, every) in enumerate(results.items()):
        for axes, kind in zip(panels[:, column], kinds, strict=True):
            lines = {what: line for what, line in every.items() if kind in line}
            values = [line[kind] for line in lines.values()]
            errors = [[abs(line["ratio"] - line[end]) for line in lines.values()] for end in ("low", "high")]
            colors = ["#9aa3b2" if what.startswith(("captum", "zennit")) else "#d9822b" for what in lines]
            axes.barh(list(lines), values, xerr=errors if kind == "ratio" else None, color=colors)
            axes.axvline(1.0, color="black", linewidth=0.8)
            axes.invert_yaxis()
            axes.set(title=name, xlabel="time / unit" if kind == "ratio" else "peak memory / unit")
    figure.savefig(out, dpi=130)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, with the defaults that depend on others."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: all that can do what is asked")
    parser.add_argument("--methods", nargs="+", help="words; rows whose name has one of them (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="each method compiled as well (minutes for each model)")
    parser.add_argument("--memory", action="store_true", help="peak memory too, of rows that are not compiled")
    parser.add_argument("--growth", choices=growth.SIZES, help="what grows, in place of the table of one size")
    sizes = "; ".join(f"{kind}: {' '.join(map(str, found))}" for kind, found in growth.SIZES.items())
    parser.add_argument("--sizes", nargs="+", type=int, help=f"of what grows (default: {sizes})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a picture; its extension chooses the format")
    options = parser.parse_args(argv)
    if options.memory and (options.growth or not options.device.startswith(("cpu", "cuda"))):
        parser.error("--memory is for the table, without --growth, on a CPU or on CUDA")
    if options.sizes and not options.growth:
        parser.error("--sizes are those of --growth")
    if min([options.batch, options.rounds, *(options.sizes or ())]) < 1:
        parser.error("--batch, --rounds and --sizes are at least 1")
    able = growth.models(options.growth) if options.growth else list(MODELS)
    options.models, options.sizes = options.models or able, options.sizes or growth.SIZES.get(options.growth)
    if unable := sorted(set(options.models) - set(able)):
        parser.error(f"--growth {options.growth}: not of {', '.join(unable)}; possible are {', '.join(able)}")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and save what is asked for."""
    options = parsed(argv)
    results: dict[str, Any] = {}
    for name in options.models:
        if options.growth:
            results[name] = growth.grown(name, options)
            growth.show(name, results[name], options)
        else:
            results[name] = measured(name, options)
            show(name, results[name], options.batch)
    if options.json:
        given = {"batch": options.batch, "growth": options.growth, "sizes": options.sizes}
        kept = {what: value for what, value in given.items() if value and (what, options.growth) != ("batch", "batch")}
        options.json.write_text(json.dumps({**machine(options.device), **kept, "results": results}, indent=1))
    if options.plot and options.growth:
        growth.plot(results, options.growth, options.plot)
    elif options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
