"""The search for an order of removal, against a plain greedy search and models whose best order is known."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import masks, metrics

from ..contract import assert_equal


def slow(model: Any, x: Tensor, first: str, stages: int) -> Tensor:
    """One example at a time, one removal at a time."""
    found = torch.zeros_like(x)
    for n in range(len(x)):
        gone: list[int] = []
        features = x.shape[1]
        for stage in range(1, stages + 1):
            scores = []
            for i in range(features):
                if i not in gone:
                    without = x[n : n + 1].clone()
                    without[0, [*gone, i]] = 0
                    scores.append((model(without).item() * (1 if first == "highest" else -1), i))
            gone += [i for _, i in sorted(scores)[: features * stage // stages - len(gone)]]
        for place, i in enumerate(gone):
            found[n, i] = features - place if first == "highest" else place + 1
    return found


@pytest.mark.parametrize("first", ["highest", "lowest"])
@pytest.mark.parametrize("stages", [1, 3, 7])
def test_agrees_with_a_slow_search(first: Any, stages: int) -> None:
    weight = torch.randn(7, 7).double()

    def model(x: Tensor) -> Tensor:
        return ((x @ weight).tanh() * x).sum(1)

    x = torch.randn(3, 7).double()
    found = metrics.greedy_order(model, x, first=first, stages=stages, chunk_size=2)
    assert_equal(found, slow(model, x, first, stages))


def test_of_a_linear_model_it_is_the_order_of_the_parts() -> None:
    x = torch.tensor([[3.0, -1.0, 2.0, 0.5], [0.0, 4.0, 1.0, 2.0]])
    highest, lowest = (metrics.greedy_order(lambda x: x.sum(1), x, first=first) for first in ("highest", "lowest"))
    ranks = x.argsort(1).argsort(1) + 1.0
    assert_equal(highest, ranks)
    assert_equal(lowest, ranks)


@pytest.mark.parametrize("shape", [(600,), (3, 20, 20)])
def test_features_of_half_precision_have_a_place_each(shape: tuple[int, ...]) -> None:
    """bfloat16 has no 257: features beyond would share places, and be deleted in reading order."""
    x, weight = torch.ones(1, *shape, dtype=torch.bfloat16), torch.randn(shape[-2:] if len(shape) > 1 else shape)
    found = metrics.greedy_order(lambda x: (x * weight).flatten(1).sum(1), x)
    expected = weight.flatten().argsort().argsort().reshape(found.shape) + 1.0
    assert_equal(found, expected)


def test_sees_what_single_removals_do_not() -> None:
    """One of the first two is enough: alone, the third matters most; together, the first two do."""
    x = torch.ones(1, 3)

    def model(x: Tensor) -> Tensor:
        return 4 * torch.maximum(x[:, 0], x[:, 1]) + x[:, 2]

    area = {
        stages: metrics.deletion(
            model, x, None, metrics.greedy_order(model, x, stages=stages), activation=None
        ).area.item()
        for stages in (1, 3)
    }
    alone = metrics.deletion(model, x, None, torch.tensor([[2.0, 1.0, 3.0]]), activation=None).area.item()
    assert area[1] == pytest.approx(alone)
    assert area[3] == pytest.approx(alone)  # greedy: it takes the third first
    best = metrics.deletion(model, x, None, torch.tensor([[2.0, 3.0, 1.0]]), activation=None).area.item()
    assert best < area[3]  # and so is no bound


def test_patches_of_other_sizes_keep_their_order() -> None:
    x = torch.rand(2, 3, 5, 7)
    squares = masks.patches(x, 3)
    found = metrics.greedy_order(lambda x: x.sum((1, 2, 3)), x, feature_mask=squares)
    sums = torch.stack([(found * (squares == i)).sum((1, 2, 3)) for i in range(int(squares.max()) + 1)], 1)
    truth = torch.stack([(x * (squares == i)).sum((1, 2, 3)) for i in range(int(squares.max()) + 1)], 1)
    assert_equal(sums, truth.argsort(1).argsort(1) + 1.0, tolerance=1e-6)


def test_is_a_ceiling_for_chance_and_deletion_takes_it() -> None:
    model = funcattr.metrics.area_between
    net = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    x = torch.randn(8, 12)
    best = {first: metrics.greedy_order(net, x, 1, first=first, stages=12) for first in ("highest", "lowest")}
    ceiling = (
        metrics.deletion(net, x, 1, best["lowest"], first="lowest", activation=None).area
        - metrics.deletion(net, x, 1, best["highest"], activation=None).area
    )
    for found in (torch.rand_like(x), funcattr.gradient(net, x, 1)):
        assert (ceiling >= model(net, x, 1, found) - 1e-6).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"first": "best"}, "expected 'highest'"), ({"stages": 5}, "no more than there are"), ({"stages": 0}, "at least")],
)
def test_refuses_what_it_cannot_do(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        metrics.greedy_order(lambda x: x.sum(1), torch.ones(1, 4), **options)


def test_without_a_mask_an_image_has_pixels() -> None:
    x = torch.rand(2, 3, 4, 5)
    found = metrics.greedy_order(lambda x: x.sum((1, 2, 3)), x)
    assert found.shape == (2, 1, 4, 5)
    assert_equal(found.flatten(1), x.sum(1).flatten(1).argsort(1).argsort(1) + 1.0, tolerance=1e-6)
    assert metrics.deletion(lambda x: x.sum((1, 2, 3)), x, None, found, activation=None).area.shape == (2,)


def test_removed_parts_may_be_filled_by_a_function() -> None:
    x = torch.rand(2, 1, 6, 6)
    weight = torch.rand(6, 6)

    def model(x: Tensor) -> Tensor:
        return (x[:, 0] * weight).sum((1, 2))

    def halved(rows: Tensor, removed: Tensor) -> Tensor:
        return rows / 2

    squares = masks.patches(x, 2)
    by_function = metrics.greedy_order(model, x, baseline=halved, feature_mask=squares)
    assert_equal(by_function, metrics.greedy_order(model, x, baseline=x / 2, feature_mask=squares))
    with pytest.raises(ValueError, match="It is the function baseline= that mixes them"):
        metrics.greedy_order(model, x, baseline=lambda rows, removed: rows.flip(0), feature_mask=squares)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, net: metrics.greedy_order(net, x, 1, progress=True),
        lambda x, net: metrics.randomization(funcattr.gradient, net, x, 1, progress=True),
        lambda x, net: metrics.randomization_entropy(funcattr.gradient, net, x, 1, progress=True),
        lambda x, net: metrics.completeness(
            net, x, 1, x, baseline=funcattr.distribution(torch.zeros(3, 4)), progress=True
        ),
        lambda x, net: metrics.max_sensitivity(partial(funcattr.gradient, net), x, 1, progress=True),
    ],
)
def test_measures_that_take_long_have_a_bar(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call(torch.randn(2, 4), torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)))
    assert "%|" in capsys.readouterr().err
