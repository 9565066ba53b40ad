"""Maps, against loops over single numbers written from the formulas."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr import maps

REDUCTIONS: dict[str, Callable[[list[float]], float]] = {
    "max_abs": lambda v: max(abs(a) for a in v),
    "sum": lambda v: math.fsum(v),
    "abs_sum": lambda v: math.fsum(abs(a) for a in v),
    "l2": lambda v: math.sqrt(math.fsum(a * a for a in v)),
    "positive": lambda v: max(math.fsum(v), 0.0),
    "negative": lambda v: max(-math.fsum(v), 0.0),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@st.composite
def attributions(draw: st.DrawFn, min_space: int = 0, dtypes: list[torch.dtype] = DTYPES) -> Tensor:
    space = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(min_space, 3)))]
    return torch.randn(draw(st.integers(1, 3)), draw(st.integers(1, 3)), *space, dtype=draw(st.sampled_from(dtypes)))


def positions(shape: Any) -> Iterator[tuple[int, ...]]:
    return product(*(range(size) for size in shape))


def check(found: Tensor, expected: Tensor) -> None:
    rtol = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1.6e-2}[found.dtype]
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", REDUCTIONS)
@given(attributions())
def test_a_reduction_is_its_formula_at_each_position(name: str, values: Tensor) -> None:
    expected = torch.zeros_like(values[:, :1])
    for n, *where in positions([len(values), *values.shape[2:]]):
        channels = [values[(n, c, *where)].item() for c in range(values.shape[1])]
        expected[(n, 0, *where)] = REDUCTIONS[name](channels)
    check(getattr(maps, name)(values, rank=values.ndim - 2), expected)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_under_vmap_is_a_loop(name: str) -> None:
    values, reduce = torch.randn(4, 2, 3, 5), getattr(maps, name)
    check(torch.func.vmap(reduce)(values[:, None])[:, 0], reduce(values))


@pytest.mark.parametrize("name", [*REDUCTIONS, "normalize"])
def test_a_tensor_without_channels_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a shape \[N, C, \*spatial\], got \[3\]"):
        getattr(maps, name)(torch.zeros(3))


@pytest.mark.parametrize("name", [*REDUCTIONS, "normalize", "smooth", "resize"])
def test_three_dimensions_are_signals_only_if_that_is_said(name: str) -> None:
    options: dict[str, Any] = {"smooth": {"sigma": 1.0}, "resize": {"size": 5}}.get(name, {})
    function, values = getattr(maps, name), torch.randn(3, 6, 5)
    with pytest.raises(ValueError, match=rf"^{name}: .* got \[3, 6, 5\]\. If this is one image \[C, H, W\], its batch"):
        function(values, **options)
    signals = function(values, rank=1, **options)
    check(signals, function(values[:, :, None], rank=2, **options)[:, :, 0] if name != "resize" else values)
    assert function(values[None], **options).shape[0] == 1
    assert function(values[:, :1], **options).shape == (3, 1, 5)  # no image has one row
    with pytest.raises(ValueError, match=rf"^{name}\(rank=3\): .* with 3 spatial dimensions, got \[1, 3, 6, 5\]"):
        function(values[None], rank=3, **options)


def test_resize_says_that_a_batch_is_missing() -> None:
    image = torch.randn(3, 6, 5)
    for size in ((4, 4), torch.zeros(1, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"resize\(size=\[4, 4\]\): expected 1 numbers .* Is the batch missing\?"):
            maps.resize(image, size)
    with pytest.raises(ValueError, match=r"^resize: .* its batch is missing"):
        maps.resize(image, image)


# Resizing


def linear_weights(before: int, after: int) -> list[list[float]]:
    """Weight of each old pixel in each new one: centres at (i + 1/2) * before / after - 1/2, clamped to the edges."""
    rows = []
    for i in range(after):
        centre = min(max((i + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        rows.append([max(0.0, 1 - abs(centre - j)) for j in range(before)])
    return rows


def nearest_weights(before: int, after: int) -> list[list[float]]:
    return [[float(j == i * before // after) for j in range(before)] for i in range(after)]


def area_weights(before: int, after: int) -> list[list[float]]:
    rows = []
    for i in range(after):
        first, last = i * before // after, -(-(i + 1) * before // after)
        rows.append([float(first <= j < last) / (last - first) for j in range(before)])
    return rows


WEIGHTS = {"bilinear": linear_weights, "nearest": nearest_weights, "area": area_weights}


def resized(values: Tensor, size: list[int], mode: str) -> Tensor:
    out = values.new_zeros(*values.shape[:2], *size)
    weights = [WEIGHTS[mode](before, after) for before, after in zip(values.shape[2:], size)]
    for new in positions(size):
        for old in positions(values.shape[2:]):
            share = math.prod(w[i][j] for w, i, j in zip(weights, new, old))
            out[(..., *new)] += share * values[(..., *old)]
    return out


@given(attributions(min_space=1, dtypes=[torch.float64]), st.data())
def test_resize_is_a_weighted_mean_of_pixels(values: Tensor, data: st.DataObject) -> None:
    size = [data.draw(st.integers(1, 4)) for _ in values.shape[2:]]
    mode = data.draw(st.sampled_from(sorted(WEIGHTS)))
    check(maps.resize(values, size, mode=mode, rank=values.ndim - 2), resized(values, size, mode))


def test_resize_takes_a_number_a_size_or_a_tensor() -> None:
    values = torch.randn(2, 1, 3, 5)
    expected = resized(values, [4, 7], "bilinear")
    for size in ((4, 7), [4, 7], torch.Size([4, 7]), torch.zeros(9, 3, 4, 7)):
        check(maps.resize(values, size), expected)
    check(maps.resize(values, 4), resized(values, [4, 4], "bilinear"))
    check(maps.resize(values, values), values)


@pytest.mark.parametrize("mode", ["linear", "bilinear", "trilinear"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_any_linear_mode_is_linear_in_any_number_of_dimensions(mode: str, rank: int) -> None:
    values = torch.randn(1, 2, *[3] * rank, dtype=torch.float64)
    check(maps.resize(values, 5, mode=mode, rank=rank), resized(values, [5] * rank, "bilinear"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "nearest-exact", "bicubic", "area"])
def test_resize_keeps_a_constant_map_and_the_dtype(mode: str, dtype: torch.dtype) -> None:
    check(
        maps.resize(torch.full((1, 2, 3, 4), 2.5, dtype=dtype), (7, 2), mode=mode),
        torch.full((1, 2, 7, 2), 2.5).to(dtype),
    )


@pytest.mark.parametrize(
    ("shape", "size", "mode", "message"),
    [
        ([1, 1, 4, 4], [2], "bilinear", r"resize\(size=\[2\]\): expected 2 numbers .* shape \[1, 1, 4, 4\]"),
        ([1, 1, 4], torch.zeros(1, 1, 2, 2), "nearest", r"resize\(size=\[2, 2\]\): expected 1 numbers"),
        ([1, 1], 2, "nearest", r"expected 0 numbers \(1 to 3\)"),
        ([1, 1, 2, 2, 2, 2], 2, "nearest", r"expected 4 numbers \(1 to 3\)"),
        ([4], 2, "nearest", r"resize: expected a shape \[N, C, \*spatial\], got \[4\]"),
        ([1, 1, 4, 4], 2, "cubic", r"resize\(mode='cubic'\): expected 'nearest', 'bilinear', 'area'"),
        ([1, 1, 4], 2, "bicubic", r"resize\(mode='bicubic'\): .* for two dimensions 'bicubic'; .* shape \[1, 1, 4\]"),
    ],
)
def test_bad_sizes_and_modes_are_refused(shape: list[int], size: Any, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maps.resize(torch.zeros(shape), size, mode=mode)


@pytest.mark.parametrize("size", [8.0, (8.0, 8.0), "8", ("8", "8"), np.zeros(2), None])
def test_sizes_of_another_kind_are_refused(size: Any) -> None:
    with pytest.raises(TypeError, match=r"^resize\(size=.*\): expected ints, the pixels of each dimension"):
        maps.resize(torch.zeros(1, 1, 4, 4), size)


def test_sizes_may_be_numpys() -> None:
    size: Any = np.int64(6)
    assert maps.resize(torch.zeros(1, 1, 4, 4), size).shape == (1, 1, 6, 6)
    assert maps.resize(torch.zeros(1, 1, 4, 4), (size, 5)).shape == (1, 1, 6, 5)


# Smoothing


def source(index: int, size: int, padding: str) -> int | None:
    """Where a padded position reads from, None for a zero."""
    if 0 <= index < size:
        return index
    if padding == "reflect":
        return -index if index < 0 else 2 * (size - 1) - index
    return {"replicate": min(max(index, 0), size - 1), "circular": index % size, "constant": None}[padding]


@pytest.mark.parametrize(
    ("shape", "size"), [([1, 1, 5, 5], 0), ([1, 1, 5, 5], (3, 0)), ([1, 1, 5, 5], -2), ([1, 1, 0, 5], 4)]
)
def test_a_size_has_a_pixel_or_more(shape: list[int], size: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^resize\(size=\[.*\]\): expected a pixel or more in each dimension, for maps of"
    ):
        maps.resize(torch.ones(shape), size)


def smoothed(values: Tensor, sigma: float, padding: str) -> Tensor:
    width = math.ceil(4 * sigma)
    taps = [math.exp(-((i / (math.sqrt(2) * sigma + 1.19e-7)) ** 2)) for i in range(-width, width + 1)]
    taps = [tap / math.fsum(taps) for tap in taps]
    for axis in range(2, values.ndim):
        lines, size = values.movedim(axis, -1), values.shape[axis]
        out = torch.zeros_like(lines)
        for i in range(size):
            for offset, tap in zip(range(-width, width + 1), taps):
                if (j := source(i + offset, size, padding)) is not None:
                    out[..., i] += tap * lines[..., j]
        values = out.movedim(-1, axis)
    return values


@given(
    attributions(dtypes=[torch.float64]),
    st.sampled_from([0.2, 0.5, 1.0, 2.7]),
    st.sampled_from(["replicate", "constant"]),
)
def test_smoothing_is_its_formula_along_each_dimension(values: Tensor, sigma: float, padding: str) -> None:
    check(maps.smooth(values, sigma, padding=padding, rank=values.ndim - 2), smoothed(values, sigma, padding))


@pytest.mark.parametrize("padding", ["replicate", "constant", "reflect", "circular"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_smoothing_pads_as_asked_in_each_dtype(padding: str, dtype: torch.dtype) -> None:
    values = torch.randn(2, 1, 9, 10).to(dtype)
    found = maps.smooth(values, 1.3, padding=padding)
    assert found.dtype == dtype
    check(found, smoothed(values.double(), 1.3, padding).to(dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("sigma", [0.3, 5.0, 80.0])
def test_smoothing_keeps_a_constant_map(dtype: torch.dtype, sigma: float) -> None:
    constant = torch.full((1, 2, 6, 7), 3.3, dtype=dtype)
    torch.testing.assert_close(maps.smooth(constant, sigma), constant)


@pytest.mark.parametrize(("padding", "least"), [("reflect", 9), ("circular", 8)])
@pytest.mark.parametrize("dim", [2, 3])
def test_smoothing_does_not_reach_beyond_a_copy_of_the_map(padding: str, least: int, dim: int) -> None:
    shape = [1, 1, 12, 12]
    shape[dim] = least
    fits = torch.rand(shape, dtype=torch.float64)
    check(maps.smooth(fits, 2.0, padding=padding), smoothed(fits, 2.0, padding))
    message = rf"^smooth\(sigma=2.0, padding='{padding}'\): expected maps of {least} pixels or more in each dimension"
    with pytest.raises(ValueError, match=message):
        maps.smooth(fits.narrow(dim, 0, least - 1), 2.0, padding=padding)


def test_smoothing_by_zero_is_the_identity() -> None:
    values = torch.randn(2, 1, 3, 3)
    assert torch.equal(maps.smooth(values, 0), values)


def test_the_constant_of_the_kernel_is_torchrays() -> None:
    point = torch.zeros(1, 1, 9, dtype=torch.float64)
    point[..., 4] = 1
    taps = [math.exp(-((i / (math.sqrt(2) * 0.5 + 1.19e-7)) ** 2)) for i in (-2, -1, 0, 1, 2)]
    expected = torch.tensor([[taps]], dtype=torch.float64) / math.fsum(taps)
    torch.testing.assert_close(maps.smooth(point, 0.5)[..., 2:7], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("sigma", "padding", "message"),
    [
        (-1.0, "replicate", r"smooth\(sigma=-1.0\): expected a standard deviation >= 0"),
        (math.nan, "replicate", r"smooth\(sigma=nan\): expected a standard deviation"),
        (math.inf, "replicate", r"smooth\(sigma=inf\): expected a standard deviation"),
        (1.0, "zeros", r"smooth\(padding='zeros'\): expected one of 'replicate', 'reflect', 'circular', 'constant'"),
    ],
)
def test_bad_smoothing_is_refused(sigma: float, padding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maps.smooth(torch.zeros(1, 1, 4), sigma, padding=padding)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_smoothing_what_is_no_map_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match=r"smooth: expected a shape \[N, C, \*spatial\], got \[4\]"):
        maps.smooth(torch.zeros(4), sigma)


@pytest.mark.parametrize("sigma", [0.02, 0.0999])
def test_a_share_of_the_image_is_no_number_of_pixels(sigma: float) -> None:
    with pytest.raises(
        ValueError, match=rf"smooth\(sigma={sigma}\): expected pixels, and at least 0\.1 .* max\(H, W\)"
    ):
        maps.smooth(torch.zeros(1, 1, 4, 4), sigma)
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1
    check(maps.smooth(point, 0.1), point)  # what is refused would have been the identity too


# Normalising


def normalised(values: Tensor, mode: str) -> Tensor:
    out = torch.zeros_like(values)
    for n, example in enumerate(values):
        numbers = example.flatten().tolist()
        low, high, largest = min(numbers), max(numbers), max(abs(v) for v in numbers)
        for i, v in enumerate(numbers):
            shift, scale = (low, high - low) if mode == "range" else (0.0, largest)
            out[n].view(-1)[i] = (v - shift) / scale if scale else 0.0
    return out


@given(attributions(), st.sampled_from(["range", "max"]))
def test_normalising_is_its_formula_for_each_example(values: Tensor, mode: str) -> None:
    check(maps.normalize(values, scale=mode, rank=values.ndim - 2), normalised(values, mode))


@pytest.mark.parametrize("mode", ["range", "max"])
def test_nothing_to_normalise_gives_zeros(mode: str) -> None:
    values = torch.zeros(2, 1, 3, 3)
    values[1] = 5 if mode == "range" else 0
    assert torch.equal(maps.normalize(values, scale=mode), torch.zeros_like(values))


def test_normalising_a_wide_range_of_a_coarse_dtype() -> None:
    """60000 + 60000 is infinite in float16, and 100 + 100 is -56 in int8."""
    wide = torch.tensor([[[-60000.0, 60000.0, 0.0]]])
    torch.testing.assert_close(maps.normalize(wide.half()), torch.tensor([[[0.0, 1.0, 0.5]]]).half())
    small = torch.tensor([[[-100, 100, 0]]], dtype=torch.int8)
    torch.testing.assert_close(maps.normalize(small), torch.tensor([[[0.0, 1.0, 0.5]]]))
    torch.testing.assert_close(maps.normalize(small > 0), torch.tensor([[[0.0, 1.0, 0.0]]]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_what_has_no_fractions_is_not_smoothed_or_resized(dtype: torch.dtype) -> None:
    ones = torch.ones(1, 1, 4, 4, dtype=dtype)
    calls = {
        "smooth": lambda: maps.smooth(ones, 1.0),
        "resize": lambda: maps.resize(ones, 8),
        "l2": lambda: maps.l2(ones),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{name}: expected floating-point numbers, got {dtype}"):
            call()


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"normalize\(scale='minmax'\): expected 'range' or 'max'"):
        maps.normalize(torch.zeros(1, 1, 2), scale="minmax")


# Tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": 1.0, "grid": (2, 2)}, r"^from_tokens\(skip=1.0\): expected a number of tokens, an int"),
        ({"skip": 1, "grid": 2}, r"^from_tokens\(grid=2\): expected \(rows, columns\)"),
    ],
)
def test_options_of_tokens_of_another_kind_are_refused(options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        maps.from_tokens(torch.zeros(1, 5), **options)


@pytest.mark.parametrize(("skip", "rows", "columns"), [(0, 3, 3), (1, 2, 4), (5, 4, 2), (2, 1, 1)])
def test_tokens_of_patches_become_places_row_by_row(skip: int, rows: int, columns: int) -> None:
    tokens = torch.randn(2, skip + rows * columns)
    like = torch.zeros(1, 3, rows * 16, columns * 16)
    for found in (
        maps.from_tokens(tokens, like=like, skip=skip),
        maps.from_tokens(tokens[:, None], like=like, skip=skip),
        maps.from_tokens(tokens, grid=(rows, columns), skip=skip),
    ):
        assert found.shape == (2, 1, rows, columns)
        for row, column in product(range(rows), range(columns)):
            assert torch.equal(found[:, 0, row, column], tokens[:, skip + row * columns + column])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ([1, 17], {"like": [1, 3, 32, 32], "skip": 0}, r"from_tokens\(like=.*, skip=0\): .* 32 x 32, got 17 tokens"),
        ([1, 17], {"like": [1, 3, 32, 64], "skip": 1}, r"proportions 32 x 64, got 17 tokens - 1 = 16\. .* grid="),
        ([1, 9], {"like": [1, 3, 32, 65], "skip": 1}, r"proportions 32 x 65"),
        ([1, 9], {"like": [3, 32, 64], "skip": 1}, r"from_tokens\(like=\.\.\.\): expected images \[N, C, H, W\], got"),
        ([1, 9], {"grid": (3, 3), "skip": 1}, r"from_tokens\(grid=\(3, 3\), skip=1\): expected rows .* 9 tokens - 1"),
        ([1, 9], {"grid": (-2, -4), "skip": 1}, r"expected rows \* columns"),
        ([1, 9], {"skip": 1}, r"from_tokens\(like=\.\.\., grid=\.\.\.\): expected one of them"),
        ([1, 9], {"skip": 1, "grid": (2, 4), "like": [1, 3, 32, 64]}, r"expected one of them"),
        ([1, 9], {"grid": (3, 3), "skip": 9}, r"from_tokens\(skip=9\): expected 0 to 8, for there are 9 tokens"),
        ([1, 9], {"grid": (3, 3), "skip": -1}, r"from_tokens\(skip=-1\): expected 0 to 8"),
        ([1, 9, 4], {"grid": (3, 3), "skip": 0}, r"from_tokens\(maps=.* got \[1, 9, 4\]\. .*attributions\.sum\(-1\)"),
        ([9], {"grid": (3, 3), "skip": 0}, r"expected one number for each token, \[N, T\] or \[N, 1, T\], got \[9\]"),
    ],
)  # fmt: skip
def test_tokens_that_make_no_grid_are_refused(shape: list[int], options: dict[str, Any], message: str) -> None:
    if "like" in options:
        options = options | {"like": torch.zeros(options["like"])}
    with pytest.raises(ValueError, match=message):
        maps.from_tokens(torch.zeros(shape), **options)


# Composition with transforms

POINTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        f"resize {mode}": lambda m, mode=mode: maps.resize(m, (4, 3), mode=mode)
        for mode in ("bilinear", "bicubic", "area")
    },
    **{f"smooth {p}": lambda m, p=p: maps.smooth(m, 0.4, padding=p) for p in ("replicate", "constant", "circular")},
    **{f"normalize {mode}": lambda m, mode=mode: maps.normalize(m, scale=mode) for mode in ("range", "max")},
    "from_tokens": lambda m: maps.from_tokens(m.flatten(2), grid=(5, 6), skip=0),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_vmap_is_a_loop_and_batch_is_a_loop(name: str) -> None:
    values = torch.randn(3, 2, 1, 5, 6, dtype=torch.float64)
    function = POINTWISE[name]
    check(torch.func.vmap(function)(values), torch.stack([function(v) for v in values]))
    check(function(values[0]), torch.cat([function(v[None]) for v in values[0]]))


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", ["resize bilinear", "smooth replicate", "normalize range"])
def test_maps_compile_without_a_break(name: str) -> None:
    values = torch.randn(2, 1, 5, 6)
    check(torch.compile(POINTWISE[name], fullgraph=True, backend="aot_eager")(values), POINTWISE[name](values))


@pytest.mark.parametrize("name", POINTWISE)
def test_maps_are_differentiable(name: str) -> None:
    values = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(POINTWISE[name], values)
