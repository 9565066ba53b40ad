"""Time of the information bottleneck, as a ratio to what it cannot do without: one head, and the tails of its steps.

The unit is the published setting's: VGG16 at 224x224, `features.17`, 10 noise samples, 10 steps; here one head for one
image, and forward and backward of the layers behind it for ten, ten times.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr

from ..zoo.large import vgg16
from .measure import alternating

LAYER, CLASS = "features.17", 3
STEPS, SAMPLES = 10, 10
BOUND, COMPILED = 1.15, 1.15
EIGHT = 1.05
"""Time of eight images at once over that of eight single runs."""


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def unit(model: Any, x: Tensor, steps: int) -> None:
    """One head, and `steps` forward and backward passes of the tail, by modules called one after the other."""
    index = int(LAYER.rpartition(".")[2])
    with torch.no_grad():
        value = model.features[: index + 1](x)
    tail = nn.Sequential(*model.features[index + 1 :], model.avgpool, nn.Flatten(1), model.classifier)
    for _ in range(steps):
        leaf = value.repeat_interleave(SAMPLES, 0).requires_grad_()
        torch.autograd.grad(-torch.log_softmax(tail(leaf.clone()), 1)[:, CLASS].sum(), leaf)


def statistics(model: nn.Module) -> funcattr.bottleneck.FeatureStatistics:
    """Of noise images: what they are changes no time."""
    value = funcattr.read(model, LAYER)(images(1))[1][LAYER]
    ones = torch.ones_like(value[0])
    return funcattr.bottleneck.FeatureStatistics(LAYER, "gaussian", 1000, ones.long() * 1000, ones * 0, ones * 999)


def run(model: Any, given: funcattr.bottleneck.FeatureStatistics, x: Tensor, steps: int = STEPS) -> Tensor:
    return funcattr.iba(model, x, CLASS, statistics=given, steps=steps, samples=SAMPLES)


def _print(what: str, ratios: dict[str, float], benchmark: Any) -> None:
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{what}:", {name: round(ratio, 3) for name, ratio in ratios.items()})


def test_one_image(benchmark: Any) -> None:
    model, x = vgg16().eval(), images(1)
    fm, given = funcattr.functionalize(model), statistics(model)
    compiled: Any = torch.compile(partial(run, fm, given), fullgraph=True)
    compiled(x)
    runs: dict[str, Callable[[], Any]] = {
        "plain": partial(unit, model, x, STEPS),
        "iba": partial(run, fm, given, x),
        "iba, compiled": partial(compiled, x),
    }
    ratios = benchmark.pedantic(alternating, args=(runs, 5), rounds=1)
    _print("vgg16, features.17, 10 x 10, time / one head and ten tails", ratios, benchmark)
    assert ratios["iba"] <= BOUND
    assert ratios["iba, compiled"] <= COMPILED


@pytest.mark.parametrize("steps", [3])
def test_eight_images(steps: int, benchmark: Any) -> None:
    model, x = vgg16().eval(), images(8)
    fm, given = funcattr.functionalize(model), statistics(model)
    runs = {
        "plain": lambda: [run(fm, given, one[None], steps) for one in x],
        "eight at once": partial(run, fm, given, x, steps),
    }
    ratios = benchmark.pedantic(alternating, args=(runs, 3), rounds=1)
    _print("vgg16, features.17, time / eight single runs", ratios, benchmark)
    assert ratios["eight at once"] <= EIGHT
