"""Rules of attention over its length: `python -m tests.benchmarks.attention --tokens 1024 4096 8192`.

Two causal blocks of width 256 with four heads of fused attention, one sequence, float32. The unit is one plain forward
and backward pass of the same model; all candidates take turns, and a ratio is the median over rounds. Peak memory is
what operations make and still hold: the kernels' own scratch space does not count.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr

from ..meters import metered
from .measure import turns

WIDTH, HEADS, CLASS = 256, 4, 3
METHODS = ("gradient", "cp_lrp", "attnlrp", "epsilon")


class Block(nn.Module):
    """Causal attention and a perceptron, each on a residual stream. [N, T, WIDTH] -> [N, T, WIDTH]"""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norm_1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class Model(nn.Module):
    """Two blocks, and a head on the last token. [N, T, WIDTH] -> [N, 10]"""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x)[:, -1])


def candidates(model: nn.Module, x: Tensor, methods: tuple[str, ...] | list[str]) -> dict[str, Callable[[], Any]]:
    """The unit, and each method by its name or that of its rulebook."""

    def plain() -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)[0]

    fm = funcattr.functionalize(model)
    found: dict[str, Callable[[], Any]] = {"plain": plain}
    for name in methods:
        own: Any = getattr(funcattr, name, None) or partial(funcattr.lrp, rules=name)
        found[name] = partial(own, fm, x, CLASS)
    return found


def main() -> None:
    """Print a line for each length and method."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.attention", description=__doc__)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--methods", nargs="+", default=["gradient", "cp_lrp", "attnlrp"], choices=METHODS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads: peak MiB, over plain; seconds, over plain")
    torch.manual_seed(0)
    model = Model().eval()
    for tokens in options.tokens:
        runs = candidates(model, torch.randn(1, tokens, WIDTH), options.methods)
        peaks = {name: metered(run).peak for name, run in runs.items()}
        seconds = turns(runs, options.rounds)
        for name in runs:
            ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["plain"], strict=True))
            memory = f"{peaks[name] / 2**20:7.0f}  {peaks[name] / peaks['plain']:5.2f}"
            print(f"{tokens:>6}  {name:<9}{memory}  {statistics.median(seconds[name]):8.3f}  {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    main()
