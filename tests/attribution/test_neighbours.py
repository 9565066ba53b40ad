"""The copies beside an example show what it sees of its batch, and are inputs that a model may be given."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import metrics
from funcattr.attribution.neighbours import DRAWN_IN, MOVED, OTHERS, among_of_constant, drawn_in, examples_of, rows_of
from funcattr.batch import parted


def _one_of_several(x: Tensor) -> Tensor:
    return 2 * x if bool((x > 0.9 * x.max()).flatten(1).sum(1).gt(1).any()) else x


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda x: x - x.max(),
    "largest absolute": lambda x: x / x.abs().max(),
    "smallest": lambda x: x - x.min(),
    "smallest absolute": lambda x: x / (0.1 + x.abs().min()),
    "range": lambda x: (x - x.min()) / (x.max() - x.min()),
    "largest of each feature": lambda x: x - x.amax(0),
    "smallest of each feature": lambda x: x - x.amin(0),
    "mean": lambda x: x - x.mean(),
    "mean of each feature": lambda x: x - x.mean(0),
    "median of each feature": lambda x: x - x.median(0).values,
    "upper median of each feature": lambda x: x + (-x).median(0).values,
    "standard deviation": lambda x: x / x.std(),
    "norm": lambda x: x / x.norm(),
    "batch norm": lambda x: (x - x.mean(0)) / (0.1 + x.std(0, correction=0)),
    "quarter": lambda x: x - x.quantile(0.25),
    "sorted": lambda x: x.sort(0).values,
    "sorted down": lambda x: x.sort(0, descending=True).values,
    "sum from the first": lambda x: x.cumsum(0),
    "sum from the last": lambda x: x.flip(0).cumsum(0).flip(0),
    "largest from the first": lambda x: x.cummax(0).values,
    "softmax": lambda x: x.softmax(0),
    "a branch for large numbers": lambda x: 2 * x if bool((x > 0.98).any()) else x,
    "a branch for small numbers": lambda x: 2 * x if bool((x < 0.02).any()) else x,
    "different numbers": lambda x: x / len(x.unique()),
    "number of rows": lambda x: x * len(x),
    "first": lambda x: x - x[:1],
    "last": lambda x: x - x[-1:],
    "reversed": lambda x: x.flip(0),
    "neighbour": lambda x: x.roll(1, 0),
}
BATCHES = pytest.mark.parametrize("batch", [1, 2, 3, 8])


def images(batch: int) -> Tensor:
    """Images of numbers in [0, 1), with both ends of it."""
    x = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0], x[-1, -1, -1, -1] = 0.001, 0.999
    return x


class _Net(nn.Module):
    """[N, 3, 4, 4] -> [N, 5], with something before it and something at its features. [N, 7]"""

    def __init__(self, before: Callable[[Any], Any] = lambda x: x, within: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.before, self.within = before, within
        self.first, self.head = nn.Linear(48, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.within(self.first(self.before(x).flatten(1)).tanh()))


@BATCHES
@pytest.mark.parametrize("what", MIXING)
def test_what_a_model_takes_of_the_whole_batch_is_refused(what: str, batch: int) -> None:
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Net(before=MIXING[what]), images(batch), 1, steps=3)


AT_FEATURES = (
    *("largest", "largest absolute", "smallest", "range", "largest of each feature", "smallest of each feature"),
    *("mean", "standard deviation", "norm", "batch norm", "softmax", "sum from the first", "reversed"),
)
CHANNELS = torch.arange(3).reshape(3, 1, 1)


@BATCHES
@pytest.mark.parametrize("what", AT_FEATURES)
def test_what_a_model_takes_of_the_features_of_a_batch_is_refused(what: str, batch: int) -> None:
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.feature_ablation(_Net(within=MIXING[what]), images(batch), 1, feature_mask=CHANNELS)


def _last(there: Tensor) -> int:
    """The number of places up to the last one that any row of [N, T] has."""
    return int(there.any(0).nonzero().max()) + 1


SENTINELS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "up to the last place that is not 0": (
        lambda x: x[:, : _last((x != 0).any(-1))].tanh().mean(1),
        torch.cat([images(2).flatten(2)[:, :, :8], torch.zeros(2, 2, 8)], 1),
    ),
    "up to the longest by count": (
        lambda x: x[:, : int((x != 0).any(-1).sum(1).max())].tanh().mean(1),
        torch.cat([images(2).flatten(2)[:, :, :8], torch.zeros(2, 2, 8)], 1),
    ),
    "ids up to the last that is not 0": (
        lambda ids: nn.functional.one_hot(ids[:, : _last(ids != 0)], 9).double().mean(1),
        torch.tensor([[3, 5, 7, 0, 0], [4, 8, 0, 0, 0]]),
    ),
    "ids up to the longest by count": (
        lambda ids: nn.functional.one_hot(ids[:, : int((ids != 0).sum(1).max())], 9).double().mean(1),
        torch.tensor([[3, 5, 7, 0, 0], [4, 8, 0, 0, 0]]),
    ),
    "missing numbers as the mean of the batch": (
        lambda x: torch.where(x.isnan(), x.nanmean(0, keepdim=True).nan_to_num(), x).tanh(),
        torch.tensor([[0.5, torch.nan, 0.2, 0.9]]),
    ),
}


@pytest.mark.parametrize("what", SENTINELS)
def test_what_the_padding_of_a_batch_decides_is_refused(what: str) -> None:
    model, x = SENTINELS[what]
    with pytest.raises(ValueError, match=r"expected examples in dimension 0 of x.* but (what an example|with 4 co)"):
        funcattr.feature_ablation(model, x, 0, baseline=1 if not x.is_floating_point() else 1.0)


def test_a_model_that_finds_no_room_for_the_copies_says_so() -> None:
    def model(x: Tensor) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("no room")
        return x.tanh()

    with pytest.raises(torch.OutOfMemoryError, match=r"^feature_ablation: no memory for the check .*chunk_size=1"):
        funcattr.feature_ablation(model, torch.rand(2, 3), 0, chunk_size=2)
    assert funcattr.feature_ablation(model, torch.rand(2, 3), 0, chunk_size=1).shape == (2, 3)


def _ids() -> Tensor:
    return torch.tensor([[7, 3, 4, 2, 5, 3]])


class _Tokens(nn.Module):
    """[N, T] of 8 ids -> [N, 5]"""

    def __init__(self, weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.weight, self.table, self.head = weight, nn.Embedding(8, 4), nn.Linear(4, 5)

    def forward(self, ids: Tensor) -> Tensor:
        assert not ids.is_floating_point()
        return self.head((self.table(ids) * self.weight(ids).unsqueeze(-1)).sum(1))


@pytest.mark.parametrize(
    "weight",
    [
        lambda ids: ids / ids.max(),
        lambda ids: ids - ids.min() + 1.0,
        lambda ids: ids / ids.double().mean().float(),
        lambda ids: ids * len(ids.unique()),
        lambda ids: ids.cumsum(0).float(),
        lambda ids: ids * 2.0 if bool((ids == 7).any()) else ids * 1.0,
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_what_a_model_takes_of_the_token_ids_of_a_batch_is_refused(weight: Any, batch: int) -> None:
    ids = (_ids() + torch.arange(batch).unsqueeze(1)) % 8
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.feature_ablation(_Tokens(weight), ids, 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_token_models_that_see_each_text_alone_pass(batch: int) -> None:
    ids = (_ids() + torch.arange(batch).unsqueeze(1)) % 8  # no other ids are in the table
    assert funcattr.feature_ablation(_Tokens(lambda ids: ids / ids.amax(1, keepdim=True)), ids, 1).shape == ids.shape


ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda x: x / x.flatten(1).amax(1).reshape(-1, 1, 1, 1),
    "mean": lambda x: x - x.mean((1, 2, 3), keepdim=True),
    "softmax": lambda x: x.flatten(1).softmax(1).reshape(x.shape),
    "a logarithm": lambda x: x.log(),
    "a branch beyond the range": lambda x: x / 255 if bool((x > 1).any()) else x,
}


@BATCHES
@pytest.mark.parametrize("what", ALONE)
def test_models_that_see_each_example_alone_pass(what: str, batch: int) -> None:
    found = funcattr.feature_ablation(_Net(ALONE[what]), images(batch), 1, baseline=0.5, feature_mask=CHANNELS)
    assert found.isfinite().all()


@BATCHES
def test_a_model_of_numbers_in_a_range_gets_no_others(batch: int) -> None:
    low, high = images(batch).aminmax()

    def checked(x: Tensor) -> Tensor:
        assert x.min() >= low and x.max() <= high
        return x

    check = partial(funcattr.feature_ablation, baseline=0.5, feature_mask=CHANNELS)
    assert check(_Net(checked), images(batch), 1).isfinite().all()
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        check(_Net(lambda x: checked(x) / x.max()), images(batch), 1)


@pytest.mark.parametrize("what", ["mean", "neighbour"])
def test_a_model_that_fails_on_other_numbers_is_asked_about_its_own(what: str) -> None:
    given = images(2)

    def takes(x: Tensor) -> Tensor:
        if x.max() < given.max():
            raise RuntimeError("too dark")
        return x

    check = partial(funcattr.occlusion, window=(1, 1, 1), chunk_size=8)
    assert check(_Net(takes), given, 1).isfinite().all()
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        check(_Net(lambda x: MIXING[what](takes(x))), given, 1)


@pytest.mark.parametrize("method", ["integrated_gradients", "shapley_sampling", "expected_gradients", "rise"])
def test_by_default_no_copy_is_scaled_by_others(method: str) -> None:
    model, x = _Net(lambda x: x / x.abs().max().clamp(min=0.1)), images(1)
    options: Any = {
        "rise": {"cells": 2, "samples": 4},
        "shapley_sampling": {"feature_mask": CHANNELS},
    }
    with pytest.raises(ValueError, match=rf"^{method}\(example_dims=0\): .* depends on what else is in the batch"):
        getattr(funcattr, method)(model, x, 1, **options.get(method, {}))
    assert getattr(funcattr, method)(model, x, 1, chunk_size=1, **options.get(method, {})).isfinite().all()


def test_a_noise_tunnel_verify_and_metrics_say_so_too() -> None:
    model, x = _Net(lambda x: x / x.abs().max()).eval(), images(1)
    with pytest.raises(ValueError, match=r"^noise_tunnel.* depends on what else is in the batch"):
        funcattr.noise_tunnel(partial(funcattr.gradient, model), x, 1, samples=3)
    found = {finding.what: finding for finding in funcattr.verify(model, x, 1)}
    assert found["examples of a batch do not see each other"].holds is False
    with pytest.raises(ValueError, match=r"depends on what else is in the batch"):
        metrics.sensitivity_n(model, x, 1, x, n=2, feature_mask=CHANNELS)
    with pytest.raises(ValueError, match=r"depends on what else is in the batch.* It is the function baseline="):
        metrics.deletion(_Net(), x, 1, x, feature_mask=CHANNELS, baseline=lambda x, removed: 0 * x + x.max())


# --- the numbers themselves -------------------------------------------------------------------------------------------

GIVEN = {
    "float": images(3),
    "half": images(3).half(),
    "one": torch.ones(2, 3),
    "zero": torch.zeros(2, 3),
    "negative": -torch.ones(1, 1),
    "masked": torch.tensor([[0.0, -torch.inf, 2.0], [torch.nan, 1.0, torch.inf]]),
    "nothing finite": torch.full((2, 2), -torch.inf),
    "complex": torch.complex(images(2), images(2).flip(0)),
    "ids": _ids(),
    "bits": torch.tensor([[True, False, False]]),
    "one id": torch.tensor([[4]]),
}


@pytest.mark.parametrize("of", [DRAWN_IN, MOVED, *OTHERS.values()])
@pytest.mark.parametrize("what", GIVEN)
def test_an_example_is_found_again_among_its_copies(what: str, of: Any) -> None:
    value = GIVEN[what]
    beside = of.among(value)
    assert beside.shape == (len(value) * rows_of(len(value)), *value.shape[1:]) and beside.dtype == value.dtype
    torch.testing.assert_close(examples_of(beside, len(value)), of.example(value), rtol=0, atol=0, equal_nan=True)
    constant = examples_of(among_of_constant(value), len(value))
    torch.testing.assert_close(constant, value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("of", [DRAWN_IN, OTHERS[DRAWN_IN]])
@pytest.mark.parametrize("what", ["float", "negative", "one", "ids", "bits", "one id"])
def test_no_number_leaves_the_range_and_no_integer_is_new(what: str, of: Any) -> None:
    value = GIVEN[what]
    beside = of.among(value)
    if not value.is_floating_point():
        assert set(beside.flatten().tolist()) <= set(value.flatten().tolist())
        return
    low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
    assert beside.min() >= low and beside.max() <= high


def test_an_example_lies_between_its_copies_in_every_direction() -> None:
    x = images(3)
    first, example, second, _ = parted(DRAWN_IN.among(x).double(), rows_of(3))[::2].unbind(1)
    w = torch.randn(100, 48, generator=torch.Generator().manual_seed(1)).double()
    before, at, behind = (copy.flatten(1) @ w.T for copy in (first, example, second))
    assert bool(((before - at) * (behind - at) < 0).all())
    assert drawn_in(x).min() > x.min() and drawn_in(x).max() < x.max()


def test_ids_are_drawn_in_by_one_of_those_that_are_there() -> None:
    assert drawn_in(_ids()).tolist() == [[5, 3, 4, 3, 5, 3]]
    assert drawn_in(torch.tensor([[1, 0, 1]])).tolist() == [[1, 0, 1]]
