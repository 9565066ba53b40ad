"""RISE: masks by the steps of TorchRay and as random as they say, and maps of any number of dimensions and classes."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import funcattr
from funcattr.methods.perturbation import rise as module
from funcattr.methods.perturbation.rise import enlarged, rise, rise_masks
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal

few = settings(max_examples=15)


def net(*, channels: int = 2, pixels: int = 16, classes: int = 3) -> nn.Module:
    return settle(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(channels * pixels, 5), nn.Tanh(), nn.Linear(5, classes))
    )


# --- masks -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 17), min_size=1, max_size=3), st.integers(2, 8), st.integers(0, 999))
@few
def test_masks_are_made_by_the_steps_of_torchray(size: list[int], cells: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(3, *[cells] * len(size), generator=generator) < 0.5).double()
    shifts = [torch.randint(math.ceil(length / cells), (3,), generator=generator) for length in size]
    expected = [references.rise_mask(grid, [int(s[i]) for s in shifts], size) for i, grid in enumerate(grids)]
    assert_equal(enlarged(grids, shifts, tuple(size)), torch.stack(expected), tolerance=1e-12)


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_cells_and_shifts_are_as_random_as_they_say(p: float) -> None:
    """Second moments of the masks, against their expectation over all grids and shifts."""
    size, cells, samples = (3, 4), 2, 4000
    expected: Any = 0
    shifts = list(itertools.product(*(range(math.ceil(length / cells)) for length in size)))
    for kept in itertools.product([0.0, 1.0], repeat=cells**2):
        chance = math.prod(p if k else 1 - p for k in kept) / len(shifts)
        for shift in shifts:
            mask = references.rise_mask(torch.tensor(kept).double().reshape(2, 2), shift, size).flatten()
            expected = expected + chance * mask.outer(mask)
    drawn = rise_masks(samples, size, cells=cells, p=p, dtype=torch.float64).flatten(1)
    torch.testing.assert_close(drawn.T @ drawn / samples, expected, rtol=0, atol=5 * 0.5 / samples**0.5)
    assert abs(drawn.mean() - p) < 0.02


def test_a_mask_depends_on_its_number_and_the_seed_only() -> None:
    masks = rise_masks(20, (9, 8), generator=3)
    torch.testing.assert_close(rise_masks(7, (9, 8), generator=3), masks[:7], rtol=1e-6, atol=1e-6)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 20
    assert not torch.equal(rise_masks(20, (9, 8), generator=4), masks)
    assert (masks >= 0).all() and (masks <= 1).all() and masks.dtype == torch.float32
    double = rise_masks(20, (9, 8), generator=3, dtype=torch.float64)
    torch.testing.assert_close(double.float(), masks, rtol=0, atol=1e-6)


# --- maps ------------------------------------------------------------------------------------------------------------


@given(st.data())
@few
def test_maps_equal_the_reference(data: st.DataObject) -> None:
    size = {1: (8,), 2: (2, 4), 3: (2, 2, 2)}[data.draw(st.integers(1, 3))]
    examples, samples = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    x, masks = uniform(examples, 2, *size), uniform(samples, *size, seed=2).abs() / 2
    activation: Any = data.draw(st.sampled_from([None, "sigmoid", "softmax"]))
    target: Any = data.draw(st.sampled_from([None, 2, [0, 2, 1][:examples]]))
    chunk_size = data.draw(st.integers(1, 6))
    model = net(pixels=8)
    actual = rise(model, x, target, masks=masks, activation=activation, chunk_size=chunk_size)
    assert_equal(actual, references.rise(model, x, target, masks=masks, activation=activation))
    assert actual.shape == (examples, 3 if target is None else 1, *size)


def test_rise_draws_the_masks_of_rise_masks() -> None:
    model, x = net(), uniform(2, 2, 4, 4)
    for p, cells, generator in ((0.5, 7, 0), (0.3, 2, -8)):
        masks = rise_masks(13, (4, 4), cells=cells, p=p, generator=generator, dtype=torch.float64)
        expected = references.rise(model, x, 1, masks=masks)
        assert_equal(rise(model, x, 1, samples=13, cells=cells, p=p, generator=generator), expected)
        normalized = rise(model, x, 1, samples=13, cells=cells, p=p, generator=generator, normalize_by_p=True)
        assert_equal(normalized, expected / p)


def test_all_classes_are_added_up_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(), uniform(2, 2, 4, 4)
    expected = torch.cat([rise(model, x, k, samples=23, chunk_size=23) for k in range(3)], 1)
    for block in (1, 4, 10, 1000):
        monkeypatch.setattr(module, "BLOCK", block)
        for chunk_size in (2, 5, None):
            assert_equal(rise(model, x, samples=23, chunk_size=chunk_size), expected, tolerance=1e-12)


def test_one_number_per_example_is_one_class() -> None:
    x = uniform(2, 1, 4, 4)
    maps = rise(lambda x: x.flatten(1).sum(1), x, samples=5)
    assert_equal(maps, rise(lambda x: x.flatten(1).sum(1, keepdim=True), x, 0, samples=5), tolerance=1e-12)


def test_a_spatial_output_takes_a_target() -> None:
    x = uniform(2, 3, 4, 4)
    by_index = rise(lambda x: x * 2, x, (1, 2, 3), samples=5, activation=None)
    masks = rise_masks(5, (4, 4), dtype=torch.float64)
    expected = (2 * x[:, None, 1, 2, 3, None, None] * masks[:, 2, 3].reshape(5, 1, 1) * masks).mean(1, keepdim=True)
    assert_equal(by_index, expected)
    pointed = rise(lambda x: x * 2, x, funcattr.pointing(1), samples=5)
    assert pointed.shape == (2, 1, 4, 4)


def test_the_map_is_highest_where_the_model_looks() -> None:
    x = torch.ones(1, 1, 32, 32)
    box = torch.zeros(32, 32)
    box[20:28, 4:12] = 1
    found = rise(
        lambda x: 20 * ((x[:, 0] * box).mean((1, 2), keepdim=True)[:, :, 0] / box.mean() - 0.8), x, 0, samples=400
    )
    assert bool(funcattr.metrics.pointing_game(found, torch.tensor([[20, 4, 28, 12]])))


def test_half_precision_does_not_stall() -> None:
    # Summed in bfloat16, nothing below 1 is added to 256.
    x = torch.ones(1, 1, 4, 4, dtype=torch.bfloat16)
    found = rise(lambda x: torch.ones_like(x[:, 0, 0, :1]), x, 0, samples=2000, p=0.8, activation=None)
    masks = rise_masks(2000, (4, 4), p=0.8)
    torch.testing.assert_close(found[0, 0].float(), masks.mean(0), rtol=0.01, atol=0)


def test_masks_are_differentiable() -> None:
    model, x = net(), uniform(2, 2, 4, 4)
    masks = uniform(3, 4, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda masks: rise(model, x, 1, masks=masks, chunk_size=2), (masks,))
    many = torch.vmap(lambda masks: rise(model, x, 1, masks=masks))(torch.stack([masks, 2 * masks]).detach())
    assert_equal(many[0], rise(model, x, 1, masks=masks.detach()), tolerance=1e-12)


# --- bad input -------------------------------------------------------------------------------------------------------


X = uniform(2, 2, 4, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no samples": ({"samples": 0}, ValueError, r"^rise\(samples=0\): expected at least 1"),
    "half a sample": ({"samples": 2.5}, TypeError, r"^rise\(samples=...\): expected an int, got float"),
    "one cell": ({"cells": 1}, ValueError, r"^rise\(cells=1\): expected at least 2"),
    "cells": ({"cells": (7, 7)}, TypeError, r"^rise\(cells=...\): expected an int, got tuple"),
    "p of 0": ({"p": 0}, ValueError, r"^rise\(p=0\): expected a probability between 0 and 1"),
    "p of 1": ({"p": 1.0}, ValueError, r"^rise\(p=1.0\): expected a probability between 0 and 1"),
    "p as text": ({"p": "half"}, TypeError, r"^rise\(p=...\): expected a number, got str"),
    "activation": ({"activation": "relu"}, ValueError, r"^rise\(activation='relu'\): expected 'sigmoid', 'softmax' or"),
    "masks' size": (
        {"masks": torch.ones(3, 4, 5)},
        ValueError,
        r"^rise\(masks=...\): expected shape \['n', 4, 4\], got",
    ),
    "no masks": ({"masks": torch.ones(0, 4, 4)}, ValueError, r"^rise\(masks=...\): expected .*, got \[0, 4, 4\]"),
    "masks' dtype": (
        {"masks": torch.ones(3, 4, 4) > 0},
        TypeError,
        r"^rise\(masks=...\): expected a floating-point ten",
    ),
    "chunk": ({"chunk_size": 0}, ValueError, r"^rise\(chunk_size=0\): expected at least 1"),
    "generator": ({"generator": "0"}, TypeError, r"^rise\(generator=...\): expected a seed or a torch.Generator"),
    "tokens": ({"x": torch.zeros(2, 3, 4, dtype=torch.long)}, TypeError, r"^rise\(x=...\): .*got torch.int64"),
    "two inputs": ({"x": (X, X)}, TypeError, r"^rise\(x=...\): expected one floating-point tensor .*, got tuple"),
    "no space": (
        {"x": X[:, :, 0, 0]},
        ValueError,
        r"^rise\(x=...\): expected a shape \[N, C, \*spatial\], got \[2, 2\]",
    ),
    "class": ({"target": 3}, ValueError, r"^rise\(target=3\): class out of range; the output has 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input(what: str) -> None:
    change, kind, message = BAD[what]
    with pytest.raises(kind, match=message):
        rise(**{"model": net(), "x": X, "target": 1, "samples": 3} | change)


def test_bad_outputs() -> None:
    with pytest.raises(ValueError, match=r"^rise\(target=None\): expected an output \[N, K\] for .* \[6, 2, 4, 4\]"):
        rise(lambda x: x, X, samples=3)
    with pytest.raises(
        ValueError, match=r"^rise\(activation='softmax'\): expected an output \[N, K\], got shape \[6\]"
    ):
        rise(lambda x: x.flatten(1).sum(1), X, samples=3, activation="softmax")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((0, (4, 4)), ValueError, r"^rise_masks\(samples=0\): expected at least 1"),
        ((3, 4), TypeError, r"^rise_masks\(size=4\): expected a tuple of ints"),
        ((3, ()), TypeError, r"^rise_masks\(size=\(\)\): expected a tuple of ints"),
        ((3, (4, 0)), ValueError, r"^rise_masks\(size=0\): expected at least 1"),
    ],
)
def test_bad_sizes_of_masks(arguments: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        rise_masks(*arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_of_half_precision_are_those_of_single_rounded(dtype: torch.dtype) -> None:
    """Pixels beyond 256 have no places of their own in bfloat16, and masks were off by a twentieth."""
    exact = funcattr.masks.rise_masks(5, (600,), dtype=torch.float32)
    assert torch.equal(funcattr.masks.rise_masks(5, (600,), dtype=dtype), exact.to(dtype))
