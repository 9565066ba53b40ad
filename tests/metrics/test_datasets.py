"""`funcattr.metrics.datasets`: the answers are right by computations that share nothing with how the data were made."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr.metrics import datasets, energy_in_region, mass_in_region, pointing_game
from funcattr.metrics.datasets import Exact, Located
from funcattr.metrics.datasets.deciding_word import ANIMALS, WORDS
from funcattr.metrics.datasets.digits import DigitNet
from funcattr.metrics.datasets.trigger import PARTS, TRIGGERS

from ..sweeps import long

PLACED: tuple[Callable[[], Located], ...] = (
    datasets.digits,
    datasets.trigger,
    datasets.deciding_word,
    datasets.photos,
)
DRAWN = (datasets.trigger, datasets.deciding_word, datasets.linear, datasets.additive, datasets.product)
CLOSED = DRAWN[2:]


def asked(data: Located, x: Tensor) -> Tensor:
    """The output of the class that is asked for. [N]"""
    with torch.no_grad():
        return data.model(x).gather(1, data.target[:, None])[:, 0]


def masks_of(data: Located) -> Tensor:
    """The regions as masks, by a loop over boxes. [N, 1, H, W]"""
    masks = torch.zeros_like(data.x[:, :1], dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, data.regions.tolist(), strict=True):
        mask[:, top:bottom, left:right] = True
    return masks


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", PLACED)
def test_questions_fit_the_model_and_the_measures(load: Callable[[], Located]) -> None:
    before = torch.random.get_rng_state()
    data = load()
    assert torch.equal(torch.random.get_rng_state(), before)
    count = len(data.x)
    assert not data.model.training
    assert len(data.regions) == len(data.things) == count
    assert data.target.shape == (count,) and data.target.dtype == torch.int64
    assert data.layer in funcattr.functionalize(data.model).sites
    with torch.no_grad():
        outputs = data.model(data.x[:2])
    assert outputs.shape[0] == 2 and data.target.max() < outputs.shape[1]
    maps = torch.rand(count, 1, *(data.x.shape[2:] or (data.x.shape[1],)))
    maps = maps if data.x.ndim == 4 else maps[:, 0][:, None, :]
    assert 0 < mass_in_region(maps, data.regions).mean() < 0.5
    assert pointing_game(maps, data.regions).float().mean() < 0.9


@pytest.mark.parametrize("load", DRAWN)
def test_an_example_is_the_same_whatever_the_number_of_others(load: Callable[..., Located | Exact]) -> None:
    before = torch.random.get_rng_state()
    few, many, others = load(samples=3), load(samples=7), load(samples=3, generator=1)
    for name in set(few._fields) & {"x", "target", "regions", "attributions", "gradient"}:
        assert torch.equal(getattr(few, name), getattr(many, name)[:3])
        assert name == "target" or not torch.equal(getattr(few, name), getattr(others, name))
    assert torch.equal(torch.random.get_rng_state(), before)
    generator = torch.Generator().manual_seed(5)
    assert not torch.equal(load(samples=3, generator=generator).x, load(samples=3, generator=generator).x)


@pytest.mark.parametrize("load", DRAWN)
def test_there_is_an_example(load: Callable[..., Located | Exact]) -> None:
    with pytest.raises(ValueError, match=rf"^{getattr(load, '__name__', '')}\(samples=0\): expected at least 1"):
        load(samples=0)


# --- digits ----------------------------------------------------------------------------------------------------------


def test_a_digit_is_gone_without_its_ink_and_stays_without_another_ones() -> None:
    data = datasets.digits()
    assert isinstance(data.model, DigitNet) and data.things[:3] == tuple(str(int(t)) for t in data.target[:3])
    masks = masks_of(data)
    there, without = asked(data, data.x), asked(data, data.x.masked_fill(masks, 0.0))
    assert (there > 0).double().mean() > 0.98 and (without > 0).double().mean() < 0.03
    is_same_canvas = (data.x[1:] == data.x[:-1]).flatten(1).all(1)
    kept = data.x.clone()
    kept[:-1] = torch.where((is_same_canvas[:, None, None, None]) & masks[1:], 0.0, data.x[:-1])
    assert is_same_canvas.sum() > 300
    assert (asked(data, kept)[:-1][is_same_canvas] > 0).double().mean() > 0.98


# --- triggers --------------------------------------------------------------------------------------------------------


def test_a_class_fires_if_and_only_if_its_trigger_is_there() -> None:
    data = datasets.trigger(samples=40)
    windows = data.x[:, 0].round().unfold(1, 8, 1).unfold(2, 8, 1)  # without the noise. [N, 41, 41, 8, 8]
    for number, (a, b, c, d) in enumerate(TRIGGERS):
        pattern = torch.cat([torch.cat([PARTS[a], PARTS[b]], 1), torch.cat([PARTS[c], PARTS[d]], 1)])
        matches = (windows == pattern).flatten(3).all(3)
        with torch.no_grad():
            assert torch.equal(data.model(data.x)[:, number] > 0, matches.flatten(1).any(1))
        for n in (data.target == number).nonzero()[:, 0].tolist():
            (place,) = matches[n].nonzero().tolist()
            found = data.regions[n, 0].nonzero()
            assert found.min(0).values.tolist() == place and len(found) == 64


def test_without_its_trigger_a_class_is_silent_and_without_any_other_square_it_is_not() -> None:
    data = datasets.trigger(samples=5)
    assert (asked(data, data.x) > 0.2).all() and (asked(data, data.x.masked_fill(data.regions, 0.0)) < -0.2).all()
    scrambled = data.x.clone()
    for image, region in zip(scrambled, data.regions, strict=True):
        image[region] = image[region].reshape(8, 8).roll(4, 1).flatten()  # the same parts and energy, another order
    assert (asked(data, scrambled) < -0.2).all()
    for top, left in itertools.product(range(0, 41, 2), repeat=2):
        square = torch.zeros_like(data.regions)
        square[:, :, top : top + 8, left : left + 8] = True
        apart = ~(square & data.regions).flatten(1).any(1)
        assert (asked(data, data.x.masked_fill(square, 0.0))[apart] > 0.2).all()


def test_triggers_have_no_more_energy_than_distractors_and_no_map_finds_them_that_ignores_the_class() -> None:
    data = datasets.trigger(samples=200)
    model, x, target, regions, layer, _ = data
    exact = funcattr.maps.sum(funcattr.input_x_gradient(model, x, target))
    torch.testing.assert_close(energy_in_region(exact, regions), torch.ones(200))
    assert pointing_game(exact, regions).all()
    cam = funcattr.maps.resize(funcattr.grad_cam(model, x, target, layer=layer), x)
    assert pointing_game(cam, regions).all()

    magnitude = funcattr.maps.smooth(x.square(), 2.0)
    assert pointing_game(magnitude, regions).double().mean() < 0.3
    every = funcattr.maps.sum(funcattr.input_x_gradient(model, x, lambda y: y.sum(1)))
    assert 0.3 < pointing_game(every, regions).double().mean() < 0.7
    assert pointing_game(torch.rand(200, 1, 48, 48), regions).double().mean() < 0.1
    energy = x.round().square()  # without the noise: that of a trigger is an eighth of all
    assert ((energy * regions).sum((1, 2, 3)) == 64).all() and (energy.sum((1, 2, 3)) == 8 * 64).all()


# --- words -----------------------------------------------------------------------------------------------------------


def test_another_word_decides_nothing() -> None:
    data = datasets.deciding_word(samples=50)
    with torch.no_grad():
        assert torch.equal(data.model(data.x).argmax(1), data.target)
    for tokens, target, region, thing in zip(data.x, data.target, data.regions, data.things, strict=True):
        sentence = [WORDS[t] for t in tokens.tolist()]
        animals = [t for t, word in enumerate(sentence) if word in ANIMALS]
        assert len(animals) == 4 and sentence.count(thing) == 2 and sentence[animals[0]] == thing == ANIMALS[target]
        assert region[0].nonzero().tolist() == [[animals[0]]]
        for other in range(len(ANIMALS), len(WORDS), 3):
            copies = tokens.expand(12, 12).clone()
            copies.fill_diagonal_(other)
            with torch.no_grad():
                outputs = data.model(copies)
            assert torch.equal(outputs.argmax(1) != target, region[0])
            assert (outputs[~region[0], target] > 0.95).all()  # the same animal farther behind counts for nothing


@pytest.mark.parametrize("method", [funcattr.attnlrp, funcattr.cp_lrp, funcattr.input_x_gradient])
def test_methods_find_the_word_that_decides(method: Callable[..., Tensor]) -> None:
    model, x, target, regions, layer, _ = datasets.deciding_word()
    found = method(model, x, target, layer=layer).sum(-1)[:, None]
    assert pointing_game(found, regions).all() and mass_in_region(found, regions).all()
    assert pointing_game(torch.rand(100, 1, 12), regions).double().mean() < 0.3


# --- photographs -----------------------------------------------------------------------------------------------------


@long
def test_the_network_needs_what_is_in_the_boxes() -> None:
    data = datasets.photos()
    assert data.x.shape == (5, 3, 224, 224) and data.things[0] == "cat"
    with torch.no_grad():
        outputs = data.model(data.x)
    assert ((outputs > asked(data, data.x)[:, None]).sum(1) <= 1).all()

    def probability(x: Tensor) -> Tensor:
        with torch.no_grad():
            return data.model(x).softmax(1).gather(1, data.target[:, None])[:, 0]

    masks = masks_of(data)
    without = probability(data.x.masked_fill(masks, 0.0))
    assert (without < probability(data.x) / 3).all()
    compared = set()
    for down, across in itertools.product((-78, -39, 0, 39, 78), repeat=2):
        moved = masks.roll((down, across), (2, 3))
        top, left, bottom, right = (data.regions + torch.tensor([down, across] * 2)).unbind(1)
        fits = (top >= 0) & (bottom <= 224) & (left >= 0) & (right <= 224)
        apart = fits & ((moved & masks).sum((1, 2, 3)) < 0.35 * masks.sum((1, 2, 3)))
        if apart.any():
            left_over = probability(data.x.masked_fill(moved, 0.0))
            assert (left_over > without)[apart].all()  # no other place costs the class as much
            compared |= {thing for thing, is_apart in zip(data.things, apart.tolist(), strict=True) if is_apart}
    assert compared == {"tripod", "missile"}  # the others fill too much of their photo
    with torch.no_grad():
        alone = data.model(data.x.masked_fill(~masks, 0.0)).argmax(1)
    first = [thing for thing, is_first in zip(data.things, (alone == data.target).tolist(), strict=True) if is_first]
    assert first == ["cat", "espresso", "tripod", "moped"]  # a missile is known by its pad too


def test_boxes_lie_on_the_photos_and_not_on_the_margins() -> None:
    data = datasets.photos()
    for image, mask in zip(data.x, masks_of(data), strict=True):
        assert 0 < mask.sum() < 0.6 * 224 * 224
        margin = (image == 0).all(0) & (image.std((0, 2)) == 0)[:, None]
        assert not (mask[0] & margin).any()


# --- closed forms ----------------------------------------------------------------------------------------------------


def shapley(model: Callable[[Tensor], Tensor], row: Tensor, target: int) -> list[float]:
    """The mean over all orders of what each feature adds, one order after another."""
    found = [0.0] * len(row)
    for order in itertools.permutations(range(len(row))):
        present = torch.zeros_like(row)
        for i in order:
            before = model(present[None])[0, target].item()
            present[i] = row[i]
            found[i] += (model(present[None])[0, target].item() - before) / math.factorial(len(row))
    return found


@pytest.mark.parametrize("load", CLOSED)
def test_attributions_are_the_shapley_values_and_gradients_the_derivative(load: Callable[..., Exact]) -> None:
    model, x, target, attributions, slopes = load(samples=2)
    for n in range(2):
        with torch.no_grad():
            expected = shapley(model, x[n], int(target[n]))
        assert attributions[n].tolist() == pytest.approx(expected, abs=1e-12)
    leaf = x.clone().requires_grad_(True)
    model(leaf).gather(1, target[:, None]).sum().backward()
    torch.testing.assert_close(leaf.grad, slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("load", CLOSED)
def test_exact_methods_are_exact_and_a_random_map_is_not(load: Callable[..., Exact]) -> None:
    model, x, target, attributions, slopes = load()
    assert x.dtype == attributions.dtype == torch.float64 and set(target.tolist()) == {0, 1, 2}
    torch.testing.assert_close(funcattr.shapley_values(model, x, target), attributions)
    torch.testing.assert_close(funcattr.gradient(model, x, target), slopes)
    integrated = funcattr.integrated_gradients(model, x, target, steps=200)
    torch.testing.assert_close(integrated, attributions, rtol=1e-3, atol=1e-3)
    assert funcattr.metrics.completeness(model, x, target, attributions).abs().max() < 1e-12
    random = torch.rand_like(x)
    assert funcattr.metrics.completeness(model, x, target, random).abs().max() > 0.1
    corr = funcattr.metrics.sensitivity_n(model, x, target, random, n=3)
    assert (corr < 0.999).all()


def test_closed_forms_differ_where_they_should() -> None:
    linear, additive, product = (load() for load in CLOSED)
    for data in (linear, additive):
        ablated = funcattr.feature_ablation(data.model, data.x, data.target)
        torch.testing.assert_close(ablated, data.attributions)
    corr = funcattr.metrics.sensitivity_n(additive.model, additive.x, additive.target, additive.attributions, n=3)
    torch.testing.assert_close(corr, torch.ones_like(corr))
    twice = funcattr.feature_ablation(product.model, product.x, product.target)
    torch.testing.assert_close(twice, 2 * product.attributions)
    lost = additive.attributions - additive.x * additive.gradient
    assert lost.abs().amax(1).min() > 0.01
