"""Contributions of complex numbers: real, one for each, and those of their real and imaginary parts together."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import distribution
from funcattr.attribution.contribution import contribution

from ..contract import assert_equal


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


W, Z, START = drawn(3, 2, seed=1), drawn(4, 3, seed=2), drawn(3, seed=3)


def linear(z: Tensor) -> Tensor:
    return (z @ W).real


def curved(z: Tensor) -> Tensor:
    return (z @ W).abs().square().tanh()


def of_parts(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function of real and imaginary parts. [N, 3, 2]"""
    return lambda parts: f(torch.view_as_complex(parts))


class Spectral(nn.Module):
    """Has a complex value inside, which the site "inner" is."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return curved(self.inner(torch.fft.fft(x)))


class Magnitudes(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return (z @ W).abs()


ROWS = distribution(torch.stack([START, 2 * START]))
METHODS: dict[str, Callable[..., Any]] = {
    "input_x_gradient": funcattr.input_x_gradient,
    "integrated_gradients": funcattr.integrated_gradients,
    "from a baseline": partial(funcattr.integrated_gradients, baseline=0.5),
    "from a distribution": partial(
        funcattr.integrated_gradients, baseline=distribution(torch.stack([START, 2 * START]))
    ),
    "expected_gradients": funcattr.expected_gradients,
    "deep_lift": funcattr.deep_lift,
    "deep_lift from a distribution": partial(
        funcattr.deep_lift, baseline=distribution(torch.stack([START, 2 * START]))
    ),
    "attnlrp": funcattr.attnlrp,
}


@pytest.mark.parametrize("name", METHODS)
def test_of_a_linear_map_it_is_what_each_number_adds(name: str) -> None:
    start = {"from a baseline": torch.full_like(START, 0.5)}.get(name, torch.zeros_like(START))
    start = 1.5 * START if "distribution" in name else start
    found = METHODS[name](linear, Z, 1)
    assert found.dtype == torch.float64
    assert_equal(found, ((Z - start) * W[:, 1]).real)


@pytest.mark.parametrize(
    "method",
    [funcattr.input_x_gradient, funcattr.integrated_gradients, partial(funcattr.expected_gradients, samples=5)],
)
def test_it_is_the_sum_over_real_and_imaginary_parts(method: Callable[..., Any]) -> None:
    parts = method(of_parts(curved), torch.view_as_real(Z), 1)
    assert parts.abs().max() > 0.1
    assert_equal(method(curved, Z, 1), parts.sum(-1))


def test_slopes_stay_torchs_gradient() -> None:
    z = Z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(curved(z)[:, 1].sum(), z)
    assert_equal(funcattr.gradient(curved, Z, 1), expected)
    slopes = funcattr.integrated_gradients(curved, Z, 1, times_difference=False)
    assert_equal((slopes.conj() * Z).real, funcattr.integrated_gradients(curved, Z, 1))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_single_precision_stays_single(dtype: torch.dtype) -> None:
    real = Z.to(dtype).real.dtype
    for method in METHODS.values():
        assert method(lambda z: (z @ W.to(dtype)).real, Z.to(dtype), 1).dtype == real


def test_completeness_takes_them() -> None:
    found = funcattr.integrated_gradients(curved, Z, 1, steps=200)
    assert funcattr.metrics.completeness(curved, Z, 1, found).abs().max() < 1e-6


@pytest.mark.parametrize("method", [funcattr.input_x_gradient, funcattr.attnlrp, funcattr.deep_lift])
def test_at_a_complex_site(method: Callable[..., Any]) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    spectrum = torch.fft.fft(x)

    class Linear(Spectral):
        def forward(self, x: Tensor) -> Tensor:
            return linear(self.inner(torch.fft.fft(x)))

    found = method(Linear(), x, 1, layer="inner")
    assert_equal(found, (spectrum * W[:, 1]).real)


def test_relevance_at_a_complex_input_is_that_of_its_parts() -> None:
    weight = drawn(2, 3, seed=5)

    def f(z: Tensor) -> Tensor:
        return torch.view_as_real(torch.nn.functional.linear(z, weight)).flatten(1)

    parts = funcattr.lrp(of_parts(f), torch.view_as_real(Z), 1, rules="epsilon")
    found = funcattr.lrp(f, Z, 1, rules="epsilon")
    assert_equal(found, parts.sum(-1))
    assert_equal(found.sum(1), f(Z)[:, 1], tolerance=1e-5)


def test_the_books_and_verify_take_complex_inputs() -> None:
    report = funcattr.conservation(linear, Z, 1, rules="attnlrp")
    assert abs(report.start - report.reached) < 1e-9
    assert abs(report.start - float(linear(Z)[:, 1].sum())) < 1e-9
    findings = {f.what: f.holds for f in funcattr.verify(linear, Z, 1, rules="attnlrp")}
    assert findings["the recorded gradient is autograd's"]
    assert all(holds is not False for holds in findings.values())


def test_compiled_code_gives_the_same() -> None:
    for method in (funcattr.input_x_gradient, partial(funcattr.integrated_gradients, steps=3)):
        torch.compiler.reset()
        compiled: Any = torch.compile(lambda z, m=method: m(linear, z, 1), backend="aot_eager", fullgraph=True)
        assert_equal(compiled(Z), method(linear, Z, 1))
    torch.compiler.reset()


@pytest.mark.parametrize("path", [funcattr.paths.guided(), funcattr.paths.idgi()])
def test_other_paths_are_of_real_inputs(path: Any) -> None:
    with pytest.raises(TypeError, match=r"integrated_gradients\(path=.*expected real inputs, got torch.complex128"):
        funcattr.integrated_gradients(curved, Z, 1, path=path)


@pytest.mark.parametrize("quadrature", ["riemann_trapezoid", "gausslegendre"])
def test_a_real_layer_behind_a_complex_input_has_its_conductance(quadrature: Any) -> None:
    model = nn.Sequential(Magnitudes(), nn.Tanh())
    found = funcattr.layer_conductance(model, Z, 1, layer="0", quadrature=quadrature, steps=400, baseline=0.1)
    rise = (model(Z) - model(torch.full_like(Z, 0.1)))[:, 1]
    assert_equal(found.sum(1), rise, tolerance=1e-5)


def test_edges_are_between_real_values() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    model = nn.Sequential(nn.Identity(), Spectral(), nn.Identity())
    with pytest.raises(TypeError, match=r"^edges: expected real values at every source and sink, got .* at '1.inner'"):
        funcattr.edges(model, x, 1, sources=["0", "1.inner"], sinks="2@input", against=0 * x)


def test_activation_maps_are_of_real_features() -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with pytest.raises(TypeError, match=r"linear_approx\(layer='inner'\): expected real features, got"):
        funcattr.linear_approx(Spectral(), x, 1, layer="inner")


def test_real_numbers_are_multiplied() -> None:
    a, b = torch.tensor([2.0, -3.0]), torch.tensor([0.5, 4.0])
    assert contribution(a, b).tolist() == [1.0, -12.0]
    assert contribution(torch.tensor([1 + 2j]), torch.tensor([3 - 1j])).tolist() == [1.0]
