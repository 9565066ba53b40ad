"""Norms in simpler operations equal torch's, and have derivatives of every order."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.rules import norms
from funcattr.testing.seeding import settle, uniform

W, B = uniform(4, seed=3), uniform(4, seed=4)
CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "layer": ("layer_norm", ((3,),), {}),
    "layer of two dimensions": ("layer_norm", ([4, 3], uniform(4, 3, seed=5), uniform(4, 3, seed=6), 1e-3), {}),
    "batch": ("batch_norm", (None, None, W, B, True), {}),
    "batch by running statistics": ("batch_norm", (W, B.abs() + 1), {"eps": 1e-3}),
    "batch, no weight": ("batch_norm", (None, None), {"training": True}),
    "instance": ("instance_norm", (None, None, W, B), {}),
    "instance by running statistics": ("instance_norm", (W, B.abs() + 1, W, B, False), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_they_equal_torchs(name: str) -> None:
    norm, args, kwargs = CASES[name]
    x = uniform(2, 4, 3)
    torch.testing.assert_close(getattr(norms, norm)(x, *args, **kwargs), getattr(F, norm)(x, *args, **kwargs))


NETS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm(4),
    "instance": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()),
    "batch": lambda: nn.BatchNorm1d(4),
    "group": lambda: nn.GroupNorm(2, 4),
    "root mean square": lambda: nn.RMSNorm(4),
}


@pytest.mark.parametrize("name", NETS)
def test_full_grad_has_a_derivative_behind_a_norm(name: str) -> None:
    layers = (nn.Flatten(), nn.Linear(3, 4), NETS[name](), nn.Tanh(), nn.Linear(4, 2))
    model = settle(lambda: nn.Sequential(*layers)).eval()
    x, along, weights = uniform(2, 1, 3), uniform(2, 1, 3, seed=7), uniform(2, 1, 3, seed=8)

    def value(x: Tensor) -> Tensor:
        return (funcattr.full_grad(model, x, 1) * weights).sum()

    slope = (torch.func.grad(value)(x) * along).sum()
    step = 1e-5
    expected = (value(x + step * along) - value(x - step * along)) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)
