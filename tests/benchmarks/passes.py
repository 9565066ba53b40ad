"""Passes over memory: `python -m tests.benchmarks.passes` counts the bytes that each method reads and writes.

Time varies from run to run, these counts do not. The unit is one pass over the results of the model's linear maps: a
plain copy of all of them would be two, one that reads and one that writes. An operation reads each tensor that it is
given once, and writes each that it makes or changes. `--operations` lists where the passes are.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import funcattr
from funcattr import rules

from ..meters import moved
from ..zoo.large import resnet50, vgg16
from .measure import RULEBOOKS

CLASS = 3
MODELS: dict[str, Callable[[], Any]] = {"resnet50": resnet50, "vgg16": vgg16}
BOOKS = {**RULEBOOKS, "epsilon_alpha2_beta1": rules.epsilon_alpha2_beta1()}


def plain(model: Any, x: Tensor) -> Tensor:
    """The unit of the benchmark page: the gradient by autograd."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]


def methods(model: Any, x: Tensor) -> dict[str, Callable[[], Any]]:
    """The unit, and each method by its name."""
    found: dict[str, Callable[[], Any]] = {"plain": lambda: plain(model, x)}
    for end, fm in (("", funcattr.functionalize(model)), (", folded", funcattr.functionalize(model, fold=True))):
        if end and not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
            continue
        found[f"gradient{end}"] = lambda fm=fm: funcattr.gradient(fm, x, CLASS)
        found[f"guided_backprop{end}"] = lambda fm=fm: funcattr.guided_backprop(fm, x, CLASS)
        for name, book in BOOKS.items():
            found[f"lrp {name}{end}"] = lambda fm=fm, book=book: funcattr.lrp(fm, x, CLASS, rules=book, start="one")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.passes", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--methods", nargs="+", help="words; methods whose name has one of them (default: all)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--operations", action="store_true", help="where the passes are, operation by operation")
    options = parser.parse_args(argv)
    model = MODELS[options.model]().eval()
    x = torch.randn(options.batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unit = moved(lambda: model(x)).results
    print(f"{options.model}, batch {options.batch} at {options.size}: one pass is {unit / 2**20:.1f} MiB")
    print(f"{'':<32} {'maps':>5} {'passes in maps':>15} {'elsewhere':>10}")
    for name, run in methods(model, x).items():
        if options.methods and name != "plain" and not any(word in name for word in options.methods):
            continue
        counted = moved(run)
        elsewhere = counted.total - counted.in_maps
        print(f"{name:<32} {counted.maps:>5} {counted.in_maps / unit:>15.2f} {elsewhere / unit:>10.2f}", flush=True)
        if options.operations:
            for operation, count in counted.bytes.most_common():
                if count > unit / 100:
                    print(f"    {operation:<28} {counted.calls[operation]:>5} {count / unit:>15.2f}")


if __name__ == "__main__":
    main()
