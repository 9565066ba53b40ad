"""Pyramids against a convolution in numpy, and what a mask makes of them pixel by pixel."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcattr.methods.extremal.perturbation_pyramid import perturb, perturbation_pyramid
from funcattr.testing.seeding import uniform

from ... import extremal_references as reference
from ...contract import assert_equal

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=10)
@given(SIZES, st.sampled_from(["blur", "fade"]), st.integers(2, 5), st.floats(0.2, 4))
def test_levels_equal_the_formula(size: tuple[int, int], perturbation: Any, levels: int, max_blur: float) -> None:
    x = uniform(2, 3, *size)
    expected = torch.stack([reference.pyramid(image, perturbation, levels, max_blur) for image in x])
    actual = perturbation_pyramid(x, perturbation=perturbation, levels=levels, max_blur=max_blur)
    assert_equal(actual, expected)
    assert torch.equal(actual[:, -1], x)


def test_published_levels() -> None:
    x = uniform(1, 1, 40, 30)
    assert_equal(perturbation_pyramid(x)[0], reference.pyramid(x[0], "blur", 8, 20.0))


@settings(max_examples=10)
@given(SIZES, st.integers(2, 5), st.integers(1, 3), st.integers(0, 99))
def test_perturbed_copies_and_their_gradient_equal_the_formula(
    size: tuple[int, int], levels: int, masks: int, seed: int
) -> None:
    pyramid = uniform(2, levels, 2, *size, seed=seed)
    mask = uniform(2, masks, *size, seed=seed + 1) / 4 + 0.5
    mask.flatten()[:: seed + 2] = 1.0  # the last level, and
    mask.flatten()[1 :: seed + 3] = 0.0  # the first one, are met exactly
    weight = uniform(2, masks, 2, *size, seed=seed + 2)

    def formula(mask: Tensor) -> Tensor:
        return torch.stack([torch.stack([reference.perturbed(y, m) for m in each]) for y, each in zip(pyramid, mask)])

    leaf = mask.clone().requires_grad_()
    assert_equal(perturb(pyramid, mask), formula(mask))
    (expected,) = torch.autograd.grad((formula(leaf) * weight).sum(), leaf)
    assert_equal(torch.func.grad(lambda m: (perturb(pyramid, m) * weight).sum())(mask), expected)


def test_the_ends_are_kept_exactly() -> None:
    pyramid = perturbation_pyramid(uniform(1, 3, 7, 7))
    ends = torch.stack([torch.zeros(7, 7), torch.ones(7, 7)])[None].double()
    assert torch.equal(perturb(pyramid, ends)[:, 0], pyramid[:, 0])
    assert torch.equal(perturb(pyramid, ends)[:, 1], pyramid[:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    x = uniform(1, 2, 6, 6)
    exact = perturb(perturbation_pyramid(x, max_blur=2), uniform(1, 1, 6, 6) / 4 + 0.5)
    copies = perturb(perturbation_pyramid(x.to(dtype), max_blur=2), uniform(1, 1, 6, 6) / 4 + 0.5)
    assert copies.dtype == dtype
    torch.testing.assert_close(copies.double(), exact, rtol=0, atol=10 * torch.finfo(dtype).eps)


def test_vmap_over_masks_and_images_and_gradient_by_the_image() -> None:
    x, mask = uniform(2, 1, 4, 3), uniform(2, 3, 4, 3, seed=5) / 4 + 0.5

    def copies(x: Tensor, mask: Tensor) -> Tensor:
        return perturb(perturbation_pyramid(x, levels=3, max_blur=1.0), mask)

    def one(x: Tensor, mask: Tensor) -> Tensor:
        return copies(x[None], mask[None])[0]

    assert_equal(torch.vmap(one)(x, mask), copies(x, mask))
    over_masks = torch.vmap(lambda m: copies(x, m[:, None])[:, 0], in_dims=1, out_dims=1)(mask)
    assert_equal(over_masks, copies(x, mask))
    assert torch.autograd.gradcheck(copies, (x.requires_grad_(), mask.requires_grad_()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 4, 4)}, r"perturbation_pyramid\(x=\.\.\.\): expected images \[N, C, H, W\], got shape"),
        ({"levels": 1}, r"perturbation_pyramid\(levels=1\): expected 2 levels or more"),
        ({"levels": 2.0}, r"perturbation_pyramid\(levels=2.0\): expected 2 levels or more"),
        ({"perturbation": "noise"}, r"perturbation_pyramid\(perturbation='noise'\): expected 'blur' or 'fade'"),
        ({"max_blur": 0}, r"perturbation_pyramid\(max_blur=0\): expected a standard deviation"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perturbation_pyramid(**{"x": torch.ones(1, 3, 4, 4), **changes})


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 5)])
def test_masks_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"perturb: expected a pyramid \[N, L, C, H, W\] and masks \[N, M, H, W\]"):
        perturb(torch.ones(1, 8, 3, 4, 4), torch.ones(shape))


@pytest.mark.parametrize("value", [-1e-9, 1.5, float("nan")])
def test_masks_beyond_their_range_are_named(value: float) -> None:
    pyramid, mask = torch.ones(1, 8, 3, 4, 4), torch.full((1, 2, 4, 4), value)
    with pytest.raises(ValueError, match=r"^perturb\(mask=\.\.\.\): expected masks in \[0, 1\], got"):
        perturb(pyramid, mask)


def test_a_pyramid_of_integers_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^perturbation_pyramid\(x=\.\.\.\): expected floating-point images, got torch.ui"
    ):
        perturbation_pyramid(torch.ones(1, 3, 4, 4, dtype=torch.uint8))


def test_levels_of_less_than_a_tenth_of_a_pixel_are_the_image() -> None:
    x = torch.rand(1, 1, 6, 6)
    found = perturbation_pyramid(x, max_blur=0.3, levels=8)
    assert torch.equal(found[:, -1], x) and torch.equal(found[:, -2], x) and not torch.equal(found[:, 0], x)
