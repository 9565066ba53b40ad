"""The result of a reverse pass has a derivative by everything that was given and requires one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform


class Net(nn.Module):
    """A bent function of its input, of a second input, and of a keyword. [N, 3] -> [N, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, factor: Tensor | float = 1.0, *, shift: Tensor | float = 0.0) -> Tensor:
        return torch.tanh(self.layer(x) * factor + shift)


X, V = uniform(2, 3), uniform(2, 3, seed=2)
GIVEN: dict[str, Callable[..., Tensor]] = {
    "the input": lambda model, v, **at: funcattr.gradient(model, v, 1, **at),
    "an argument": lambda model, v, **at: funcattr.gradient(model, X, 1, args=(v,), **at),
    "a keyword": lambda model, v, **at: funcattr.gradient(model, X, 1, kwargs={"shift": v}, **at),
    "a cotangent": lambda model, v, **at: funcattr.gradient(model, X, v, **at),
    "a bound parameter": lambda model, v, **at: funcattr.gradient(
        funcattr.functionalize(model).bind({"layer.bias": v[0]}), X, 1, **at
    ),
    "an edit": lambda model, v, **at: funcattr.gradient(funcattr.edit(model, {"layer": lambda h: h * v}), X, 1, **at),
    "the noise at a site": lambda model, v, **at: funcattr.noise_tunnel(
        partial(funcattr.gradient, model, **at), X, 1, sigma=v.square(), noise_layer="layer", samples=2
    ),
}


@pytest.mark.parametrize("layer", [None, "layer"])
@pytest.mark.parametrize("place", GIVEN)
def test_a_gradient_has_a_derivative_by_what_requires_one(place: str, layer: str | None) -> None:
    model: Any = settle(Net)
    assert torch.autograd.gradcheck(lambda v: GIVEN[place](model, v, layer=layer), V.clone().requires_grad_())
