"""Conductance and internal influence: explicit sums, the integrals they stand for, and what is conserved."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import funcattr
from funcattr import distribution, integrated_gradients, internal_influence, layer_conductance
from funcattr.metrics import completeness
from funcattr.testing.networks import draw_comparable
from funcattr.testing.seeding import settle, uniform

from ... import sampling_references as references
from ...contract import assert_equal, loop
from ...graphs import calls_in
from ...sweeps import long

SUMS: Any = ("riemann_left", "riemann_right", "riemann_trapezoid")
"""Quadratures of conductance that are sums over the layer's values."""
DERIVATIVES: Any = ("riemann_middle", "gausslegendre")
"""Those that take forward derivatives of the layer."""
RULES = (*SUMS, *DERIVATIVES)
each_rule = pytest.mark.parametrize("name", RULES)

by_derivative: Any = partial(layer_conductance, quadrature="gausslegendre")
METHODS = [layer_conductance, by_derivative, internal_influence]
each_method = pytest.mark.parametrize("method", METHODS, ids=["sums", "derivatives", "influence"])


def deep(activation: type[nn.Module] = nn.Tanh, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    layers = lambda: [nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)]  # noqa: E731
    return settle(lambda: nn.Sequential(*layers()), dtype=dtype)


def rise(model: Any, x: Tensor, baseline: Any, target: int) -> Tensor:
    with torch.no_grad():
        return model(x)[:, target] - model(torch.zeros_like(x) + baseline)[:, target]


def sums_by_hand(
    model: nn.Module, x: Tensor, target: int, layer: str, *, baseline: Any, steps: int, name: str
) -> Tensor:
    """sum_k g (h_k+1 - h_k), with the gradient g at an interval's left end, at its right one, or the mean of both."""
    rows = []
    for n in range(len(x)):
        one, start, total = x[n : n + 1], references.baseline_of(baseline, x, n), 0.0
        ends = [references.from_layer(model, start + k / steps * (one - start), layer) for k in range(steps + 1)]
        pairs = [(h, references.gradient(rest, h, target)) for h, rest in ends]
        for (h, g), (later_h, later_g) in itertools.pairwise(pairs):
            weighed = {"riemann_left": g, "riemann_right": later_g, "riemann_trapezoid": (g + later_g) / 2}[name]
            total = total + weighed * (later_h - h)
        rows.append(total)
    return torch.cat(rows)


def derivatives_by_hand(
    model: nn.Module, x: Tensor, target: int, layer: str, *, baseline: Any, steps: int, name: str
) -> Tensor:
    """sum_k w_k g_k dh / dalpha, a point at a time, with `torch.func.jvp` of the layer."""
    rows = []
    for n in range(len(x)):
        one, start, total = x[n : n + 1], references.baseline_of(baseline, x, n), 0.0
        for a, w in zip(*references.rule(name, steps), strict=True):
            point = start + a * (one - start)
            h, rest = references.from_layer(model, point, layer)
            slope = jvp(lambda v: references.value_at(model, v, layer), (point,), (one - start,))[1]
            total = total + w * references.gradient(rest, h, target) * slope
        rows.append(total)
    return torch.cat(rows)


def jvp(f: Callable[..., Tensor], points: Any, ways: Any) -> Any:
    with sdpa_kernel(SDPBackend.MATH):  # the others have no derivative in forward mode
        return torch.func.jvp(f, points, ways)


# --- values ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=8)
def test_conductance_equals_the_sum_over_intervals(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
    steps = data.draw(st.integers(1, 4))
    baseline = data.draw(st.sampled_from([0.0, 0.5, uniform(*net.x.shape, seed=4)]))
    chunk_size = data.draw(st.integers(1, steps + 2) | st.none())
    options: Any = {"layer": net.layer, "baseline": baseline, "steps": steps}
    actual = layer_conductance(net.model, net.x, 1, chunk_size=chunk_size, **options)
    assert_equal(actual, references.conductance_by_sums(net.model, net.x, 1, **options))


@given(data=st.data())
@settings(max_examples=16)
def test_conductance_by_each_quadrature_equals_a_sum_written_out(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
    steps, name = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(RULES))
    steps = max(2, steps) if name == "riemann_trapezoid" else steps
    baseline = data.draw(st.sampled_from([0.0, 0.5, uniform(*net.x.shape, seed=4)]))
    chunk_size = data.draw(st.integers(1, steps + 2) | st.none())
    options: Any = {"layer": net.layer, "baseline": baseline, "steps": steps}
    actual = layer_conductance(net.model, net.x, 1, quadrature=name, chunk_size=chunk_size, **options)
    by_hand = sums_by_hand if name in SUMS else derivatives_by_hand
    assert_equal(actual, by_hand(net.model, net.x, 1, name=name, **options))


@given(data=st.data())
@settings(max_examples=8)
def test_influence_equals_the_explicit_sum(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
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


@pytest.mark.parametrize(("name", "steps", "error"), [("gausslegendre", 40, 1e-10), ("riemann_middle", 300, 1e-4)])
def test_conductance_by_derivatives_converges_to_the_rise_at_every_layer(name: Any, steps: int, error: float) -> None:
    model, x = deep(), uniform(3, 4)
    run = partial(layer_conductance, model, x, 1, baseline=-0.2, quadrature=name)
    for layer in "0123":
        coarse, fine = (run(layer=layer, steps=n) for n in (3, steps))
        off = [completeness(model, x, 1, c, baseline=-0.2).abs().max() for c in (coarse, fine)]
        assert off[1] <= error and off[1] < off[0] / 100
        assert_equal(fine.sum(1), rise(model, x, -0.2, 1), tolerance=error)
    c = run(layer="4", steps=steps)  # the output itself, of which one number is explained
    assert (c[:, [0, 2]] == 0).all()
    assert_equal(c[:, 1], rise(model, x, -0.2, 1), tolerance=error)
    # The line of a linear layer is straight, so that its conductance is its gradient along the line times its rise.
    influence = internal_influence(model, x, 1, layer="0", baseline=-0.2, steps=steps, quadrature=name)
    linear: Any = model.get_submodule("0")
    moved = (linear(x) - linear(torch.full_like(x, -0.2))).detach()
    assert_equal(run(layer="0", steps=steps), influence * moved)


def test_all_quadratures_of_conductance_converge_to_one_integral() -> None:
    model, x = deep(), uniform(2, 4)
    exact = references.conductance_by_jvp(model, x, [0, 2], "1", baseline=0.3, points=300)
    run = partial(layer_conductance, model, x, [0, 2], layer="1", baseline=0.3, chunk_size=301)
    for name, steps, tolerance in zip(RULES, (300, 300, 300, 300, 40), (0.03, 0.03, 1e-4, 1e-9, 1e-4), strict=True):
        assert_equal(run(quadrature=name, steps=steps), exact, tolerance=tolerance)
    left, right, both = (run(quadrature=name, steps=7) for name in SUMS)
    assert not torch.allclose(left, right, rtol=1e-2)
    assert_equal((left + right) / 2, both, tolerance=1e-14)


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
    run = partial(layer_conductance, model, x, 2, layer="0", baseline=0.5)
    for steps in (1, 3):
        assert_equal(run(steps=steps), expected, tolerance=1e-13)
    for name in RULES:
        assert_equal(run(steps=2, quadrature=name), expected, tolerance=1e-13)


def test_conductance_of_the_input_is_integrated_gradients() -> None:
    model = nn.Sequential(nn.Identity(), deep())
    x = uniform(2, 4)
    expected = integrated_gradients(model, x, 1, baseline=0.2)
    assert_equal(layer_conductance(model, x, 1, layer="0", baseline=0.2, steps=300), expected, tolerance=1e-4)
    assert_equal(internal_influence(model, x, 1, layer="0", baseline=0.2) * (x - 0.2), expected)
    assert_equal(by_derivative(model, x, 1, layer="0", baseline=0.2), expected)


@each_rule
@pytest.mark.parametrize("method", [layer_conductance, internal_influence])
def test_any_chunk_size_gives_the_same(method: Callable[..., Tensor], name: Any) -> None:
    run = partial(method, deep(), uniform(3, 4), [0, 1, 2], layer="1", steps=6, quadrature=name)
    whole = run(chunk_size=7)
    for chunk_size in (1, 2, 3, 5, 6, 100, None):
        assert_equal(run(chunk_size=chunk_size), whole, tolerance=1e-14)


@pytest.mark.parametrize(("method", "points"), [(layer_conductance, 8), (internal_influence, 7)])
def test_the_cost_is_one_gradient_a_point(method: Callable[..., Tensor], points: int) -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return funcattr.site(x.tanh(), "h").sum(1)

    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        batches.clear()
        method(model, uniform(2, 4), layer="h", steps=7, chunk_size=3)
    assert batches[0] == 2  # the layer's value, whose shape and dtype the result has
    assert sum(batches[1:]) == 2 * points and len(batches[1:]) == 3


def test_the_cost_by_derivatives_is_a_gradient_and_a_forward_derivative_a_point() -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return funcattr.site(x.tanh(), "h").sum(1)

    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        batches.clear()
        by_derivative(model, uniform(2, 4), layer="h", steps=7, chunk_size=3)
    assert batches == [2, 6, 6, 6, 6, 2, 2]


def test_conductance_by_derivatives_goes_through_attention() -> None:
    """Torch has a forward derivative of its math kernel only."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.mixed, self.head = nn.Linear(4, 12), nn.Identity(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            return self.head(self.mixed(nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]).tanh().mean(1))

    model, x = settle(Attention), uniform(2, 3, 4)
    c = by_derivative(model, x, 1, layer="mixed")
    assert_equal(c.sum((1, 2)), rise(model, x, 0.0, 1), tolerance=1e-6)


# --- distributions ---------------------------------------------------------------------------------------------------


@each_rule
@pytest.mark.parametrize("method", [layer_conductance, internal_influence])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 7, 100, None])
def test_a_distribution_is_the_mean_over_its_rows(
    method: Callable[..., Tensor], name: Any, chunk_size: int | None
) -> None:
    rows = uniform(4, 4, seed=8)
    run = partial(method, deep(), uniform(3, 4), [1, 2, 0], layer="1", steps=3, quadrature=name)
    expected = torch.stack([run(baseline=row) for row in rows]).mean(0)
    assert_equal(run(baseline=distribution(rows), chunk_size=chunk_size), expected)
    assert_equal(run(baseline=distribution(rows[:1]), chunk_size=chunk_size), run(baseline=rows[0]))


@given(data=st.data())
@settings(max_examples=8)
def test_conductance_over_drawn_rows_is_the_mean_of_sums_written_out(data: st.DataObject) -> None:
    net, name = draw_comparable(data, max_blocks=2), data.draw(st.sampled_from(SUMS))
    count, steps = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 3))
    rows = uniform(count, *net.x.shape[1:], seed=data.draw(st.integers(0, 9)))
    chunk_size = data.draw(st.integers(1, count * (steps + 1)))
    options: Any = {"layer": net.layer, "steps": steps}
    actual = layer_conductance(
        net.model, net.x, 1, baseline=distribution(rows), quadrature=name, chunk_size=chunk_size, **options
    )
    each = [sums_by_hand(net.model, net.x, 1, baseline=row, name=name, **options) for row in rows]
    assert_equal(actual, torch.stack(each).mean(0))


@pytest.mark.parametrize("quadrature", ["riemann_trapezoid", "gausslegendre"])
def test_conductance_over_a_distribution_sums_to_the_mean_rise(quadrature: Any) -> None:
    model, x, rows = deep(), uniform(3, 4), distribution(uniform(4, 4, seed=8))
    c = layer_conductance(model, x, 1, layer="2", baseline=rows, steps=100, quadrature=quadrature, chunk_size=101)
    mean_rise = torch.stack([rise(model, x, row, 1) for row in rows.rows]).mean(0)
    assert_equal(c.sum(1), mean_rise, tolerance=1e-3)
    assert completeness(model, x, 1, c, baseline=rows).abs().max() < 1e-3 * mean_rise.abs().max()


@each_method
def test_rows_of_several_inputs_stay_together(method: Callable[..., Tensor]) -> None:
    model, x, rows = deep(), uniform(3, 4), uniform(5, 4, seed=6)

    def of_two(a: Tensor, b: Tensor) -> Tensor:
        hidden = model.get_submodule("1")(model.get_submodule("0")(torch.cat([a, b], 1)))
        return model.get_submodule("4")(funcattr.site(hidden, "h").sin()[:, :5])

    def of_one(x: Tensor) -> Tensor:
        return of_two(x[:, :1], x[:, 1:])

    split = distribution((rows[:, :1], rows[:, 1:]))
    options: Any = {"layer": "h", "steps": 3, "chunk_size": 4}
    actual = method(of_two, (x[:, :1], x[:, 1:]), 2, baseline=split, **options)
    assert_equal(actual, method(of_one, x, 2, baseline=distribution(rows), **options))


# --- inputs, dtypes, transforms --------------------------------------------------------------------------------------


@each_method
def test_a_layer_is_given_by_its_name_or_the_module(method: Callable[..., Tensor]) -> None:
    model: Any = deep()
    x, run = uniform(2, 4), partial(method, steps=3)
    for layer in ("0", "1", "4"):
        expected = run(model, x, 1, layer=layer)
        assert_equal(run(model, x, 1, layer=model.get_submodule(layer)), expected, tolerance=1e-14)
        fm = funcattr.functionalize(model)
        assert_equal(run(fm, x, 1, layer=model.get_submodule(layer)), expected, tolerance=1e-14)


@each_method
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


@each_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_results_have_the_layers_dtype_and_are_right_in_it(method: Callable[..., Tensor], dtype: torch.dtype) -> None:
    model, exact, x = deep(dtype=dtype), deep(), uniform(2, 4, dtype=dtype)
    exact.load_state_dict(model.state_dict())
    actual = method(model, x, 1, layer="1", chunk_size=51)
    assert actual.dtype == dtype
    expected = method(exact, x.double(), 1, layer="1").to(dtype)
    # Conductance sums differences of the layer's values, each rounded.
    assert_equal(actual, expected, tolerance=(4 if method is internal_influence else 30) * torch.finfo(dtype).eps)


@each_method
def test_batch_equals_loop_and_vmap(method: Callable[..., Tensor]) -> None:
    fm = funcattr.functionalize(deep())
    x, targets, baseline = uniform(3, 4), torch.tensor([2, 0, 1]), uniform(3, 4, seed=7)

    def one(x: Tensor, target: Tensor, baseline: Tensor) -> Tensor:
        return method(fm, x[None], target, layer="1", baseline=baseline, steps=3, chunk_size=2)[0]

    batch = method(fm, x, targets, layer="1", baseline=baseline, steps=3)
    assert_equal(loop(one, x, targets, baseline), batch)
    assert_equal(torch.vmap(one)(x, targets, baseline), batch)


@each_method
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


@each_method
def test_derivatives_by_the_rows_of_a_distribution(method: Callable[..., Tensor]) -> None:
    model, x, rows = deep(), uniform(2, 4), uniform(3, 4, seed=4).requires_grad_()

    def run(rows: Tensor) -> Tensor:
        return method(model, x, [0, 1], layer="1", baseline=distribution(rows), steps=2, chunk_size=2)

    assert torch.autograd.gradcheck(run, (rows,), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        pytest.param(layer_conductance, True, id="sums, rows"),
        pytest.param(by_derivative, False, id="derivatives", marks=long),
        pytest.param(by_derivative, True, id="derivatives, rows", marks=long),
        pytest.param(internal_influence, True, id="influence, rows", marks=long),
    ],
)
def test_compiled_equals_eager(fresh_dynamo: None, method: Callable[..., Tensor], rows: bool) -> None:
    fm, x = funcattr.functionalize(deep()), uniform(2, 4)
    baseline: Any = distribution(uniform(3, 4, seed=8)) if rows else 0.1

    def run(x: Tensor) -> Tensor:
        return method(fm, x, [0, 1], layer="1", baseline=baseline, steps=5, chunk_size=2)

    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(x), run(x), tolerance=1e-12)


@long
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
    "rows' shape": (
        {"baseline": distribution(torch.zeros(5, 3))},
        ValueError,
        r"\(baseline=distribution\(\.\.\.\)\): expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "quadrature": (
        {"quadrature": "simpson"},
        ValueError,
        r"\(quadrature='simpson'\): expected one of 'gausslegendre', 'riemann_left', 'riemann_middle', ",
    ),
    "baseline's structure": ({"baseline": (0.0, 0.0)}, ValueError, r"or 1 baselines structured as the inputs, got tup"),
    "integers": (
        {"x": X.long()},
        TypeError,
        r"\(x=\.\.\.\): expected floating-point inputs, got torch.int64: there is no line between token ids",
    ),
    "no such layer": ({"layer": "9"}, funcattr.UnknownSiteError, r"no such site '9'\. Closest: '0', '1', '2'"),
    "layer as a number": (
        {"layer": 0},
        TypeError,
        r"\(layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "no layer": ({"layer": None}, TypeError, r"\(layer=None\): expected the name of a site or a module of the model"),
    "another model's layer": ({"layer": nn.Tanh()}, ValueError, r"\(layer=<Tanh>\): the module is not one of the mod"),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
}


@each_method
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(method: Callable[..., Tensor], what: str) -> None:
    change, kind, message = BAD[what]
    name = "internal_influence" if method is internal_influence else "layer_conductance"
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


HEADS = nn.MultiheadAttention(4, 2, batch_first=True).double().eval()
NOT_IN_FORWARD_MODE: dict[str, Any] = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(3, 3).tril().bool()),
    "heads": lambda x: HEADS(x, x, x, need_weights=False)[0],
    "distances": lambda x: torch.cdist(x, x * 2 + 1),
}


@pytest.mark.parametrize("name", NOT_IN_FORWARD_MODE)
def test_conductance_where_torch_has_no_forward_mode(name: str) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return funcattr.site(NOT_IN_FORWARD_MODE[name](x), "h").square().sum((1, 2))[:, None]

    x = uniform(2, 3, 4)
    exact = layer_conductance(Net(), x, 0, layer="h", steps=8, quadrature="gausslegendre")
    assert_equal(exact.flatten(1).sum(1), (Net()(x) - Net()(0 * x))[:, 0], tolerance=1e-4)
    fine = layer_conductance(Net(), x, 0, layer="h", steps=3000, quadrature="riemann_trapezoid")
    assert_equal(exact, fine, tolerance=1e-4)
