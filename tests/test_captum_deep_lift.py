"""`deep_lift` against captum 0.9: the same where captum sums to delta, and where it does not or raises.

Captum's rule for max-pooling is another one: where the winner of a window changes, it gives all to one of both winners
(the one at x if the output has grown), we give each its part; both sum to delta.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcattr import deep_lift, distribution
from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal

captum: Any = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # that it sets hooks and gradients


def by_captum(model: nn.Module, x: Tensor, baseline: Tensor, target: Any = 1) -> tuple[Tensor, float]:
    """Its attributions, and the largest of its own convergence deltas."""
    found, delta = captum.DeepLift(model).attribute(x, baseline, target=target, return_convergence_delta=True)
    return found.detach(), delta.abs().max().item()


def dense(*between: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Linear layers with modules between them: 4 -> 6 ... -> 3 numbers."""
    return lambda: nn.Sequential(
        *(part for i, make in enumerate(between) for part in (nn.Linear(6 if i else 4, 6), make())), nn.Linear(6, 3)
    )


def convolutional(pool: Callable[[], nn.Module], inplace: bool = False) -> Callable[[], nn.Module]:
    """Images [2, 8, 8] to 3 numbers, the pool before all else."""
    body = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace), nn.Conv2d(4, 4, 2), nn.ReLU(inplace)]
    return lambda: nn.Sequential(pool(), *body, nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(16, 3))


DENSE, IMAGE = (3, 4), (2, 2, 8, 8)
SAME: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (dense(nn.ReLU, nn.ReLU), DENSE),
    "relu in place": (dense(lambda: nn.ReLU(inplace=True)), DENSE),
    "saturating": (dense(nn.Tanh, nn.Sigmoid), DENSE),
    "others": (dense(nn.ELU, nn.Softplus, nn.LeakyReLU), DENSE),
    "convolutions": (convolutional(lambda: nn.AvgPool2d(2)), IMAGE),
    "convolutions in place": (convolutional(lambda: nn.AvgPool2d(2), inplace=True), IMAGE),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_on_modules_that_captum_knows(name: str) -> None:
    make, shape = SAME[name]
    model, x, baseline = settle(make), uniform(*shape), uniform(*shape, seed=9)
    expected, delta = by_captum(model, x, baseline, target=[k % 3 for k in range(len(x))])
    assert delta <= 1e-12
    assert_equal(deep_lift(model, x, [k % 3 for k in range(len(x))], baseline=baseline), expected)


def test_deep_shap_is_deep_lift_shap() -> None:
    model, x, rows = settle(SAME["convolutions"][0]), uniform(*IMAGE), uniform(5, 2, 8, 8, seed=3)
    expected = captum.DeepLiftShap(model).attribute(x, rows, target=1).detach()
    assert_equal(deep_lift(model, x, 1, baseline=distribution(rows)), expected)


@pytest.mark.parametrize("layer", ["0", "1", "3", "7"])
def test_layers_are_equal(layer: str) -> None:
    model, x, rows = settle(SAME["convolutions"][0]), uniform(*IMAGE), uniform(2, 2, 8, 8, seed=3)
    module = model.get_submodule(layer)
    expected = captum.LayerDeepLift(model, module).attribute(x, rows, target=1).detach()
    assert_equal(deep_lift(model, x, 1, baseline=rows, layer=layer), expected)
    expected = captum.LayerDeepLiftShap(model, module).attribute(x, rows, target=1).detach()
    assert_equal(deep_lift(model, x, 1, baseline=distribution(rows), layer=layer), expected)


def test_max_pools_are_equal_where_the_winners_stay_the_same() -> None:
    model, x = settle(convolutional(lambda: nn.MaxPool2d(2))), uniform(*IMAGE)
    expected, delta = by_captum(model, x, x / 2)
    assert delta <= 1e-12
    assert_equal(deep_lift(model, x, 1, baseline=x / 2), expected)


def test_where_the_winner_changes_captum_gives_all_to_one_of_both() -> None:
    model = nn.Sequential(nn.MaxPool1d(2), nn.Flatten(), nn.Linear(1, 1, bias=False)).double()
    nn.init.ones_(model[2].weight)  # pyright: ignore[reportArgumentType]
    x, baseline = torch.tensor([[[5.0, 1.0]]]).double(), torch.tensor([[[1.0, 2.0]]]).double()
    assert by_captum(model, x, baseline, 0)[0].tolist() == [[[3.0, 0.0]]]
    assert deep_lift(model, x, 0, baseline=baseline).tolist() == [[pytest.approx([3.2, -0.2])]]


# --- where captum's sums are off -------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A relu that is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(x)))


class Product(nn.Module):
    """A gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.head = (
            nn.Sequential(nn.Linear(4, 6), nn.Sigmoid()),
            nn.Linear(4, 6),
            nn.Linear(6, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gate(x) * self.value(x))


class Attention(nn.Module):
    """Its softmax is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.softmax, self.head = nn.Linear(4, 12), nn.Softmax(-1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head((self.softmax(q @ k.mT) @ v).mean(1))


class Reused(nn.Module):
    """One relu for two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head, self.relu = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))))


OFF: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu as a function": (Functional, DENSE),
    "gelu": (dense(nn.GELU), DENSE),
    "silu": (dense(nn.SiLU), DENSE),
    "hardtanh": (dense(nn.Hardtanh), DENSE),
    "layer norm": (dense(lambda: nn.LayerNorm(6)), DENSE),
    "product": (Product, DENSE),
    "softmax": (lambda: nn.Sequential(dense(nn.ReLU)(), nn.Softmax(1)), DENSE),
    "log-softmax": (lambda: nn.Sequential(dense(nn.ReLU)(), nn.LogSoftmax(1)), DENSE),
    "attention": (Attention, (2, 3, 4)),
    "overlapping max-pool": (convolutional(lambda: nn.MaxPool2d(3, 2, 1)), IMAGE),
}


@pytest.mark.parametrize("name", OFF)
def test_captum_misses_the_delta_and_we_do_not(name: str) -> None:
    make, shape = OFF[name]
    model, x, baseline = settle(make), uniform(*shape), uniform(*shape, seed=9)
    rise = (model(x) - model(baseline))[:, 1].detach()
    expected, delta = by_captum(model, x, baseline)
    assert delta > 0.02
    assert (expected.flatten(1).sum(1) - rise).abs().max().item() == pytest.approx(delta)
    found = deep_lift(model, x, 1, baseline=baseline)
    assert_equal(found.flatten(1).sum(1), rise, tolerance=1e-12)


def test_captum_refuses_a_module_that_is_used_twice() -> None:
    model, x, baseline = settle(Reused), uniform(*DENSE), uniform(*DENSE, seed=9)
    with pytest.raises(RuntimeError, match="your module is being used more than once"):
        by_captum(model, x, baseline)
    rise = (model(x) - model(baseline))[:, 1].detach()
    assert_equal(deep_lift(model, x, 1, baseline=baseline).sum(1), rise, tolerance=1e-12)
