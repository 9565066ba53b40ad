"""Completeness: what sums of attributions miss, against rises that are written out, for every kind of baseline."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import distribution, expected_gradients, integrated_gradients, layer_conductance
from funcattr.metrics import completeness
from funcattr.sampling import draws
from funcattr.testing.networks import draw_comparable
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal, loop
from ..sweeps import long, sweep

DOUBLE = torch.float64
ROWS = uniform(5, 4, seed=2)


def dense(activation: type[nn.Module] = nn.Tanh, *, dtype: torch.dtype = DOUBLE) -> Any:
    return settle(lambda: nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)), dtype=dtype)


def at(model: Any, x: Tensor, target: Any) -> Tensor:
    """The number that is explained, of an output [N, K]. [N]"""
    with torch.no_grad():
        return model(x)[torch.arange(len(x)), target]


def starts_and_noise(x: Tensor, count: int, rows: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [S, ...] and noise [S, ...] of the samples that `expected_gradients` draws."""
    index, like = torch.arange(count), torch.zeros((), dtype=x.dtype)
    starts = rows[draws.integers(index, len(rows), seed=seed, stream=-1)]
    return starts, draws.normal(index, x.shape[1:], like, seed)


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


# --- one baseline ----------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=10)
def test_equals_the_sum_less_the_rise(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
    baseline = data.draw(st.sampled_from([0, 0.5, uniform(*net.x.shape[1:], seed=3), uniform(*net.x.shape, seed=4)]))
    a = uniform(*net.x.shape, seed=5)
    with torch.no_grad():
        rise = net.model(net.x.clone()) - net.model(torch.zeros_like(net.x) + baseline)
    expected = a.flatten(1).sum(1) - rise[:, 1].reshape(len(a), -1).sum(1)
    assert_equal(completeness(net.model, net.x, 1, a, baseline=baseline), expected)


def test_is_exact_on_linear_models() -> None:
    model: Any = settle(lambda: nn.Linear(4, 3))
    x, weight = uniform(2, 4), model.weight.detach()[2]
    for baseline in (0.5, uniform(4, seed=7), uniform(2, 4, seed=7)):
        exact = (x - baseline) * weight
        run = partial(completeness, model, x, 2, baseline=baseline)
        assert run(exact).abs().max() < 1e-13
        # What is missing or too much is what is found, at each example.
        off = torch.tensor([[0.5, 0.0, 0.0, 0.25], [0.0, -2.0, 0.0, 0.0]], dtype=DOUBLE)
        assert_equal(run(exact + off), off.sum(1), tolerance=1e-13)
        assert_equal(run(0 * exact), -exact.sum(1), tolerance=1e-13)


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    delta = completeness(lambda x: x.prod(1), x, None, torch.tensor([[1.0, 0.5], [0.0, 0.0]]), baseline=-1.0)
    assert delta.tolist() == pytest.approx([1.5 - (2 - 1), 0 - (-3 - 1)])


def test_examples_may_be_numbers() -> None:
    x = uniform(3)
    assert_equal(completeness(torch.sin, x, None, 2 * x, baseline=0.5), 2 * x - (x.sin() - torch.sin(x * 0 + 0.5)))


@pytest.mark.parametrize(
    "target", [1, [1, 0], torch.tensor([1, 0]), (2,), (torch.tensor([0, 2]),), uniform(2, 3), lambda y: y[:, 0] ** 2]
)
def test_targets_keywords_and_outputs_are_those_of_methods(target: Any) -> None:
    model, x, mask = dense(), uniform(2, 4), uniform(2, 4, seed=3)

    def masked(x: Tensor, scale: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"other": x, "scores": model(x * mask) * scale}

    options: Any = {"args": (torch.tensor(0.5),), "kwargs": {"mask": mask}, "output": "scores"}
    for baseline in (0.3, distribution(ROWS)):
        a = integrated_gradients(masked, x, target, baseline=baseline, **options)
        assert completeness(masked, x, target, a, baseline=baseline, **options).abs().max() < 1e-9
    found = expected_gradients(masked, x, target, baseline=distribution(ROWS), samples=3000, **options)
    delta = completeness(masked, x, target, found, baseline=distribution(ROWS), samples=3000, chunk_size=500, **options)
    assert delta.abs().max() < 0.1 * found.abs().max()


def test_token_ids_have_attributions_at_their_embedding() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)))
    ids, a = torch.tensor([[1, 2, 3], [4, 5, 6]]), uniform(2, 3, 4)
    delta = completeness(model, ids, [0, 1], a, baseline=1)
    assert_equal(delta, a.sum((1, 2)) - (at(model, ids, [0, 1]) - at(model, torch.ones_like(ids), [0, 1])))


# --- layers and several inputs ---------------------------------------------------------------------------------------


def test_attributions_at_a_layer_are_held_against_the_rise_from_the_input() -> None:
    first = settle(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh()))
    rest = settle(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)), seed=1)
    whole, x, baseline = nn.Sequential(first, rest), uniform(2, 1, 6), uniform(2, 1, 6, seed=3)
    before, h, h0 = x.clone(), first(x).detach(), first(baseline).detach()
    at_site = integrated_gradients(whole, x, [0, 2], baseline=baseline, layer="0", steps=6)
    of_rest = integrated_gradients(rest, h, [0, 2], baseline=h0, steps=6)
    delta = completeness(whole, x, [0, 2], at_site, baseline=baseline)
    assert_equal(delta, completeness(rest, h, [0, 2], of_rest, baseline=h0))
    assert_equal(delta, at_site.flatten(1).sum(1) - (at(whole, x, [0, 2]) - at(whole, baseline, [0, 2])))
    assert torch.equal(x, before)
    c = layer_conductance(whole, x, [0, 2], layer="0", baseline=baseline, steps=6)
    found = completeness(whole, x, [0, 2], c, baseline=baseline)
    assert_equal(found, c.flatten(1).sum(1) - (at(whole, x, [0, 2]) - at(whole, baseline, [0, 2])))


@pytest.mark.parametrize("structure", [tuple, dict])
def test_several_inputs_equal_one_that_is_split(structure: Any) -> None:
    model, x, a = dense(), uniform(3, 4), uniform(3, 4, seed=6)

    def of_two(a: Tensor, b: Tensor) -> Tensor:
        return model(torch.cat([a, b], 1))

    def parts(t: Tensor) -> Any:
        return (t[:, :1], t[:, 1:]) if structure is tuple else {"a": t[:, :1], "b": t[:, 1:]}

    sampled: Any = {"samples": 4, "chunk_size": 3}
    for of_one, split, options in (
        (0.3, 0.3, {}),
        (x / 2, parts(x / 2), {}),
        (distribution(ROWS), distribution(parts(ROWS)), {}),
        (x / 2, parts(x / 2), sampled),
        (distribution(ROWS), distribution(parts(ROWS)), sampled),
    ):
        expected = completeness(model, x, 2, a, baseline=of_one, **options)
        assert_equal(completeness(of_two, parts(x), 2, parts(a), baseline=split, **options), expected, tolerance=1e-10)
        # At a layer there is one tensor of attributions, however many inputs there are.
        assert_equal(completeness(of_two, parts(x), 2, a, baseline=split, **options), expected, tolerance=1e-10)


def test_inputs_of_several_dtypes() -> None:
    x = uniform(3, 4), uniform(3, 4, seed=2, dtype=torch.float32)
    a = integrated_gradients(lambda a, b: (a * b)[:, 0], x)
    assert [part.dtype for part in a] == [DOUBLE, torch.float32]
    delta = completeness(lambda a, b: (a * b)[:, 0], x, None, a)
    assert delta.dtype == DOUBLE and delta.abs().max() < 1e-6


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5, 100, None])
@pytest.mark.parametrize("layer", [None, "0"])
def test_over_a_distribution_it_is_the_mean_over_rows(layer: str | None, chunk_size: int | None) -> None:
    model, x = dense(), uniform(2, 4)
    run = partial(integrated_gradients, model, x, [1, 2], layer=layer, steps=4)
    a = run(baseline=distribution(ROWS))
    found = completeness(model, x, [1, 2], a, baseline=distribution(ROWS), chunk_size=chunk_size)
    each = [completeness(model, x, [1, 2], run(baseline=row), baseline=row) for row in ROWS]
    assert_equal(found, mean(each), tolerance=1e-12)
    rises = [at(model, x, [1, 2]) - at(model, row.expand(2, 4), [1, 2]) for row in ROWS]
    assert_equal(found, a.sum(1) - mean(rises), tolerance=1e-12)


# --- the ends that are drawn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize("seed", [0, 7])
def test_with_samples_it_is_the_rise_between_the_ends_that_are_drawn(
    layer: str | None, sigma: float, seed: int
) -> None:
    model, x = dense(), uniform(2, 4)
    starts, e = starts_and_noise(x, 6, ROWS, seed)
    options: Any = {"samples": 6, "sigma": sigma, "chunk_size": 4, "generator": seed}
    a = expected_gradients(model, x, [0, 1], baseline=distribution(ROWS), layer=layer, **options)
    delta = completeness(model, x, [0, 1], a, baseline=distribution(ROWS), **options)
    rises = [at(model, x + sigma * e[s], [0, 1]) - at(model, starts[s].expand(2, 4), [0, 1]) for s in range(6)]
    assert_equal(delta, a.sum(1) - mean(rises), tolerance=1e-12)
    # From one baseline, the ends alone are drawn.
    delta = completeness(model, x, [0, 1], a, baseline=ROWS[:2], **options)
    rises = [at(model, x + sigma * e[s], [0, 1]) - at(model, ROWS[:2], [0, 1]) for s in range(6)]
    assert_equal(delta, a.sum(1) - mean(rises), tolerance=1e-12)


def test_of_expected_gradients_it_is_zero_on_linear_models_and_not_without_their_draws() -> None:
    model: Any = settle(lambda: nn.Linear(4, 3))
    x = uniform(2, 4)
    for sigma in (0.0, 0.4, torch.tensor([0.1, 0.2, 0.3, 0.4])):
        options: Any = {"baseline": distribution(ROWS), "samples": 7, "sigma": sigma, "generator": 3}
        a = expected_gradients(model, x, 2, **options)
        assert completeness(model, x, 2, a, **options).abs().max() < 1e-13
        assert completeness(model, x, 2, a, **{**options, "generator": 4}).abs().max() > 1e-3
        assert completeness(model, x, 2, a, **{**options, "samples": 8}).abs().max() > 1e-3


@pytest.mark.parametrize("baseline", [0.2, distribution(ROWS)], ids=["one", "rows"])
@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_any_chunk_size_gives_the_same(baseline: Any, sigma: float) -> None:
    model, x = dense(), uniform(3, 4)
    run = partial(completeness, model, x, [0, 1, 2], x, baseline=baseline, samples=7, sigma=sigma)
    whole = run(chunk_size=7)
    for chunk_size in (1, 2, 5, 100, None):
        assert (run(chunk_size=chunk_size) - whole).abs().max() < 1e-13


def test_the_cost_is_two_forward_passes_a_sample_and_one_a_row() -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return x.tanh().sum(1)

    x = uniform(2, 4)
    run = partial(completeness, model, x, None, x, chunk_size=3)
    run(samples=7)  # once before: the check that examples do not see each other is not counted
    batches.clear()
    run(samples=7)
    assert sum(batches) == 2 * 14 and max(batches) == 6
    batches.clear()
    run(baseline=distribution(ROWS))
    assert sum(batches) == 2 + 10 and max(batches) == 6
    batches.clear()
    run()
    assert batches == [2, 2]


# --- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("samples", [None, 300])
@pytest.mark.parametrize("chunk_size", [1, 300])
def test_it_has_the_attributions_dtype_and_is_right_in_it(
    dtype: torch.dtype, samples: int | None, chunk_size: int
) -> None:
    """However many rows or samples there are: sums of chunks are in single precision at least."""
    model, exact, x = dense(dtype=dtype), dense(), uniform(2, 4, dtype=dtype)
    exact.load_state_dict(model.state_dict())
    rows, a = uniform(300, 4, seed=3, dtype=dtype), uniform(2, 4, seed=4, dtype=dtype)
    options: Any = {"samples": samples, "chunk_size": chunk_size}
    delta = completeness(model, x, 1, a, baseline=distribution(rows), **options)
    assert delta.dtype == dtype
    expected = completeness(exact, x.double(), 1, a.double(), baseline=distribution(rows.double()), **options)
    assert_equal(delta.double(), expected, tolerance=8 * torch.finfo(dtype).eps)


def test_sums_over_many_samples_do_not_overflow_in_half_precision() -> None:
    x, rows = torch.full((1, 4), 60.0).half(), torch.full((600, 4), 30.0).half()
    for samples in (None, 600):
        delta = completeness(
            lambda x: x.sum(1), x, None, x - 30, baseline=distribution(rows), samples=samples, chunk_size=1
        )
        assert delta.tolist() == pytest.approx([0.0], abs=0.1)


# --- transforms ------------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "one": {"baseline": 0.2},
    "rows": {"baseline": distribution(ROWS)},
    "one, sampled": {"baseline": 0.2, "samples": 7},
    "one, sampled, noise": {"baseline": 0.2, "samples": 7, "sigma": 0.3},
    "rows, sampled": {"baseline": distribution(ROWS), "samples": 7},
    "rows, sampled, noise": {"baseline": distribution(ROWS), "samples": 7, "sigma": 0.3},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_batch_equals_loop_and_vmap(kind: str) -> None:
    fm = funcattr.functionalize(dense())
    x, a, targets = uniform(3, 4), uniform(3, 4, seed=9), torch.tensor([2, 0, 1])
    run = partial(completeness, fm, chunk_size=2, **KINDS[kind])

    def one(x: Tensor, target: Tensor, a: Tensor) -> Tensor:
        return run(x[None], target, a[None])[0]

    batch = run(x, targets, a)
    assert_equal(loop(one, x, targets, a), batch)
    assert_equal(torch.vmap(one)(x, targets, a), batch)


@pytest.mark.parametrize("kind", sweep(["one", "rows", "one, sampled", "rows, sampled, noise"], quick=["one", "rows"]))
def test_compiled_equals_eager(fresh_dynamo: None, kind: str) -> None:
    fm, x, a = funcattr.functionalize(dense()), uniform(2, 4), uniform(2, 4, seed=9)

    def run(x: Tensor, a: Tensor) -> Tensor:
        return completeness(fm, x, [0, 2], a, chunk_size=2, **KINDS[kind])

    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(x, a), run(x, a), tolerance=1e-12)
    assert_equal(compiled(2 * x, x), run(2 * x, x), tolerance=1e-12)


@long
def test_compiled_together_with_its_method(fresh_dynamo: None) -> None:
    fm, x, rows = funcattr.functionalize(dense()), uniform(2, 4), distribution(ROWS)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        a = integrated_gradients(fm, x, 1, baseline=rows, layer="1", steps=2, chunk_size=2)
        return a, completeness(fm, x, 1, a, baseline=rows, chunk_size=2)

    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(x), run(x), strict=True):
        assert_equal(found, expected, tolerance=1e-10)


@each_kind
def test_derivatives_by_the_input_and_the_attributions(kind: str) -> None:
    x, a = uniform(2, 4).requires_grad_(), uniform(2, 4, seed=9).requires_grad_()
    run = partial(completeness, dense(), chunk_size=3, **KINDS[kind])
    assert torch.autograd.gradcheck(lambda x, a: run(x, [0, 1], a), (x, a), atol=1e-6)
    assert not run(x.detach(), [0, 1], a.detach()).requires_grad


def test_nothing_is_touched() -> None:
    def writes(x: Tensor) -> Tensor:
        return x.mul_(2).tanh_().sum(1)

    x, a, rows, state = uniform(2, 4), uniform(2, 4, seed=9), ROWS.clone(), torch.get_rng_state()
    before = (x.clone(), a.clone())
    for options in KINDS.values():
        completeness(writes, x, None, a, **options)
    assert torch.equal(x, before[0]) and torch.equal(a, before[1]) and torch.equal(ROWS, rows)
    assert torch.equal(torch.get_rng_state(), state)


# --- bad input -------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "attributions of another batch": (
        {"attributions": torch.zeros(1, 4)},
        ValueError,
        r"\(attributions=\.\.\.\): expected one row for each of the 2 examples, got \[1, 4\]",
    ),
    "a part of another batch": (
        {"attributions": (X, torch.zeros(3))},
        ValueError,
        r"expected one row for each of the 2 examples, got \[3\]",
    ),
    "a sum": ({"attributions": X.sum()}, ValueError, r"expected one row for each of the 2 examples, got \[\]"),
    "no attributions": (
        {"attributions": None},
        TypeError,
        r"\(attributions=\.\.\.\): expected floating-point .*NoneTyp",
    ),
    "attributions of nothing": ({"attributions": ()}, TypeError, r"expected floating-point tensors, got tuple"),
    "a number": ({"attributions": 1.0}, TypeError, r"expected floating-point tensors, got float"),
    "integers": ({"attributions": X.long()}, TypeError, r"expected floating-point tensors, got torch.int64"),
    "noise without samples": (
        {"sigma": 0.1},
        ValueError,
        r"\(sigma=\.\.\.\): noise moves the ends .* Give samples= too",
    ),
    "tensor of noise without samples": (
        {"sigma": torch.zeros(4)},
        ValueError,
        r"\(sigma=\.\.\.\): noise moves the ends",
    ),
    "no samples": ({"samples": 0}, ValueError, r"\(samples=0\): expected at least 1"),
    "boolean samples": ({"samples": True}, TypeError, r"\(samples=\.\.\.\): expected an int, got bool"),
    "broken samples": ({"samples": 2.5}, TypeError, r"\(samples=\.\.\.\): expected an int, got float"),
    "no chunk": ({"samples": 2, "chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "no chunk of rows": ({"baseline": distribution(X), "chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at"),
    "negative sigma": ({"samples": 2, "sigma": -0.1}, ValueError, r"\(sigma=-0.1\): expected a number of at least 0"),
    "a Generator": (
        {"samples": 2, "generator": torch.Generator()},
        TypeError,
        r"\(generator=\.\.\.\): expected a seed, got a Generator, whose state has moved on",
    ),
    "a Generator without samples": ({"generator": torch.Generator()}, TypeError, r"expected a seed, got a Generator"),
    "generator as text": ({"generator": "7"}, TypeError, r"expected a seed or a torch.Generator, got str"),
    "generator": ({"samples": 2, "generator": 0.5}, TypeError, r"expected a seed or a torch.Generator, got float"),
    "baseline's shape": (
        {"baseline": torch.zeros(3)},
        ValueError,
        r"\(baseline=\.\.\.\): expected the input's shape \[2, 4\] or one that broadcasts to it, got \[3\]. "
        r"Many baselines are a distribution",
    ),
    "baseline as text": ({"baseline": "zero"}, TypeError, r"expected numbers and tensors, got str"),
    "baseline's structure": ({"baseline": (0.0, 0.0)}, ValueError, r"or 1 baselines structured as the inputs, got tup"),
    "rows' shape": (
        {"baseline": distribution(X[:, :3])},
        ValueError,
        r"\(baseline=distribution\(\.\.\.\)\): expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "rows' shape, sampled": (
        {"baseline": distribution(X[:, :3]), "samples": 2},
        ValueError,
        r"expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
    "no target": ({"target": None}, ValueError, r"\(target=None\): expected an output with one number per example"),
    "output": ({"output": "scores"}, ValueError, r"\(output='scores'\): the model's output has no such part"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": dense(dtype=torch.float32), "x": X, "target": 1, "attributions": X} | change
    with pytest.raises(kind, match=f"^completeness.*{message}"):
        completeness(**arguments)


def test_a_model_in_training_mode_warns() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).double()
    with pytest.warns(UserWarning, match=r"^completeness: the model is in training mode"):
        completeness(model, uniform(2, 4), 1, uniform(2, 4))
