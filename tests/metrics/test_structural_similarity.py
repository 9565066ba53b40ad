"""Structural similarity, against scikit-image, and as a similarity of maps of randomised models."""

from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as theirs
from torch import Tensor, nn

import funcattr
from funcattr.metrics import randomization
from funcattr.metrics.structural_similarity import structural_similarity
from funcattr.testing.seeding import settle, uniform

DOUBLE = torch.float64


def by_skimage(a: Tensor, b: Tensor, width: float) -> list[float]:
    measure: Any = theirs  # it returns a tuple where more is asked for
    options: Any = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 0}
    return [float(measure(p.numpy(), q.numpy(), data_range=width, **options)) for p, q in zip(a, b, strict=True)]


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (2, 3, 11, 19), (1, 2, 11, 11)])
def test_equals_scikit_image(shape: tuple[int, ...]) -> None:
    a = uniform(*shape, seed=1)
    for b in (uniform(*shape, seed=2), a + 0.1 * uniform(*shape, seed=3), -a, a):
        expected = torch.tensor(by_skimage(a, b, 4.0), dtype=DOUBLE)
        torch.testing.assert_close(structural_similarity(a, b, 4.0), expected, rtol=1e-9, atol=1e-9)


def test_known_values_of_equal_and_of_constant_images() -> None:
    a = uniform(2, 1, 12, 12)
    torch.testing.assert_close(structural_similarity(a, a, 1.0), torch.ones(2, dtype=DOUBLE))
    low, high = torch.full((1, 1, 12, 12), 0.2, dtype=DOUBLE), torch.full((1, 1, 12, 12), 0.6, dtype=DOUBLE)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # no contrast: the means alone count
    torch.testing.assert_close(structural_similarity(low, high, 1.0).item(), expected)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 13 * 12, 3))


@pytest.mark.parametrize("absolute", [True, False])
def test_randomised_maps_are_compared_at_their_own_scale(absolute: bool) -> None:
    model, x = settle(network, dtype=DOUBLE), uniform(3, 2, 15, 14)
    seen: list[Tensor] = []

    def method(model: Any, x: Tensor, target: Any) -> Tensor:
        found = funcattr.gradient(model, x, target) * (1 if not seen else 1000)  # a scale is no difference
        seen.append(found)
        return found

    found = randomization(method, model, x, 1, similarity="ssim", absolute=absolute, chunk_size=1)
    maps = [m.abs() if absolute else m for m in seen]
    maps = [m / m.abs().amax((1, 2, 3), keepdim=True) for m in maps]
    expected = np.stack([by_skimage(maps[0], m, 1.0 if absolute else 2.0) for m in maps[1:]], 1)
    assert found.layers == ("3", "0")
    torch.testing.assert_close(found.similarity, torch.tensor(expected), rtol=1e-9, atol=1e-9)
    several = randomization(funcattr.gradient, model, x, 1, similarity="ssim", absolute=absolute, chunk_size=2)
    torch.testing.assert_close(several.similarity, found.similarity, rtol=1e-9, atol=1e-9)


def test_an_empty_map_and_one_with_nan_are_like_nothing() -> None:
    model, x = settle(network, dtype=DOUBLE), uniform(3, 2, 15, 14)

    def method(model: Any, x: Tensor, target: Any) -> Tensor:
        found = funcattr.gradient(model, x, target).clone()
        found[0], found[1, 0, 4, 4] = 0.0, torch.nan
        return found

    found = randomization(method, model, x, 1, similarity="ssim").similarity
    assert found.isnan().all(1).tolist() == found.isnan().any(1).tolist() == [True, True, False]


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 10, 15), (3, 15, 14)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    model, x = settle(network, dtype=DOUBLE), uniform(3, 2, 15, 14)
    with pytest.raises(ValueError, match=r"^randomization\(similarity='ssim'\): expected maps \[N, C, H, W\]"):
        randomization(lambda *_: torch.ones(shape), model, x, 1, similarity="ssim")
