"""Time of RISE and of Shapley sampling, as ratios to the bare forwards of the same chunks."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr

from ..zoo.large import resnet50, vgg16
from .measure import alternating

MODELS: dict[str, Callable[[], nn.Module]] = {"vgg16": vgg16, "resnet50": resnet50}
CHUNK, CHUNKS = 16, 4
BOUND = 1.05
# A thousand maps are added to after 256 masks; here after 64.
ALL_CLASSES = 1.2


def bare(model: nn.Module, x: Tensor) -> None:
    """The forwards of all chunks."""
    with torch.no_grad():
        for _ in range(CHUNKS):
            model(x)


@pytest.mark.parametrize("name", MODELS)
def test_time(name: str, benchmark: Any) -> None:
    model, x = MODELS[name]().eval(), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    fm = funcattr.functionalize(model)
    squares = torch.arange(224) // 28 + 8 * (torch.arange(224) // 28)[:, None]  # 64 of them
    runs = {
        "plain": partial(bare, model, x.repeat_interleave(CHUNK, 0)),
        "rise": partial(funcattr.rise, fm, x, 3, samples=CHUNK * CHUNKS),
        "rise of all classes": partial(funcattr.rise, fm, x, samples=CHUNK * CHUNKS),
        # 63 forwards, and two of one image each
        "shapley_sampling": partial(funcattr.shapley_sampling, fm, x, 3, samples=1, feature_mask=squares),
    }
    ratios = benchmark.pedantic(alternating, args=(runs, 3), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{name}, time / plain:", {name: round(ratio, 3) for name, ratio in ratios.items()})
    assert ratios["rise"] <= BOUND and ratios["rise of all classes"] <= ALL_CLASSES
