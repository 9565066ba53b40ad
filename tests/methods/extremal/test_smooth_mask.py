"""Smooth masks against their formula, pixel by pixel; the closed-form adjoint against autograd."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcattr.methods.extremal import smooth_mask as module
from funcattr.methods.extremal.smooth_mask import crop, mask_grid, mask_vjp, parameters_size, smooth_mask
from funcattr.testing.seeding import uniform

from ... import extremal_references as reference
from ...contract import assert_equal

GRIDS = st.fixed_dictionaries(
    {"spacing": st.integers(1, 4), "radius": st.sampled_from([1.0, 2.5, 3, 4.4])},
)
SIZES = st.tuples(st.integers(1, 8), st.integers(1, 8))


def parameters(size: tuple[int, int], spacing: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (uniform(*parameters_size(size, spacing), seed=seed, dtype=torch.float64) / 4 + 0.5).to(dtype)


@settings(max_examples=12)
@given(SIZES, GRIDS)
def test_canvas_and_image_equal_the_formula(size: tuple[int, int], grid: dict[str, Any]) -> None:
    p = parameters(size, grid["spacing"])
    expected = reference.canvas(p, size, **grid)
    if any(have < round(grid["radius"]) + need for have, need in zip(expected.shape, size, strict=True)):
        return  # the published canvas has no room for the image
    assert_equal(smooth_mask(p, size, on="canvas", **grid), expected)
    assert_equal(smooth_mask(p, size, **grid), reference.cropped(expected, size, grid["radius"]))


@settings(max_examples=12)
@given(SIZES, GRIDS, st.sampled_from(["image", "canvas"]))
def test_pullback_equals_autograd_through_the_formula(size: tuple[int, int], grid: dict[str, Any], on: Any) -> None:
    p = parameters(size, grid["spacing"])
    mask, pullback = mask_vjp(p, mask_grid(p, size, on=on, **grid))
    cotangent = uniform(*mask.shape, seed=3)
    assert_equal(pullback(cotangent), torch.func.vjp(lambda p: smooth_mask(p, size, on=on, **grid), p)[1](cotangent)[0])

    def formula(p: torch.Tensor) -> torch.Tensor:
        whole = reference.canvas(p, size, **grid)
        return whole if on == "canvas" else reference.cropped(whole, size, grid["radius"])

    if formula(p).shape == mask.shape:
        assert_equal(pullback(cotangent), torch.func.vjp(formula, p)[1](cotangent)[0])


@settings(max_examples=8)
@given(SIZES, GRIDS)
def test_sums_and_unclamped_masks_equal_the_formula(size: tuple[int, int], grid: dict[str, Any]) -> None:
    p = 3 * parameters(size, grid["spacing"]) - 1
    for pooling in ("softmax", "sum"):
        expected = reference.canvas(p, size, **grid, pooling=pooling, clamp=False)
        if any(have < round(grid["radius"]) + need for have, need in zip(expected.shape, size, strict=True)):
            return  # the published canvas has no room for the image
        found = smooth_mask(p, size, on="canvas", **grid, pooling=pooling, clamp=False)
        assert_equal(found, expected)
        assert_equal(smooth_mask(p, size, on="canvas", **grid, pooling=pooling), expected.clamp(0, 1))


@given(SIZES, GRIDS)
def test_the_canvas_has_room_for_the_image(size: tuple[int, int], grid: dict[str, Any]) -> None:
    p = parameters(size, grid["spacing"])
    canvas = smooth_mask(p, size, on="canvas", **grid)
    assert_equal(crop(canvas, size, radius=grid["radius"]), smooth_mask(p, size, **grid))


def test_published_sizes_and_pixels() -> None:
    p = parameters((224, 224), 7)
    assert p.shape == (32, 32)
    canvas, image = smooth_mask(p, (224, 224), on="canvas"), smooth_mask(p, (224, 224))
    assert canvas.shape == (260, 260) and image.shape == (224, 224)
    assert_equal(crop(canvas, (224, 224)), image)
    for u, v in ((0, 0), (3, 259), (21, 21), (100, 50), (130, 131), (244, 30), (259, 259)):
        assert canvas[u, v].item() == pytest.approx(reference.canvas_pixel(p, u, v, 7, 21).item(), abs=1e-12)


@pytest.mark.parametrize("shape", [(31, 31), (40, 29), (29, 40), (30,)])
def test_a_canvas_that_is_too_small_is_refused(shape: tuple[int, ...]) -> None:
    assert crop(torch.ones(30, 30), (26, 26), radius=4).shape == (26, 26)
    with pytest.raises(ValueError, match=r"^crop\(size=\(28, 28\)\): expected a canvas .* a margin of 4 pixels, got"):
        crop(torch.ones(shape), (28, 28), radius=4)


def test_the_reference_tells_grids_apart() -> None:
    p = parameters((8, 8), 2)
    with pytest.raises(AssertionError):
        assert_equal(smooth_mask(p, (8, 8), spacing=2, radius=3), smooth_mask(p, (8, 8), spacing=2, radius=3.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_no_dtype_overflows(dtype: torch.dtype) -> None:
    p = torch.ones(2, 3, 5, 5, dtype=dtype)
    mask, pullback = mask_vjp(p, mask_grid(p, (32, 32)))
    exact = smooth_mask(p.double(), (32, 32))
    assert mask.dtype == pullback(mask).dtype == dtype and mask.shape == (2, 3, 32, 32)
    torch.testing.assert_close(mask.double(), exact, rtol=0, atol=10 * torch.finfo(dtype).eps)
    assert pullback(mask).isfinite().all()
    assert mask.min() > 0.5 and mask.max() <= 1


@pytest.mark.parametrize("most", [1, 5000, 10**9])
def test_pieces_of_any_size_give_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.stack([parameters((10, 9), 2, seed) for seed in range(5)])
    grid = mask_grid(p, (10, 9), spacing=2, radius=3)
    expected, pull = mask_vjp(p, grid)
    monkeypatch.setattr(module, "PIECE_ON_CPU", most)
    actual, pieced = mask_vjp(p, grid)
    assert_equal(actual, expected, tolerance=1e-14)
    assert_equal(pieced(expected), pull(expected), tolerance=1e-13)


def test_vmap_equals_a_batch_and_second_derivatives_are_right() -> None:
    p = torch.stack([parameters((6, 5), 2, seed) for seed in range(2)])
    one: Any = lambda p: smooth_mask(p, (6, 5), spacing=2, radius=2)  # noqa: E731
    assert_equal(torch.vmap(one)(p), one(p))
    assert_equal(torch.stack([one(q) for q in p]), one(p))
    leaf = p[0].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(one, (leaf,))

    def pulled(p: torch.Tensor) -> torch.Tensor:
        mask, pullback = mask_vjp(p, mask_grid(p, (6, 5), spacing=2, radius=2))
        return pullback(mask**2)

    assert torch.autograd.gradcheck(pulled, (leaf,))
    assert_equal(torch.vmap(pulled)(p), pulled(p))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": 0}, r"smooth_mask\(spacing=0\): expected a number of pixels"),
        ({"spacing": 2.5}, r"smooth_mask\(spacing=2.5\): expected a number of pixels"),
        ({"radius": 0}, r"smooth_mask\(radius=0\): expected a radius"),
        ({"radius": float("nan")}, r"smooth_mask\(radius=nan\): expected a radius"),
        ({"on": "crop"}, r"smooth_mask\(on='crop'\): expected 'image' or 'canvas'"),
        ({"pooling": "max"}, r"smooth_mask\(pooling='max'\): expected 'softmax' or 'sum'"),
        ({"spacing": 8}, r"a mask of 28 x 28 pixels with spacing=8 has parameters \[..., 4, 4\], got shape \[4, 5\]"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smooth_mask(torch.ones(4, 5), (28, 28), **changes)


def test_parameters_of_integers_are_refused() -> None:
    """Their mask would be rounded to 0 and 1."""
    with pytest.raises(
        TypeError, match=r"^smooth_mask\(parameters=\.\.\.\): expected a floating-point tensor, got torch\.int64"
    ):
        smooth_mask(torch.ones(4, 4, dtype=torch.long), (28, 28))
