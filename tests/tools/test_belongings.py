"""Whatever is written, added or replaced is seen, and what is only read is not."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funcattr.tools.belongings import Belongings


class Helper:
    def __init__(self) -> None:
        self.cache = {"k": [torch.zeros(2)]}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 2), nn.BatchNorm1d(2)
        self.plain, self.history, self.helper = torch.zeros(2), deque([1]), Helper()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x))


def _grad(model: Any, x: Tensor) -> None:
    model.linear.weight.grad = torch.zeros(2, 2)


def _set(name: str, value: Any) -> Callable[[Any, Tensor], None]:
    return lambda model, x: setattr(model, name, value)


TOUCHES: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "a parameter": (lambda m, x: m.linear.weight.data.mul_(2), "weight.*: the tensor has other values than before"),
    "a parameter, by its own value": (lambda m, x: m.linear.bias.detach().mul_(1), "the tensor was written in place"),
    "a buffer": (lambda m, x: m.norm.running_mean.add_(1), "running_mean.*: the tensor has other values"),
    "batch statistics": (lambda m, x: m(x), "the tensor has other values than before"),
    "the input": (lambda m, x: x.zero_(), "argument 1: the tensor has other values"),
    "the sign of zero": (lambda m, x: m.plain.neg_(), "plain: the tensor has other values"),
    "memory that torch does not see": (lambda m, x: m.plain.numpy().fill(3), "plain: the tensor has other values"),
    ".grad": (_grad, "weight.*: its .grad is another one"),
    "requires_grad": (lambda m, x: m.linear.bias.requires_grad_(False), "bias.*: its requires_grad is another one"),
    "a forward hook": (lambda m, x: m.linear.register_forward_hook(lambda *a: None), "_forward_hooks: has"),
    "a new attribute": (_set("new", 1), r"argument 0: has \['new'\] more, less or elsewhere"),
    "an attribute": (_set("plain", torch.zeros(2)), "argument 0.plain: is another object than before"),
    "the mode": (lambda m, x: m.eval(), "training: is another object than before"),
    "a deque": (lambda m, x: m.history.append(2), "history: has"),
    "a cache of a helper": (lambda m, x: m.helper.cache["k"].append(1), r"helper.cache.\['k'\]: has"),
    "a tensor in it": (lambda m, x: m.helper.cache["k"][0].add_(1), r"\['k'\].\[0\]: the tensor has other values"),
    "torch's random state": (lambda m, x: torch.rand(1), "torch's random state is not what it was"),
    "NumPy's random state": (lambda m, x: np.random.rand(), "NumPy's random state is not what it was"),
    "Python's random state": (lambda m, x: random.random(), "Python's random state is not what it was"),
    "a setting": (lambda m, x: torch.set_default_dtype(torch.float64), "get_default_dtype.* is not what it was"),
    "another setting": (lambda m, x: torch.use_deterministic_algorithms(True), "deterministic.* is not what it was"),
}


@pytest.fixture
def _settings_come_back() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_settings_come_back")
@pytest.mark.parametrize("touch", TOUCHES)
def test_a_touch_is_seen(touch: str) -> None:
    model, x = Model(), torch.randn(3, 2)
    act, message = TOUCHES[touch]
    belongings = Belongings(model, x)
    belongings.check()
    act(model, x)
    with pytest.raises(AssertionError, match=message):
        belongings.check()


def test_reading_is_no_touch() -> None:
    model, x = Model().eval(), torch.randn(3, 2)
    belongings = Belongings(model, x, [1, "a", None], {"x": x})
    torch.autograd.grad(model(x).sum(), list(model.parameters()))
    model.state_dict()
    belongings.check()
