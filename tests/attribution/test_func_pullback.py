"""A search through a part that torch.func cannot pass is refused by its name, place and way out."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import UnsupportedOperationError
from funcattr.attribution.func_pullback import func_pullback
from funcattr.bottleneck import FeatureStatistics


class Part(nn.Module):
    """[N, C, H, W] -> [N, 3, H, W], as autograd takes it in one of three ways."""

    def __init__(self, channels: int, how: str) -> None:
        super().__init__()
        self.conv, self.how = nn.Conv2d(channels, 3, 3, padding=1), how

    def forward(self, x: Tensor) -> Any:
        if self.how == "function":
            return Doubled.apply(self.conv(x))
        if self.how == "plain":
            return self.conv(x).tanh()
        return checkpoint(lambda v: self.conv(v).tanh(), x, use_reentrant=self.how == "reentrant")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * g


def net(first: str, second: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Part(2, first), Part(3, second), nn.Flatten(), nn.Linear(192, 4)).eval()


X = torch.rand(2, 2, 8, 8)
FLAT = torch.zeros(3, 8, 8)
GIVEN = FeatureStatistics("0", "gaussian", 20, torch.full((3, 8, 8), 20), FLAT, 19 + FLAT)
SEARCHES: dict[str, Callable[[nn.Module], Any]] = {
    "iba": lambda model: funcattr.iba(model, X, 1, statistics=GIVEN, steps=2, samples=2),
    "extremal_perturbation": lambda model: funcattr.extremal_perturbation(
        model, X, 1, radius=2, spacing=2, steps=2, max_blur=2.0, areas=(0.2, 0.4)
    ),
}
WORDS = {
    "checkpointed": r"a checkpointed part \(torch.utils.checkpoint\), .* Leave the checkpointing out for this call: m",
    "reentrant": r"an autograd Function .* or reentrant checkpointing, which is one\. Write that part in plain",
    "function": r"an autograd Function .* or reentrant checkpointing, which is one\. Write that part in plain",
}


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("call", SEARCHES)
def test_what_torch_func_cannot_pass_is_named_with_its_module(call: str, how: str) -> None:
    said = rf"^{call}: in the module '1', cannot differentiate {WORDS[how]}.*funcattr\.verify\("
    with pytest.raises(UnsupportedOperationError, match=said) as caught:
        SEARCHES[call](net("plain", how))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("call", SEARCHES)
def test_without_such_a_part_nothing_is_refused(call: str) -> None:
    assert SEARCHES[call](net("plain", "plain")).isfinite().all()


def test_other_errors_come_as_they_are() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match=re.escape("out of order")) as caught:
        func_pullback("iba", broken, X)
    assert not isinstance(caught.value, UnsupportedOperationError)


def test_a_function_outside_of_modules_has_no_path() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"^iba: cannot differentiate a checkpointed part"):
        func_pullback("iba", lambda x: checkpoint(torch.sin, x, use_reentrant=False), X)
