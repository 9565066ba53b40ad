"""RISE and extremal perturbation by TorchRay's names against the formulas."""

from typing import Any

import matplotlib
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import funcattr
from funcattr.compat.torchray.attribution.extremal_perturbation import (
    DELETE_VARIANT,
    DUAL_VARIANT,
    PRESERVE_VARIANT,
    MaskGenerator,
    Perturbation,
    contrastive_reward,
    extremal_perturbation,
    simple_reward,
)
from funcattr.compat.torchray.attribution.rise import rise, rise_class
from funcattr.testing.seeding import settle, uniform

from ... import extremal_references, perturbation_references
from . import references as reference

X = uniform(2, 2, 10, 8)
SMALL: dict[str, Any] = {"step": 3, "sigma": 4, "num_levels": 4}
AREAS = [0.22, 0.46]


def net(spatial: bool = False) -> nn.Module:
    """[N, 2, H, W] -> [N, 3], or [N, 3, H, W]"""
    head: list[nn.Module] = [] if spatial else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return settle(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1), *head))


def close(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=atol)


# --- RISE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"resize": True}, {"resize": (5, 4), "resize_mode": "nearest"}], ids=str)
def test_rise_with_given_masks_equals_the_formula(options: dict[str, Any]) -> None:
    masks = uniform(7, 1, 10, 8, seed=4).abs() / 2
    expected = perturbation_references.rise(net(), X, None, masks=masks[:, 0])
    size, mode = options.get("resize", False), options.get("resize_mode", "bilinear")
    expected = reference.resized(expected, size, X, mode)
    for given in (masks, masks[:, 0]):
        close(rise(net(), X, filter_masks=given, batch_size=3, **options), expected)
    close(rise_class(net(), X, target=1, filter_masks=masks, **options), expected[:, 1:2])
    one_each = torch.stack([expected[0, 2:3], expected[1, 0:1]])
    close(rise_class(net(), X, target=[2, 0], filter_masks=masks, **options), one_each)


def test_rise_draws_masks_by_its_seed_with_p_the_share_that_is_kept() -> None:
    options: dict[str, Any] = {"num_masks": 40, "num_cells": 3, "p": 0.2}
    one = rise(net(), X, seed=3, **options)
    masks = funcattr.masks.rise_masks(40, (10, 8), cells=3, p=0.2, generator=3, dtype=torch.float64)
    close(one, perturbation_references.rise(net(), X, None, masks=masks))
    assert not torch.equal(one, rise(net(), X, seed=4, **options))
    close(rise_class(net(), X, target=1, seed=3, **options), one[:, 1:2])
    with pytest.raises(funcattr.FuncattrError, match=r"^rise\(target=1\): it gives the maps of all classes"):
        rise(net(), X, 1)


# --- extremal perturbation -------------------------------------------------------------------------------------------


def twice(activation: Tensor, target: int, variant: str) -> Tensor:
    """A reward of one's own that is none of the documented ones."""
    return 2 * simple_reward(activation, target, variant) + 1


@pytest.mark.parametrize("spatial", [False, True])
@pytest.mark.parametrize("variant", [PRESERVE_VARIANT, DELETE_VARIANT, DUAL_VARIANT])
@pytest.mark.parametrize("reward", [simple_reward, contrastive_reward, twice])
def test_the_search_equals_the_formulas(variant: str, reward: Any, spatial: bool) -> None:
    # With these areas the threshold is between unequal pixels from the start on, so that a sort has one answer.
    model, areas = net(spatial), AREAS
    options = {"perturbation": "fade"} if spatial else {"jitter": False}
    found, history = extremal_perturbation(
        model, X[:1], 1, areas, max_iter=4, variant=variant, reward_func=reward, **options, **SMALL
    )
    assert found.shape == (2, 1, 10, 8) and history.shape == (2, 2, 4)
    plain = extremal_references.contrastive if reward is contrastive_reward else extremal_references.simple
    scale = 2.0 if reward is twice else 1.0
    constant = {PRESERVE_VARIANT: 1.0, DELETE_VARIANT: -1.0, DUAL_VARIANT: 0.0}[variant] if reward is twice else 0.0

    def by_copy(output: Tensor, target: int) -> Tensor:
        return scale * plain(output, target) + constant

    for k, area in enumerate(areas):
        changes = {"variant": variant, "reward": by_copy, "spacing": 3, "radius": 4, "levels": 4, **options}
        mask, rewards, penalties = extremal_references.search(model, X[0], 1, area, 4, **changes)
        both = 1.0 if reward is twice and variant == DUAL_VARIANT else 0.0  # its constant counts once
        close(history[k, 0], torch.tensor(rewards, dtype=torch.float64) + both)
        close(history[k, 1], -torch.tensor(penalties, dtype=torch.float64))
        close(found[k, 0], mask)


@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_the_search_and_a_sort_part_by_the_order_of_equal_pixels_and_by_nothing_else(perturbation: str) -> None:
    # At the first step all parameters are equal, and so are many pixels around the threshold of this area.
    area, steps = 0.4, 6
    changes = {"spacing": 3, "radius": 4, "levels": 4, "perturbation": perturbation}
    found, history = extremal_perturbation(net(), X[:1], 1, [area], max_iter=steps, perturbation=perturbation, **SMALL)
    parted = []
    for loss in (extremal_references.area_loss_in_any_order, extremal_references.area_loss):
        mask, rewards, penalties = extremal_references.search(net(), X[0], 1, area, steps, loss=loss, **changes)
        rest = history[0] - torch.tensor([rewards, [-penalty for penalty in penalties]], dtype=torch.float64)
        parted.append((rest.abs().amax(0), (found[0, 0] - mask).abs().max()))
    (shared, of_mask), (sorted_, of_sorted) = parted
    assert shared.max() < 1e-10 and of_mask < 1e-10
    assert sorted_[0] < 1e-10 and sorted_[1] > 1e-7 and of_sorted > 1e-7


def test_masks_are_resized_then_smoothed_with_zeros_around() -> None:
    plain, _ = extremal_perturbation(net(), X[:1], 2, 0.4, max_iter=3, **SMALL)
    found, _ = extremal_perturbation(
        net(), X[:1], 2, 0.4, max_iter=3, resize=(9, 12), resize_mode="nearest", smooth=0.2, **SMALL
    )
    expected = reference.resized(plain, (9, 12), X, "nearest")
    close(found, reference.smoothed(expected, 0.2 * 9, "constant"))


def test_the_search_prints_and_draws_and_takes_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib.use("agg")
    extremal_perturbation(net(), X[:1], 2, [0.2, 0.4], max_iter=3, print_iter=2, debug=True, **SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith("[0000] area 0.2: energy ") and lines[3].startswith("[0002]")
    figure = pyplot.gcf()
    assert [axis.get_title() for axis in figure.axes] == ["masks", "reward", "regulariser"]
    pyplot.close(figure)
    with pytest.raises(funcattr.FuncattrError, match=r"^extremal_perturbation\(input=\.\.\.\): expected one image"):
        extremal_perturbation(net(), X, 2)
    with pytest.raises(funcattr.FuncattrError, match="expected a reward for each of 1 masks, got shape \\[\\]"):
        extremal_perturbation(net(), X[:1], 2, reward_func=lambda a, t, v: a.sum(), **SMALL)


def test_rewards_equal_their_formulas() -> None:
    y = uniform(4, 3, 2, 2)
    for target in range(3):
        others = [c for c in range(3) if c != target]
        simple, best = y[:, target : target + 1], y[:, others].max(1, keepdim=True).values
        for reward, value in ((simple_reward, simple), (contrastive_reward, simple - best)):
            close(reward(y, target, PRESERVE_VARIANT), value)
            close(reward(y, target, DELETE_VARIANT), -value)
            close(reward(y, target, DUAL_VARIANT), value[:2] - value[2:])
    for reward in (simple_reward, contrastive_reward):
        with pytest.raises(funcattr.FuncattrError, match=r"\(variant='both'\): expected 'preserve'"):
            reward(y, 0, "both")
        wrongs: tuple[Any, ...] = (3, -1, True, 1.0)
        for wrong in wrongs:
            with pytest.raises(funcattr.FuncattrError, match=r"expected a channel from 0 to 2"):
                reward(y, wrong, PRESERVE_VARIANT)


# --- masks and perturbations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["softmax", "sum"])
@pytest.mark.parametrize("clamp", [True, False])
def test_the_mask_generator_equals_its_formula(pooling: str, clamp: bool) -> None:
    generator = MaskGenerator((10, 8), 3, 4, clamp=clamp, pooling_method=pooling).to("cpu")
    assert generator.shape_in == (4, 3) and generator.shape == (10, 8)
    p = uniform(2, 1, 4, 3, seed=8)
    mask, canvas = generator.generate(p)
    for k in range(2):
        whole = extremal_references.canvas(p[k, 0], (10, 8), 3, 4, pooling=pooling, clamp=clamp)
        close(canvas[k, 0], whole)
        close(mask[k, 0], extremal_references.cropped(whole, (10, 8), 4))
    assert mask.shape == (2, 1, 10, 8) and (clamp or mask.abs().max() > 1)
    with pytest.raises(funcattr.FuncattrError, match=r"^MaskGenerator\(pooling_method='sigmoid'\): expected 'softmax'"):
        MaskGenerator((10, 8), 3, 4, pooling_method="sigmoid")


@pytest.mark.parametrize("type", ["blur", "fade"])
def test_perturbed_copies_equal_their_formula(type: str) -> None:
    perturbation = Perturbation(X[:1], num_levels=5, max_blur=3, type=type)
    levels = extremal_references.pyramid(X[0], type, 5, 3.0)
    close(perturbation.pyramid, levels)
    mask = uniform(3, 1, 10, 8, seed=5).abs() / 2
    expected = torch.stack([extremal_references.perturbed(levels, mask[k, 0]) for k in range(3)])
    close(perturbation.apply(mask), expected)
    assert perturbation.to("cpu") is perturbation and "num_levels=5" in str(perturbation)
    close(perturbation.apply(torch.ones(1, 1, 10, 8).double()), X[:1])
    with pytest.raises(funcattr.FuncattrError, match=r"^Perturbation\(input=\.\.\.\): expected one image"):
        Perturbation(X)
    with pytest.raises(funcattr.FuncattrError, match=r"^Perturbation\(type='noise'\)"):
        Perturbation(X[:1], type="noise")


def test_the_shapes_are_those_of_the_published_search() -> None:
    generator = MaskGenerator((224, 224), 7, 21)
    mask, canvas = generator.generate(torch.ones(1, 1, 32, 32))
    assert generator.shape_in == (32, 32) and canvas.shape == (1, 1, 260, 260) and mask.shape == (1, 1, 224, 224)
    # By reference/torchray.md: the outermost parameters see zeros beside them.
    assert mask.min() > 0.97 and mask.max() <= 1
