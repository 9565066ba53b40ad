"""Paths of integrated gradients: against loops in Python's numbers, and what each sums to."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.metrics import completeness
from funcattr.paths import blur, guided, idgi

from ...contract import assert_equal
from ...sweeps import sweep

torch.manual_seed(0)
IMAGES = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.SiLU(), nn.Flatten(), nn.Linear(27, 3))
IMAGES = IMAGES.double().eval()
X = torch.randn(2, 2, 7, 7, generator=torch.Generator().manual_seed(1)).double()
ROWS = nn.Sequential(nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
V = torch.randn(3, 9, generator=torch.Generator().manual_seed(2)).double()
PATHS: dict[str, Any] = {
    "blur": blur(2.0),
    "guided": guided(),
    "idgi": idgi(),
    "idgi along a blur": idgi(blur(2.0)),
    "guided, free": guided(0.4, 1.0),
}
every_path = pytest.mark.parametrize("name", PATHS)
along = partial(funcattr.integrated_gradients, steps=6)


def gradient_at(model: nn.Module, x: Tensor, k: int) -> tuple[Tensor, float]:
    """Of one example: the gradient and the score."""
    leaf = x.detach().clone().requires_grad_()
    score = model(leaf[None])[0, k]
    return torch.autograd.grad(score, leaf)[0], score.item()


# --- blur ------------------------------------------------------------------------------------------------------------


def blurred_by_loops(image: Tensor, sigma: float) -> Tensor:
    """[C, H, W], pixel by pixel, with weights exp(-d^2 / 2 sigma^2) that sum to 1 over the pixels there are."""
    if sigma == 0:
        return image
    _, height, width = image.shape
    found = torch.zeros_like(image)
    for u in range(height):
        for v in range(width):
            total = 0.0
            for i in range(height):
                for j in range(width):
                    weight = math.exp(-((u - i) ** 2 + (v - j) ** 2) / (2 * sigma**2))
                    total += weight
                    found[:, u, v] += weight * image[:, i, j]
            found[:, u, v] /= total
    return found


def test_blur_is_the_sum_of_gradients_times_what_each_step_of_the_blur_adds() -> None:
    expected = torch.zeros_like(X)
    for n, image in enumerate(X):
        for s in range(3):
            low, middle, high = (blurred_by_loops(image, 2 * (1 - (s + by) / 3)) for by in (0, 0.5, 1))
            expected[n] += gradient_at(IMAGES, middle, 1)[0] * (high - low)
    assert_equal(funcattr.integrated_gradients(IMAGES, X, 1, path=blur(2.0), steps=3), expected)
    assert_equal(blur(2.0).baseline(X), torch.stack([blurred_by_loops(image, 2.0) for image in X]))


def test_a_blur_sums_to_the_rise_from_the_blurred_image() -> None:
    path = blur(2.0)
    found = funcattr.integrated_gradients(IMAGES, X, 1, path=path, steps=200)
    assert completeness(IMAGES, X, 1, found, baseline=path.baseline(X)).abs().max() < 1e-3
    flat = torch.ones(1, 2, 7, 7).double()
    assert_equal(funcattr.integrated_gradients(IMAGES, flat, 1, path=path), 0 * flat)


# --- guided ----------------------------------------------------------------------------------------------------------


def guided_by_loops(model: nn.Module, x: Tensor, k: int, steps: int, fraction: float, distance: float) -> Tensor:
    """One example, one value at a time, in sets of the smallest gradients that are moved together. [D]"""
    z, found, total = [0.0] * len(x), torch.zeros_like(x), x.abs().sum().item()
    for s in range(steps):
        g = gradient_at(model, torch.tensor(z).double(), k)[0]
        alpha, before = (s + 1) / steps, list(z)
        least, most = max(alpha - distance, 0), min(alpha + distance, 1)
        for i, end in enumerate(x.tolist()):
            if abs(z[i]) < least * abs(end):
                z[i] = least * end
        free = [i for i, end in enumerate(x.tolist()) if z[i] != most * end]
        free.sort(key=lambda i: abs(g[i].item()))
        together = math.floor(fraction * (len(x) - 1)) + 1
        while free:
            need = sum(abs(end - v) for end, v in zip(x.tolist(), z, strict=True)) - total * (1 - alpha)
            now, free = free[:together], free[together:]
            room = sum(abs(most * x[i].item() - z[i]) for i in now)
            if need <= 1e-15:
                break
            share = min(need / room, 1)
            for i in now:
                z[i] += share * (most * x[i].item() - z[i])
        found += g * (torch.tensor(z) - torch.tensor(before)).double()
    assert torch.allclose(torch.tensor(z).double(), x)
    return found


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.02), (0.25, 0.3), (0.1, 1.0), (0.6, 0.1), (1.0, 0.5)])
def test_guided_moves_what_has_small_gradients_first(fraction: float, distance: float) -> None:
    expected = torch.stack([guided_by_loops(ROWS, row, 1, 5, fraction, distance) for row in V])
    found = funcattr.integrated_gradients(ROWS, V, 1, path=guided(fraction, distance), steps=5)
    assert_equal(found, expected, tolerance=1e-6)


def test_guided_without_freedom_is_the_straight_line() -> None:
    expected = funcattr.integrated_gradients(ROWS, V, 1, baseline=0.3, quadrature="riemann_left", steps=7)
    found = funcattr.integrated_gradients(ROWS, V, 1, baseline=0.3, path=guided(distance=0.0), steps=7)
    assert_equal(found, expected)


def test_guided_sums_to_the_rise_and_leaves_what_is_at_its_baseline() -> None:
    found = funcattr.integrated_gradients(IMAGES, X, 1, path=guided(), steps=400)
    assert completeness(IMAGES, X, 1, found).abs().max() < 5e-3
    still = V.clone()
    still[:, ::2] = 0.3
    assert (funcattr.integrated_gradients(ROWS, still, 1, baseline=0.3, path=guided())[:, ::2] == 0).all()
    same = funcattr.integrated_gradients(ROWS, 0.3 + 0 * V, 1, baseline=0.3, path=guided())
    assert torch.equal(same, 0 * V)


# --- IDGI ------------------------------------------------------------------------------------------------------------


def test_idgi_shares_each_rise_by_the_squared_gradient_and_sums_to_the_whole_rise() -> None:
    expected = torch.zeros_like(V)
    for n, row in enumerate(V):
        for s in range(4):
            g, low = gradient_at(ROWS, 0.2 + (row - 0.2) * s / 4, 1)
            _, high = gradient_at(ROWS, 0.2 + (row - 0.2) * (s + 1) / 4, 1)
            expected[n] += g**2 / (g**2).sum() * (high - low)
    found = funcattr.integrated_gradients(ROWS, V, 1, baseline=0.2, path=idgi(), steps=4)
    assert_equal(found, expected)
    assert completeness(ROWS, V, 1, found, baseline=0.2).abs().max() < 1e-12


@pytest.mark.parametrize("steps", [1, 5])
def test_idgi_along_a_blur_sums_to_the_rise_from_the_blurred_image(steps: int) -> None:
    path = idgi(blur(2.0))
    found = funcattr.integrated_gradients(IMAGES, X, 1, path=path, steps=steps)
    assert completeness(IMAGES, X, 1, found, baseline=blur(2.0).baseline(X)).abs().max() < 1e-12


def test_idgi_where_the_gradient_is_zero_is_zero() -> None:
    assert torch.equal(along(lambda v: v.relu().sum(1), -V.abs(), path=idgi()), 0 * V)


# --- all -------------------------------------------------------------------------------------------------------------


@every_path
def test_chunks_batches_transforms_and_dtypes(name: str) -> None:
    method = partial(along, path=PATHS[name])
    whole = method(IMAGES, X, 1)
    assert_equal(method(IMAGES, X, 1, chunk_size=4), whole)
    assert_equal(torch.cat([method(IMAGES, x[None], 1) for x in X]), whole)
    assert_equal(torch.vmap(lambda x: method(IMAGES, x[None], 1)[0])(X), whole)
    assert_equal(method(IMAGES, X.transpose(0, 1).contiguous().transpose(0, 1), torch.tensor([1, 1])), whole)
    turned = method(lambda x: IMAGES(x.movedim(1, 0)), X.movedim(0, 1), 1, example_dims={"x": 1})
    assert_equal(turned, whole.movedim(0, 1))
    single = method(IMAGES.float(), X.float(), 1)
    IMAGES.double()
    assert single.dtype == torch.float32
    assert_equal(single.double(), whole, tolerance=1e-2 if "guided" in name else 1e-4)
    assert not whole.requires_grad


@pytest.mark.parametrize("name", ["guided", "idgi"])
def test_at_a_site_it_is_the_path_of_the_rest_of_the_model(name: str) -> None:
    start = IMAGES[1](IMAGES[0](0 * X))
    expected = along(IMAGES[2:], IMAGES[:2](X).detach(), 1, baseline=start.detach(), path=PATHS[name])
    assert_equal(along(IMAGES, X, 1, layer="1", path=PATHS[name]), expected)


@every_path
def test_the_derivative_is_that_of_finite_differences(name: str) -> None:
    def total(x: Tensor) -> Tensor:
        return along(IMAGES, x, 1, path=PATHS[name]).square().sum()

    d = torch.randn_like(X)
    slope = (torch.func.grad(total)(X) * d).sum()
    assert_equal(slope, (total(X + 1e-6 * d) - total(X - 1e-6 * d)) / 2e-6, tolerance=1e-5)


@pytest.mark.parametrize("name", sweep(PATHS, quick=("idgi along a blur",)))
def test_compiled_code_gives_the_same(name: str, fresh_dynamo: None) -> None:
    fm = funcattr.functionalize(IMAGES)
    method = partial(along, path=PATHS[name], chunk_size=2)
    compiled = torch.compile(lambda x: method(fm, x, 1), fullgraph=True, backend="aot_eager")
    assert_equal(compiled(X), method(fm, X, 1))


def test_what_a_path_cannot_do_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^integrated_gradients\(path='blur'\): expected None or a path of funcattr"):
        along(IMAGES, X, 1, path="blur")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^integrated_gradients\(path=blur\(sigma=2\.0\)\): .* takes no baseline="):
        along(IMAGES, X, 1, path=blur(2.0), baseline=0.5)
    with pytest.raises(ValueError, match=r"takes no baseline="):
        along(IMAGES, X, 1, path=idgi(blur(2.0)), baseline=X)
    with pytest.raises(ValueError, match=r"path=blur\(sigma=2\.0\), layer='1'\): a blur is of the input only"):
        along(IMAGES, X, 1, path=blur(2.0), layer="1")
    with pytest.raises(ValueError, match=r"quadrature='riemann_left' is for the straight line"):
        along(IMAGES, X, 1, path=guided(), quadrature="riemann_left")
    with pytest.raises(ValueError, match=r"times_difference=False is for the straight line"):
        along(IMAGES, X, 1, path=guided(), times_difference=False)
    with pytest.raises(ValueError, match=r"expected one baseline; a distribution"):
        along(IMAGES, X, 1, path=guided(), baseline=funcattr.distribution(X))
    with pytest.raises(TypeError, match=r"expected one tensor x, or a layer"):
        along(lambda a, b: (a * b).sum(1), (V, V), path=idgi())
    with pytest.raises(ValueError, match=r"^integrated_gradients\(steps=0\)"):
        along(ROWS, V, 1, path=idgi(), steps=0)
    with pytest.raises(ValueError, match=r"expected a shape \[N, C, \*spatial\], got \[3, 9\]"):
        along(ROWS, V, 1, path=blur(2.0))
    for sigma in (0, -1.0, True, "2"):
        with pytest.raises(ValueError, match=r"^blur\(sigma=.*pixels above 0"):
            blur(sigma)  # type: ignore[arg-type]
    for options in ({"fraction": 0.0}, {"fraction": 1.5}, {"distance": -0.1}, {"distance": 1.1}):
        with pytest.raises(ValueError, match=r"^guided\(fraction=.*expected a fraction"):
            guided(**options)
    with pytest.raises(TypeError, match=r"^idgi\(path=guided.*\): expected None or a path of fixed points"):
        idgi(guided())  # type: ignore[arg-type]


@every_path
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_single(name: str, dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(2, 1, 4, 4)
    expected = along(model, x.to(dtype).float(), 1, path=PATHS[name])
    found = along(model.to(dtype), x.to(dtype), 1, path=PATHS[name])
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)
