"""A reward or a loss of the user's is one number for each copy, of that copy's output alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.attribution.separate_rows import of_separate_rows
from funcattr.bottleneck import FeatureStatistics

MIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean().expand(len(y)),
    "less the mean": lambda y: y[:, 0] - y[:, 0].mean(),
    "neighbour": lambda y: y.roll(1, 0)[:, 0],
    "two rows away": lambda y: y[:, 0] + 0.1 * y.roll(2, 0)[:, 1],
    "the last row": lambda y: y[:, 0] * y[-1, 1],
    "softmax over rows": lambda y: y.softmax(0)[:, 0],
    "norm of all": lambda y: y[:, 0] / y.norm(),
}
SEPARATE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of each": lambda y: y.flatten(1).mean(1),
    "a class": lambda y: y.softmax(1)[:, 1],
    "weights of one's own": lambda y: y[:, 0] * torch.arange(len(y)),
    "constant": lambda y: 0 * y[:, 0],
    "chance": lambda y: y[:, 0] + torch.rand(len(y), dtype=y.dtype),
    "chance that mixes": lambda y: y[:, 0] + torch.rand(()) * y.mean(),
    "NaN": lambda y: y[:, 0] * torch.nan,
}


@pytest.mark.parametrize("rows", [3, 5, 16, 17])
@pytest.mark.parametrize("kind", MIXED)
def test_a_function_that_sees_other_rows_is_refused(kind: str, rows: int) -> None:
    run = of_separate_rows("rise", "reward", MIXED[kind])
    with pytest.raises(ValueError, match=r"^rise\(reward=<function>\): expected one number for each copy, of that"):
        run(torch.randn(rows, 4, 3, dtype=torch.float64)[..., 0])


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("kind", SEPARATE)
def test_a_function_of_each_row_gives_what_it_gives(kind: str, rows: int) -> None:
    y, state = torch.randn(rows, 4, dtype=torch.float64), torch.get_rng_state()
    expected = SEPARATE[kind](y)
    torch.set_rng_state(state)
    found = of_separate_rows("rise", "reward", SEPARATE[kind])(y)
    torch.testing.assert_close(found, expected, equal_nan=True)
    after = torch.rand(())  # the check leaves the draws as they were
    torch.set_rng_state(state)
    SEPARATE[kind](y)
    torch.testing.assert_close(torch.rand(()), after)


def test_a_function_is_checked_once() -> None:
    asked: list[int] = []

    def reward(y: Tensor, target: Any) -> Tensor:
        asked.append(target)
        return y[:, 0]

    run = of_separate_rows("rise", "reward", reward)
    run(torch.randn(4, 2), 1)
    assert asked == [1] * 5  # the answer; two binary digits of four positions, two values each
    run(torch.randn(4, 2), 1)
    assert len(asked) == 6


def test_neighbours_may_see_each_other_where_they_belong_together() -> None:
    def difference(y: Tensor) -> Tensor:
        kept, hidden = y[0::2, 0], y[1::2, 0]
        return torch.stack([kept - hidden, 0 * kept], 1).flatten()

    y = torch.randn(6, 2, dtype=torch.float64)
    torch.testing.assert_close(of_separate_rows("rise", "reward", difference, together=2)(y), difference(y))
    for together, function in ((1, difference), (2, MIXED["mean"]), (2, MIXED["two rows away"])):
        with pytest.raises(ValueError, match="depends on the other rows"):
            of_separate_rows("rise", "reward", function, together=together)(y)


def settled() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).double().eval()


MODEL = settled()


def ask(method: str, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if method == "iba":
        flat = torch.zeros(3, 4, 4, dtype=torch.float64)
        given = FeatureStatistics("1", "gaussian", 20, torch.full((3, 4, 4), 20), flat, 19 + flat)
        return funcattr.iba(MODEL, x, statistics=given, loss=function, steps=2, samples=2)
    more: Any = {"radius": 2, "spacing": 2, "steps": 2, "max_blur": 2.0, "areas": (0.2, 0.4)}
    return funcattr.extremal_perturbation(MODEL, x, reward=lambda y, target: function(y), **more)


@pytest.mark.parametrize("kind", ["mean", "less the mean", "softmax over rows"])
@pytest.mark.parametrize(("method", "option"), [("iba", "loss"), ("extremal_perturbation", "reward")])
def test_methods_refuse_functions_that_see_other_copies(method: str, option: str, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"^{method}\({option}=<function>\): .* depends on the other rows"):
        ask(method, MIXED[kind], torch.randn(2, 2, 6, 6, dtype=torch.float64))


@pytest.mark.parametrize("method", ["iba", "extremal_perturbation"])
def test_methods_map_over_functions_of_each_row(method: str) -> None:
    x = torch.randn(3, 2, 2, 6, 6, dtype=torch.float64)
    expected = torch.stack([ask(method, SEPARATE["a class"], one) for one in x])
    if method == "extremal_perturbation":
        torch.testing.assert_close(torch.vmap(lambda one: ask(method, SEPARATE["a class"], one))(x), expected)
    assert torch.isfinite(expected).all()
