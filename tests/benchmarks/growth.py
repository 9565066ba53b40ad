"""How the cost of methods grows with the batch, with the number of samples, and with the depth of a model."""

import argparse
from pathlib import Path

import funcattr

from .ratios import Lines, chosen, significant, times
from .table import MODELS, SAMPLES, masks, path, tunnel, units

SIZES = {"batch": (1, 2, 4, 8, 16, 32, 64), "samples": (1, 4, 16, 64, 256), "depth": (1, 2, 4, 8, 12)}
PER = {"batch": "image", "samples": "sample", "depth": "block"}

Growth = dict[str, list[dict[str, float]]]
"""A method's points: size, ratio and its quartiles, and seconds for one of so many."""


def models(kind: str) -> list[str]:
    """Names of the models that can grow so: noise needs inputs that are numbers, depth a model built by it."""
    able = {"batch": lambda case: True, "samples": lambda case: case.root is None, "depth": lambda case: case.deepens}
    return [name for name, case in MODELS.items() if able[kind](case)]


def grown(name: str, options: argparse.Namespace) -> Growth:
    """Each row of a model at each size."""
    found: Growth = {}
    for size in options.sizes:
        for what, line in _at(name, size, options).items():
            per_one = {**line, "seconds": significant(line["seconds"] / size)}
            found.setdefault(what, []).append({"size": size, **per_one})
    return found


def _at(name: str, size: int, options: argparse.Namespace) -> Lines:
    case, kind = MODELS[name], options.growth
    model = (case.build(depth=size) if kind == "depth" else case.build()).to(options.device).eval()
    x = case.inputs(size if kind == "batch" else options.batch).to(options.device)
    if kind != "samples":
        return times(chosen(case.rows(model), options), x, units(model, x, case.root), options)
    fm = funcattr.functionalize(model)
    rows = [row(fm, size) for row in (tunnel, path, masks)]
    return times(chosen(rows, options), x, units(model, x, case.root, min(size, SAMPLES)), options)


def show(name: str, found: Growth, options: argparse.Namespace) -> None:
    """Print a line for each method, a pair of columns for each size."""
    kind = options.growth
    others = "" if kind == "batch" else f", batch {options.batch}"
    print(f"\n{name}{others}, growing with {kind}: time / unit, and milliseconds per {PER[kind]}")
    print(" " * 38 + "".join(f"{size:>8}{'ms':>9}" for size in options.sizes))
    for what, points in found.items():
        cells = "".join(f"{point['ratio']:8.2f}{1000 * point['seconds']:9.2f}" for point in points)
        print(f"  {what:<36}{cells}", flush=True)


def plot(results: dict[str, Growth], kind: str, out: Path) -> None:
    """A line for each method: ratios above, seconds below, a column for each model."""
    from matplotlib.figure import Figure  # an extra that only pictures need

    figure = Figure(figsize=(6 * len(results), 8), layout="constrained")
    panels = figure.subplots(2, len(results), squeeze=False, sharex=True)
    labels = {"ratio": "time / unit", "seconds": f"seconds per {PER[kind]}"}
    for column, (name, found) in enumerate(results.items()):
        for axes, (figures, label) in zip(panels[:, column], labels.items(), strict=True):
            for what, points in found.items():
                axes.plot([p["size"] for p in points], [p[figures] for p in points], marker="o", label=what)
            axes.set(xscale="log", xlabel=kind, ylabel=label)
            sizes = sorted({point["size"] for points in found.values() for point in points})
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.set_xticks([], minor=True)
        panels[0, column].axhline(1.0, color="black", linewidth=0.8)
        panels[0, column].set(title=name)
        panels[1, column].set(yscale="log")
        panels[1, column].legend(fontsize="small")
    figure.savefig(out, dpi=130)
