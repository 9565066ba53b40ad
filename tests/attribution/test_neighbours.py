"""The copies beside an example show what it sees of its batch, and are inputs that a model may be given."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import metrics
from funcattr.attribution.few_examples import few_of
from funcattr.attribution.neighbours import ASKED, DRAWN_IN, GIVEN, MOVED, SECOND, asked_of, drawn_in


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

NUMBERS = {
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
ROWS = {
    "drawn in": DRAWN_IN,
    "moved": MOVED,
    **{f"{name}, others": of.beside_others(at) for at in ASKED for name, of in (("in", DRAWN_IN), ("moved", MOVED))},
}


@pytest.mark.parametrize("of", ROWS)
@pytest.mark.parametrize("what", NUMBERS)
def test_an_example_is_found_again_beside_others(what: str, of: str) -> None:
    value, neighbours = NUMBERS[what], ROWS[of]
    beside, constant = neighbours.among(value), neighbours.constant(value)
    assert beside.shape == (len(value) * neighbours.times, *value.shape[1:]) and beside.dtype == value.dtype
    for place in ASKED:
        found = asked_of(beside, place, neighbours.times)
        torch.testing.assert_close(found, neighbours.rows[place](value), rtol=0, atol=0, equal_nan=True)
        kept = asked_of(constant, place, neighbours.times)
        torch.testing.assert_close(kept, value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("place", ASKED)
@pytest.mark.parametrize("family", [DRAWN_IN, MOVED])
@pytest.mark.parametrize("what", ["float", "half", "one", "zero", "negative", "complex"])
def test_beside_others_only_the_example_stays(what: str, family: Any, place: int) -> None:
    value = NUMBERS[what]
    before, after = (of.among(value).flatten(1) for of in (family, family.beside_others(place)))
    same = (before == after).all(1)
    asked = asked_of(torch.arange(len(before)), place, family.times)
    assert same.nonzero().flatten().tolist() == asked.tolist()


@pytest.mark.parametrize("of", ["drawn in", "in, others"])
@pytest.mark.parametrize("what", ["float", "negative", "one", "ids", "bits", "one id"])
def test_no_number_leaves_the_range_and_no_integer_is_new(what: str, of: str) -> None:
    value = NUMBERS[what]
    beside = ROWS[of].among(value)
    if not value.is_floating_point():
        assert set(beside.flatten().tolist()) <= set(value.flatten().tolist())
        return
    low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
    assert beside.min() >= low and beside.max() <= high


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(),
    "mean of each": lambda x: x.mean(0),
    "largest": lambda x: x.amax(0),
    "median": lambda x: x.median(0).values,
    "spread": lambda x: x.std(),
}


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("what", STATISTICS)
def test_a_statistic_of_the_batch_is_another_one_alone_and_beside_others(what: str, batch: int) -> None:
    """Of x, of x drawn in, or of both; in any direction, and of images whose mean is the middle of their range."""
    half = torch.rand(batch, 24, generator=torch.Generator().manual_seed(3)).double()
    x = torch.cat([half, 1 - half], 1)
    w = torch.randn(30, 48, generator=torch.Generator().manual_seed(1)).double()
    for along in (lambda v: v, lambda v: v @ w.T):
        beside, *alone = (STATISTICS[what](along(v)) for v in (DRAWN_IN.among(x), x, drawn_in(x)))
        moves = torch.stack([(of - beside).abs() for of in alone])
        assert bool((moves.amax(0) > 1e-4).all())
    assert drawn_in(x).min() > x.min() and drawn_in(x).max() < x.max()


def test_places_differ_from_example_to_example() -> None:
    value = torch.arange(4.0).reshape(4, 1)
    given, second = (asked_of(torch.arange(12), place, 3).tolist() for place in (GIVEN, SECOND))
    assert given == [1, 3, 7, 9] and second == [2, 5, 8, 11]
    assert DRAWN_IN.among(value)[given].flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_ids_are_drawn_in_by_one_of_those_that_are_there() -> None:
    assert drawn_in(_ids()).tolist() == [[5, 3, 4, 3, 5, 3]]
    assert drawn_in(torch.tensor([[1, 0, 1]])).tolist() == [[1, 0, 1]]


# --- a few examples ---------------------------------------------------------------------------------------------------


def test_few_examples_have_the_ends_and_what_may_be_missing() -> None:
    x = torch.rand(40, 6) + 1
    assert few_of(4, [x[:4]]) is None and few_of(40, []) is None
    x[7, 2:4], x[31, 1], x[11, 0], x[30, 1], x[23, 5] = torch.nan, torch.nan, 5.0, 0.0, -0.5
    for values in ([x], [torch.ones(40, 0), x], [torch.complex(x, x)], [torch.ones(40, dtype=torch.bool), x.double()]):
        assert _few(values) == [7, 11, 23, 30]
    assert _few([torch.rand(40, 6) + 1])[0] == 0
    ids = torch.randint(1, 9, (40, 6))
    ids[17, 2:] = 0
    assert 17 in _few([ids])


def _few(values: list[Tensor]) -> list[int]:
    found = few_of(40, values)
    assert found is not None and len(found) == 4
    return found.tolist()


class _Experts(nn.Module):
    """Tokens go to the expert of their largest score, and what comes after the first few there is dropped."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[:, :3].argmax(1)
        rank = torch.stack([(chosen == e).cumsum(0) for e in range(3)], 1).gather(1, chosen[:, None])
        return x.tanh() * (rank <= max(1, len(x) // 3))


class _Members(nn.Module):
    """A batch ensemble: a row is its member's by its number, whose weight it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() * torch.linspace(1, 2, 5)[torch.arange(len(x)) % 5, None]


class _Segments(nn.Module):
    """A shift in time between the frames of a video, eight of them in a row; other numbers of rows fail."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x.view(-1, 8, x.shape[1])
        return (0.7 * frames + 0.3 * frames.roll(1, 1)).tanh().view(len(x), -1)


def _as_bytes(x: Tensor) -> Tensor:
    """Activations as 8 bit integers of one scale, that of the largest in the batch."""
    scale = x.abs().max() / 7
    return (x / scale).round() * scale


def _by_nearest(x: Tensor) -> Tensor:
    """Less the nearest other example."""
    far = torch.cdist(x, x) + 1e6 * torch.eye(len(x))
    return x - 0.1 * x[far.argmin(1)]


def _in_groups(x: Tensor) -> Tensor:
    """Batch norm of groups of four rows."""
    return torch.cat([(part - part.mean(0)) / (0.1 + part.std(0, correction=0)) for part in x.split(4)])


def _balanced(x: Tensor) -> Tensor:
    """Rows and columns scaled in turn so that all columns get as much: an assignment to clusters."""
    found = x.exp()
    for _ in range(3):
        found = found / found.sum(0) * len(x)
        found = found / found.sum(1, keepdim=True)
    return found


def _without_outliers(x: Tensor) -> Tensor:
    """The half of the batch that has the larger norm is cut back to the norm in the middle."""
    norm = x.norm(dim=1, keepdim=True)
    return x * (norm.median() / norm).clamp(max=1)


MORE: dict[str, Callable[[Tensor], Tensor]] = {
    "experts of limited room": _Experts(),
    "members by the number of a row": _Members(),
    "numbers of eight bits": _as_bytes,
    "the nearest": _by_nearest,
    "groups of rows": _in_groups,
    "a balanced assignment": _balanced,
    "outliers": _without_outliers,
}


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("what", MORE)
def test_what_larger_models_take_of_a_batch_is_refused(what: str, batch: int) -> None:
    x = torch.rand(batch, 6, generator=torch.Generator().manual_seed(batch)) * 2 - 1
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(MORE[what], x, 1, steps=3, chunk_size=3)


@pytest.mark.parametrize("what", [*MIXING])
@pytest.mark.parametrize("batch", [5, 40])
def test_a_few_of_many_examples_are_enough(what: str, batch: int) -> None:
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Net(before=MIXING[what]), images(batch), 1, steps=3, chunk_size=3)


NONE_OF_ONE = ("range", "standard deviation", "a branch for large numbers", "a branch for small numbers")


def test_the_nearest_of_two_examples_that_are_alike_is_another_one_beside_others() -> None:
    x = torch.tensor([[1.7, -0.1, 0.7, 0.9, -0.4, 1.5], [1.0, 0.0, 0.8, 1.0, -1.2, 1.8]])
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_by_nearest, x, 1, steps=3, chunk_size=3)


SCALARS = [what for what in MIXING if what not in NONE_OF_ONE]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("what", [*SCALARS])
def test_one_example_of_one_number_is_enough(what: str, sign: int) -> None:
    def model(x: Tensor) -> Tensor:
        return MIXING[what](x).tanh()

    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(model, sign * torch.tensor([[0.985]]), 0, steps=3, chunk_size=3)


def test_a_model_that_runs_on_eights_only_is_asked_about_all() -> None:
    x = torch.rand(16, 6)
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Segments(), x, 1, steps=3, chunk_size=3)
    rows: list[int] = []

    def by_eights(x: Tensor) -> Tensor:
        rows.append(len(x))
        return x.view(-1, 8, 6).tanh().view(len(x), -1)

    assert funcattr.integrated_gradients(by_eights, x, 1, steps=3, chunk_size=3).isfinite().all()
    assert rows[:5] == [4, 4, 16, 16, 48]


@pytest.mark.parametrize("holes", [1, 3])
def test_one_of_many_examples_that_lacks_a_number_is_asked_about(holes: int) -> None:
    names = "missing numbers as the mean of the batch", "ids up to the longest by count"
    fills, cuts = (SENTINELS[name][0] for name in names)
    x = torch.rand(40, 6) + 1
    x[13, :holes] = torch.nan
    ids = torch.randint(1, 9, (40, 6))
    ids[:, 5], ids[29, 2:] = 0, 0
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.feature_ablation(fills, x, 1, baseline=1.0, chunk_size=3)
    with pytest.raises(ValueError, match=r"depends on what else is in the batch|with 4 copies"):
        funcattr.feature_ablation(cuts, ids, 1, baseline=1, chunk_size=3)


def test_a_constant_with_as_many_rows_as_examples_are_asked_about_stays_one() -> None:
    x, code = torch.rand(40, 6), torch.rand(4, 6)

    def model(x: Tensor, code: Tensor, each: Tensor, one: Tensor) -> Tensor:
        assert code.shape == (4, 6) and one.shape == (12, 4) and each.shape == (len(x), 1)
        return (x * each) @ code.T + one[0]

    more = {"args": (code,), "kwargs": {"each": torch.rand(40, 1), "one": torch.rand(12, 4)}}
    assert funcattr.integrated_gradients(model, x, 1, steps=3, chunk_size=3, **more).isfinite().all()


def test_a_mask_of_others_that_decides_is_refused() -> None:
    def model(x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask)[:, : int(mask.sum(1).max()) + 1].tanh().mean(1, keepdim=True)

    def to_last(x: Tensor, mask: Tensor) -> Tensor:
        return x[:, : _last(mask)].tanh().mean(1, keepdim=True)

    x, mask = torch.rand(12, 6), (torch.arange(6) > 1).expand(12, 6) & (torch.arange(6) < 5)
    assert (
        funcattr.integrated_gradients(model, x, 0, steps=3, chunk_size=3, args=(mask,)).isfinite().all()
    )  # all are as long
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(to_last, x, 0, steps=3, chunk_size=3, args=(mask,))


@pytest.mark.parametrize("batch", [3, 40])
def test_a_target_of_a_function_and_classes_goes_with_its_examples(batch: int) -> None:
    classes, x = [i % 5 for i in range(batch)], images(batch)
    target = funcattr.contrast(lambda y: y.square().sum(1), classes)
    found = funcattr.integrated_gradients(_Net(), x, target, steps=3, chunk_size=3)
    torch.testing.assert_close(found, funcattr.integrated_gradients(_Net(), x, target, steps=3, chunk_size=1))
    mixing = funcattr.contrast(lambda y: y.square().sum(1) - y.mean(), classes)
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.integrated_gradients(_Net(), x, mixing, steps=3, chunk_size=3)


def test_a_noise_tunnel_asks_about_a_few_examples() -> None:
    rows: list[int] = []

    def method(x: Tensor, target: Any) -> Tensor:
        rows.append(len(x))
        return x**2

    funcattr.noise_tunnel(method, images(40), samples=2, chunk_size=2)
    assert rows == [4, 4, 12, 80]
    with pytest.raises(ValueError, match="depends on what else is in the batch"):
        funcattr.noise_tunnel(lambda x, target: x**2 - x.mean(0), images(40), samples=2, chunk_size=2)


@pytest.mark.parametrize("method", [partial(funcattr.integrated_gradients, steps=2), funcattr.deep_lift])
def test_nothing_of_a_call_waits_for_the_garbage_collector(method: Callable[..., Tensor]) -> None:
    x, options = torch.rand(3, 4), {}
    if method is funcattr.deep_lift:
        options["baseline"] = funcattr.distribution(torch.rand(2, 4))
    held = weakref.ref(x)
    gc.disable()
    try:
        method(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), x, 1, **options)
        del x
        assert held() is None
    finally:
        gc.enable()
