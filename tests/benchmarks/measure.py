"""Ratios measured side by side: time alternating in one process, memory in one fresh process each."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import funcattr
from funcattr import rules

from .. import zennit_peer
from ..zoo.large import resnet50, vgg16, vit_b_16

MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "vgg16": (vgg16, "features.29"),
    "resnet50": (resnet50, "layer4"),
    "vit_b_16 of 4 blocks": (partial(vit_b_16, depth=4), ""),
}
BOX = {"low": -3.0, "high": 3.0}
RULEBOOKS = {
    "epsilon": rules.epsilon_everywhere(),
    "epsilon_plus": rules.epsilon_plus(),
    "excitation_backprop": rules.excitation_backprop(),
    "epsilon_gamma_box": rules.epsilon_gamma_box(**BOX),
}
ZENNIT: dict[str, dict[str, float]] = {"epsilon_plus": {}, "epsilon_gamma_box": BOX}


def functions(model_name: str) -> dict[str, Callable[[], Any]]:
    """The unit, plain `torch.autograd.grad`, and each method on the same random net and batch of 2 at 224x224.

    Methods get a `FunctionalModel`, made once, as in a loop over a data set; two rows give the module itself, which is
    functionalised at each call.
    """
    build, layer = MODELS[model_name]
    model, x = build().eval(), _images()
    fm = funcattr.functionalize(model)
    own = _of_convolutions(model, fm, x, layer) if layer else _of_attention(fm, x)
    return {"plain": partial(_plain, model, x), **own}


def beside_zennit(model_name: str) -> dict[str, Callable[[], Any]]:
    """The unit, `lrp`, and zennit's composites, which are put on the model and taken off at each call."""
    model, x = MODELS[model_name][0]().eval(), _images()
    fm = funcattr.functionalize(model)
    found = {"plain": partial(_plain, model, x)}
    for name in ZENNIT:
        found[name] = partial(funcattr.lrp, fm, x, 3, rules=RULEBOOKS[name], start="one")
        found[f"zennit {name}"] = partial(_by_zennit, model, x, name)
    return found


def _images() -> Tensor:
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def _plain(model: nn.Module, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)[0]


def _by_zennit(model: nn.Module, x: Tensor, name: str) -> Tensor:
    composite = zennit_peer.part("composites").COMPOSITES[name]
    return zennit_peer.relevance(model, x, 3, composite(canonizers=zennit_peer.canonizers(), **ZENNIT[name]))


def _of_attention(fm: funcattr.FunctionalModel, x: Tensor) -> dict[str, Callable[[], Any]]:
    methods = {"gradient": funcattr.gradient, "attnlrp": funcattr.attnlrp, "cp_lrp": funcattr.cp_lrp}
    return {name: partial(method, fm, x, 3) for name, method in methods.items()}


def _of_convolutions(
    model: nn.Module, fm: funcattr.FunctionalModel, x: Tensor, layer: str
) -> dict[str, Callable[[], Any]]:
    lrp = {name: partial(funcattr.lrp, fm, x, 3, rules=book, start="one") for name, book in RULEBOOKS.items()}
    return {
        "gradient": partial(funcattr.gradient, fm, x, 3),
        "gradient of a module": partial(funcattr.gradient, model, x, 3),
        "input_x_gradient": partial(funcattr.input_x_gradient, fm, x, 3),
        "guided_backprop": partial(funcattr.guided_backprop, fm, x, 3),
        "guided_backprop of a module": partial(funcattr.guided_backprop, model, x, 3),
        "deconvnet": partial(funcattr.deconvnet, fm, x, 3),
        "grad_cam": partial(funcattr.grad_cam, fm, x, 3, layer=layer),
        "linear_approx": partial(funcattr.linear_approx, fm, x, 3, layer=layer),
        **lrp,
    }


def turns(candidates: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each candidate in each round; within a round they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    # The first round pays for memory and code that later ones find ready.
    return {name: values[1:] for name, values in seconds.items()}


def alternating(candidates: dict[str, Callable[[], Any]], rounds: int = 11) -> dict[str, float]:
    """Seconds of each candidate over those of `plain`: the median of the ratios within each round."""
    rows = turns(candidates, rounds)
    return {n: statistics.median(a / b for a, b in zip(v, rows["plain"], strict=True)) for n, v in rows.items()}


def peak_memory(*arguments: str, module: str = "tests.benchmarks.measure") -> int:
    """Bytes by which the resident set grows at its peak while a function runs, in a process of its own.

    `arguments` (a model's and a function's name, and what else it takes) are those of the module's script, which calls
    `report_peak`.
    """
    command = [sys.executable, "-m", module, *arguments]
    # Every tensor in pages of its own, so that what is freed does not count.
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return int(done.stdout)


def ratios_with_memory_kept(model_name: str) -> dict[str, float]:
    """The times of `alternating` in a process whose allocator gives nothing back to the system between calls.

    By default glibc's does, so that each call pays for pages that the last one had; how many is a matter of chance.
    """
    command = [sys.executable, "-m", "tests.benchmarks.measure", model_name]
    kept = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**32)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **kept})
    return json.loads(done.stdout)


def report_peak(run: Callable[[], Any]) -> None:
    """Print by how many bytes the resident set grows at its peak while `run` runs."""
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins again at what is resident now
    before = _kibibytes("VmRSS")
    run()
    print(1024 * (_kibibytes("VmHWM") - before))


def _kibibytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(alternating(functions(sys.argv[1]))))
    else:
        report_peak(functions(sys.argv[1])[sys.argv[2]])
