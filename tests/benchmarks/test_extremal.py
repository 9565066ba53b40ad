"""Time of extremal perturbation, as ratios to the forward and backward passes that its steps cannot do without."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.methods.extremal.extremal_perturbation import extremal_perturbation
from funcattr.methods.extremal.perturbation_pyramid import perturbation_pyramid

from ..zoo.large import resnet50, vgg16
from .measure import alternating

MODELS: dict[str, Callable[[], nn.Module]] = {"vgg16": vgg16, "resnet50": resnet50}
STEPS = 4
# Of the 800 steps of a search the pyramid is made once, so it is not in these.
ONE_IMAGE = {"vgg16": 1.1, "resnet50": 1.2}
"""A mask's 4 million exponentials, forward and backward, take some 8 ms, and Python some 7: a tenth of a ResNet50's
step for one image, and a thirtieth of a VGG16's."""
EIGHT_IMAGES = 0.8

each_model = pytest.mark.parametrize("name", MODELS)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def plain(model: nn.Module, x: Tensor) -> None:
    """The forward and backward passes of `STEPS` steps."""
    for _ in range(STEPS):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, 3].sum(), leaf)


def search(model: funcattr.FunctionalModel, x: Tensor) -> Callable[[], Any]:
    pyramid = perturbation_pyramid(x)
    return partial(extremal_perturbation, model, x, 3, steps=STEPS, perturbation=lambda _: pyramid)


@each_model
def test_one_image(name: str, benchmark: Any) -> None:
    model, x = MODELS[name]().eval(), images(1)
    runs = {"plain": partial(plain, model, x), "one image": search(funcattr.functionalize(model), x)}
    ratios = benchmark.pedantic(alternating, args=(runs,), rounds=1)
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{name}, time / plain:", {name: round(ratio, 3) for name, ratio in ratios.items()})
    assert ratios["one image"] <= ONE_IMAGE[name]


@each_model
def test_eight_images(name: str, benchmark: Any) -> None:
    """As far as a pass of eight images is no slower than eight passes of one: that is the bound of any search."""
    model, x = MODELS[name]().eval(), images(8)
    fm = funcattr.functionalize(model)
    singles = [search(fm, one[None]) for one in x]
    runs = {
        "plain": lambda: [run() for run in singles],
        "eight at once": search(fm, x),
        "eight passes of one": lambda: [plain(model, one[None]) for one in x],
        "one pass of eight": partial(plain, model, x),
    }
    ratios = benchmark.pedantic(alternating, args=(runs, 3), rounds=1)
    ratios["bound"] = ratios.pop("one pass of eight") / ratios.pop("eight passes of one")
    benchmark.extra_info.update({name: round(ratio, 3) for name, ratio in ratios.items()})
    print(f"\n{name}, time / eight single runs:", {name: round(ratio, 3) for name, ratio in ratios.items()})
    assert ratios["eight at once"] <= max(EIGHT_IMAGES, ONE_IMAGE[name] * ratios["bound"])
