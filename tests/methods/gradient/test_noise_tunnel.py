"""The noise tunnel: statistics against the reference, draws that depend on nothing but the seed, and any method inside.

Each flaw that `docs/noise_tunnel.md` says ours is free of has a test here; `tests/test_captum_sampling.py` shows those
of Captum.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

import funcattr
from funcattr import distribution, gradient, input_x_gradient, integrated_gradients, noise_tunnel
from funcattr.testing.networks import Smooth
from funcattr.testing.seeding import settle, uniform

from ... import sampling_references as references
from ...contract import assert_equal, loop
from ...graphs import calls_in
from ...sweeps import long

KINDS: Any = ("smoothgrad", "smoothgrad_sq", "vargrad")
few = settings(max_examples=8)


CHECKS = 3
"""Runs of a new method before the samples, if several go into one batch: alone, twice, and beside others."""


def smooth() -> nn.Module:
    return settle(Smooth)


def dense(*, dtype: torch.dtype = torch.float64) -> nn.Module:
    return settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), dtype=dtype)


def inputs_themselves(x: Any, target: Any, **_: Any) -> Any:
    """The method whose attributions are its inputs: what comes out is what was drawn."""
    return x


def mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


jvp: Any = torch.func.jvp


# --- statistics ------------------------------------------------------------------------------------------------------


@given(st.data())
@few
def test_statistics_equal_the_reference_at_any_chunk_size(data: st.DataObject) -> None:
    examples, samples, kind = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 5)),
        data.draw(st.sampled_from(KINDS)),
    )
    model, x = dense(), uniform(examples, 4, seed=data.draw(st.integers(0, 99)))
    noise = uniform(samples, data.draw(st.sampled_from([1, examples])), 4, seed=7)
    target = data.draw(st.one_of(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=examples, max_size=examples)))
    sigma = data.draw(st.sampled_from([0.0, 0.3, 2]))
    chunk_size = data.draw(st.integers(1, samples + 1) | st.none())
    options: Any = {"noise": noise, "sigma": sigma, "kind": kind}
    actual = noise_tunnel(partial(gradient, model), x, target, chunk_size=chunk_size, **options)
    assert_equal(actual, references.smoothed_gradient(model, x, target, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_gives_one_result_at_any_chunk_size(kind: Any) -> None:
    run = partial(noise_tunnel, partial(gradient, dense()), uniform(2, 4), [0, 2], kind=kind, samples=7, sigma=0.5)
    for generator in (0, 1, -3, 2**70):
        whole = run(generator=generator, chunk_size=7)
        for chunk_size in (1, 2, 3, 100, None):
            assert_equal(run(generator=generator, chunk_size=chunk_size), whole, tolerance=1e-14)
    assert len({float(run(generator=generator).sum()) for generator in range(5)}) == 5


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
@pytest.mark.parametrize("chunk_size", [1, 7, 200])
def test_vargrad_is_right_far_from_zero(offset: float, chunk_size: int) -> None:
    spread = max(1e-2, abs(offset) / 1e6)  # what float32 can tell apart
    x, noise = torch.full((2, 50), offset), torch.randn(200, 1, 50)
    options: Any = {"noise": noise, "sigma": spread, "kind": "vargrad"}
    actual = noise_tunnel(inputs_themselves, x, chunk_size=chunk_size, **options)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(
        actual, references.noise_tunnel(inputs_themselves, x, None, **options), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(actual.mean(), torch.tensor(spread**2), rtol=0.1, atol=0)


@given(st.floats(-(2.0**99), 2.0**99, width=32), st.integers(1, 9), st.integers(1, 9))
@few
def test_vargrad_is_never_negative_and_zero_for_what_does_not_vary(value: float, samples: int, chunk_size: int) -> None:
    x = torch.tensor([[value, 1.0, -3.7]])
    options: Any = {"samples": samples, "chunk_size": chunk_size, "kind": "vargrad"}
    assert (noise_tunnel(inputs_themselves, x, **options) >= 0).all()
    constant = noise_tunnel(lambda noisy, target: x.repeat(len(noisy), 1), x, **options)
    assert torch.equal(constant, torch.zeros(1, 3))


def test_noise_is_standard_normal() -> None:
    x = torch.zeros(1, 500, dtype=torch.float64)
    run = partial(noise_tunnel, inputs_themselves, x, samples=200, chunk_size=50)
    mean, square, variance = run(), run(kind="smoothgrad_sq"), run(kind="vargrad")
    assert mean.mean().abs() < 4 / 1e5**0.5
    assert (mean.std() - 200**-0.5).abs() < 0.01  # samples are independent
    assert (square.mean() - 1).abs() < 4 * (2 / 1e5) ** 0.5
    assert_equal(variance, square - mean**2, tolerance=1e-12)


# --- what a result depends on ----------------------------------------------------------------------------------------


def test_nothing_of_the_users_is_touched() -> None:
    model, x, noise, sigma = dense(), uniform(2, 4), torch.randn(3, 2, 4), torch.full((4,), 0.1)
    before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    tensors = [x, noise, sigma]
    copies, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    for given_noise in (noise, None):
        noise_tunnel(partial(gradient, model), x, 1, noise=given_noise, sigma=sigma)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before[1].items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert [t._version for t in tensors] == versions and all(map(torch.equal, tensors, copies))


def test_a_generator_moves_on_by_one_draw() -> None:
    mine, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    run = partial(noise_tunnel, partial(gradient, dense()), uniform(2, 4), 0)
    first, second = run(generator=mine), run(generator=mine)
    seeds = [int(torch.randint(2**62, (), generator=twin)) for _ in range(2)]
    assert torch.equal(mine.get_state(), twin.get_state())
    assert_equal(first, run(generator=seeds[0]), tolerance=1e-12)
    assert_equal(second, run(generator=seeds[1]), tolerance=1e-12)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("noise", [None, uniform(3, 1, 4)])
def test_batch_equals_loop_and_vmap(noise: Any, relative: bool) -> None:
    x, target = uniform(3, 4), torch.tensor([2, 0, 1])
    mask = uniform(3, 4, seed=5)
    model = dense()

    def one(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return tunnel(x[None], target[None], mask[None])[0]

    def tunnel(x: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        method = partial(gradient, lambda v, mask: model(v * mask))
        return noise_tunnel(
            method, x, target, samples=3, noise=noise, relative=relative, chunk_size=2, kwargs={"mask": mask}
        )

    batch = tunnel(x, target, mask)
    assert_equal(loop(one, x, target, mask), batch)
    assert_equal(torch.vmap(one)(x, target, mask), batch)


def test_vmap_over_noise_sigma_and_targets_equals_loop() -> None:
    model, x = dense(), uniform(2, 4)
    noise, sigma, targets = uniform(3, 5, 1, 4), torch.tensor([0.1, 0.2, 0.3]).double(), torch.arange(3)

    def run(noise: Tensor, sigma: Tensor, target: Tensor) -> Tensor:
        return noise_tunnel(partial(gradient, model), x, target, noise=noise, sigma=sigma, chunk_size=2)

    assert_equal(torch.vmap(run)(noise, sigma, targets), loop(run, noise, sigma, targets))


# --- standard deviations and dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sigma", [1, 1.0, torch.tensor(1.0), torch.tensor(1), torch.ones(4), torch.ones(2, 1), torch.ones(1, 4)], ids=str
)
def test_a_standard_deviation_of_one_in_any_form(sigma: Any) -> None:
    x, noise = uniform(2, 4), uniform(3, 1, 4)
    actual = noise_tunnel(inputs_themselves, x, noise=noise, sigma=sigma)
    assert_equal(actual, x + noise.mean(0))
    both = noise_tunnel(inputs_themselves, (x, x), noise=(noise, 2 * noise), sigma=(sigma, sigma))
    assert_equal(both[1], x + 2 * noise.mean(0))


def test_standard_deviations_of_features_examples_and_inputs() -> None:
    x, noise = uniform(2, 4), uniform(3, 2, 4)
    for sigma in (torch.arange(4.0), torch.tensor([[0.0], [3.0]]), torch.arange(8.0).reshape(2, 4)):
        assert_equal(noise_tunnel(inputs_themselves, x, noise=noise, sigma=sigma), x + sigma * noise.mean(0))
    given: Any = {"a": x, "b": x[:, :1]}
    e: Any = {"a": noise, "b": noise[..., :1]}
    found = noise_tunnel(inputs_themselves, given, noise=e, sigma={"a": 0, "b": torch.tensor(2.0)})
    assert_equal(found["a"], x, tolerance=1e-15)
    assert_equal(found["b"], x[:, :1] + 2 * noise[..., :1].mean(0))


def test_without_noise_it_is_the_method() -> None:
    model, x = dense(), uniform(2, 4)
    assert_equal(noise_tunnel(partial(gradient, model), x, 1, sigma=0), gradient(model, x, 1), tolerance=1e-15)
    assert noise_tunnel(partial(gradient, model), x, 1, sigma=0, kind="vargrad").abs().max() < 1e-30


@pytest.mark.parametrize("sigma", [0.1, torch.tensor([0.1, 0.0, 0.3])])
def test_relative_is_a_share_of_each_examples_range(sigma: Any) -> None:
    x, noise = uniform(2, 5, 3) * torch.tensor([1.0, 100.0])[:, None, None], uniform(4, 1, 5, 3)
    wide = torch.stack([one.max() - one.min() for one in x])[:, None, None]
    actual = noise_tunnel(inputs_themselves, x, noise=noise, sigma=sigma, relative=True)
    assert_equal(actual, x + sigma * wide * noise.mean(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_noise_and_results_have_the_inputs_dtype(dtype: torch.dtype) -> None:
    model, x = dense(dtype=dtype), uniform(2, 4, dtype=dtype)
    seen: list[Tensor] = []

    def method(x: Tensor, target: Any) -> Tensor:
        seen.append(x)
        return gradient(model, x, target)

    noise_tunnel(method, x, 1, sigma=0.5)  # which checks it, once for all
    seen.clear()
    for kind in KINDS:
        result = noise_tunnel(method, x, 1, samples=20, sigma=0.5, kind=kind)
        assert result.dtype == dtype and result.isfinite().all()
        noise = torch.cat([s.reshape(2, -1, 4) for s in seen], 1).transpose(0, 1)
        slow = references.noise_tunnel(partial(gradient, model), 0 * x, 1, noise=noise, kind=kind)
        torch.testing.assert_close(result, slow, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)
        assert {s.dtype for s in seen} == {dtype}
        seen.clear()


@pytest.mark.parametrize("structure", [tuple, dict])
def test_results_of_several_inputs_have_the_dtype_of_each(structure: Any) -> None:
    """They all had that of the first: doubles were rounded to half precision, or half an input became double."""
    a, b = uniform(2, 3, dtype=torch.float16), uniform(2, 4)
    x: Any = (a, b) if structure is tuple else {"a": a, "b": b}
    for kind in KINDS:
        found = noise_tunnel(inputs_themselves, x, samples=3, sigma=0.1, kind=kind)
        first, second = found if structure is tuple else found.values()
        assert (first.dtype, second.dtype) == (torch.float16, torch.float64)
    still: Any = noise_tunnel(inputs_themselves, x, samples=3, sigma=0.0)
    torch.testing.assert_close(still[1] if structure is tuple else still["b"], b)


def test_noise_of_doubles_is_drawn_in_double_precision() -> None:
    drawn = noise_tunnel(inputs_themselves, torch.zeros(1, 100, dtype=torch.float64), samples=1)
    assert (drawn != drawn.float().double()).float().mean() > 0.9


# --- inputs, targets and options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [tuple, dict])
def test_several_inputs_get_independent_noise(structure: Any) -> None:
    a, b = torch.zeros(1, 1000), torch.zeros(1, 1000)
    x: Any = (a, b) if structure is tuple else {"a": a, "b": b}
    first, second = (
        (v[0] for v in noise_tunnel(inputs_themselves, x, samples=1).values())
        if structure is dict
        else (v[0] for v in noise_tunnel(inputs_themselves, x, samples=1))
    )
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert correlation.abs() < 4 / 1000**0.5 and (first.std() - 1).abs() < 0.1 and (second.std() - 1).abs() < 0.1


@pytest.mark.parametrize("structure", [tuple, dict])
@pytest.mark.parametrize("kind", KINDS)
def test_several_inputs_equal_one_that_is_split(kind: Any, structure: Any) -> None:
    model, x, noise = dense(), uniform(3, 4), uniform(5, 3, 4)

    def of_two(a: Tensor, b: Tensor) -> Tensor:
        return model(torch.cat([a, b], 1))

    def parts(t: Tensor) -> Any:
        return (t[..., :1], t[..., 1:]) if structure is tuple else {"a": t[..., :1], "b": t[..., 1:]}

    found = noise_tunnel(partial(gradient, of_two), parts(x), 2, noise=parts(noise), sigma=0.3, kind=kind, chunk_size=2)
    expected = parts(references.smoothed_gradient(model, x, 2, noise=noise, sigma=0.3, kind=kind))
    for key in expected if structure is dict else range(2):
        assert_equal(found[key], expected[key])


@pytest.mark.parametrize(
    "target",
    [1, [1, 0], torch.tensor([1, 0]), (1, 2), (torch.tensor([0, 1]), 2), funcattr.pointing([0, 1]), uniform(2, 2, 3)],
    ids=str,
)
def test_targets_go_along_with_their_examples(target: Any) -> None:
    model = nn.Sequential(dense(), nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 1, dtype=torch.float64))
    x, noise = uniform(2, 4), uniform(3, 1, 4)
    actual = noise_tunnel(partial(gradient, model), x, target, noise=noise, chunk_size=2)
    assert_equal(actual, mean(gradient(model, x + e, target) for e in noise))


def test_a_function_of_the_output_is_a_target() -> None:
    model, x, noise = dense(), uniform(2, 4), uniform(3, 1, 4)
    margin = lambda y: y[:, 0] - y[:, 1]  # noqa: E731
    actual = noise_tunnel(partial(gradient, model), x, margin, noise=noise)
    assert_equal(actual, mean(gradient(model, x + e, margin) for e in noise))


def test_only_tensors_with_a_row_for_each_example_are_repeated() -> None:
    given: Any = {
        "each": torch.tensor([[1.0], [2.0]]),
        "constant": torch.arange(3.0),
        "scalar": torch.tensor(5.0),
        "kwargs": {"mask": torch.tensor([[True], [False]]), "nested": [torch.tensor([1, 2]), torch.zeros(3, 2)]},
        "number": 3,
        "text": "as it is",
    }
    seen: list[dict[str, Any]] = []

    def method(x: Tensor, target: Any, **options: Any) -> Tensor:
        seen.append(options)
        return x

    method_with = partial(method, constant=given.pop("constant"), each=given.pop("each"))
    noise_tunnel(method_with, torch.zeros(2, 4), None, samples=3, **given)
    seen = seen[CHECKS:]
    assert seen[0]["each"].flatten().tolist() == [1, 1, 1, 2, 2, 2]
    assert seen[0]["kwargs"]["mask"].flatten().tolist() == [True] * 3 + [False] * 3
    assert seen[0]["kwargs"]["nested"][0].tolist() == [1, 1, 1, 2, 2, 2]
    assert seen[0]["kwargs"]["nested"][1].shape == (3, 2)
    assert seen[0]["constant"].tolist() == [0, 1, 2] and seen[0]["scalar"].ndim == 0
    assert (seen[0]["number"], seen[0]["text"]) == (3, "as it is")


def test_baselines_and_masks_of_each_example_go_along() -> None:
    model = dense()
    x, noise, baseline, mask = uniform(3, 4), uniform(4, 1, 4), uniform(3, 4, seed=3), uniform(3, 4, seed=4)
    masked = partial(integrated_gradients, lambda v, mask: model(v * mask), steps=3)
    options: Any = {"baseline": baseline, "kwargs": {"mask": mask}}
    expected = mean(masked(x + e, [0, 1, 2], **options) for e in noise)
    assert_equal(noise_tunnel(masked, x, [0, 1, 2], noise=noise, chunk_size=3, **options), expected)
    assert_equal(noise_tunnel(partial(masked, **options), x, [0, 1, 2], noise=noise, chunk_size=3), expected)


def drawn_rows(x: Any, rows: Any, **options: Any) -> list[Any]:
    """The baselines that a method gets, for each chunk."""
    seen: list[Any] = []

    def method(x: Any, target: Any, baseline: Any) -> Any:
        seen.append(baseline)
        return x

    noise_tunnel(method, x, None, baseline=distribution(rows), **options)
    return seen if options["chunk_size"] == 1 else seen[CHECKS:]


@pytest.mark.parametrize("chunk_size", [1, 4, 30])
def test_every_sample_draws_its_own_row(chunk_size: int) -> None:
    rows = torch.arange(5.0)[:, None]
    seen = torch.cat(
        [r.reshape(2, -1) for r in drawn_rows(torch.zeros(2, 1), rows, samples=30, chunk_size=chunk_size)], 1
    )
    assert torch.equal(seen[0], seen[1])  # shared by the examples of a batch
    whole = drawn_rows(torch.zeros(1, 1), rows, samples=30, chunk_size=30)[0]
    assert torch.equal(seen[0], whole[:, 0])
    assert set(whole[:, 0].tolist()) == {0, 1, 2, 3, 4}
    assert not torch.equal(whole[:15], whole[15:])


def test_rows_of_several_inputs_stay_together() -> None:
    a, b = torch.arange(5.0)[:, None], 10 * torch.arange(5.0)[:, None].expand(5, 3)
    for first, second in drawn_rows((torch.zeros(2, 1), torch.zeros(2, 3)), (a, b), samples=20, chunk_size=3):
        assert torch.equal(10 * first.expand_as(second), second)


def test_the_same_rows_are_drawn_with_replacement_and_evenly() -> None:
    drawn = drawn_rows(torch.zeros(1, 1), torch.arange(4.0)[:, None], samples=2000, chunk_size=2000)[0]
    counts = drawn.flatten().bincount() if not drawn.is_floating_point() else drawn.flatten().long().bincount()
    assert ((counts - 500).abs() < 4 * (2000 * 0.25 * 0.75) ** 0.5).all()


# --- sites -----------------------------------------------------------------------------------------------------------


def split() -> tuple[nn.Module, nn.Module, nn.Module]:
    """A net, its first part and the rest."""
    first = settle(lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Tanh()))
    rest = settle(lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)), seed=1)
    return nn.Sequential(first, rest).eval(), first, rest


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("as_given", ["module", "functional model"])
def test_noise_at_a_site_is_noise_put_in_by_hand(as_given: str, relative: bool) -> None:
    model, first, rest = split()
    given: Any = model if as_given == "module" else funcattr.functionalize(model)
    x, noise = uniform(2, 1, 6), uniform(3, 1, 2, 4)
    h = first(x).detach()
    sigma = 0.3 * (h.amax((1, 2), keepdim=True) - h.amin((1, 2), keepdim=True) if relative else 1)
    options: Any = {"noise_layer": "0", "noise": noise, "sigma": 0.3, "relative": relative, "chunk_size": 2}

    at_input = noise_tunnel(partial(gradient, given), x, [0, 2], **options)
    assert_equal(at_input, mean(gradient(lambda v, e=e: rest(first(v) + sigma * e), x, [0, 2]) for e in noise))
    at_site = noise_tunnel(partial(gradient, given, layer="0"), x, [0, 2], **options)
    assert_equal(at_site, mean(gradient(rest, h + sigma * e, [0, 2]) for e in noise))
    product = noise_tunnel(partial(input_x_gradient, given, layer="0"), x, 1, kind="vargrad", **options)
    by_hand = torch.stack([input_x_gradient(rest, h + sigma * e, 1) for e in noise])
    assert_equal(product, by_hand.var(0, correction=0))
    by_module = noise_tunnel(partial(gradient, given), x, [0, 2], **options | {"noise_layer": model.get_submodule("0")})
    assert_equal(by_module, at_input, tolerance=1e-15)
    edited = [funcattr.edit(model, {"0": lambda h, e=e: h + sigma * e}) for e in noise]
    relevance = noise_tunnel(partial(funcattr.lrp, given, rules="epsilon_plus", start="one"), x, 1, **options)
    assert_equal(relevance, mean(funcattr.lrp(m, x, 1, rules="epsilon_plus", start="one") for m in edited))


@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_noise_at_a_site_reaches_every_copy_that_a_method_runs(chunk_size: int | None) -> None:
    model, first, rest = split()
    x, noise, baseline = uniform(2, 1, 6), uniform(3, 1, 2, 4), uniform(2, 1, 6, seed=4)
    h, h0 = first(x).detach(), first(baseline).detach()
    method = partial(integrated_gradients, model, layer="0", baseline=baseline, steps=4, chunk_size=chunk_size)
    actual = noise_tunnel(method, x, [0, 2], noise_layer="0", noise=noise, sigma=0.3)
    # The noise is part of the model, so the baseline's value gets it too.
    each = [integrated_gradients(rest, h + e, [0, 2], baseline=h0 + e, steps=4) for e in 0.3 * noise]
    assert_equal(actual, mean(each))
    at_input = noise_tunnel(partial(method, layer=None), x, 1, noise_layer="0", noise=noise, sigma=0.3)
    noisy: Any = [lambda v, e=e: rest(first(v) + e) for e in 0.3 * noise]
    assert_equal(at_input, mean(integrated_gradients(f, x, 1, baseline=baseline, steps=4) for f in noisy))


class Tagger(nn.Module):
    """Embeddings, mixed and pooled over tokens that a mask keeps. [N, T] -> [N, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(7, 4), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        h = torch.tanh(self.mix(self.embed(ids)))
        return self.head((h if mask is None else h * mask[..., None]).sum(1))

    def after(self, embedded: Tensor, mask: Tensor) -> Tensor:
        return self.head((torch.tanh(self.mix(embedded)) * mask[..., None]).sum(1))


def test_token_ids_get_noise_at_their_embedding() -> None:
    model: Any = settle(Tagger)
    ids, mask = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.tensor([[1.0, 1, 1], [1, 1, 0]]).double()
    noise = uniform(4, 1, 3, 4)
    method = partial(gradient, model, layer="embed")
    options: Any = {"noise_layer": "embed", "sigma": 0.5, "chunk_size": 3, "kwargs": {"mask": mask}}
    embedded = model.embed(ids).detach()
    actual = noise_tunnel(method, ids, [0, 2], noise=noise, **options)
    assert_equal(actual, mean(gradient(model.after, embedded + 0.5 * e, [0, 2], args=(mask,)) for e in noise))
    assert noise_tunnel(method, ids, 1, samples=2, **options).shape == (2, 3, 4)
    with pytest.raises(
        TypeError,
        match=r"noise_tunnel\(x=\.\.\.\): expected floating-point inputs to add noise to, got "
        r"torch.int64. Token ids get it at the site of their embedding: noise_layer=",
    ):
        noise_tunnel(method, ids, 1)


# --- methods inside --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_tunnel_in_a_tunnel_is_a_grid_of_samples(kind: Any) -> None:
    model, x = dense(), uniform(2, 4)
    inner, outer = uniform(3, 1, 4, seed=2), uniform(4, 1, 4, seed=3)
    method = partial(noise_tunnel, partial(gradient, model), noise=inner, sigma=0.2, kind=kind, chunk_size=2)
    slow = partial(references.smoothed_gradient, model, noise=inner, sigma=0.2, kind=kind)
    actual = noise_tunnel(method, x, [0, 1], noise=outer, sigma=0.7, chunk_size=3)
    assert_equal(actual, references.noise_tunnel(slow, x, [0, 1], noise=outer, sigma=0.7))


def test_nested_tunnels_share_their_noise_unless_their_seeds_differ() -> None:
    x = torch.zeros(1, 400, dtype=torch.float64)

    def variance(generator: int) -> Tensor:
        """Of the sum of both noises, with one sample each."""
        inner = partial(noise_tunnel, inputs_themselves, samples=1, generator=generator)
        return noise_tunnel(inner, x, samples=1, generator=0).var()

    assert (variance(0) - 4).abs() < 0.8  # e + e
    assert (variance(1) - 2).abs() < 0.4


@pytest.mark.parametrize("tunnel", [noise_tunnel, inspect.unwrap(noise_tunnel)])
def test_what_is_one_for_each_example_is_repeated_in_the_method_of_a_tunnel_inside(tunnel: Any) -> None:
    x, weight = uniform(2, 3, seed=1), uniform(2, 3, seed=2)
    seen: list[torch.Size] = []

    def method(x: Tensor, target: Any, scale: Tensor) -> Tensor:
        seen.append(scale.shape)
        return x * scale

    inner = partial(tunnel, partial(method, scale=weight), samples=2, sigma=0.0)
    assert_equal(tunnel(inner, x, samples=3, sigma=0.0), x * weight)
    assert torch.Size([12, 3]) in seen


def test_a_site_inside_nested_tunnels() -> None:
    model, first, rest = split()
    x, at_site, at_input = uniform(2, 1, 6), uniform(2, 1, 2, 4), uniform(3, 1, 1, 6)
    inner = partial(noise_tunnel, partial(gradient, model), noise=at_input, sigma=0.1)
    outer = noise_tunnel(inner, x, 1, noise_layer="0", noise=at_site, sigma=0.2, chunk_size=1)
    runs = [gradient(lambda v, e=e: rest(first(v) + 0.2 * e), x + 0.1 * i, 1) for e in at_site for i in at_input]
    assert_equal(outer, mean(runs))
    other_way = partial(noise_tunnel, partial(gradient, model), noise_layer="0", noise=at_site, sigma=0.2)
    assert_equal(noise_tunnel(other_way, x, 1, noise=at_input, sigma=0.1), outer)
    both = partial(noise_tunnel, partial(gradient, model), noise_layer="0", noise=at_site, sigma=0.2)
    twice = noise_tunnel(both, x, 1, noise_layer="0", noise=2 * at_site, sigma=0.2)
    runs = [
        gradient(lambda v, e=e: rest(first(v) + 0.2 * e), x, 1) for e in (a + 2 * b for a in at_site for b in at_site)
    ]
    assert_equal(twice, mean(runs))


@pytest.mark.parametrize("held_by", ["call", "outer", "middle", "inner"])
def test_options_of_each_example_reach_the_innermost_method(held_by: str) -> None:
    model, x, mask = dense(), uniform(2, 4), uniform(2, 4, seed=6)
    e = [uniform(2, 1, 4, seed=s) for s in range(3)]
    given: Any = {"kwargs": {"mask": mask}}
    options = {who: given if who == held_by else {} for who in ("call", "outer", "middle", "inner")}
    masked = partial(gradient, lambda v, mask: model(v * mask), **options["inner"])
    middle = partial(noise_tunnel, masked, noise=e[0], sigma=0.1, **options["middle"])
    outer = partial(noise_tunnel, middle, noise=e[1], sigma=0.1, **options["outer"])
    actual = noise_tunnel(outer, x, 1, noise=e[2], sigma=0.1, chunk_size=3, **options["call"])
    points = [x + 0.1 * (a + b + c) for a in e[0] for b in e[1] for c in e[2]]
    assert_equal(actual, mean(gradient(lambda v: model(v * mask), point, 1) for point in points))


def test_constants_of_a_model_stay_as_they_are() -> None:
    noise = uniform(3, 1, 2)

    def affine(x: Tensor, weight: Tensor) -> Tensor:
        return torch.tanh(x @ weight).sum(1)

    model = partial(affine, weight=uniform(2, 5))  # two rows, as there are examples
    method = partial(noise_tunnel, partial(gradient, model), noise=noise)
    assert_equal(noise_tunnel(method, uniform(2, 2), noise=noise, sigma=0), method(uniform(2, 2)))


class Explained(NamedTuple):
    attributions: Tensor
    delta: Tensor


def inputs_and_sums(x: Tensor, target: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The method whose attributions are its inputs, with one number for each example."""
    return x, {"delta": x.sum(1)}


@pytest.mark.parametrize("chunk_size", [1, 2, 5, None])
@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_a_tree_gets_the_statistic(kind: Any, chunk_size: int | None) -> None:
    x, noise = uniform(2, 4), uniform(5, 2, 4)
    tunnel = partial(noise_tunnel, kind=kind, chunk_size=chunk_size)
    attributions, sums = tunnel(inputs_and_sums, x, noise=noise)
    statistic: Any = partial(references.statistic, kind=kind)
    assert_equal(attributions, torch.from_numpy(statistic((x + noise).numpy())))
    each = [torch.stack([(x[n] + e[n]).sum() for n in range(2)]) for e in noise]
    assert_equal(sums["delta"], torch.from_numpy(statistic(torch.stack(each).numpy())))

    inner_noise = uniform(3, 1, 4, seed=2)
    inner = partial(noise_tunnel, inputs_and_sums, noise=inner_noise)
    nested, nested_sums = tunnel(inner, x, noise=noise)
    assert_equal(nested, torch.from_numpy(statistic((x + noise + inner_noise.mean(0)).numpy())))
    each = [torch.stack([(x[n] + e[n]).sum() + inner_noise.mean(0).sum() for n in range(2)]) for e in noise]
    assert_equal(nested_sums["delta"], torch.from_numpy(statistic(torch.stack(each).numpy())))


@pytest.mark.parametrize("kind", KINDS)
def test_attributions_and_what_they_miss_in_one_tunnel(kind: Any) -> None:
    model, x, noise = dense(), uniform(2, 4), uniform(3, 1, 4)

    def explained(x: Tensor, target: Any) -> Explained:
        attributions = integrated_gradients(model, x, target, steps=2, baseline=0.1)
        return Explained(attributions, funcattr.metrics.completeness(model, x, target, attributions, baseline=0.1))

    found = noise_tunnel(explained, x, [0, 1], noise=noise, chunk_size=2, kind=kind)
    assert isinstance(found, Explained)
    each = [explained(x + e, [0, 1]) for e in noise]
    for part, parts in zip(found, zip(*each, strict=True), strict=True):
        assert_equal(part, torch.from_numpy(references.statistic(torch.stack(parts).numpy(), kind)))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_are_no_row_for_each_example_are_named(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"one row for each of the 2 examples.*got \[\]"):
        noise_tunnel(lambda x, target: (x, x.sum()), uniform(2, 4), samples=3, kind=kind)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7])
def test_the_cost_is_one_gradient_a_sample(chunk_size: int) -> None:
    batches: list[int] = []

    def model(x: Tensor) -> Tensor:
        batches.append(len(x))
        return x.tanh().sum(1)

    for _ in range(2):  # once before: the check that examples do not see each other is not counted
        batches.clear()
        noise_tunnel(partial(gradient, model), uniform(2, 4), samples=7, chunk_size=chunk_size)
    assert sum(batches) == 2 * 7 and len(batches) == -(-7 // chunk_size) and max(batches) == 2 * min(chunk_size, 7)


# --- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_the_input_and_the_standard_deviation(kind: Any) -> None:
    model = dense()
    x, sigma = uniform(2, 4).requires_grad_(), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        return noise_tunnel(partial(gradient, model), x, [0, 1], sigma=sigma, kind=kind, samples=3, chunk_size=2)

    def at_site(x: Tensor, sigma: Tensor) -> Tensor:
        return noise_tunnel(
            partial(gradient, model), x, 1, sigma=sigma, kind=kind, samples=2, noise_layer="0", relative=True
        )

    for function in (run, at_site):
        assert torch.autograd.gradcheck(function, (x, sigma), atol=1e-6)
        tangents = uniform(2, 4, seed=9), torch.ones((), dtype=torch.float64)
        value, slope = jvp(function, (x.detach(), sigma.detach()), tangents)
        pull = torch.func.vjp(function, x.detach(), sigma.detach())[1]
        assert_equal((pull(value)[0] * tangents[0]).sum() + pull(value)[1], (value * slope).sum())


def test_no_graph_is_kept_unless_something_given_needs_one() -> None:
    model, x = dense(), uniform(2, 4)
    assert not noise_tunnel(partial(gradient, model), x, 1).requires_grad
    leaf = x.clone().requires_grad_()
    assert noise_tunnel(partial(gradient, model), leaf, 1).requires_grad
    with torch.no_grad():
        assert not noise_tunnel(partial(gradient, model), leaf, 1).requires_grad


# --- compiled --------------------------------------------------------------------------------------------------------


@long
def test_compiled_the_body_is_there_once_and_a_second_call_does_not_compile(fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(split()[0]), uniform(2, 1, 6)

    def run(x: Tensor, sigma: Tensor) -> Tensor:
        return noise_tunnel(partial(gradient, fm), x, [0, 2], samples=20, chunk_size=2, noise_layer="0", sigma=sigma)

    sigma = torch.tensor(0.3).double()
    counter = calls_in(run, "convolution")
    assert_equal(counter.run(x, sigma), run(x, sigma), tolerance=1e-12)
    # The net has two.
    assert counter.calls == {"aten.convolution.default": 2, "aten.convolution_backward.default": 2}
    assert_equal(counter.run(2 * x, 2 * sigma), run(2 * x, 2 * sigma), tolerance=1e-12)
    assert counter.graphs == 1


def test_compiled_vmap_of_grad_equals_eager(fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(dense()), uniform(2, 4)

    def penalty(x: Tensor) -> Tensor:
        return noise_tunnel(partial(gradient, fm), x[None], 1, kind="vargrad", samples=3, chunk_size=2).sum()

    function = torch.vmap(torch.func.grad(penalty))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for scale in (1, 2):
        assert_equal(compiled(scale * x), function(scale * x), tolerance=1e-12)
    assert counter.frame_count == 1


# --- bad input -------------------------------------------------------------------------------------------------------

X = torch.zeros(2, 4)
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no samples": ({"samples": 0}, ValueError, r"\(samples=0\): expected at least 1"),
    "negative samples": ({"samples": -1}, ValueError, r"\(samples=-1\): expected at least 1"),
    "boolean samples": ({"samples": True}, TypeError, r"\(samples=\.\.\.\): expected an int, got bool"),
    "broken samples": ({"samples": 2.5}, TypeError, r"\(samples=\.\.\.\): expected an int, got float"),
    "no chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "chunk as text": ({"chunk_size": "all"}, TypeError, r"\(chunk_size=\.\.\.\): expected an int, got str"),
    "kind": ({"kind": "smooth"}, ValueError, r"\(kind='smooth'\): expected one of 'smoothgrad', 'smoothgrad_sq', 'var"),
    "negative sigma": ({"sigma": -0.1}, ValueError, r"\(sigma=-0.1\): expected a number of at least 0"),
    "sigma nan": ({"sigma": float("nan")}, ValueError, r"\(sigma=nan\): expected a number of at least 0"),
    "negative sigmas": ({"sigma": torch.tensor([1.0, -1, 1, 1])}, ValueError, r"at least 0, got negative ones or NaN"),
    "nan sigmas": ({"sigma": torch.full((4,), torch.nan)}, ValueError, r"at least 0, got negative ones or NaN"),
    "sigma as text": ({"sigma": "1"}, TypeError, r"\(sigma=\.\.\.\): expected a number or a tensor, got str"),
    "no sigma": ({"sigma": None}, TypeError, r"\(sigma=\.\.\.\): expected a number or a tensor, got NoneType"),
    "boolean sigma": ({"sigma": True}, TypeError, r"\(sigma=\.\.\.\): expected a number or a tensor, got bool"),
    "sigma's shape": ({"sigma": torch.ones(3)}, ValueError, r"a shape that broadcasts to \[2, 4\], got \[3\]"),
    "two sigmas": ({"sigma": (1.0, 1.0)}, ValueError, r"\(sigma=\.\.\.\): expected one, or 1 of them as x is struct"),
    "one of two sigmas": ({"x": (X, X), "sigma": (1.0,)}, ValueError, r"expected one, or 2 of them as x is structured"),
    "noise's shape": ({"noise": torch.zeros(3, 2, 5)}, ValueError, r"shape \['S', '2 or 1', 4\], got \[3, 2, 5\]"),
    "noise of others": ({"noise": torch.zeros(3, 3, 4)}, ValueError, r"shape \['S', '2 or 1', 4\], got \[3, 3, 4\]"),
    "noise without samples": ({"noise": torch.zeros(2, 4)}, ValueError, r"shape \['S', '2 or 1', 4\], got \[2, 4\]"),
    "no noise": ({"noise": torch.zeros(0, 2, 4)}, ValueError, r"shape \['S', '2 or 1', 4\], got \[0, 2, 4\]"),
    "noise's structure": ({"noise": (torch.zeros(3, 2, 4),)}, ValueError, r"\(noise=\.\.\.\): expected tensors struct"),
    "noise as a number": ({"noise": 0.1}, TypeError, r"\(noise=\.\.\.\): expected a floating-point tensor, got float"),
    "noise of integers": (
        {"noise": torch.zeros(3, 2, 4).long()},
        TypeError,
        r"\(noise=\.\.\.\): expected a floating-point tensor, got torch.int64",
    ),
    "noise of other counts": (
        {"x": (X, X), "noise": (torch.zeros(3, 2, 4), torch.zeros(2, 2, 4))},
        ValueError,
        r"\(noise=\.\.\.\): expected as many samples for each input, got \[3, 2\]",
    ),
    "samples and noise": (
        {"samples": 4, "noise": torch.zeros(3, 2, 4)},
        ValueError,
        r"\(samples=4\): the noise given has 3 samples",
    ),
    "method": ({"method": "gradient"}, TypeError, r"\(method=\.\.\.\): expected a callable, got str"),
    "method's rows": ({"method": lambda x, t: x[:1]}, ValueError, r"one row for each of the 2 examples.*got \[1, 4\]"),
    "method's number": ({"method": lambda x, t: x.sum()}, ValueError, r"one row for each of the 2 examples.*got \[\]"),
    "method's result": ({"method": lambda x, t: 1.0}, ValueError, r"one row for each of the 2 examples.*got float"),
    "site of a function": (
        {"method": lambda x, t: gradient(dense(), x, t), "noise_layer": "0"},
        TypeError,
        r"\(noise_layer=\.\.\.\): the site lies in the model, .* has to show it: functools\.partial\(method, model\)",
    ),
    "site of a keyword": (
        {"method": partial(gradient, model=dense()), "noise_layer": "0"},
        TypeError,
        r"\(noise_layer=\.\.\.\): the site lies in the model, so the method has to show it",
    ),
    "no such site": ({"noise_layer": "9"}, funcattr.UnknownSiteError, r"no such site '9'\. Closest: '0', '1', '2'"),
    "site as a number": (
        {"noise_layer": 0},
        TypeError,
        r"\(noise_layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "integers": ({"x": X.long()}, TypeError, r"expected floating-point inputs to add noise to, got torch.int64"),
    "empty batch": ({"x": X[:0]}, ValueError, r"\(x=\.\.\.\): expected a batch of at least one example"),
    "no tensor": ({"x": [1.0]}, TypeError, r"\(x=\.\.\.\): expected a tensor, a tuple or a dict of tensors, got float"),
    "two batches": ({"x": (X, X[:1])}, ValueError, r"inputs with one batch dimension in common"),
    "generator as text": ({"generator": "0"}, TypeError, r"\(generator=\.\.\.\): expected a seed or a torch.Generator"),
    "boolean generator": ({"generator": True}, TypeError, r"expected a seed or a torch.Generator, got bool"),
    "classes": ({"target": [0, 1, 2]}, ValueError, r"expected one class or index per example, 2 of them, got 3"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"method": partial(gradient, dense(dtype=torch.float32)), "x": X, "target": 1} | change
    with pytest.raises(kind, match=message) as raised:
        noise_tunnel(**arguments)
    assert str(raised.value).startswith("noise_tunnel(")


def test_errors_of_the_method_are_its_own() -> None:
    with pytest.raises(ValueError, match=r"^gradient\(target=7\): class out of range"):
        noise_tunnel(partial(gradient, dense()), uniform(2, 4), 7)
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_steps'"):
        noise_tunnel(partial(gradient, dense()), uniform(2, 4), 1, n_steps=3)


def test_a_generator_cannot_be_traced(fresh_dynamo: None) -> None:
    fm, generator = funcattr.functionalize(dense()), torch.Generator()
    compiled: Callable[..., Any] = torch.compile(
        lambda x: noise_tunnel(partial(gradient, fm), x, 1, generator=generator), fullgraph=True, backend="eager"
    )
    with pytest.raises(Unsupported, match=r"torch\.compile cannot trace a torch\.Generator"):
        compiled(uniform(2, 4))
