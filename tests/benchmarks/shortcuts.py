"""What each shortcut of the package saves: `python -m tests.benchmarks.shortcuts`.

A shortcut is code that the package could do without, at a cost in time. Each line is the time of a call with it over
the time without it, both in turns in one process, the median over rounds. A shortcut stays while it saves at least a
tenth on a model of the benchmark page.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr.calls import linear_map
from funcattr.methods.bottleneck import head_and_tail
from funcattr.model import guard
from funcattr.tape import plain_gradient, recorder, vjp

from ..zoo.large import resnet50, vgg16, vit_b_16
from .table import bert_base, images, tokens

CLASS = 3


class Case(NamedTuple):
    """A shortcut, a model and a call that uses it, and how the call does without."""

    shortcut: str
    model: str
    prepare: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]
    """() -> (the call with the shortcut, the call without)."""


@contextmanager
def replaced(*places: tuple[Any, str, Any]) -> Iterator[None]:
    """Some attributes of modules, replaced for a time."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _both(call: Callable[[], Any], without: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Any:
    def run() -> Any:
        with without():
            return call()

    return call, run


def _by_func_vjp(fn: Any, primals: Any, how: Any) -> Any:
    return None if how.begins else plain_gradient._by_func_vjp(fn, primals, how.call)


def no_autograd() -> AbstractContextManager[None]:
    """Plain gradients by `torch.func.vjp`, and from a site on by the tape."""
    return replaced((vjp, "plain_record", _by_func_vjp))


def no_one_piece() -> AbstractContextManager[None]:
    """Strided tokens multiplied as torch multiplies them."""
    plain: Any = F.linear
    return replaced(
        (guard, "in_one_piece", lambda func, args, kwargs: func(*args, **kwargs)),
        (linear_map, "linear", plain),
        (recorder, "linear", plain),
    )


def no_replay() -> AbstractContextManager[None]:
    """The whole model at each step."""
    return replaced((head_and_tail, "_Tail", lambda whole: whole))


def _gradient(build: Callable[[], Any], inputs: Callable[[int], Tensor], layer: str | None, without: Any) -> Any:
    fm, x = funcattr.functionalize(build().eval()), inputs(2)
    return _both(lambda: funcattr.gradient(fm, x, CLASS, layer=layer), without)


def _relevance(build: Callable[[], Any], inputs: Callable[[int], Tensor], rules: str, without: Any) -> Any:
    fm, x = funcattr.functionalize(build().eval()), inputs(2)
    return _both(lambda: funcattr.lrp(fm, x, CLASS, rules=rules), without)


def _folded(rules: str | None) -> Any:
    fm, x = funcattr.functionalize(resnet50().eval()), images(2)
    folded = funcattr.functionalize(fm, fold=True)

    def run(model: Any) -> Any:
        return funcattr.lrp(model, x, CLASS, rules=rules) if rules else funcattr.gradient(model, x, CLASS)

    return lambda: run(folded), lambda: run(fm)


def _bottleneck(build: Callable[[], Any], layer: str) -> Any:
    fm, x = funcattr.functionalize(build().eval()), images(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few examples
        statistics = funcattr.bottleneck.feature_statistics(fm, images(4), layer=layer)
    return _both(lambda: funcattr.iba(fm, x, CLASS, statistics=statistics, steps=3, samples=4), no_replay)


CASES = (
    Case("gradient by autograd", "vit_b_16", lambda: _gradient(vit_b_16, images, None, no_autograd)),
    Case("gradient by autograd", "bert_base", lambda: _gradient(bert_base, tokens, "bert.embeddings", no_autograd)),
    Case("gradient by autograd", "resnet50", lambda: _gradient(resnet50, images, None, no_autograd)),
    Case("tokens in one piece: gradient", "vit_b_16", lambda: _gradient(vit_b_16, images, None, no_one_piece)),
    Case("tokens in one piece: attnlrp", "vit_b_16", lambda: _relevance(vit_b_16, images, "attnlrp", no_one_piece)),
    Case("batch norm folded once: gradient", "resnet50", lambda: _folded(None)),
    Case("batch norm folded once: epsilon_plus", "resnet50", lambda: _folded("epsilon_plus")),
    Case("head replayed: iba", "vgg16", lambda: _bottleneck(vgg16, "features.17")),
    Case("head replayed: iba", "resnet50", lambda: _bottleneck(resnet50, "layer2")),
)


def measured(case: Case, rounds: int) -> tuple[float, float, float]:
    """Time with the shortcut over time without: the median over rounds, and the quartiles."""
    calls = case.prepare()
    for call in calls:
        call()
    ratios = []
    for _ in range(rounds):
        times = []
        for call in calls:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return low, middle, high


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.shortcuts", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="words; cases whose line has one of them (default: all)")
    options = parser.parse_args()
    print(f"time with the shortcut / without it (quartiles), torch {torch.__version__}")
    for case in CASES:
        line = f"{case.shortcut:<40} {case.model:<10}"
        if options.only and not any(word in line for word in options.only):
            continue
        low, middle, high = measured(case, options.rounds)
        print(f"{line} {middle:5.2f}  ({low:.2f} - {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
