"""Noise tunnel and path methods beside Captum 0.9.0: equal where both are right, and each flaw that is left behind.

A flaw's test asserts that Captum still has it, and that ours has not. `pip install captum`, or the extra "bench".
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import distribution, gradient, integrated_gradients, noise_tunnel
from funcattr.metrics import completeness
from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal

captum: Any = pytest.importorskip("captum.attr", reason="captum is not installed (it is in the extra 'bench')")

SINGLE = 1e-6
"""Captum's nodes are single-precision numbers, also for inputs in double precision."""


def dense(*, dtype: torch.dtype = torch.float64) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), dtype=dtype)


def convolutional() -> nn.Module:
    body = lambda: [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten()]  # noqa: E731
    return settle(lambda: nn.Sequential(*body(), nn.Linear(4, 3)))


X, IMAGES, CLASSES = uniform(3, 4), uniform(3, 2, 6, 6), [2, 0, 1]


def theirs_of(method: Callable[..., Any]) -> Any:
    """Captum's noise tunnel around a function."""

    class Method(captum.Attribution):
        def has_convergence_delta(self) -> bool:
            return False

        def attribute(self, inputs: Any, target: Any = None, **given: Any) -> Any:
            return method(inputs, target, **given)

        vars()["attribute"].__wrapped__ = vars()["attribute"]  # the tunnel calls what Captum's logging wraps

    return captum.NoiseTunnel(Method(None))


def deltas_of_copies(
    model: nn.Module, x: Tensor, target: list[int], baseline: Tensor, *, samples: int, steps: int
) -> Tensor:
    """What integrated gradients of each copy of the examples miss, a copy beside the other. [N * samples]"""
    x, baseline = (value.repeat_interleave(samples, 0) for value in (x, baseline))
    target = [k for k in target for _ in range(samples)]
    a = integrated_gradients(model, x, target, baseline=baseline, steps=steps)
    return completeness(model, x, target, a, baseline=baseline)


def inputs_themselves(x: Any, target: Any, **_: Any) -> Any:
    return x


# --- equal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"])
@pytest.mark.parametrize("net", [dense, convolutional])
def test_integrated_gradients(name: Any, net: Callable[[], nn.Module]) -> None:
    model, x = net(), X if net is dense else IMAGES
    options: Any = {"method": name, "n_steps": 7, "return_convergence_delta": True}
    theirs, delta = captum.IntegratedGradients(model).attribute(x, 0.3, target=CLASSES, **options)
    ours = integrated_gradients(model, x, CLASSES, baseline=0.3, steps=7, quadrature=name)
    assert_equal(ours, theirs, tolerance=SINGLE)
    assert (completeness(model, x, CLASSES, ours, baseline=0.3) - delta).abs().max() < SINGLE


def test_integrated_gradients_of_several_inputs() -> None:
    model = dense()
    both: Any = lambda a, b: model(torch.cat([a, b], 1))  # noqa: E731
    x = (X[:, :1], X[:, 1:])
    theirs = captum.IntegratedGradients(both).attribute(x, (0.1, torch.zeros(3, 3)), target=1, n_steps=6)
    ours = integrated_gradients(both, x, 1, baseline=(0.1, torch.zeros(3)), steps=6)
    for a, b in zip(ours, theirs, strict=True):
        assert_equal(a, b, tolerance=SINGLE)


@pytest.mark.parametrize("layer", ["0", "4"])
def test_layers(layer: str) -> None:
    model = convolutional()
    module = model.get_submodule(layer)
    given: Any = {"baselines": 0.2, "target": CLASSES}
    ours: Any = {"layer": layer, "baseline": 0.2}
    theirs = captum.LayerIntegratedGradients(model, module).attribute(IMAGES, n_steps=7, **given)
    assert_equal(integrated_gradients(model, IMAGES, CLASSES, steps=7, **ours), theirs.detach(), tolerance=SINGLE)
    theirs = captum.InternalInfluence(model, module).attribute(IMAGES, n_steps=7, **given)
    assert_equal(
        funcattr.internal_influence(model, IMAGES, CLASSES, steps=7, **ours), theirs.detach(), tolerance=SINGLE
    )
    # Captum takes the earlier gradient of each interval between its nodes, ours by default the mean of both ends.
    theirs = captum.LayerConductance(model, module).attribute(IMAGES, n_steps=150, **given)
    conductance = funcattr.layer_conductance(model, IMAGES, CLASSES, steps=60, chunk_size=61, **ours)
    assert_equal(conductance, theirs.detach(), tolerance=3e-2)
    at_even_steps: Any = {"n_steps": 7, "method": "riemann_trapezoid", **given}
    theirs = captum.LayerConductance(model, module).attribute(IMAGES, **at_even_steps)
    conductance = funcattr.layer_conductance(model, IMAGES, CLASSES, steps=7, quadrature="riemann_left", **ours)
    assert_equal(conductance, theirs.detach(), tolerance=SINGLE)


def test_gradient_shap_in_expectation() -> None:
    model, rows = dense(), uniform(6, 4, seed=5)
    torch.manual_seed(0)
    np.random.seed(0)  # where captum's positions on the lines come from
    theirs = captum.GradientShap(model).attribute(X, rows, n_samples=3000, stdevs=0.2, target=CLASSES)
    ours = funcattr.expected_gradients(
        model, X, CLASSES, baseline=distribution(rows), sigma=0.2, samples=3000, chunk_size=3000
    )
    assert_equal(ours, theirs, tolerance=0.06)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_in_expectation(kind: Any) -> None:
    model = dense()
    torch.manual_seed(0)
    tunnel = captum.NoiseTunnel(captum.Saliency(model))
    theirs = tunnel.attribute(X, nt_type=kind, nt_samples=3000, stdevs=0.5, target=CLASSES, abs=False)
    ours = noise_tunnel(partial(gradient, model), X, CLASSES, kind=kind, samples=3000, sigma=0.5, chunk_size=3000)
    assert_equal(ours, theirs, tolerance=0.08)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_without_noise_is_the_same_number_by_number(kind: Any) -> None:
    model, baseline = dense(), uniform(3, 4, seed=6)
    tunnel = captum.NoiseTunnel(captum.IntegratedGradients(model))
    theirs, delta = tunnel.attribute(
        X, nt_type=kind, nt_samples=3, nt_samples_batch_size=2, stdevs=0.0, target=torch.tensor(CLASSES),
        baselines=baseline, n_steps=3, return_convergence_delta=True,
    )  # fmt: skip
    method = partial(integrated_gradients, model, steps=3, baseline=baseline)
    ours = noise_tunnel(method, X, CLASSES, kind=kind, samples=3, sigma=0, chunk_size=2)
    assert_equal(ours, theirs, tolerance=SINGLE)
    missed = deltas_of_copies(model, X, CLASSES, baseline, samples=3, steps=3)
    # Captum joins the deltas of its partitions; ours come example by example whatever the chunks.
    whole = tunnel.attribute(
        X, nt_samples=3, stdevs=0.0, target=torch.tensor(CLASSES), baselines=baseline, n_steps=3,
        return_convergence_delta=True,
    )[1]  # fmt: skip
    assert (missed - whole).abs().max() < SINGLE
    assert (missed - delta).abs().max() > 100 * SINGLE


# --- flaws -----------------------------------------------------------------------------------------------------------


def test_flaw_one_seed_gives_another_result_with_another_chunk_size() -> None:
    model = dense()
    theirs: list[Tensor] = []
    for size in (6, 2):
        torch.manual_seed(3)
        tunnel = captum.NoiseTunnel(captum.Saliency(model))
        theirs.append(tunnel.attribute(X, nt_samples=6, nt_samples_batch_size=size, target=1, abs=False))
    assert not torch.allclose(*theirs, rtol=1e-3)
    ours = [noise_tunnel(partial(gradient, model), X, 1, samples=6, chunk_size=size, generator=3) for size in (6, 2)]
    assert_equal(ours[0], ours[1], tolerance=1e-14)


def test_flaw_the_global_generator_is_used() -> None:
    before = torch.get_rng_state()
    noise_tunnel(inputs_themselves, X)
    assert torch.equal(torch.get_rng_state(), before)
    theirs_of(inputs_themselves).attribute(X)
    assert not torch.equal(torch.get_rng_state(), before)


def test_flaw_vargrad_from_raw_moments() -> None:
    x = torch.full((1, 200), 1e4)
    theirs = theirs_of(inputs_themselves).attribute(x, nt_type="vargrad", nt_samples=100, stdevs=0.01)
    assert theirs.min() < -1 and theirs.max() > 1
    ours = noise_tunnel(inputs_themselves, x, kind="vargrad", samples=100, sigma=0.01)
    assert ours.min() > 0.5e-4 and ours.max() < 2e-4 and abs(ours.mean() - 1e-4) < 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flaw_half_precision_fails(dtype: torch.dtype) -> None:
    model, x = dense(dtype=dtype), X.to(dtype)
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        captum.NoiseTunnel(captum.Saliency(model)).attribute(x, target=1)
    assert noise_tunnel(partial(gradient, model), x, 1).dtype == dtype


def test_flaw_noise_of_doubles_has_single_precision() -> None:
    x = torch.zeros(1, 100, dtype=torch.float64)
    theirs = theirs_of(inputs_themselves).attribute(x, nt_samples=1)
    assert theirs.dtype == torch.float64 and torch.equal(theirs, theirs.float().double())
    ours = noise_tunnel(inputs_themselves, x, samples=1)
    assert (ours != ours.float().double()).float().mean() > 0.9


@pytest.mark.parametrize("stdev", [1, torch.tensor(0.1), torch.ones(4)], ids=["int", "0-d tensor", "per feature"])
def test_flaw_standard_deviations_are_floats_only(stdev: Any) -> None:
    with pytest.raises(AssertionError, match="stdevs must be type float"):
        captum.NoiseTunnel(captum.Saliency(dense())).attribute(X, stdevs=stdev, target=1)
    assert noise_tunnel(partial(gradient, dense()), X, 1, sigma=stdev, relative=True).shape == X.shape


def test_flaw_token_ids_get_noise() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Embedding(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)))
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(RuntimeError, match="Expected tensor for argument #1 'indices'"):
        captum.NoiseTunnel(captum.LayerIntegratedGradients(model, model[0])).attribute(ids, target=1, stdevs=0.1)
    method = partial(integrated_gradients, model, layer="0", steps=5)
    assert noise_tunnel(method, ids, 1, noise_layer="0", sigma=0.1, samples=2, chunk_size=2).shape == (1, 3, 4)


def test_flaw_results_are_constants() -> None:
    model, x = dense(), X.clone().requires_grad_()
    assert not captum.NoiseTunnel(captum.Saliency(model)).attribute(x, target=1).requires_grad
    assert noise_tunnel(partial(gradient, model), x, 1).requires_grad


def baselines_of(tunnel: str, x: Any, rows: Any, chunk_size: int) -> list[Any]:
    """The baselines that a method gets, chunk by chunk."""
    seen: list[Any] = []

    def method(x: Any, target: Any, **given: Any) -> Any:
        seen.append(given["baselines" if tunnel == "captum" else "baseline"])
        return x

    if tunnel == "captum":
        options: Any = {"nt_samples": 6, "nt_samples_batch_size": chunk_size, "draw_baseline_from_distrib": True}
        theirs_of(method).attribute(x, baselines=rows, **options)
        return [part if len(part) > 1 else part[0] for part in seen]
    noise_tunnel(method, x, samples=6, chunk_size=chunk_size, baseline=distribution(rows))
    return seen


def test_flaw_partitions_share_the_drawn_baselines() -> None:
    x, rows = torch.zeros(1, 1), torch.arange(1000.0)[:, None]
    theirs, ours = (torch.cat(baselines_of(tunnel, x, rows, 2)).flatten().tolist() for tunnel in ("captum", "ours"))
    assert theirs[:2] == theirs[2:4] == theirs[4:]
    assert len(set(ours)) == 6


def test_flaw_rows_of_several_inputs_are_torn_apart() -> None:
    x, rows = (torch.zeros(1, 1), torch.zeros(1, 1)), (torch.arange(1000.0)[:, None], torch.arange(1000.0)[:, None])
    theirs, ours = (baselines_of(tunnel, x, rows, 6)[0] for tunnel in ("captum", "ours"))
    assert not torch.equal(theirs[0], theirs[1])
    assert torch.equal(ours[0], ours[1])


def test_flaw_constants_are_expanded() -> None:
    seen: list[Tensor] = []

    def method(x: Tensor, target: Any, **given: Any) -> Tensor:
        seen.append(given["additional_forward_args"][0] if "additional_forward_args" in given else given["args"][0])
        return x

    constant, x = torch.arange(5.0), torch.zeros(2, 1)
    theirs_of(method).attribute(x, nt_samples=3, additional_forward_args=(constant,))
    noise_tunnel(method, x, samples=3, args=(constant,))
    assert seen[0].shape == (15,) and seen[1].shape == (5,)


def test_flaw_assertion_errors() -> None:
    tunnel = captum.NoiseTunnel(captum.Saliency(dense()))
    with pytest.raises(AssertionError, match="must be equal to the number of stdevs"):
        tunnel.attribute((X, X), stdevs=(0.1,), target=1)
    with pytest.raises(AssertionError, match="Noise types must be either"):
        tunnel.attribute(X, nt_type="smooth", target=1)
    bad: Any = {"sigma": (0.1,)}, {"kind": "smooth"}
    for options in bad:
        with pytest.raises(ValueError, match=rf"^noise_tunnel\({next(iter(options))}="):
            noise_tunnel(partial(gradient, dense()), (X, X), 1, **options)


def test_flaw_trapezoid_weights_do_not_sum_to_one() -> None:
    model: Any = settle(lambda: nn.Linear(4, 3))
    exact = X * model.weight.detach()[1]
    theirs = captum.IntegratedGradients(model).attribute(X, target=1, method="riemann_trapezoid", n_steps=7)
    assert_equal(theirs, exact * 6 / 7, tolerance=SINGLE)
    ours = integrated_gradients(model, X, 1, quadrature="riemann_trapezoid", steps=7)
    assert_equal(ours, exact, tolerance=1e-14)
