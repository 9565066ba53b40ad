"""Integrated gradients: the explicit sum, completeness, baselines of every form, and sites as the rest of the model."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import distribution, integrated_gradients
from funcattr.metrics import completeness
from funcattr.testing.networks import draw_comparable
from funcattr.testing.seeding import settle, uniform

from ... import sampling_references as references
from ...contract import assert_equal, loop
from ...graphs import calls_in
from ...sweeps import long

RULES: Any = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")


def dense(activation: type[nn.Module] = nn.Tanh, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)), dtype=dtype)


def rise(model: Any, x: Tensor, baseline: Any, target: int) -> Tensor:
    with torch.no_grad():
        return model(x)[:, target] - model(torch.zeros_like(x) + baseline)[:, target]


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


jvp: Any = torch.func.jvp


# --- values ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=10)
def test_equals_the_explicit_sum(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
    steps, name = data.draw(st.integers(2, 5)), data.draw(st.sampled_from(RULES))
    layer = data.draw(st.sampled_from([None, net.layer]))
    baseline = data.draw(st.sampled_from([0.0, 0.5, uniform(*net.x.shape[1:], seed=3), uniform(*net.x.shape, seed=4)]))
    chunk_size = data.draw(st.integers(1, steps) | st.none())
    options: Any = {"baseline": baseline, "layer": layer}
    actual = integrated_gradients(net.model, net.x, 1, steps=steps, quadrature=name, chunk_size=chunk_size, **options)
    nodes, weights = references.rule(name, steps)
    assert_equal(actual, references.integrated_gradients(net.model, net.x, 1, nodes=nodes, weights=weights, **options))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_converges_to_the_integral(activation: type[nn.Module]) -> None:
    model, x = dense(activation), uniform(1, 4)
    expected = references.fine_integrated_gradients(model, x, 2, baseline=-0.3, points=1000)
    for name, steps, tolerance in [("gausslegendre", 30, 1e-4), *((r, 400, 2e-2) for r in RULES[1:])]:
        actual = integrated_gradients(model, x, 2, baseline=-0.3, steps=steps, quadrature=name)
        assert_equal(actual, expected, tolerance=1e-2 if activation is nn.ReLU and steps == 30 else tolerance)


def test_is_complete_on_smooth_nets() -> None:
    model, x = dense(), uniform(5, 4)
    a = integrated_gradients(model, x, 1, baseline=0.2)
    assert_equal(a.sum(1), rise(model, x, 0.2, 1), tolerance=1e-10)
    delta = completeness(model, x, 1, a, baseline=0.2)
    assert_equal(delta, a.sum(1) - rise(model, x, 0.2, 1), tolerance=1e-12)


def test_is_complete_on_relu_nets_up_to_the_kinks() -> None:
    model, x = dense(nn.ReLU), uniform(5, 4)
    run = partial(integrated_gradients, model, x, 1, quadrature="riemann_middle", chunk_size=500)
    coarse, fine = (float(completeness(model, x, 1, run(steps=steps)).abs().max()) for steps in (10, 500))
    assert fine < 2e-3 * rise(model, x, 0.0, 1).abs().max() and fine < coarse / 20


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [2, 7])
def test_is_exact_on_linear_models(name: Any, steps: int) -> None:
    model: Any = settle(lambda: nn.Linear(4, 3))
    x = uniform(2, 4)
    a = integrated_gradients(model, x, 2, baseline=0.5, steps=steps, quadrature=name)
    assert_equal(a, (x - 0.5) * model.weight.detach()[2], tolerance=1e-14)
    assert completeness(model, x, 2, a, baseline=0.5).abs().max() < 1e-13


@given(st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=8)
def test_gauss_legendre_is_exact_up_to_degree_2n(steps: int, seed: int) -> None:
    coefficients, x = uniform(2 * steps + 1, seed=seed), uniform(3, 1, seed=seed + 1)

    def polynomial(x: Tensor) -> Tensor:  # of degree 2 steps; its gradient is of degree 2 steps - 1
        return torch.stack([c * x[:, 0] ** k for k, c in enumerate(coefficients)]).sum(0)

    a = integrated_gradients(polynomial, x, baseline=-0.7, steps=steps)
    delta = completeness(polynomial, x, None, a, baseline=-0.7)
    assert delta.abs().max() < 1e-11 * polynomial(x.abs() + 1).abs().max().clamp(min=1)


@pytest.mark.parametrize("name", RULES)
def test_any_chunk_size_gives_the_same(name: Any) -> None:
    model, x = dense(), uniform(3, 4)
    run = partial(integrated_gradients, model, x, [0, 1, 2], steps=7, quadrature=name)
    whole = run(chunk_size=7)
    for chunk_size in (1, 2, 5, 100, None):
        assert_equal(run(chunk_size=chunk_size), whole, tolerance=1e-14)


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_the_cost_is_one_gradient_a_step(steps: int) -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return x.tanh().sum(1)

    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        batches.clear()
        integrated_gradients(model, uniform(2, 4), steps=steps, chunk_size=3)
    assert sum(batches) == 2 * steps and len(batches) == -(-steps // 3) and max(batches) <= 6


# --- sites -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_at_a_site_it_is_that_of_the_rest_of_the_model(chunk_size: int) -> None:
    first = settle(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh()))
    rest = settle(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)), seed=1)
    x, baseline = uniform(2, 1, 6), uniform(2, 1, 6, seed=3)
    options: Any = {"steps": 6, "chunk_size": chunk_size}
    whole = nn.Sequential(first, rest)
    of_rest = integrated_gradients(rest, first(x).detach(), [0, 2], baseline=first(baseline).detach(), **options)
    for layer in ("0", first):  # by its name, and the module itself
        assert_equal(integrated_gradients(whole, x, [0, 2], baseline=baseline, layer=layer, **options), of_rest)


def test_the_second_call_of_a_reused_module_is_a_site_of_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.mix(self.act(self.mix(x)))))

    model: Any = settle(Twice)
    x = uniform(2, 4)
    h, h0 = (model.act(model.mix(model.act(model.mix(v)))).detach() for v in (x, torch.zeros_like(x)))
    actual = integrated_gradients(model, x, 1, layer="act#1", steps=4)
    assert_equal(actual, (h - h0) * model.head.weight.detach()[1])


def test_token_ids_are_attributed_at_their_embedding() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)))
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for pad in (0, torch.tensor([[0, 0, 1]]), torch.tensor([[0, 0, 0], [1, 1, 1]])):
        a = integrated_gradients(model, ids, [0, 1], baseline=pad, layer="0")
        embedded = model[0](torch.zeros_like(ids) + pad).detach()
        slow = integrated_gradients(model[1:], model[0](ids).detach(), [0, 1], baseline=embedded)
        assert_equal(a, slow)
        assert completeness(model, ids, [0, 1], a, baseline=pad).abs().max() < 1e-10
    rows = distribution(torch.tensor([[0, 0, 0], [1, 1, 1]]))
    over_rows = integrated_gradients(model, ids, 1, baseline=rows, layer="0")
    each = [integrated_gradients(model, ids, 1, baseline=row[None], layer="0") for row in rows.rows]
    assert_equal(over_rows, mean(each))


# --- baselines, inputs, targets --------------------------------------------------------------------------------------


def test_baselines_of_every_form() -> None:
    model, x = dense(), uniform(2, 4)
    run = partial(integrated_gradients, model, x, 1, steps=5)
    expected = run(baseline=torch.full((2, 4), 1.0).double())
    for one in (1, 1.0, torch.tensor(1.0), torch.ones(4), torch.ones(1, 4), torch.ones(2, 1), torch.ones(2, 4)):
        assert_equal(run(baseline=one), expected, tolerance=1e-15)
    assert_equal(run(), run(baseline=0), tolerance=0)
    per_example = uniform(2, 4, seed=5)
    assert_equal(
        run(baseline=per_example),
        loop(lambda x, b: integrated_gradients(model, x[None], 1, steps=5, baseline=b)[0], x, per_example),
    )


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_a_distribution_is_the_mean_over_its_rows(layer: str | None, chunk_size: int | None) -> None:
    model, x, rows = dense(), uniform(2, 4), uniform(3, 4, seed=8)
    run = partial(integrated_gradients, model, x, [1, 2], layer=layer, steps=4)
    each = [run(baseline=row) for row in rows]
    assert_equal(run(baseline=distribution(rows), chunk_size=chunk_size), mean(each))
    assert_equal(run(baseline=distribution(rows[:1])), each[0], tolerance=1e-14)


@pytest.mark.parametrize("structure", [tuple, dict])
def test_several_inputs_equal_one_that_is_split(structure: Any) -> None:
    model, x, baseline = dense(), uniform(3, 4), uniform(3, 4, seed=6)

    def of_two(a: Tensor, b: Tensor) -> Tensor:
        return model(torch.cat([a, b], 1))

    def parts(t: Tensor) -> Any:
        return (t[:, :1], t[:, 1:]) if structure is tuple else {"a": t[:, :1], "b": t[:, 1:]}

    keys: Any = range(2) if structure is tuple else ("a", "b")
    for of_one, split in (
        (baseline, parts(baseline)),
        (distribution(baseline), distribution(parts(baseline))),
    ):
        whole = parts(integrated_gradients(model, x, 2, baseline=of_one, steps=4))
        found = integrated_gradients(of_two, parts(x), 2, baseline=split, steps=4)
        for key in keys:
            assert_equal(found[key], whole[key])
    zero = integrated_gradients(of_two, parts(x), 2, baseline=parts(torch.zeros(1, 4)), steps=4)
    assert_equal(zero[keys[1]], integrated_gradients(model, x, 2, steps=4)[:, 1:])


def test_the_first_of_several_inputs_does_not_set_the_precision() -> None:
    a, b = uniform(2, 3, dtype=torch.float32), uniform(2, 4)

    def model(a: Tensor, b: Tensor) -> Tensor:
        return a.double().sum(1) * b.sin().sum(1)

    _, actual = integrated_gradients(model, (a, b))
    _, expected = integrated_gradients(model, (a.double(), b))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)  # the points of a are in single precision
    of_b_alone, _ = integrated_gradients(lambda b, a: (0 * a).double().sum(1) + b.sin().sum(1), (b, a))
    _, last = integrated_gradients(lambda a, b: (0 * a).double().sum(1) + b.sin().sum(1), (a, b))
    torch.testing.assert_close(last, of_b_alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "target", [1, [1, 0], torch.tensor([1, 0]), (2,), (torch.tensor([0, 2]),), uniform(2, 3), lambda y: y[:, 0] ** 2]
)
def test_targets_and_keywords_go_along_with_their_examples(target: Any) -> None:
    model, x, mask = dense(), uniform(2, 4), uniform(2, 4, seed=3)
    scale = torch.tensor(0.5)

    def masked(x: Tensor, scale: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"other": x, "scores": model(x * mask) * scale}

    options: Any = {"args": (scale,), "output": "scores"}
    batch = integrated_gradients(masked, x, target, steps=5, chunk_size=2, kwargs={"mask": mask}, **options)
    for n in range(2):
        one: Any = target
        if isinstance(target, list):
            one = [target[n]]
        elif isinstance(target, Tensor):
            one = target[n : n + 1]
        elif isinstance(target, tuple):
            one = tuple(t[n : n + 1] if isinstance(t, Tensor) else t for t in target)
        alone = integrated_gradients(masked, x[n : n + 1], one, steps=5, kwargs={"mask": mask[n : n + 1]}, **options)
        assert_equal(batch[n : n + 1], alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", RULES)
def test_results_have_the_inputs_dtype_and_are_right_in_it(name: Any, dtype: torch.dtype) -> None:
    model, x = dense(dtype=dtype), uniform(2, 4, dtype=dtype)
    exact: Any = settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    exact.load_state_dict(model.state_dict())
    a = integrated_gradients(model, x, 1, quadrature=name)
    assert a.dtype == dtype
    slow = integrated_gradients(exact, x.double(), 1, quadrature=name).to(dtype)
    assert_equal(a, slow, tolerance=4 * torch.finfo(dtype).eps)


# --- transforms ------------------------------------------------------------------------------------------------------


def test_vmap_over_examples_baselines_targets_and_parameters_equals_loop() -> None:
    fm = funcattr.functionalize(dense())
    x, baseline, targets = uniform(3, 4), uniform(3, 4, seed=2), torch.arange(3)
    stacked = {name: torch.stack([p.detach(), 0.5 * p.detach(), -p.detach()]) for name, p in fm.params.items()}

    def one(x: Tensor, baseline: Tensor, target: Tensor, params: dict[str, Tensor]) -> Tensor:
        model = fm.bind(params)
        a = integrated_gradients(model, x[None], target, baseline=baseline, layer="0", steps=3, chunk_size=2)
        return torch.cat([a[0], completeness(model, x[None], target, a, baseline=baseline)])

    assert_equal(torch.vmap(one)(x, baseline, targets, stacked), loop(one, x, baseline, targets, stacked))


@pytest.mark.parametrize("layer", [None, "0"])
def test_derivatives_by_the_input_and_the_baseline(layer: str | None) -> None:
    model = dense()
    x, baseline = uniform(2, 4).requires_grad_(), uniform(2, 4, seed=4).requires_grad_()

    def run(x: Tensor, baseline: Tensor) -> Tensor:
        return integrated_gradients(model, x, [0, 1], baseline=baseline, layer=layer, steps=3, chunk_size=2)

    def over_rows(x: Tensor, rows: Tensor) -> Tensor:
        return integrated_gradients(model, x, [0, 1], baseline=distribution(rows), layer=layer, steps=2)

    for function in (run, over_rows):
        assert torch.autograd.gradcheck(function, (x, baseline), atol=1e-6)
        tangents = uniform(2, 4, seed=9), uniform(2, 4, seed=10)
        value, slope = jvp(function, (x.detach(), baseline.detach()), tangents)
        pulled = torch.func.vjp(function, x.detach(), baseline.detach())[1](value)
        assert_equal((pulled[0] * tangents[0] + pulled[1] * tangents[1]).sum(), (value * slope).sum())
    assert not run(x.detach(), baseline.detach()).requires_grad
    with torch.no_grad():
        assert not run(x, baseline).requires_grad


@long
def test_compiled_the_body_is_there_once_and_a_second_call_does_not_compile(fresh_dynamo: None) -> None:
    convolutions = [nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Conv1d(2, 2, 3), nn.Tanh()]
    fm = funcattr.functionalize(settle(lambda: nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4, 2))))
    data = uniform(4, 1, 6)
    rows = distribution(data)

    def run(x: Tensor) -> Tensor:
        return integrated_gradients(fm, x, 1, baseline=rows, layer="1", steps=5, chunk_size=2)

    counter = calls_in(run, "convolution")
    for x in (data[:2], data[2:]):  # which share their memory with the rows
        assert_equal(counter.run(x), run(x), tolerance=1e-12)
    # The layer's value at x; in the body that at the rows, and both of the net.
    assert counter.calls == {"aten.convolution.default": 1 + 1 + 2, "aten.convolution_backward.default": 1}
    assert counter.graphs == 1


# --- bad input -------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no steps": ({"steps": 0}, ValueError, r"\(steps=0\): expected at least 1"),
    "negative steps": ({"steps": -1}, ValueError, r"\(steps=-1\): expected at least 1"),
    "boolean steps": ({"steps": True}, TypeError, r"\(steps=\.\.\.\): expected an int, got bool"),
    "broken steps": ({"steps": 2.5}, TypeError, r"\(steps=\.\.\.\): expected an int, got float"),
    "a trapezoid of one": (
        {"steps": 1, "quadrature": "riemann_trapezoid"},
        ValueError,
        r"\(steps=1\): expected at least 2 for 'riemann_trapezoid'",
    ),
    "quadrature": (
        {"quadrature": "simpson"},
        ValueError,
        r"\(quadrature='simpson'\): expected one of 'gausslegendre', ",
    ),
    "no chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "baseline's shape": (
        {"baseline": torch.zeros(3)},
        ValueError,
        r"\(baseline=\.\.\.\): expected the input's shape \[2, 4\] or one that broadcasts to it, got \[3\]. "
        r"Many baselines are a distribution: baseline=distribution\(rows\)",
    ),
    "rows without distribution": ({"baseline": torch.zeros(10, 4)}, ValueError, r"Many baselines are a distribution"),
    "baseline as text": ({"baseline": "zero"}, TypeError, r"expected numbers and tensors, got str"),
    "no baseline": ({"baseline": None}, TypeError, r"expected numbers and tensors, got NoneType"),
    "boolean baseline": ({"baseline": True}, TypeError, r"expected numbers and tensors, got bool"),
    "baseline's structure": (
        {"baseline": (0.0, 0.0)},
        ValueError,
        r"\(baseline=\.\.\.\): expected a number, or 1 baselines structured as the inputs, got tuple of 2",
    ),
    "one of two baselines": ({"x": (X, X), "baseline": (0.0,)}, ValueError, r"or 2 baselines structured as the inputs"),
    "rows' shape": (
        {"baseline": distribution(torch.zeros(5, 3))},
        ValueError,
        r"\(baseline=distribution\(\.\.\.\)\): expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "rows' structure": (
        {"x": (X, X), "baseline": distribution(X)},
        ValueError,
        r"expected rows of shapes \[\[4\], \[4\]\]",
    ),
    "integers": ({"x": X.long()}, TypeError, r": expected a floating-point input, got torch.int64"),
    "half a token": (
        {"x": X.long(), "baseline": 0.5},
        ValueError,
        r"\(baseline=0.5\): expected an integer, as the inputs are \(torch.int64\)",
    ),
    "no such layer": ({"layer": "9"}, funcattr.UnknownSiteError, r"no such site '9'\. Closest: '0', '1', '2'"),
    "layer as a number": (
        {"layer": 0},
        TypeError,
        r"\(layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "another model's layer": ({"layer": nn.Tanh()}, ValueError, r"\(layer=<Tanh>\): the module is not one of the mod"),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
    "classes": (
        {"target": [0, 1, 2]},
        ValueError,
        r"\(target=\.\.\.\): expected one class or index per example, 2 of them",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": dense(dtype=torch.float32), "x": X, "target": 1} | change
    with pytest.raises(kind, match=f"^integrated_gradients.*{message}"):
        integrated_gradients(**arguments)


def test_a_site_without_numbers_has_no_line() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.order = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return x.gather(1, self.order(x.argsort(1)))

    with pytest.raises(
        TypeError, match=r"^integrated_gradients\(layer='order'\): expected a floating-point tensor as the"
    ):
        integrated_gradients(Sorted(), uniform(2, 4), 0, layer="order")
