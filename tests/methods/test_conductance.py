"""Conductance and internal influence: explicit sums, the integrals they stand for, and what is conserved."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import integrated_gradients, internal_influence, layer_conductance

from .. import sampling_references as references
from ..contract import assert_equal, loop
from ..drawn import draw
from ..graphs import calls_in
from ..models.seeding import settle, uniform

RULES: Any = ("gausslegendre", "riemann_trapezoid")
both = pytest.mark.parametrize("method", [layer_conductance, internal_influence])


def deep(activation: type[nn.Module] = nn.Tanh, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    layers = lambda: [nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)]  # noqa: E731
    return settle(lambda: nn.Sequential(*layers()), dtype=dtype)


def rise(model: Any, x: Tensor, baseline: Any, target: int) -> Tensor:
    with torch.no_grad():
        return model(x)[:, target] - model(torch.zeros_like(x) + baseline)[:, target]


jvp: Any = torch.func.jvp


# --- values ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=8)
def test_conductance_equals_the_sum_over_intervals(data: st.DataObject) -> None:
    net = draw(data, max_blocks=3)
    steps = data.draw(st.integers(1, 4))
    baseline = data.draw(st.sampled_from([0.0, 0.5, uniform(*net.x.shape, seed=4)]))
    chunk_size = data.draw(st.integers(1, steps + 2) | st.none())
    options: Any = {"layer": net.layer, "baseline": baseline, "steps": steps}
    actual = layer_conductance(net.model, net.x, 1, chunk_size=chunk_size, **options)
    assert_equal(actual, references.conductance_by_sums(net.model, net.x, 1, **options))


@given(data=st.data())
@settings(max_examples=8)
def test_influence_equals_the_explicit_sum(data: st.DataObject) -> None:
    net = draw(data, max_blocks=3)
    steps, name = data.draw(st.integers(2, 4)), data.draw(st.sampled_from(RULES))
    options: Any = {"layer": net.layer, "baseline": data.draw(st.sampled_from([0.0, uniform(*net.x.shape, seed=4)]))}
    chunk_size = data.draw(st.integers(1, steps) | st.none())
    actual = internal_influence(net.model, net.x, 1, steps=steps, quadrature=name, chunk_size=chunk_size, **options)
    nodes, weights = references.rule(name, steps)
    assert_equal(actual, references.internal_influence(net.model, net.x, 1, nodes=nodes, weights=weights, **options))


def test_conductance_is_the_gradient_times_the_layers_own_speed() -> None:
    model, x = deep(), uniform(2, 4)
    expected = references.conductance_by_jvp(model, x, [0, 2], "1", baseline=0.3, points=100)
    actual = layer_conductance(model, x, [0, 2], layer="1", baseline=0.3, steps=400, chunk_size=401)
    assert_equal(actual, expected, tolerance=1e-4)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_conductance_sums_to_the_rise_at_every_layer(activation: type[nn.Module]) -> None:
    model, x = deep(activation), uniform(3, 4)
    for layer in "01234":
        c = layer_conductance(model, x, 1, layer=layer, baseline=-0.2, steps=300, chunk_size=301)
        total = c.sum(1) if layer != "4" else c[:, 1]
        assert_equal(total, rise(model, x, -0.2, 1), tolerance=1e-3 if layer != "4" else 1e-12)


def test_conductance_of_linear_parts_is_exact() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)))
    x = uniform(2, 4)
    h, h0 = (model[0](v).detach() for v in (x, torch.zeros_like(x) + 0.5))
    expected = (h - h0) * model[1].weight.detach()[2]
    for steps in (1, 3):
        assert_equal(layer_conductance(model, x, 2, layer="0", baseline=0.5, steps=steps), expected, tolerance=1e-13)


def test_conductance_of_the_input_is_integrated_gradients() -> None:
    model = nn.Sequential(nn.Identity(), deep())
    x = uniform(2, 4)
    expected = integrated_gradients(model, x, 1, baseline=0.2)
    assert_equal(layer_conductance(model, x, 1, layer="0", baseline=0.2, steps=300), expected, tolerance=1e-4)
    assert_equal(internal_influence(model, x, 1, layer="0", baseline=0.2) * (x - 0.2), expected)


@both
def test_any_chunk_size_gives_the_same(method: Callable[..., Tensor]) -> None:
    run = partial(method, deep(), uniform(3, 4), [0, 1, 2], layer="1", steps=6)
    whole = run(chunk_size=7)
    for chunk_size in (1, 2, 3, 5, 6, 100, None):
        assert_equal(run(chunk_size=chunk_size), whole, tolerance=1e-14)


@pytest.mark.parametrize(("method", "points"), [(layer_conductance, 8), (internal_influence, 7)])
def test_the_cost_is_one_gradient_a_point(method: Callable[..., Tensor], points: int) -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return funcattr.site(x.tanh(), "h").sum(1)

    method(model, uniform(2, 4), layer="h", steps=7, chunk_size=3)
    assert batches[0] == 2  # the layer's value, whose shape and dtype the result has
    assert sum(batches[1:]) == 2 * points and len(batches[1:]) == 3


# --- inputs, dtypes, transforms --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("structure", [tuple, dict])
def test_several_inputs_equal_one_that_is_split(method: Callable[..., Tensor], structure: Any) -> None:
    model, x, baseline = deep(), uniform(3, 4), uniform(3, 4, seed=6)

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, a: Tensor, b: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"scores": self.model(torch.cat([a, b], 1) * scale), "other": a}

    def parts(t: Tensor) -> Any:
        return (t[:, :1], t[:, 1:]) if structure is tuple else {"a": t[:, :1], "b": t[:, 1:]}

    scale = uniform(3, 1, seed=7)
    more: Any = {"output": "scores", "kwargs": {"scale": scale}, "chunk_size": 2}
    actual = method(Joined(), parts(x), 2, layer="model.1", baseline=parts(baseline), steps=4, **more)
    assert_equal(actual, method(model, x * scale, 2, layer="1", baseline=baseline * scale, steps=4))


@both
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_results_have_the_layers_dtype_and_are_right_in_it(method: Callable[..., Tensor], dtype: torch.dtype) -> None:
    model, exact, x = deep(dtype=dtype), deep(), uniform(2, 4, dtype=dtype)
    exact.load_state_dict(model.state_dict())
    actual = method(model, x, 1, layer="1", chunk_size=51)
    assert actual.dtype == dtype
    expected = method(exact, x.double(), 1, layer="1").to(dtype)
    # Conductance sums differences of the layer's values, each rounded.
    assert_equal(actual, expected, tolerance=(30 if method is layer_conductance else 4) * torch.finfo(dtype).eps)


@both
def test_batch_equals_loop_and_vmap(method: Callable[..., Tensor]) -> None:
    fm = funcattr.functionalize(deep())
    x, targets, baseline = uniform(3, 4), torch.tensor([2, 0, 1]), uniform(3, 4, seed=7)

    def one(x: Tensor, target: Tensor, baseline: Tensor) -> Tensor:
        return method(fm, x[None], target, layer="1", baseline=baseline, steps=3, chunk_size=2)[0]

    batch = method(fm, x, targets, layer="1", baseline=baseline, steps=3)
    assert_equal(loop(one, x, targets, baseline), batch)
    assert_equal(torch.vmap(one)(x, targets, baseline), batch)


@both
def test_derivatives_by_the_input_and_the_baseline(method: Callable[..., Tensor]) -> None:
    model = deep()
    x, baseline = uniform(2, 4).requires_grad_(), uniform(2, 4, seed=4).requires_grad_()

    def run(x: Tensor, baseline: Tensor) -> Tensor:
        return method(model, x, [0, 1], layer="1", baseline=baseline, steps=3, chunk_size=2)

    assert torch.autograd.gradcheck(run, (x, baseline), atol=1e-6)
    tangents = uniform(2, 4, seed=9), uniform(2, 4, seed=10)
    value, slope = jvp(run, (x.detach(), baseline.detach()), tangents)
    pulled = torch.func.vjp(run, x.detach(), baseline.detach())[1](value)
    assert_equal((pulled[0] * tangents[0] + pulled[1] * tangents[1]).sum(), (value * slope).sum())
    assert not run(x.detach(), baseline.detach()).requires_grad


def test_compiled_the_body_is_there_once_and_a_second_call_does_not_compile(fresh_dynamo: None) -> None:
    net = settle(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)))
    fm, x = funcattr.functionalize(net), uniform(2, 1, 6)

    def run(x: Tensor) -> Tensor:
        return layer_conductance(fm, x, 1, layer="1", baseline=0.1, steps=19, chunk_size=2)

    counter = calls_in(run, "convolution")
    for scale in (1, 2):
        assert_equal(counter.run(scale * x), run(scale * x), tolerance=1e-12)
    assert counter.calls == {"aten.convolution.default": 1}
    assert counter.graphs == 1


# --- bad input -------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no steps": ({"steps": 0}, ValueError, r"\(steps=0\): expected at least 1"),
    "boolean steps": ({"steps": True}, TypeError, r"\(steps=\.\.\.\): expected an int, got bool"),
    "broken steps": ({"steps": 2.5}, TypeError, r"\(steps=\.\.\.\): expected an int, got float"),
    "no chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "baseline's shape": ({"baseline": torch.zeros(3)}, ValueError, r"or one that broadcasts to it, got \[3\]"),
    "baseline as text": ({"baseline": "zero"}, TypeError, r"expected numbers and tensors, got str"),
    "a distribution": ({"baseline": funcattr.distribution(X)}, TypeError, r"expected numbers and tensors, got distrib"),
    "baseline's structure": ({"baseline": (0.0, 0.0)}, ValueError, r"or 1 baselines structured as the inputs, got tup"),
    "integers": (
        {"x": X.long()},
        TypeError,
        r"\(x=\.\.\.\): expected floating-point inputs, got torch.int64: there is no line between token ids",
    ),
    "no such layer": ({"layer": "9"}, funcattr.UnknownSiteError, r"no such site '9'\. Closest: '0', '1', '2'"),
    "layer as a number": ({"layer": 0}, TypeError, r"\(layer=\.\.\.\): expected the name of a site, got int"),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
}


@both
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(method: Callable[..., Tensor], what: str) -> None:
    change, kind, message = BAD[what]
    name = "layer_conductance" if method is layer_conductance else "internal_influence"
    arguments: dict[str, Any] = {"model": deep(dtype=torch.float32), "x": X, "target": 1, "layer": "1"} | change
    with pytest.raises(kind, match=f"^{name}.*{message}"):
        method(**arguments)


def test_a_layer_is_required_and_a_rule_is_known() -> None:
    with pytest.raises(TypeError, match="layer"):
        layer_conductance(deep(), X.double(), 1)  # pyright: ignore[reportCallIssue]
    quadrature: Any = "simpson"
    with pytest.raises(
        ValueError, match=r"^internal_influence\(quadrature='simpson'\): expected one of 'gausslegendre', "
    ):
        internal_influence(deep(), X.double(), 1, layer="1", quadrature=quadrature)
