"""Conditional relevance: the masks that it stands for, done by hand; and the most relevant examples by brute force."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import UnknownSiteError, UntrackedPathError, conditional_relevance, relevance_maximization
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal, loop

BOOKS = ("epsilon_plus", "epsilon", "epsilon_alpha2_beta1_flat", "attnlrp")
C = 6  # channels at the site "3"
conditional = partial(conditional_relevance, start="one")


def chain() -> Any:
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, C, 3, padding=1)]
    head = [nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * C, 5)]
    return settle(lambda: nn.Sequential(*body, *head))


def image(n: int = 2) -> Tensor:
    return uniform(n, 3, 4, 4)


def through(model: Any, x: Tensor, target: Any, site: int, mask: Tensor, book: Any = "epsilon_plus") -> Tensor:
    """Relevance at the site of a chain, times the mask, and from there pulled on to the input."""
    rules = funcattr.rules.rulebook_of("through", book)
    found = funcattr.attribute(model, x, target, rules=rules, layer=str(site), start="one")
    on = funcattr.attribute(model[: site + 1], x, found.cotangent * mask, rules=rules)
    return on.cotangent * x if book == "attnlrp" else on.cotangent


def one_hot(*channels: int) -> Tensor:
    return F.one_hot(torch.tensor(channels), C).sum(0).double().reshape(C, 1, 1)


@pytest.mark.parametrize("book", BOOKS)
def test_equals_masking_by_hand(book: str) -> None:
    model, x, target = chain(), image(), [4, 1]
    for conditions, masks in (
        ([{"3": 2}, {"3": 0}], [one_hot(2), one_hot(0)]),
        ([{"3": [1, 5]}, {"3": 3}], [one_hot(1, 5), one_hot(3)]),
        ([{"3": [0, 1, 2]}], [one_hot(0, 1, 2)]),
    ):
        actual: Any = conditional(model, x, target, conditions, rules=book)
        expected = torch.stack([through(model, x, target, 3, mask, book) for mask in masks])
        assert expected.abs().sum() > 0.1
        assert_equal(actual, expected)


def test_masks_of_every_shape() -> None:
    model, x = chain(), image()
    by_channel, by_example, whole = uniform(2, C), uniform(2, 2, C, seed=2), uniform(2, 2, C, 4, 4, seed=3)
    for masks, full in ((by_channel, by_channel[:, None, :, None, None]), (by_example, by_example[..., None, None])):
        actual: Any = conditional(model, x, 1, [{"3": mask} for mask in masks])
        assert_equal(actual, torch.stack([through(model, x, 1, 3, mask) for mask in full]))
    actual = conditional(model, x, 1, [{"3": mask} for mask in whole])
    assert_equal(actual, torch.stack([through(model, x, 1, 3, mask) for mask in whole]))
    for same in (by_channel > 0, (by_channel > 0).float()):  # a boolean mask, and one of another dtype
        actual = conditional(model, x, 1, [{"3": mask} for mask in same])
        assert_equal(actual, torch.stack([through(model, x, 1, 3, m) for m in (by_channel > 0)[..., None, None]]))
    lists = torch.tensor([[0, 2], [5, -1]])  # channels of each example, filled up with none
    expected = torch.stack([one_hot(0, 2), one_hot(5)])
    assert_equal(conditional(model, x, 1, [{"3": lists}])[0], through(model, x, 1, 3, expected))


@given(st.integers(0, 2), st.sampled_from(BOOKS), st.integers(0, 4))
def test_the_conditions_of_all_channels_sum_to_the_whole(site: int, book: str, target: int) -> None:
    model, x = chain(), image()
    name, channels = (("1", 4), ("2", 4), ("4", C))[site]
    each: Any = conditional(model, x, target, [{name: c} for c in range(channels)], rules=book)
    whole: Any = conditional(model, x, target, [{name: list(range(channels))}], rules=book)
    assert each.shape == (channels, *x.shape)
    assert_equal(each.sum(0), funcattr.lrp(model, x, target, rules=book, start="one"))
    assert_equal(whole[0], each.sum(0))


@pytest.mark.parametrize("book", BOOKS)
def test_a_condition_between_a_convolution_and_its_batch_norm_leaves_them_folded(book: str) -> None:
    model, x = chain(), image()
    each: Any = conditional(model, x, 1, [{"0": c} for c in range(4)], rules=book)
    assert_equal(each.sum(0), funcattr.lrp(model, x, 1, rules=book, start="one"))
    assert_equal(each, conditional(model, x, 1, [{"1": c} for c in range(4)], rules=book))


def test_nested_conditions_hold_at_both_sites() -> None:
    model, x = chain(), image()
    late, early = uniform(3, C), uniform(3, 4, seed=2)
    conditions = [{"4": a, "2": b} for a, b in zip(late, early, strict=True)]
    actual: Any = conditional(model, x, 0, conditions)
    book = funcattr.rules.epsilon_plus()
    for k in range(3):
        p = funcattr.attribute(model, x, 0, rules=book, layer="4").cotangent * late[k].reshape(C, 1, 1)
        p = funcattr.attribute(model[:5], x, p, rules=book, layer="2").cotangent * early[k].reshape(4, 1, 1)
        assert_equal(actual[k], funcattr.attribute(model[:3], x, p, rules=book).cotangent)
    assert_equal(conditional(model, x, 0, conditions, exclusive=True), actual)
    swapped = [{"2": c["2"], "4": c["4"]} for c in conditions]
    assert_equal(conditional(model, x, 0, [*swapped[:1], *conditions[1:]]), actual, tolerance=1e-12)


def test_the_order_of_conditions_and_the_chunks_they_run_in_do_not_matter() -> None:
    model, x = chain(), image(3)
    conditions = [{"3": c} for c in range(C)]
    expected: Any = conditional(model, x, [0, 1, 2], conditions)
    for size in (1, 2, 4, C, 100):
        assert_equal(conditional(model, x, [0, 1, 2], conditions, chunk_size=size), expected)
    assert_equal(conditional(model, x, [0, 1, 2], conditions[::-1]), expected.flip(0))
    assert_equal(conditional(model, x, [0, 1, 2], conditions[2:3])[0], expected[2])


def test_options_are_those_of_lrp() -> None:
    model, x = chain(), image()
    every: Any = [{"4": list(range(C))}]
    each_options: list[dict[str, Any]] = [
        {"layer": "2", "start": "one"},
        {"start": "output"},
        {"rules": "attnlrp", "start": "output", "layer": "3"},
        {},  # the defaults are the same
    ]
    for options in each_options:
        whole: Any = funcattr.lrp(model, x, 3, **options)
        actual: Any = conditional_relevance(model, x, 3, every, **options)
        assert_equal(actual[0], whole)


class Block(nn.Module):
    """A residual block, whose branches may be constants."""

    def __init__(self, constant: str = "") -> None:
        super().__init__()
        self.constant = constant
        self.stem, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.stem(x))
        new = self.branch(skip)
        new, skip = (v.detach() if self.constant == n else v for v, n in ((new, "branch"), (skip, "skip")))
        return self.head(F.adaptive_avg_pool2d(F.relu(new + skip), 2).flatten(1))


@pytest.mark.parametrize("book", ["epsilon_plus", "epsilon", "attnlrp"])
def test_exclusive_leaves_out_what_goes_beside_the_site(book: str) -> None:
    whole, branch, skip = (settle(lambda c=c: Block(c)) for c in ("", "skip", "branch"))
    x, conditions = image(), [{"branch": c} for c in range(4)]
    by_branch: Any = conditional(branch, x, 1, conditions, rules=book)
    by_skip: Any = funcattr.lrp(skip, x, 1, rules=book, start="one")
    assert by_branch.abs().sum() > 0.1 < by_skip.abs().sum()
    assert_equal(conditional(whole, x, 1, conditions, rules=book, exclusive=True), by_branch)
    assert_equal(conditional(whole, x, 1, conditions, rules=book), by_branch + by_skip)
    assert_equal(by_branch.sum(0) + by_skip, funcattr.lrp(whole, x, 1, rules=book, start="one"))


class Tokens(nn.Module):
    """An encoder layer over tokens, read off their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.embed(x)).mean(1))


@pytest.mark.parametrize("book", ["epsilon", "attnlrp"])
def test_tokens_have_their_channels_last(book: str) -> None:
    model: Any = settle(Tokens)
    x = uniform(2, 5, 4)
    each: Any = conditional(model, x, 1, [{"embed": c} for c in range(6)], rules=book, channel_dim=-1)
    assert_equal(each.sum(0), funcattr.lrp(model, x, 1, rules=book, start="one"))
    assert_equal(each, conditional(model, x, 1, [{"embed": c} for c in range(6)], rules=book, channel_dim=2))
    relevance: Any = funcattr.lrp(model, x, 1, rules="epsilon", layer="embed", start="one")
    kept = relevance * F.one_hot(torch.tensor(2), 6)
    expected = funcattr.attribute(model.embed, x, kept, rules=funcattr.rules.epsilon_everywhere()).cotangent
    if book == "epsilon":
        assert_equal(each[2], expected)


def test_vmapped_over_examples() -> None:
    model, x = chain(), image(3)

    def one(x: Tensor) -> Any:
        return conditional(model, x[None], 1, [{"3": [0, 4]}, {"3": 2}])

    mapped = torch.vmap(one)(x)
    assert_equal(mapped, loop(one, x))
    expected: Any = conditional(model, x, 1, [{"3": [0, 4]}, {"3": 2}])
    assert_equal(mapped[:, :, 0].transpose(0, 1), expected)


@pytest.mark.parametrize("book", ["epsilon_plus", funcattr.rules.epsilon_plus()], ids=["name", "rulebook"])
def test_compiled(book: Any, fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(chain()), image(3)
    expected: Any = conditional(fm, x, 1, [{"3": [0, 4]}, {"3": 2}])
    compiled = torch.compile(
        lambda x: conditional(fm, x, 1, [{"3": [0, 4]}, {"3": 2}], rules=book), fullgraph=True, backend="aot_eager"
    )
    assert_equal(compiled(x), expected)


def test_no_channel_hands_nothing_on() -> None:
    found = conditional(chain(), image(), 0, [{"3": []}, {"3": [0, 1]}])
    assert_equal(found[0], torch.zeros_like(found[0]))
    assert_equal(found[1], conditional(chain(), image(), 0, [{"3": [0, 1]}])[0])
    assert_equal(conditional(chain(), image(), 0, [{"3": []}]), found[:1])
    assert_equal(conditional(chain(), image(), 0, [{"3": torch.tensor([], dtype=torch.long)}]), found[:1])


@pytest.mark.parametrize(
    ("conditions", "error", "message"),
    [
        ([], ValueError, "expected one dict"),
        ([{}], ValueError, "expected one dict"),
        ([{"3": 0}, {"4": 0}], ValueError, "all with the same sites"),
        ([{"3": -1}], ValueError, "expected channels of 0 or more at '3'"),
        ([{"3": C}], ValueError, "'3'"),
        ([{"3": torch.ones(C)}, {"3": 0}], ValueError, "or masks for all"),
        ([{"3": torch.ones(C)}, {"3": torch.ones(2, C)}], ValueError, "the masks at '3' differ in shape"),
        ([{"3": torch.ones(C + 1)}], ValueError, "'3'"),
        ([{"3": torch.ones(5, C)}], ValueError, "'3'"),
        ([{"3": torch.ones(2, C, 4, 5)}], ValueError, "'3'"),
        ([{"3": torch.tensor([0, C])}], ValueError, f"no channel {C} at '3', which has {C} channels"),
        ([{"3": torch.tensor([[0], [99]])}], ValueError, "no channel 99 at '3'"),
        ([{"3": torch.tensor([0])}, {"3": torch.tensor([C])}], ValueError, f"no channel {C} at '3'"),
        ([{"3": torch.tensor([1, -2])}], ValueError, "channels of 0 or more at '3', or -1 for none, got -2"),
        ([{"3": [True] * C}], ValueError, "expected channels of 0 or more at '3'"),
        ([{"3": torch.arange(C)}, {"3": torch.ones(C)}], ValueError, r"\(integers\) or masks at '3' .*, got both"),
        ([{"none": 0}], UnknownSiteError, "'none'"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(conditions: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^conditional_relevance.*{message}"):
        conditional(chain(), image(), 0, conditions)


@pytest.mark.parametrize("channel", [C, -2])
def test_a_pass_of_ones_own_refuses_channels_that_are_none(channel: int) -> None:
    only = funcattr.rules.Conditions({"3": torch.tensor([0, channel])})
    with pytest.raises(ValueError, match=rf"^attribute\(conditions=...\): no channel {channel} at '3', which has {C}"):
        funcattr.attribute(chain(), image(), 0, conditions=only)


def test_tensors_of_channels_are_lists_of_them() -> None:
    lists = [[C - 1], [0]]
    expected = conditional(chain(), image(), 0, [{"3": channels} for channels in lists])
    assert_equal(conditional(chain(), image(), 0, [{"3": torch.tensor(channels)} for channels in lists]), expected)


def test_a_site_before_the_root_is_refused() -> None:
    with pytest.raises(UntrackedPathError, match=r"^conditional_relevance: the site '2' does not depend on"):
        conditional(chain(), image(), 0, [{"2": 0}], layer="3")


# The most relevant examples


@pytest.mark.parametrize("layer", ["2", "6"])
@pytest.mark.parametrize("by", ["sum", "max"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_maximization_equals_brute_force(by: Any, k: int, layer: str) -> None:
    model, x, target = chain(), image(11), torch.arange(11) % 5
    batches = [(x[i : i + 4], target[i : i + 4]) for i in range(0, 11, 4)]
    best = relevance_maximization(model, iter(batches), layer=layer, k=k, by=by, start="output")
    relevance: Any = funcattr.lrp(model, x, target, layer=layer, start="output")
    at_places = relevance.reshape(11, relevance.shape[1], -1)
    scores = at_places.sum(-1) if by == "sum" else at_places.max(-1).values
    assert best.relevance.shape == best.example.shape == (relevance.shape[1], min(k, 11))
    for c, column in enumerate(scores.T.tolist()):
        ranked = sorted(column, reverse=True)[:k]
        assert best.relevance[c].tolist() == pytest.approx(ranked, rel=1e-9, abs=1e-12)
        examples = best.example[c].tolist()  # any order among equals
        assert len(set(examples)) == len(examples)
        assert [column[i] for i in examples] == pytest.approx(ranked, rel=1e-9, abs=1e-12)


def test_maximization_over_tokens() -> None:
    model, x = settle(Tokens), uniform(7, 5, 4)
    batches = [(x[:3], 1), (x[3:], 1)]
    best = relevance_maximization(
        model, batches, layer="embed", k=2, by="max", rules="attnlrp", channel_dim=-1, start="one"
    )
    relevance: Any = funcattr.lrp(model, x, 1, layer="embed", rules="attnlrp", start="one")
    expected = relevance.amax(1).T.topk(2)
    assert_equal(best.relevance, expected.values)
    assert torch.equal(best.example, expected.indices)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        ([], {}, ValueError, r"\(batches=...\): expected one batch or more"),
        ([torch.ones(2, 3, 4, 4)], {}, TypeError, r"\(batches=...\): expected pairs \(x, target\), got Tensor"),
        ([(image(), 0)], {"k": 0}, ValueError, r"\(k=0\): expected 1 or more"),
        ([(image(), 0)], {"by": "mean"}, ValueError, r"\(by='mean'\): expected 'sum' or 'max'"),
        ([(image(), 0)], {"layer": "none"}, UnknownSiteError, "'none'"),
    ],
)
def test_bad_data_is_refused(batches: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^relevance_maximization.*{message}"):
        relevance_maximization(chain(), batches, **{"layer": "3", **options}, start="one")


@pytest.mark.parametrize("mask", [torch.tensor([0, 2]), torch.tensor([1.0, 0.0, 1.0]), torch.ones(2, 3)])
def test_a_mask_goes_to_where_the_cotangent_is(mask: Tensor) -> None:
    """Lists of channels become a tensor on the default device, which need not be the model's."""
    (found,) = funcattr.rules.Conditions({"0": mask}).at("0", [torch.empty(2, 3, device="meta")], {})
    assert found.device.type == "meta"
