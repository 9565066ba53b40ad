"""Extremal perturbation against a search by its formulas, one image and one area at a time."""

import inspect
import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import funcattr
from funcattr.attribution.question import ask
from funcattr.methods.extremal import mask_search
from funcattr.methods.extremal.extremal_perturbation import extremal_perturbation, extremal_search
from funcattr.methods.extremal.mask_search import Search, State, initial_state, search_step
from funcattr.methods.extremal.perturbation_pyramid import perturb, perturbation_pyramid, with_slopes
from funcattr.methods.extremal.smooth_mask import mask_grid
from funcattr.testing.seeding import settle, uniform

from ... import extremal_references as reference
from ...contract import assert_equal
from ...sweeps import long

SIZE = (8, 7)
SMALL: dict[str, Any] = {"spacing": 3, "radius": 4, "levels": 4, "max_blur": 2.0}
masks_of: Any = partial(extremal_perturbation, **SMALL)
search: Any = partial(extremal_search, **SMALL)


def net(spatial: bool = False) -> nn.Module:
    """[N, 2, H, W] -> [N, 3], or [N, 3, H, W]"""
    head: list[nn.Module] = [] if spatial else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return settle(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1), *head))


X = uniform(3, 2, *SIZE)
CLASSES = torch.tensor([0, 2, 1])


def square(x: Tensor) -> Tensor:
    """Looks at one square that is a mirror image of itself. [N, C, 32, 32] -> [N]"""
    return 60 * x[..., 6:18, 10:22].mean((1, 2, 3))


# --- the published search --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"variant": "delete", "perturbation": "fade", "jitter": False},
        {"variant": "dual", "reward": "contrastive"},
        {"momentum": 0.5, "dampening": 0.0, "lr": 0.1, "penalty": 3.0, "growth": 1.1},
    ],
    ids=str,
)
def test_a_search_equals_the_published_one(options: dict[str, Any]) -> None:
    model, target = net(), 2
    changes = {**SMALL, **options, "reward": getattr(reference, options.get("reward", "simple"))}
    # With this area the threshold is between unequal pixels from the start on, so that a sort has one answer.
    mask, rewards, penalties = reference.search(model, X[0], target, 0.4, 5, **changes)
    found = search(model, X[:1], target, areas=0.4, steps=5, on="canvas", **options)
    assert_equal(found.masks[0, 0], mask)
    assert_equal(found.reward[0, 0], torch.tensor(rewards, dtype=torch.float64))
    assert_equal(found.penalty[0, 0], torch.tensor(penalties, dtype=torch.float64))


def state(on: Any, areas: tuple[float, ...], **options: Any) -> tuple[Search, State]:
    """In the middle of a search: no two pixels are equal."""
    grid = mask_grid(X, SIZE, SMALL["spacing"], SMALL["radius"], on)
    words = {"variant": "preserve", "reward": "simple", **options}
    ascent = (0.01, 0.9, 0.9, 300.0, 1.0035)
    asked = Search(SIZE, grid, areas, words["variant"], words["reward"], on, *ascent, 3, 4, True, None, 20)
    first = initial_state(asked, len(X))
    parameters = uniform(*first.parameters.shape, seed=5) / 4 + 0.5
    return asked, first._replace(parameters=parameters, velocity=uniform(*parameters.shape, seed=6))


@pytest.mark.parametrize("on", ["image", "canvas"])
@pytest.mark.parametrize("t", [4, 7])
def test_a_step_equals_the_formula(on: Any, t: int) -> None:
    model, areas = net(), (0.2, 0.5)
    asked, before = state(on, areas)
    levels = perturbation_pyramid(X, levels=4, max_blur=2.0)
    after = search_step(asked, ask("step", model, X, CLASSES), with_slopes(levels), before, torch.tensor([t]))
    options = reference.Options(**SMALL, on=on)
    for n, target in enumerate(CLASSES.tolist()):
        for a, area in enumerate(areas):
            p = before.parameters[n, a].clone().requires_grad_()
            _, reward, penalty = reference.objective(model, levels[n], target, area, p, t, options)
            (gradient,) = torch.autograd.grad(reward - penalty, p)
            velocity = 0.9 * before.velocity[n, a] + 0.1 * gradient
            assert_equal(after.velocity[n, a], velocity)
            assert_equal(after.parameters[n, a], (before.parameters[n, a] + 0.01 * velocity).clamp(0, 1))
            assert_equal(after.reward[n, a], reward.detach())
            assert_equal(after.penalty[n, a], penalty.detach())


def test_the_energy_is_that_of_a_search_whose_ties_a_sort_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    # At first many pixels of the image are equal; a sort takes them in some order, and from there the paths part.
    def by_sort(masks: Tensor, area: float) -> Tensor:
        return torch.stack([reference.area_loss(mask, area) for mask in masks])

    x = torch.nn.functional.interpolate(uniform(2, 2, 6, 6), 32, mode="bicubic")
    run = partial(extremal_search, net(), x, 1, areas=(0.1, 0.3), steps=80, spacing=4, radius=8)
    ours: Any = run()
    monkeypatch.setattr(mask_search, "area_loss", by_sort)
    theirs: Any = run()
    assert not torch.equal(ours.masks, theirs.masks)
    energies, expected = ours.reward - ours.penalty, theirs.reward - theirs.penalty
    assert_equal(energies[..., 0], expected[..., 0])
    torch.testing.assert_close(energies, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize(
    "options", [{}, {"variant": "dual", "on": "canvas", "smooth": 0.2, "least_rise": 0.1}], ids=str
)
def test_the_masks_are_those_of_the_search(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"areas": (0.2, 0.5), "steps": 5, **options}
    found = search(net(), X, CLASSES, **given)
    assert_equal(masks_of(net(), X, CLASSES, **given), found.masks)
    assert found.masks.shape == (3, 2, *SIZE) and found.reward.shape == found.penalty.shape == (3, 2, 5)
    assert inspect.signature(extremal_perturbation).parameters == inspect.signature(extremal_search).parameters


# --- every mask as if alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"variant": "dual", "reward": "contrastive", "on": "canvas"}], ids=str)
def test_each_mask_equals_its_own_run(options: dict[str, Any]) -> None:
    areas = (0.1, 0.3, 0.6)
    run = partial(search, net(), steps=12, **options)
    together: Any = run(X, CLASSES, areas=areas)
    for n in range(len(X)):
        for a, area in enumerate(areas):
            alone: Any = run(X[n : n + 1], CLASSES[n : n + 1], areas=area)
            for whole, part in zip(together, alone, strict=True):
                assert_equal(whole[n, a], part[0, 0])


def test_the_contrastive_history_is_of_each_mask() -> None:
    model, options = net(), {"areas": (0.1, 0.5), "reward": "contrastive", "jitter": False}
    found = search(model, X, CLASSES, steps=1, **options)
    pyramid = perturbation_pyramid(X, levels=4, max_blur=2.0)
    for n, target in enumerate(CLASSES.tolist()):
        for a in range(2):
            output = model(perturb(pyramid[n : n + 1], found.masks[n : n + 1, a : a + 1])[0])
            assert found.reward[n, a, 0].item() == pytest.approx(reference.contrastive(output, target).item())


def test_an_early_end_of_one_mask_leaves_the_others_alone() -> None:
    model, steps, least_rise = net(), 40, 1e-3
    run = partial(search, model, steps=steps, penalty=1.0, lr=0.2, patience=4)
    together: Any = run(X, CLASSES, areas=(0.1, 0.6), least_rise=least_rise)
    ends = []
    for n in range(len(X)):
        for a, area in enumerate((0.1, 0.6)):
            alone: Any = run(X[n : n + 1], CLASSES[n : n + 1], areas=area, least_rise=least_rise)
            for whole, part in zip(together, alone, strict=True):
                assert_equal(whole[n, a], part[0, 0])
            energy = (alone.reward - alone.penalty)[0, 0]
            end = int((energy != energy[-1]).nonzero().max()) + 1 if (energy != energy[-1]).any() else 0
            ends.append(end)
            # It is the run without an end, up to there.
            full: Any = run(X[n : n + 1], CLASSES[n : n + 1], areas=area)
            assert_equal(alone.reward[..., : end + 1], full.reward[..., : end + 1])
            # Over the last steps nothing rose.
            assert end == steps - 1 or energy[end - 3 : end + 1].max() <= energy[: end - 3].max() + least_rise
    assert len(set(ends)) > 1 and min(ends) < steps - 1


def test_nothing_is_computed_after_the_last_mask_has_ended() -> None:
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.mean((1, 2, 3))

    found = search(model, X, steps=50, least_rise=1e6, patience=3)
    assert len(calls) == 4  # the first finds the best, three do not rise
    assert found.reward.shape == (3, 1, 50)
    assert (found.reward[..., 4:] == found.reward[..., 3:4]).all()


# --- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_the_mask_finds_the_square_that_the_model_looks_at(variant: Any) -> None:
    x, area = torch.ones(1, 1, 32, 32), 144 / 1024
    options: dict[str, Any] = {"variant": variant, "perturbation": "fade", "steps": 100, "spacing": 2, "radius": 2}
    masks = extremal_perturbation(square, x, areas=(area, 2 * area), **options)[0]
    assert (masks[:, 6:18, 10:22].mean((1, 2)) > 0.95).all()
    assert masks[0, 22:].max() < 0.1 and masks[0, :, :6].max() < 0.1
    for mask, expected in zip(masks, (area, 2 * area), strict=True):
        assert (mask > 0.5).float().mean().item() == pytest.approx(expected, abs=0.06)


def test_small_images_get_too_large_masks_on_the_canvas_only() -> None:
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = partial(extremal_perturbation, lambda x: 30 * x[:, :, 10:22, 10:22].mean((1, 2, 3)), x, areas=0.05, steps=60)
    assert run(on="canvas").mean().item() == pytest.approx(0.24, abs=0.05)
    assert run(on="image").mean().item() == pytest.approx(0.07, abs=0.03)


# --- what can be asked -----------------------------------------------------------------------------------------------


def test_shapes_range_and_dtypes_and_nothing_of_the_users_is_touched() -> None:
    model = net()
    x, before, state = X.clone(), X.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    found = search(model, x, 1, areas=(0.1, 0.2), steps=4)
    assert found.masks.shape == (3, 2, *SIZE) and found.reward.shape == found.penalty.shape == (3, 2, 4)
    assert found.masks.min() >= 0 and found.masks.max() <= 1 and (found.penalty >= 0).all()
    assert not found.masks.requires_grad and not found.reward.requires_grad
    assert torch.equal(x, before) and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    strided = X.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)
    assert_equal(masks_of(model, strided, 1, areas=(0.1, 0.2), steps=4), found.masks)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        low = search(net().to(dtype), X.to(dtype), 1, areas=(0.1, 0.2), steps=4)
        assert {part.dtype for part in low} == {dtype}
        for part, exact in zip(low, found, strict=True):
            torch.testing.assert_close(part.double(), exact, rtol=0.05, atol=0.02)


def test_targets_of_every_kind() -> None:
    model = net()
    expected = masks_of(model, X, CLASSES, steps=3)
    cotangent = nn.functional.one_hot(CLASSES, 3).double()
    for target in (CLASSES.tolist(), cotangent, (CLASSES,), lambda y: (y * cotangent).sum(1)):
        assert_equal(masks_of(model, X, target, steps=3), expected)
    picked = masks_of(lambda x: {"a": model(x)[:, 1], "b": x}, X, output="a", steps=3)
    assert_equal(picked, masks_of(model, X, 1, steps=3))


def test_a_class_of_a_spatial_output_is_its_mean_over_space() -> None:
    model, pooled = net(spatial=True), net()
    assert_equal(masks_of(model, X, CLASSES, steps=3), masks_of(pooled, X, CLASSES, steps=3))
    place = masks_of(model, X, (1, 4, 3), steps=3)
    assert_equal(place, masks_of(lambda x: model(x)[:, 1, 4, 3], X, steps=3))


@pytest.mark.parametrize("of", [list, torch.tensor, np.array])
def test_an_index_per_example_is_one_place_each(of: Callable[[Any], Any]) -> None:
    model, places = net(spatial=True), [(1, 4, 3), (0, 2, 2), (2, 7, 6)]
    found = search(model, X, of(places), areas=(0.1, 0.4), steps=3)
    for n, place in enumerate(places):
        alone = search(model, X[n : n + 1], place, areas=(0.1, 0.4), steps=3)
        assert_equal(found.masks[n], alone.masks[0])
        assert_equal(found.reward[n], alone.reward[0])
    message = r"\(reward='contrastive'\): expected a class, or one class per example, as the target"
    with pytest.raises(ValueError, match=message):
        search(model, X, of(places), reward="contrastive", steps=1)


def test_more_inputs_go_with_their_examples() -> None:
    inner, weight = net(), uniform(3, 3)

    def model(x: Tensor, weight: Tensor, *, scale: Tensor) -> Tensor:
        return (inner(x) * weight).sum(1) * scale

    options: dict[str, Any] = {"areas": (0.1, 0.4), "steps": 3, "variant": "dual"}
    scale = torch.tensor([1.0, 2.0, 3.0]).double()
    together = masks_of(model, X, args=(weight,), kwargs={"scale": scale}, **options)
    for n in range(3):
        alone = masks_of(model, X[n : n + 1], args=(weight[n : n + 1],), kwargs={"scale": scale[n : n + 1]}, **options)
        assert_equal(together[n], alone[0])


def test_a_perturbation_of_the_users_own() -> None:
    model = net()
    same = masks_of(model, X, 1, steps=3, perturbation=lambda x: perturbation_pyramid(x, levels=4, max_blur=2.0))
    assert_equal(same, masks_of(model, X, 1, steps=3))
    noise = uniform(*X.shape, seed=9)
    blended = search(model, X, 1, steps=1, perturbation=lambda x: torch.stack([noise, x], 1))
    mask = blended.masks
    shown = (mask * X + (1 - mask) * noise).flip(-1)
    assert_equal(blended.reward[:, 0, 0], model(shown)[:, 1].detach())


def test_a_reward_of_the_users_own() -> None:
    model, seen = net(), []

    def margin(output: Tensor, target: Tensor) -> Tensor:
        seen.append((output.shape, target.tolist()))
        return output.gather(1, target[:, None])[:, 0] - output.logsumexp(1)

    found = masks_of(model, X, CLASSES, areas=(0.1, 0.2), variant="dual", reward=margin, steps=2)
    assert seen == [((12, 3), [0] * 4 + [2] * 4 + [1] * 4)] * 2
    same = masks_of(lambda x: model(x).log_softmax(1), X, CLASSES, areas=(0.1, 0.2), variant="dual", steps=2)
    assert_equal(found, same)


def test_nothing_of_a_step_outlives_the_next() -> None:
    inputs: list[weakref.ref[Tensor]] = []
    alive = []

    def model(x: Tensor) -> Tensor:
        alive.append(sum(ref() is not None for ref in inputs))
        inputs.append(weakref.ref(x))
        return x.mean((1, 2, 3))

    masks_of(model, X, steps=10)
    assert len(alive) == 10 and max(alive) <= 1


def test_smoothing_is_of_the_returned_mask() -> None:
    plain = masks_of(net(), X, 1, steps=3)
    assert_equal(masks_of(net(), X, 1, steps=3, smooth=0.2), funcattr.maps.smooth(plain, 0.2 * 7, padding="constant"))


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for method in (masks_of, search):
        method(net(), X, 1, steps=3, progress=True)
        assert method.func.__name__ in capsys.readouterr().err


# --- transforms ------------------------------------------------------------------------------------------------------


def test_vmap_over_examples_and_targets_equals_the_batch() -> None:
    run = partial(masks_of, net(), areas=(0.1, 0.3), steps=3)
    for options in ({}, {"least_rise": 10.0, "patience": 1}):
        expected = run(X, CLASSES, **options)
        assert_equal(torch.vmap(lambda x, t: run(x[None], t[None], **options)[0])(X, CLASSES), expected)
    assert_equal(torch.vmap(lambda t: run(X, t))(CLASSES), torch.stack([run(X, int(t)) for t in CLASSES]))


def test_vmap_over_noise_and_stacked_parameters_equals_a_loop() -> None:
    fm = funcattr.functionalize(net())
    noise, scale = uniform(2, *X.shape, seed=8) / 10, torch.tensor([1.0, 0.7]).double()

    def one(noise: Tensor, scale: Tensor) -> Tensor:
        member = fm.bind({name: scale * p.detach() for name, p in fm.params.items()})
        return masks_of(member, X + noise, CLASSES, steps=3)

    assert_equal(torch.vmap(one)(noise, scale), torch.stack([one(n, s) for n, s in zip(noise, scale, strict=True)]))


def test_derivative_by_the_input_and_by_bound_parameters_equals_finite_differences() -> None:
    fm = funcattr.functionalize(net())
    weights = uniform(1, 1, *SIZE, seed=4)

    def number(x: Tensor, weight: Tensor) -> Tensor:
        return (masks_of(fm.bind({"0.weight": weight}), x, 1, steps=3, penalty=1.0) * weights).sum()

    x, weight = X[:1].clone().requires_grad_(), fm.params["0.weight"].detach().clone().requires_grad_()
    assert number(x, weight).requires_grad
    assert torch.autograd.gradcheck(number, (x, weight), atol=1e-6, fast_mode=True)
    with torch.no_grad():
        assert not number(x, weight).requires_grad
    direction = (uniform(*x.shape, seed=5), uniform(*weight.shape, seed=6))
    forward = torch.func.jvp(number, (x.detach(), weight.detach()), direction)[1]
    by_x, by_weight = torch.autograd.grad(number(x, weight), (x, weight))
    assert_equal(forward, (by_x * direction[0]).sum() + (by_weight * direction[1]).sum())


@long
def test_compiled_equals_eager_without_recompiling(fresh_dynamo: None) -> None:
    options: dict[str, Any] = {"areas": (0.1, 0.4), "variant": "dual", "reward": "contrastive"}
    run = partial(search, net(), steps=3, least_rise=0.5, patience=1, **options)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, backend=counter)
    for x in (X, X.flip(0)):
        for actual, expected in zip(compiled(x, CLASSES), run(x, CLASSES), strict=True):
            assert_equal(actual, expected)
    assert counter.frame_count == 1


@long
def test_inductor_equals_eager(fresh_dynamo: None) -> None:
    weight = uniform(112, 3)
    model = funcattr.functionalize(lambda x: torch.tanh(x.flatten(1) @ weight))
    run = partial(masks_of, model, target=1, steps=2, perturbation=lambda x: torch.stack([0 * x, x], 1))
    assert_equal(torch.compile(run, fullgraph=True)(X), run(X))


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no area": ({"areas": ()}, ValueError, r"\(areas=\(\)\): expected one area or more"),
    "area of 1": ({"areas": (0.1, 1.0)}, ValueError, r"\(areas=1.0\): expected a share of the pixels between 0 and 1"),
    "area of 0": ({"areas": 0.0}, ValueError, r"\(areas=0.0\): expected a share of the pixels between 0 and 1"),
    "area as text": ({"areas": "big"}, TypeError, r"\(areas=\.\.\.\): expected a number between 0 and 1, got str"),
    "no steps": ({"steps": 0}, ValueError, r"\(steps=0\): expected at least 1"),
    "half steps": ({"steps": 2.5}, TypeError, r"\(steps=\.\.\.\): expected an int, got float"),
    "variant": ({"variant": "keep"}, ValueError, r"\(variant='keep'\): expected 'preserve', 'delete' or 'dual'"),
    "on": ({"on": "crop"}, ValueError, r"\(on='crop'\): expected 'image' or 'canvas'"),
    "perturbation": (
        {"perturbation": "noise"},
        ValueError,
        r"\(perturbation='noise'\): expected 'blur', 'fade' or",
    ),
    "pyramid's kind": (
        {"perturbation": lambda x: 1},
        TypeError,
        r"\(perturbation=<function>\): expected a tensor",
    ),
    "pyramid's shape": (
        {"perturbation": lambda x: x},
        ValueError,
        r"expected a pyramid of 2 levels or more, shape \[3, 'L', 2, 8, 7\], got \[3, 2, 8, 7\]",
    ),
    "levels": ({"levels": 1}, ValueError, r"\(levels=1\): expected 2 levels or more"),
    "blur": ({"max_blur": 0.0}, ValueError, r"\(max_blur=0.0\): expected a standard deviation"),
    "spacing": ({"spacing": 0}, ValueError, r"\(spacing=0\): expected a number of pixels"),
    "radius": ({"radius": -1.0}, ValueError, r"\(radius=-1.0\): expected a radius"),
    "learning rate": ({"lr": -1.0}, ValueError, r"\(lr=-1.0\): expected a number of at least 0"),
    "penalty": ({"penalty": float("nan")}, ValueError, r"\(penalty=nan\): expected a number of at least 0"),
    "growth of a text": ({"growth": "1"}, TypeError, r"\(growth=...\): expected a number, got str"),
    "rate of a text": ({"lr": "0.1"}, TypeError, r"\(lr=...\): expected a number, got str"),
    "growth": ({"growth": 0.0}, ValueError, r"\(growth=0.0\): expected a factor above 0"),
    "smooth": ({"smooth": -0.1}, ValueError, r"\(smooth=-0.1\): expected a number of at least 0"),
    "smooth in pixels": ({"smooth": 0.01}, ValueError, r"\(smooth=0.01\): expected a share of the image's 7 pixels"),
    "least rise": ({"least_rise": -0.1}, ValueError, r"\(least_rise=-0.1\): expected a number of at least 0"),
    "patience": ({"patience": 0}, ValueError, r"\(patience=0\): expected at least 1"),
    "reward": (
        {"reward": "margin"},
        ValueError,
        r"\(reward='margin'\): expected 'simple', 'contrastive' or",
    ),
    "reward's kind": ({"reward": 3}, TypeError, r"\(reward=\.\.\.\): expected a word or a function, got int"),
    "reward's shape": (
        {"reward": lambda y, t: y},
        ValueError,
        r"\(reward=<function>\): expected one number per copy, shape \[3\], got \[3, 3\]",
    ),
    "reward's dtype": (
        {"reward": lambda y, t: y.argmax(1)},
        TypeError,
        r"\(reward=<function>\): expected floating-point numbers, got torch.int64",
    ),
    "nothing to contrast": (
        {"reward": "contrastive", "target": lambda y: y[:, 0]},
        ValueError,
        r"\(reward='contrastive'\): expected a class, or one class per example, as the target",
    ),
    "one class": (
        {"reward": "contrastive", "target": 0, "model": lambda x: x[:, :1].mean((2, 3))},
        ValueError,
        r"\(reward='contrastive'\): expected an output with two classes or more, got shape \[3, 1\]",
    ),
    "no image": ({"x": X[0]}, ValueError, r"\(x=\.\.\.\): expected images \[N, C, H, W\], got shape \[2, 8, 7\]"),
    "no pixel": (
        {"x": X[..., :0]},
        ValueError,
        r"expected images \[N, C, H, W\], got shape \[3, 2, 8, 0\]",
    ),
    "no tensor": ({"x": [1.0]}, TypeError, r"\(x=\.\.\.\): expected a tensor"),
    "two inputs": ({"x": (X, X)}, TypeError, r"\(x=\.\.\.\): expected one tensor of images, got tuple"),
    "integers": ({"x": X.long()}, TypeError, r"\(x=\.\.\.\): expected a floating-point input, got torch.int64"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range"),
    "classes": ({"target": [1]}, ValueError, r"expected one class or index per example, 3 of them, got 1"),
    "no path": (
        {"reward": lambda y, t: y.detach()[:, 0]},
        funcattr.UntrackedPathError,
        r": the reward does not depend on the input",
    ),
}


@pytest.mark.parametrize("method", [masks_of, search])
@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str, method: Any) -> None:
    changes, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": net(), "x": X, "target": 1, "steps": 2, **changes}
    with pytest.raises(kind, match=message) as raised:
        method(**arguments)
    assert re.match(rf"{method.func.__name__}[(:]", str(raised.value))
