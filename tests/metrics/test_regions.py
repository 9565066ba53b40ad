"""`funcattr.metrics` against loops over pixels."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr.metrics.regions import energy_in_region, mass_in_region, pointing_game

Metric = Callable[[Tensor, Tensor], Tensor]


def pixels_of(region: np.ndarray, height: int, width: int) -> list[tuple[int, int]]:
    """The pixels of a box or a mask on a map, by asking each of them."""
    if region.dtype == bool:
        mask = region.reshape(height, width)
        return [(r, c) for r in range(height) for c in range(width) if mask[r, c]]
    top, left, bottom, right = region
    return [(r, c) for r in range(height) for c in range(width) if top <= r < bottom and left <= c < right]


def reading_order(image: np.ndarray) -> list[tuple[int, int]]:
    """All pixels from the highest to the lowest, equal ones in reading order."""
    pixels = [(r, c) for r in range(image.shape[0]) for c in range(image.shape[1])]
    return sorted(pixels, key=lambda pixel: -image[pixel])


def slow_pointing_game(image: np.ndarray, region: np.ndarray, tolerance: float) -> bool:
    """TorchRay's definition, pixel by pixel."""
    if np.isnan(image).any() or len(set(image.flat)) == 1:
        return False
    row, column = reading_order(image)[0]
    squared = [(r - row) ** 2 + (c - column) ** 2 for r, c in pixels_of(region, *image.shape)]
    return any(d == 0 or math.sqrt(d) < tolerance for d in squared)


def slow_mass_in_region(image: np.ndarray, region: np.ndarray) -> float:
    """The share of the highest pixels that are pixels of the box."""
    inside = pixels_of(region, *image.shape)
    if np.isnan(image).any() or len(set(image.flat)) == 1 or not inside:
        return 0.0
    return len(set(reading_order(image)[: len(inside)]) & set(inside)) / len(inside)


def slow_energy_in_region(image: np.ndarray, region: np.ndarray) -> float:
    """What is positive in the box, over what is positive."""
    if np.isnan(image).any():
        return 0.0
    total = sum(float(v) for v in image.flat if v > 0)
    return sum(float(image[p]) for p in pixels_of(region, *image.shape) if image[p] > 0) / total if total else 0.0


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Small maps [N, 1, H, W] with ties and NaN; boxes [N, 4], some empty, outside or between pixels, or masks."""
    count, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    size = count * height * width
    values = draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    maps = torch.tensor(values, dtype=torch.float64).reshape(count, 1, height, width)
    if draw(st.integers(0, 4)) == 0:
        maps[0, 0, -1, 0] = math.nan
    if draw(st.booleans()):
        ticks = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        return maps, torch.tensor(ticks).reshape(maps.shape if draw(st.booleans()) else maps[:, 0].shape)
    edge = st.integers(-2, 8) if draw(st.booleans()) else st.integers(-4, 16).map(lambda k: k / 2)
    boxes = torch.tensor(draw(st.lists(st.tuples(edge, edge, edge, edge), min_size=count, max_size=count)))
    return maps, boxes


@given(cases(), st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 20.0, 1e200, math.inf]))
def test_pointing_game_equals_loop_over_pixels(case: tuple[Tensor, Tensor], tolerance: float) -> None:
    maps, regions = case
    pairs = zip(maps[:, 0].numpy(), regions.numpy(), strict=True)
    expected = [slow_pointing_game(image, region, tolerance) for image, region in pairs]
    assert pointing_game(maps, regions, tolerance=tolerance).tolist() == expected
    assert pointing_game(maps[:, 0], regions, tolerance=tolerance).tolist() == expected


@given(cases())
def test_mass_in_region_equals_loop_over_pixels(case: tuple[Tensor, Tensor]) -> None:
    maps, regions = case
    pairs = zip(maps[:, 0].numpy(), regions.numpy(), strict=True)
    expected = [slow_mass_in_region(image, region) for image, region in pairs]
    assert mass_in_region(maps, regions).tolist() == pytest.approx(expected, abs=1e-12)
    assert mass_in_region(maps[:, 0], regions).tolist() == pytest.approx(expected, abs=1e-12)


@given(cases())
def test_energy_in_region_equals_loop_over_pixels(case: tuple[Tensor, Tensor]) -> None:
    maps, regions = case
    pairs = zip(maps[:, 0].numpy(), regions.numpy(), strict=True)
    expected = [slow_energy_in_region(image, region) for image, region in pairs]
    assert energy_in_region(maps, regions).tolist() == pytest.approx(expected, abs=1e-12)
    assert energy_in_region(1e-3 * maps[:, 0], regions).tolist() == pytest.approx(expected, abs=1e-12)


def test_energy_of_nothing_positive_is_none() -> None:
    whole = torch.tensor([[0, 0, 2, 2]])
    for maps in (torch.zeros(1, 2, 2), -torch.ones(1, 2, 2), torch.full((1, 2, 2), math.nan)):
        assert energy_in_region(maps, whole).tolist() == [0.0]


@pytest.mark.parametrize("size", [1e-40, 1e38])
def test_energy_does_not_depend_on_the_unit_of_the_map(size: float) -> None:
    """A box half as large as the image has half of a constant; sums of such numbers are no numbers."""
    maps = torch.full((1, 4, 4), size)
    assert energy_in_region(maps, torch.tensor([[0, 0, 4, 2]])).tolist() == pytest.approx([0.5])


def test_energy_has_a_derivative() -> None:
    maps = torch.tensor([[[1.0, 3.0], [-5.0, 0.5]]], dtype=torch.float64, requires_grad=True)
    box = torch.tensor([[0, 1, 2, 2]])
    assert torch.autograd.gradcheck(lambda m: energy_in_region(m, box), maps)


def test_tolerance_is_a_strict_bound_on_the_distance() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 1, 1] = 1
    boxes = torch.tensor([[4, 5, 6, 7]])  # nearest pixel (4, 5): distance 5
    assert not pointing_game(maps, boxes, tolerance=5.0)
    assert pointing_game(maps, boxes, tolerance=5.001)


def test_a_tolerance_that_single_precision_rounds_to_a_distance_is_no_less() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 1, 1] = 1
    for region in (torch.tensor([[4, 5, 5, 6]]), torch.zeros_like(maps, dtype=torch.bool)):
        if region.dtype == torch.bool:
            region[0, 4, 5] = True
        assert pointing_game(maps, region, tolerance=5 + 1e-12) and not pointing_game(maps, region, tolerance=5.0)


def test_a_mask_is_nearer_than_the_box_around_it() -> None:
    maps, ring = torch.zeros(1, 1, 9, 9), torch.ones(1, 1, 9, 9, dtype=torch.bool)
    maps[..., 4, 4] = 1
    ring[..., 1:8, 2:7] = False  # nearest pixels (4, 1), (4, 7): distance 3
    assert pointing_game(maps, torch.tensor([[0, 0, 9, 9]]))
    assert not pointing_game(maps, ring, tolerance=3.0)
    assert pointing_game(maps, ring, tolerance=3.001)


def test_box_ends_are_exclusive() -> None:
    maps = torch.zeros(4, 4, 4)
    for n, pixel in enumerate([(1, 1), (2, 2), (3, 2), (2, 3)]):
        maps[n][pixel] = 1
    boxes = torch.tensor([1, 1, 3, 3]).expand(4, 4)
    assert pointing_game(maps, boxes).tolist() == [True, True, False, False]


def test_absent_box_and_nan_never_hit() -> None:
    maps, whole = torch.rand(2, 1, 5, 5), torch.tensor([[0, 0, 5, 5], [0, 0, 5, 5]])
    maps[1, 0, 4, 4] = math.nan
    assert pointing_game(maps, whole, tolerance=99.0).tolist() == [True, False]
    assert mass_in_region(maps, whole).tolist() == [1.0, 0.0]
    assert not pointing_game(maps, torch.full((2, 4), -1), tolerance=99.0).any()
    assert mass_in_region(maps, torch.full((2, 4), -1)).tolist() == [0.0, 0.0]
    assert not pointing_game(maps[:1], torch.tensor([[0.0, 0.0, math.nan, 5.0]]), tolerance=99.0).any()


def test_a_constant_map_points_nowhere() -> None:
    whole = torch.ones(3, 5, 5, dtype=torch.bool)
    maps = torch.stack([torch.zeros(5, 5), torch.full((5, 5), 2.0), torch.full((5, 5), -math.inf)])
    assert pointing_game(maps, whole, tolerance=99.0).tolist() == [False] * 3
    assert mass_in_region(maps, whole).tolist() == [0.0] * 3
    assert energy_in_region(maps[1:2], whole[:1]).tolist() == [1.0]  # its positive values are all there


def test_an_empty_mask_is_never_hit() -> None:
    maps, empty = torch.rand(2, 1, 5, 5), torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    assert pointing_game(maps, empty, tolerance=99.0).tolist() == [False, False]
    assert mass_in_region(maps, empty).tolist() == energy_in_region(maps, empty).tolist() == [0.0, 0.0]


def test_the_first_of_equal_maxima_counts() -> None:
    maps = torch.zeros(1, 3, 3)
    maps[0, 0, 2] = maps[0, 2, 0] = 1
    first, second = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    first[0, 0, 2] = second[0, 2, 0] = True
    assert pointing_game(maps, first) and not pointing_game(maps, second)
    assert mass_in_region(maps, first) == 1 and mass_in_region(maps, second) == 0
    assert energy_in_region(maps, first) == energy_in_region(maps, second) == 0.5


@pytest.mark.parametrize("metric", [pointing_game, mass_in_region, energy_in_region])
def test_a_mask_of_boxes_is_the_boxes_compiled_too(metric: Metric) -> None:
    maps, boxes = torch.randn(3, 1, 6, 7), torch.tensor([[0, 1, 3, 4], [2, 2, 6, 7], [-1, -1, -1, -1]])
    masks = torch.zeros(3, 1, 6, 7, dtype=torch.bool)
    masks[0, :, :3, 1:4] = masks[1, :, 2:, 2:] = True
    expected = metric(maps, boxes)
    assert torch.equal(metric(maps, masks), expected) and torch.equal(metric(maps, masks[:, 0]), expected)
    torch._dynamo.reset()
    compiled = torch.compile(metric, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps, masks), expected) and torch.equal(compiled(maps, boxes), expected)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16, torch.float64])
def test_boxes_of_any_dtype(dtype: torch.dtype) -> None:
    maps = torch.zeros(1, 1, 4, 300)  # wider than uint8 counts
    maps[0, 0, 3, 200] = 1
    assert pointing_game(maps, torch.tensor([[2, 150, 4, 201]], dtype=dtype)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shares_keep_the_dtype_of_the_maps(dtype: torch.dtype) -> None:
    maps, box = torch.arange(16).reshape(1, 4, 4).to(dtype), torch.tensor([[0, 2, 4, 4]])
    assert mass_in_region(maps, box).dtype == energy_in_region(maps, box).dtype == dtype
    assert mass_in_region(maps, box).item() == 0.5
    assert energy_in_region(maps, box).item() == pytest.approx(68 / 120, abs=4e-3)


@pytest.mark.parametrize("metric", [pointing_game, mass_in_region, energy_in_region])
def test_regions_may_lie_on_another_device(metric: Metric) -> None:
    """The meta device stands for a card: boxes of a data set are on the CPU, maps are not."""
    maps = torch.zeros(2, 1, 4, 4, device="meta")
    for regions in (torch.zeros(2, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)):
        assert metric(maps, regions).device.type == "meta"


def test_no_examples_give_no_results() -> None:
    maps, boxes = torch.zeros(0, 1, 4, 4), torch.zeros(0, 4)
    assert all(m(maps, boxes).shape == (0,) for m in (pointing_game, mass_in_region, energy_in_region))


def test_metrics_vmap_over_methods_equals_loop() -> None:
    maps = torch.randn(3, 4, 1, 6, 7)
    boxes = torch.tensor([[0, 1, 3, 4], [2, 2, 6, 7], [-1, -1, -1, -1], [5, 5, 9, 9]])
    hits = torch.vmap(lambda m: pointing_game(m, boxes, tolerance=1.5))(maps)
    assert torch.equal(hits, torch.stack([pointing_game(m, boxes, tolerance=1.5) for m in maps]))
    for metric in (mass_in_region, energy_in_region):
        shares = torch.vmap(lambda m, metric=metric: metric(m, boxes))(maps)
        torch.testing.assert_close(shares, torch.stack([metric(m, boxes) for m in maps]), rtol=1e-6, atol=1e-6)
    masks = torch.rand(3, 4, 6, 7) > 0.8
    for metric in (partial(pointing_game, tolerance=1.5), mass_in_region, energy_in_region):
        expected = torch.stack([metric(m, mask) for m, mask in zip(maps, masks, strict=True)])
        torch.testing.assert_close(torch.vmap(metric)(maps, masks), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", [pointing_game, mass_in_region, energy_in_region])
@pytest.mark.parametrize(
    ("maps", "boxes", "message"),
    [
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(2, 4),
            r"maps=...\): expected shape \[N, 1, H, W\] .* got \[2, 3, 4, 4\]",
        ),
        (torch.zeros(4, 4), torch.zeros(2, 4), r"maps=...\): expected shape .* got \[4, 4\]"),
        (torch.zeros(2, 0, 4), torch.zeros(2, 4), r"maps=...\): expected shape .* got \[2, 0, 4\]"),
        (
            torch.zeros(2, 4, 4).long(),
            torch.zeros(2, 4),
            r"maps=...\): expected a floating-point dtype, got torch.int64",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(3, 4),
            r"regions=...\): expected shape \[2, 4\], .* got \[3, 4\] of torch.float32",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2, 1, 4, 4),
            r"regions=...\): .* a mask of dtype bool, .* got \[2, 1, 4, 4\] of torch.float32",
        ),
        (
            torch.zeros(2, 1, 4, 5),
            torch.zeros(2, 5, 4, dtype=torch.bool),
            r"regions=...\): .* bool, \[2, 1, 4, 5\] or \[2, 4, 5\]; got \[2, 5, 4\] of torch.bool",
        ),
        (
            torch.zeros(2, 1, 4, 4),
            torch.zeros(2, 4, dtype=torch.bool),
            r"regions=...\): .* got \[2, 4\] of torch.bool",
        ),
        (torch.zeros(2, 1, 4, 4), torch.zeros(4), r"regions=...\): expected shape \[2, 4\], .* got \[4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(metric: Metric, maps: Tensor, boxes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{getattr(metric, '__name__', '')}\({message}"):
        metric(maps, boxes)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan])
def test_tolerance_must_be_a_distance(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"^pointing_game\(tolerance=...\): expected a distance of 0 or more"):
        pointing_game(torch.zeros(1, 4, 4), torch.zeros(1, 4), tolerance=tolerance)
