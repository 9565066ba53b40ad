"""The area loss against a sort, and what it does where the sort has no one answer."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funcattr.methods.extremal.area_loss import area_loss
from funcattr.testing.seeding import uniform

from ... import extremal_references as reference
from ...contract import assert_equal

AREAS = st.floats(0.001, 0.999)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def masks(*shape: int, seed: int = 0) -> Tensor:
    return uniform(*shape, seed=seed) / 4 + 0.5


@given(SIZES, AREAS, st.integers(0, 99))
def test_value_and_gradient_equal_those_of_a_sort(size: tuple[int, int], area: float, seed: int) -> None:
    mask = masks(*size, seed=seed)
    assert_equal(area_loss(mask, area), reference.area_loss(mask, area))
    gradient = torch.func.grad(lambda m: area_loss(m, area))(mask)
    assert_equal(gradient, torch.func.grad(lambda m: reference.area_loss(m, area))(mask))


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=4, max_size=4), AREAS)
def test_equal_pixels_get_the_mean_gradient_of_every_order(values: list[float], area: float) -> None:
    mask = torch.tensor(values, dtype=torch.float64).reshape(2, 2)
    assert_equal(area_loss(mask, area), reference.area_loss(mask, area))
    # Differences that only decide about the order, in each of the orders.
    every = []
    for order in itertools.permutations(range(4)):
        nudged = mask + 1e-9 * torch.tensor(order, dtype=torch.float64).reshape(2, 2)
        every.append(torch.func.grad(lambda m: reference.area_loss(m, area))(nudged))
    expected = torch.stack(every).mean(0)
    actual = torch.func.grad(lambda m: area_loss(m, area))(mask)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-8)


def test_rounding_does_not_choose_among_equal_pixels() -> None:
    mask = torch.full((6, 6), 0.7)
    rounded = mask * (1 + 1e-7 * torch.randn(6, 6))
    assert not torch.equal(mask, rounded)
    gradient = torch.func.grad(lambda m: area_loss(m, 0.3))
    torch.testing.assert_close(gradient(rounded), gradient(mask), rtol=0, atol=1e-6)
    sorts = torch.func.grad(lambda m: reference.area_loss(m, 0.3))
    assert (sorts(rounded) - sorts(mask)).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_zero_for_a_binary_mask_of_that_area(dtype: torch.dtype) -> None:
    mask = torch.zeros(10, 10, dtype=dtype)
    mask[2:6, 3:8] = 1
    assert area_loss(mask, 0.2).item() == 0
    assert area_loss(mask, 0.3).item() == pytest.approx(0.1, abs=1e-3)
    assert area_loss(mask, 0.1).item() == pytest.approx(0.1, abs=1e-3)
    assert area_loss(mask, 0.3).dtype == dtype


def test_one_number_for_each_mask_by_batch_or_vmap() -> None:
    batch = masks(3, 2, 5, 4)
    each = torch.stack([torch.stack([area_loss(m, 0.4) for m in pair]) for pair in batch])
    assert_equal(area_loss(batch, 0.4), each)
    one: Any = lambda m: area_loss(m, 0.4)  # noqa: E731
    assert_equal(torch.vmap(torch.vmap(one))(batch), each)
    assert_equal(torch.vmap(torch.func.grad(one))(batch[0]), torch.func.grad(lambda b: one(b).sum())(batch[0]))


@pytest.mark.parametrize("area", [0, 1, -0.1, 1.5, 1e-20, float("nan")])
def test_an_area_that_is_no_share(area: float) -> None:
    with pytest.raises(ValueError, match=r"area_loss\(area=.*\): expected a share of the pixels between 0 and 1"):
        area_loss(torch.ones(2, 2), area)


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"area_loss\(area=\.\.\.\): expected a number between 0 and 1, got str"):
        area_loss(torch.ones(2, 2), "0.1")  # pyright: ignore[reportArgumentType]
    for shape in ((4,), (2, 0)):
        with pytest.raises(ValueError, match=r"area_loss\(mask=\.\.\.\): expected a shape \[\.\.\., H, W\], got \["):
            area_loss(torch.ones(shape), 0.1)
    for dtype in (torch.bool, torch.long):  # whose loss would be true, or rounded to 0
        with pytest.raises(TypeError, match=rf"area_loss\(mask=\.\.\.\): expected floating-point values .*{dtype}"):
            area_loss(torch.ones(2, 2, dtype=dtype), 0.1)
