"""What a call on record costs besides its arithmetic: `python -m tests.benchmarks.overhead`.

Chains of 100 calls of one torch function on a tensor of 64 values, where arithmetic is next to nothing. Printed are
microseconds a call, forward and backward, the least of several rounds that take turns: of autograd alone, of the
plain gradient, and of two methods on record, one whose rulebook has no rule for the function
(`guided_backprop`), and one that has (`lrp` by epsilon, where it is linear).

"At best" is what calls without a rule would cost if autograd pulled back whole stretches of them, and the recorder did
no more than see each call, know which values depend on the root, and keep that true: the bound of what spans can save.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.calls.call import Origin, tracked_positions
from funcattr.calls.operations import known
from funcattr.tape.recorder import Recorder

from .device import plain
from .measure import turns
from .table import CLASS

LENGTH = 100


class Chain(nn.Module):
    """One function, 100 times over. [N, 4, 4, 4] -> [N, 64]"""

    def __init__(self, function: Callable[["Chain", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight, self.norm = nn.Parameter(torch.eye(4)[..., None, None]), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(LENGTH):
            x = self.function(self, x)
        return x.flatten(1)


FUNCTIONS: dict[str, Callable[[Chain, Tensor], Tensor]] = {
    "conv2d": lambda self, x: F.conv2d(x, self.weight),
    "batch_norm": lambda self, x: self.norm(x),
    "add": lambda self, x: x + 1.0,
    "mul": lambda self, x: x * 1.01,
    "gelu": lambda self, x: F.gelu(x),
    "view": lambda self, x: x.view(x.shape),
}


class Looking(Recorder):
    """Sees each call, and knows which values depend on the root; autograd does the rest."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch function, and track its result if it depends on the root."""
        if known(func).is_query:
            return func(*args, **kwargs)
        positions = tracked_positions(args, kwargs, self._slots)
        out = func(*args, **kwargs)
        if positions:
            self._slots.new(out, Origin())
        return out


def at_best(fm: funcattr.FunctionalModel, x: Tensor) -> Tensor:
    """The gradient by autograd, under a recorder that only looks."""
    leaf = x.clone().requires_grad_()
    recorder = Looking(funcattr.rules.guided_backprop(), (), "overhead", final=True)
    recorder._slots.new(leaf, Origin())
    with recorder:
        output = fm(leaf)
    return torch.autograd.grad(output[:, CLASS].sum(), leaf)[0]


def microseconds(name: str, rounds: int) -> dict[str, float]:
    """Microseconds a call, by what runs."""
    model, x = Chain(FUNCTIONS[name]).eval(), torch.randn(1, 4, 4, 4)
    fm = funcattr.functionalize(model)
    runs: dict[str, Callable[[], Any]] = {
        "autograd": partial(plain, model, x),
        "gradient": partial(funcattr.gradient, fm, x, CLASS),
        "at best": partial(at_best, fm, x),
        "no rule": partial(funcattr.guided_backprop, fm, x, CLASS),
        "epsilon": partial(funcattr.lrp, fm, x, CLASS, rules="epsilon"),
    }
    return {run: 1e6 * min(seconds) / LENGTH for run, seconds in turns(runs, rounds).items()}


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each function."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.overhead", description=__doc__)
    parser.add_argument("--functions", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # The chains have no relu, and what flows back through them dies out: neither matters here.
        warnings.simplefilter("ignore", UserWarning)
        for name in options.functions:
            each = microseconds(name, options.rounds)
            print(f"{name:<12}" + "".join(f"  {run} {number:7.1f}" for run, number in each.items()), flush=True)


if __name__ == "__main__":
    main()
