"""Expected gradients: the mean over the given draws, draws of whole rows, and what it estimates."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import distribution, expected_gradients, integrated_gradients
from funcattr.metrics import completeness
from funcattr.sampling import draws
from funcattr.testing.networks import draw_comparable
from funcattr.testing.seeding import settle, uniform

from ... import sampling_references as references
from ...contract import assert_equal, loop
from ...graphs import calls_in
from ...sweeps import long


def dense(activation: type[nn.Module] = nn.Tanh, *, dtype: torch.dtype = torch.float64) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)), dtype=dtype)


def drawn(x: Tensor, count: int, rows: Tensor | None = None, seed: int = 0) -> tuple[list[float], Tensor, Tensor]:
    """Positions on the lines [S], rows [S, ...] and noise [S, ...] of the samples; what is made of them is tested."""
    index, like = torch.arange(count), torch.zeros((), dtype=x.dtype)
    alphas = draws.uniform(index, (), like, seed, stream=-2).tolist()
    starts = torch.zeros(count, *x.shape[1:], dtype=x.dtype)
    if rows is not None:
        starts = rows[draws.integers(index, len(rows), seed=seed, stream=-1)]
    return alphas, starts, draws.normal(index, x.shape[1:], like, seed)


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


# --- values ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=10)
def test_equals_the_mean_over_its_draws(data: st.DataObject) -> None:
    net = draw_comparable(data, max_blocks=3)
    samples, seed = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 99))
    layer, sigma = data.draw(st.sampled_from([None, net.layer])), data.draw(st.sampled_from([0.0, 0.3]))
    rows = data.draw(st.sampled_from([None, uniform(5, *net.x.shape[1:], seed=3)]))
    chunk_size = data.draw(st.integers(1, samples) | st.none())
    alphas, starts, e = drawn(net.x, samples, rows, seed)
    actual = expected_gradients(
        net.model,
        net.x,
        1,
        baseline=0 if rows is None else distribution(rows),
        samples=samples,
        sigma=sigma,
        layer=layer,
        generator=seed,
        chunk_size=chunk_size,
    )
    noise = sigma * e if sigma else None
    expected = references.expected_gradients(net.model, net.x, 1, layer, baselines=starts, alphas=alphas, noise=noise)
    assert_equal(actual, expected)


def test_with_one_baseline_it_estimates_integrated_gradients() -> None:
    model, x = dense(), uniform(2, 4)
    exact = integrated_gradients(model, x, 1, baseline=0.5)
    run = partial(expected_gradients, model, x, 1, chunk_size=2000)
    for baseline in (0.5, distribution(torch.full((1, 4), 0.5).double())):
        errors = [(run(baseline=baseline, samples=n, generator=g) - exact).std() for n in (20, 2000) for g in range(3)]
        assert max(errors[3:]) < 0.03 * exact.std() and sum(errors[3:]) < 0.3 * sum(errors[:3])


def test_over_a_distribution_it_estimates_the_mean_of_integrated_gradients() -> None:
    model, x, rows = dense(), uniform(2, 4), uniform(6, 4, seed=5)
    exact = integrated_gradients(model, x, 1, baseline=distribution(rows))
    options: Any = {"baseline": distribution(rows), "samples": 4000, "chunk_size": 4000}
    a = expected_gradients(model, x, 1, **options)
    assert_equal(a, exact, tolerance=0.06)
    assert completeness(model, x, 1, a, **options).abs().max() < 0.06 * exact.abs().max()


def test_is_exact_on_linear_models() -> None:
    model: Any = settle(lambda: nn.Linear(4, 3))
    x, rows, weight = uniform(2, 4), uniform(5, 4, seed=2), model.weight.detach()[2]
    assert_equal(expected_gradients(model, x, 2, baseline=0.5, samples=3), (x - 0.5) * weight, tolerance=1e-14)
    _, starts, e = drawn(x, 7, rows)
    options: Any = {"baseline": distribution(rows), "samples": 7}
    a = expected_gradients(model, x, 2, **options)
    assert_equal(a, (x - starts.mean(0)) * weight, tolerance=1e-13)
    assert completeness(model, x, 2, a, **options).abs().max() < 1e-13
    noisy = expected_gradients(model, x, 2, sigma=0.4, **options)
    assert_equal(noisy, (x + 0.4 * e.mean(0) - starts.mean(0)) * weight, tolerance=1e-13)
    assert completeness(model, x, 2, noisy, sigma=0.4, **options).abs().max() < 1e-13


def test_a_layer_is_given_by_its_name_or_the_module() -> None:
    model: Any = dense()
    run = partial(expected_gradients, model, uniform(2, 4), 1, baseline=distribution(uniform(5, 4, seed=2)), samples=3)
    assert_equal(run(layer=model[1]), run(layer="1"), tolerance=1e-14)


# --- draws -----------------------------------------------------------------------------------------------------------


def test_one_seed_gives_one_result_at_any_chunk_size() -> None:
    model, x, rows = dense(), uniform(3, 4), uniform(5, 4, seed=2)
    run = partial(expected_gradients, model, x, [0, 1, 2], baseline=distribution(rows), samples=7, sigma=0.2)
    whole = run(chunk_size=7)
    for chunk_size in (1, 2, 5, 100, None):
        assert_equal(run(chunk_size=chunk_size), whole, tolerance=1e-14)
    assert len({float(run(generator=seed).sum()) for seed in range(5)}) == 5


def test_a_generator_moves_on_and_nothing_else_does() -> None:
    model, x, rows = dense(), uniform(2, 4), uniform(5, 4, seed=2)
    mine, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    state, before = torch.get_rng_state(), (x.clone(), rows.clone())
    run = partial(expected_gradients, model, x, 1, baseline=distribution(rows), samples=4, sigma=0.1)
    result = run(generator=mine)
    seed = int(torch.randint(2**62, (), generator=twin))
    assert torch.equal(mine.get_state(), twin.get_state()) and torch.equal(torch.get_rng_state(), state)
    assert_equal(result, run(generator=seed), tolerance=0)
    assert torch.equal(x, before[0]) and torch.equal(rows, before[1]) and x._version == rows._version == 0


def test_rows_of_several_inputs_stay_together() -> None:
    seen: list[Tensor] = []

    def model(a: Tensor, b: Tensor) -> Tensor:
        seen.append(torch.cat([a, b], 1))
        return (a * b).sum(1)

    rows = torch.arange(1.0, 6.0)[:, None]
    x = (torch.zeros(1, 1), torch.zeros(1, 1))  # then a point on the line is a multiple of its row
    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        seen.clear()
        expected_gradients(model, x, baseline=distribution((rows, 10 * rows)), samples=20, chunk_size=4)
    points = torch.cat(seen)
    assert len(points) == 20 and torch.allclose(10 * points[:, 0], points[:, 1])


@pytest.mark.parametrize("structure", [tuple, dict])
def test_several_inputs_equal_one_that_is_split(structure: Any) -> None:
    model, x, rows = dense(), uniform(3, 4), uniform(5, 4, seed=6)

    def of_two(a: Tensor, b: Tensor) -> Tensor:
        return model(torch.cat([a, b], 1))

    def parts(t: Tensor) -> Any:
        return (t[:, :1], t[:, 1:]) if structure is tuple else {"a": t[:, :1], "b": t[:, 1:]}

    for whole, split in ((0.3, 0.3), (distribution(rows), distribution(parts(rows)))):
        expected = parts(expected_gradients(model, x, 2, baseline=whole, samples=4))
        found = expected_gradients(of_two, parts(x), 2, baseline=split, samples=4)
        for key in range(2) if structure is tuple else ("a", "b"):
            assert_equal(found[key], expected[key])
    noisy = expected_gradients(of_two, parts(x), 2, samples=4, sigma=parts(torch.tensor([[0.1, 0.2, 0.3, 0.4]])))
    assert len(noisy) == 2


def test_token_ids_are_attributed_at_their_embedding() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)))
    ids, rows = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0, 0, 0], [1, 1, 1]])
    actual = expected_gradients(model, ids, [0, 1], baseline=distribution(rows), layer="0", samples=5)
    embedded = distribution(model[0](rows).detach())
    assert_equal(actual, expected_gradients(model[1:], model[0](ids).detach(), [0, 1], baseline=embedded, samples=5))


def test_the_cost_is_one_gradient_a_sample() -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return x.tanh().sum(1)

    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        batches.clear()
        expected_gradients(model, uniform(2, 4), samples=7, chunk_size=3)
    assert batches == [6, 6, 2]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_results_have_the_inputs_dtype(dtype: torch.dtype) -> None:
    model, x, rows = dense(dtype=dtype), uniform(2, 4, dtype=dtype), uniform(5, 4, dtype=dtype)
    a = expected_gradients(model, x, 1, baseline=distribution(rows), samples=300, sigma=0.1, chunk_size=300)
    assert a.dtype == dtype and a.isfinite().all()


# --- transforms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [None, "0"])
def test_batch_equals_loop_and_vmap(layer: str | None) -> None:
    model: Any = dense()
    x, targets, mask = uniform(3, 4), torch.tensor([2, 0, 1]), uniform(3, 4, seed=7)
    rows = uniform(5, 4, seed=2)

    def run(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        def masked(v: Tensor, mask: Tensor) -> Tensor:
            return model[1:](funcattr.site(model[0](v * mask), "0"))

        return expected_gradients(
            masked, x, target, baseline=distribution(rows), samples=4, sigma=0.3, layer=layer, chunk_size=3,
            kwargs={"mask": mask},
        )  # fmt: skip

    def one(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return run(x[None], target[None], mask[None])[0]

    batch = run(x, targets, mask)
    assert_equal(loop(one, x, targets, mask), batch)
    assert_equal(torch.vmap(one)(x, targets, mask), batch)


def test_derivatives_by_the_input_the_rows_and_the_standard_deviation() -> None:
    model, sigma = dense(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x, rows = uniform(2, 4).requires_grad_(), uniform(3, 4, seed=4).requires_grad_()

    def run(x: Tensor, rows: Tensor, sigma: Tensor) -> Tensor:
        return expected_gradients(model, x, [0, 1], baseline=distribution(rows), sigma=sigma, samples=3, chunk_size=2)

    assert torch.autograd.gradcheck(run, (x, rows, sigma), atol=1e-6)
    assert not expected_gradients(model, x.detach(), 1).requires_grad


@pytest.mark.parametrize(
    ("baseline", "sigma", "layer"),
    [
        pytest.param(0.1, 0.0, "0", id="fixed ends at a layer", marks=long),
        pytest.param(distribution(uniform(5, 4, seed=2)), 0.0, "0", id="fixed end at a layer", marks=long),
        pytest.param(distribution(uniform(5, 4)), 0.3, None, id="drawn ends", marks=long),
    ],
)
def test_compiled_equals_eager(fresh_dynamo: None, baseline: Any, sigma: float, layer: str | None) -> None:
    """A scan takes no two tensors of one memory, such as ends that are the same for all samples."""
    fm = funcattr.functionalize(dense())
    options: Any = {"baseline": baseline, "sigma": sigma, "layer": layer, "samples": 5, "chunk_size": 2}

    def run(x: Tensor) -> Tensor:
        return expected_gradients(fm, x, [0, 1], **options)

    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert_equal(compiled(uniform(2, 4)), run(uniform(2, 4)), tolerance=1e-12)


@long
def test_compiled_the_body_is_there_once_and_a_second_call_does_not_compile(fresh_dynamo: None) -> None:
    net = settle(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)))
    data = uniform(6, 1, 6)

    def run(x: Tensor) -> Tensor:
        return expected_gradients(net, x, 1, baseline=data[4:], samples=20, chunk_size=2)

    counter = calls_in(run, "convolution")
    for x in (data[:2], data[2:4]):  # which share their memory with the baseline
        assert_equal(counter.run(x), run(x), tolerance=1e-12)
    assert counter.calls == {"aten.convolution.default": 1, "aten.convolution_backward.default": 1}
    assert counter.graphs == 1


# --- bad input -------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no samples": ({"samples": 0}, ValueError, r"\(samples=0\): expected at least 1"),
    "negative samples": ({"samples": -1}, ValueError, r"\(samples=-1\): expected at least 1"),
    "boolean samples": ({"samples": True}, TypeError, r"\(samples=\.\.\.\): expected an int, got bool"),
    "broken samples": ({"samples": 2.5}, TypeError, r"\(samples=\.\.\.\): expected an int, got float"),
    "no chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "negative sigma": ({"sigma": -0.1}, ValueError, r"\(sigma=-0.1\): expected a number of at least 0"),
    "sigma nan": ({"sigma": float("nan")}, ValueError, r"\(sigma=nan\): expected a number of at least 0"),
    "sigma as text": ({"sigma": "1"}, TypeError, r"\(sigma=\.\.\.\): expected a number or a tensor, got str"),
    "sigma's shape": ({"sigma": torch.ones(3)}, ValueError, r"a shape that broadcasts to \[2, 4\], got \[3\]"),
    "two sigmas": ({"sigma": (1.0, 1.0)}, ValueError, r"\(sigma=\.\.\.\): expected one, or 1 of them as x is struct"),
    "baseline's shape": ({"baseline": torch.zeros(3)}, ValueError, r"or one that broadcasts to it, got \[3\]"),
    "rows without distribution": ({"baseline": torch.zeros(10, 4)}, ValueError, r"Many baselines are a distribution"),
    "baseline as text": ({"baseline": "zero"}, TypeError, r"expected numbers and tensors, got str"),
    "baseline's structure": ({"baseline": (0.0, 0.0)}, ValueError, r"or 1 baselines structured as the inputs, got tup"),
    "rows' shape": (
        {"baseline": distribution(X[:, :3])},
        ValueError,
        r"expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "generator": (
        {"generator": 0.5},
        TypeError,
        r"\(generator=\.\.\.\): expected a seed or a torch.Generator, got float",
    ),
    "integers": ({"x": X.long()}, TypeError, r": expected a floating-point input, got torch.int64"),
    "noise on integers": ({"x": X.long(), "sigma": 0.1}, TypeError, r"inputs to add noise to, got torch.int64"),
    "no such layer": ({"layer": "9"}, funcattr.UnknownSiteError, r"no such site '9'\. Closest: '0', '1', '2'"),
    "layer as a number": (
        {"layer": 0},
        TypeError,
        r"\(layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range; the output has 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": dense(dtype=torch.float32), "x": X, "target": 1} | change
    with pytest.raises(kind, match=f"^expected_gradients.*{message}"):
        expected_gradients(**arguments)
