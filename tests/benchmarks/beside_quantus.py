"""Measures beside those of Quantus, in one process: `python -m tests.benchmarks.beside_quantus`.

The same model, images, steps and batch for both; all candidates take turns, and a ratio is the median over rounds of
Quantus's time over the candidate's in the same round, with its quartiles. "passes" are the model's forward passes
alone (for MPRT the gradients), one for each of Quantus's steps: no measure that asks the model so often, with batches
laid out so, can have a larger ratio than they. "channels last" is ours with images that lie so in memory, which
Quantus's arrays cannot. `--compiled` adds ours compiled, once it is. Quantus is in the extra "bench".
"""

import argparse
import json
import platform
import statistics
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import funcattr
from funcattr import maps, masks, metrics

from .measure import turns

PATCH = 8
QUIET: Any = {"normalise": False, "disable_warnings": True, "display_progressbar": False}
Runs = dict[str, Callable[[], Any]]


def network() -> nn.Module:
    """Three convolutions and a linear layer."""
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        blocks += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)).eval()


def summed(model: Any, x: Tensor, target: Any) -> Tensor:
    """The gradient, a number for each pixel."""
    return maps.sum(funcattr.gradient(model, x, target))


class Case:
    """One size of batch and image, and the arguments that both libraries take of it."""

    def __init__(self, batch: int, side: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.model = network()
        self.x = torch.rand(batch, 3, side, side, generator=generator)
        self.last = self.x.contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(10, (batch,), generator=generator)
        self.map = maps.sum(funcattr.input_x_gradient(self.model, self.x, self.y))
        self.patches = (side // PATCH) ** 2
        self.theirs = {"model": self.model, "x_batch": self.x.numpy(), "y_batch": self.y.numpy(), "device": "cpu"}
        self.theirs |= {"a_batch": self.map.numpy(), "batch_size": batch}

    def forwards(self) -> None:
        """The input, and one forward pass for each patch."""
        with torch.no_grad():
            for _ in range(self.patches + 1):
                self.model(self.x)

    def gradients(self) -> None:
        """The gradient of the trained network, and of one for each layer."""
        for _ in range(5):
            summed(self.model, self.x, self.y)


def deletion(case: Case, quantus: Any) -> tuple[Runs, Callable[[Tensor], Any]]:
    """Patches go one by one, the most important first; both give the same scores."""
    measure = quantus.RegionPerturbation(
        patch_size=PATCH, regions_evaluation=case.patches, order="morf", perturb_baseline=0.0, abs=False, **QUIET
    )
    squares = masks.patches(case.x, PATCH)

    def ours(x: Tensor) -> Tensor:
        options: Any = {"feature_mask": squares, "features": case.patches, "steps": case.patches}
        return metrics.deletion(case.model, x, case.y, case.map, activation=None, **options).scores

    return {"quantus": partial(measure, **case.theirs, softmax=False), "passes": case.forwards}, ours


def infidelity(case: Case, quantus: Any) -> tuple[Runs, Callable[[Tensor], Any]]:
    """As many windows as there are patches. Quantus's are the patches, added up: another number, as much work."""
    measure = quantus.Infidelity(
        perturb_baseline=0.0, n_perturb_samples=1, perturb_patch_sizes=[PATCH], abs=False, **QUIET
    )

    def ours(x: Tensor) -> Tensor:
        return metrics.infidelity(case.model, x, case.y, case.map, window=(PATCH, PATCH), samples=case.patches)

    return {"quantus": partial(measure, **case.theirs, softmax=False), "passes": case.forwards}, ours


def mprt(case: Case, quantus: Any) -> tuple[Runs, Callable[[Tensor], Any]]:
    """The four layers, from the last to the first, by ranks."""
    similarity = quantus.similarity_func.correlation_spearman
    measure = quantus.MPRT(similarity_func=similarity, layer_order="top_down", abs=True, **QUIET)
    theirs = {**case.theirs, "a_batch": None, "explain_func": metrics.as_quantus(summed)}
    return {"quantus": partial(measure, **theirs), "passes": case.gradients}, lambda x: metrics.randomization(
        summed, case.model, x, case.y
    )


MEASURES = {"deletion": deletion, "infidelity": infidelity, "mprt": mprt}


def measured(name: str, case: Case, quantus: Any, rounds: int, compiled: bool) -> dict[str, dict[str, float]]:
    """The ratio of each candidate, its quartiles and its seconds."""
    runs, ours = MEASURES[name](case, quantus)
    runs |= {"ours": partial(ours, case.x), "ours, channels last": partial(ours, case.last)}
    if compiled and name != "mprt":  # which asks which layers run
        torch._dynamo.reset()
        runs["ours, compiled"] = partial(torch.compile(ours, fullgraph=True), case.x)
    seconds = turns(runs, rounds)
    found = {}
    for what, own in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(seconds["quantus"], own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        figures = {"ratio": middle, "low": low, "high": high, "seconds": statistics.median(own)}
        found[what] = {key: round(value, 4) for key, value in figures.items()}
    return found


def processor() -> str:
    """The name that the system has for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and save what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.beside_quantus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--sides", nargs="+", type=int, default=[32, 64], help=f"multiples of {PATCH}, at least 32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="ours compiled as well (a minute for each line)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # Quantus has many
    quantus = import_module("quantus")  # an extra that only this needs
    torch.set_num_threads(options.threads)
    machine = {"processor": processor(), "threads": options.threads, "torch": torch.__version__}
    print(f"{machine['processor']}, {options.threads} threads, torch {torch.__version__}; Quantus's time / own")
    results: dict[str, Any] = {}
    for batch in options.batches:
        for side in options.sides:
            case = Case(batch, side)
            for name in options.measures:
                key = f"{name}, {batch} x 3 x {side} x {side}"
                results[key] = measured(name, case, quantus, options.rounds, options.compiled)
                print(f"\n{key}")
                for what, line in results[key].items():
                    spread = f"({line['low']:.1f} - {line['high']:.1f})"
                    print(
                        f"  {what:<20} {line['ratio']:6.1f}  {spread:<14} {1000 * line['seconds']:8.1f} ms", flush=True
                    )
    if options.json:
        options.json.write_text(json.dumps({**machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
