"""The bottleneck's parts: smoothing, capacity, maps in bits, and the model behind it."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr.bottleneck import FeatureStatistics, capacity, restrict_flow, to_saliency_map
from funcattr.methods.bottleneck.flow import Gate, gate_of, information, prior_of
from funcattr.testing.seeding import settle, uniform

from ... import bottleneck_references as references


def statistics(*shape: int, layer: str = "0", estimator: Any = "gaussian") -> FeatureStatistics:
    """Made up: every third element is not active."""
    index = torch.arange(math.prod(shape)).reshape(shape)
    centre, squares = torch.sin(index.double()) / 3, 99 * (1 + torch.cos(index.double()) / 2) ** 2
    return FeatureStatistics(layer, estimator, 100, torch.where(index % 3 == 2, 0, 100), centre, squares)


def of_reference(given: FeatureStatistics) -> references.Statistics:
    return references.Statistics(given.mean, given.std, given.active)


# --- one step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
def test_one_step_is_that_of_the_formulas(relu: bool) -> None:
    given, value = statistics(3, 4, 5), uniform(2, 3, 4, 5)
    alpha, e = 3 * uniform(1, 3, 4, 5, seed=3), uniform(2, 3, 4, 5, seed=4)
    flow = funcattr.bottleneck.restrict(value, alpha, given, noise=e, relu=relu)
    reference = of_reference(given)
    keep = references.smoothed(torch.sigmoid(alpha[0]), 1.0)
    z = (keep * value + (1 - keep) * (reference.std * e + reference.mean)) * reference.active
    torch.testing.assert_close(flow.value, z.clamp(min=0) if relu else z)
    torch.testing.assert_close(flow.capacity, references.divergence(value, keep, reference) / math.log(2))


def test_one_step_is_that_of_the_model_behind_the_bottleneck() -> None:
    given, alpha, e = statistics(3, layer="0"), uniform(2, 3), uniform(2, 3, seed=4)
    model, x = settle(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh())), uniform(2, 4)
    behind = restrict_flow(model, statistics=given, alpha=alpha, noise=e, relu=True)
    flow = funcattr.bottleneck.restrict(model[0](x), alpha, given, noise=e, relu=True)  # pyright: ignore
    torch.testing.assert_close(behind(x), flow.value.tanh())


def test_one_step_composes(fresh_dynamo: None) -> None:
    given, value, e = statistics(3, 4, 5), uniform(2, 3, 4, 5), uniform(2, 3, 4, 5, seed=4)
    alphas = 3 * uniform(4, 1, 3, 4, 5, seed=3)

    def bits(alpha: Tensor) -> Tensor:
        flow = funcattr.bottleneck.restrict(value, alpha, given, noise=e)
        return flow.capacity.sum() + flow.value.pow(2).sum()

    each = torch.stack([bits(alpha) for alpha in alphas])
    torch.testing.assert_close(torch.vmap(bits)(alphas), each)
    compiled = torch.compile(bits, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(alphas[0]), each[0])
    gradient = torch.func.grad(bits)(alphas[0])
    step = 1e-6 * uniform(1, 3, 4, 5, seed=5)
    slope = (bits(alphas[0] + step) - bits(alphas[0] - step)) / 2
    torch.testing.assert_close((gradient * step).sum(), slope, rtol=1e-5, atol=1e-9)


def test_noise_of_one_step_is_drawn_by_the_generator() -> None:
    given, value, alpha = statistics(3), uniform(2, 3), torch.zeros(1, 3).double()
    first, same, other = (funcattr.bottleneck.restrict(value, alpha, given, generator=seed).value for seed in (0, 0, 1))
    torch.testing.assert_close(first, same)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize(("name", "shape"), [("alpha", (3, 3)), ("alpha", (1, 4)), ("noise", (3,))])
def test_one_step_refuses_other_shapes(name: str, shape: tuple[int, ...]) -> None:
    tensors: Any = {"alpha": torch.zeros(1, 3), "noise": None} | {name: torch.zeros(shape)}
    alpha, e = tensors["alpha"], tensors["noise"]
    with pytest.raises(ValueError, match=rf"restrict\({name}=...\): expected shape \[2, 3\]"):
        funcattr.bottleneck.restrict(uniform(2, 3), alpha, statistics(3), noise=e)


# --- smoothing -------------------------------------------------------------------------------------------------------


@given(
    size=st.lists(st.integers(1, 7), min_size=2, max_size=3),
    sigma=st.floats(0.3, 2.5),
)
@settings(max_examples=20)
def test_smoothing_equals_the_padded_convolution(size: list[int], sigma: float) -> None:
    alpha = 3 * uniform(2, 2, *size)
    keep, drop = gate_of("test", alpha, sigma, None)
    for n in range(2):
        expected = references.smoothed(torch.sigmoid(alpha[n]), sigma)
        torch.testing.assert_close(keep[n], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(keep + drop, torch.ones_like(keep), rtol=1e-12, atol=1e-12)


def test_kernel_has_the_published_numbers() -> None:
    spike = torch.full((1, 1, 9, 9), -math.inf)
    spike[0, 0, 4, 4] = math.inf
    row = gate_of("test", spike, 1.0, None).keep[0, 0, 4, 2:7]
    torch.testing.assert_close(row, torch.tensor([0.0219, 0.0983, 0.1621, 0.0983, 0.0219]), rtol=0, atol=5e-5)


def test_smoothing_follows_the_spatial_dimensions() -> None:
    tokens, sequence, last = uniform(2, 6, 5), uniform(2, 5, 6), uniform(2, 4, 6, 3)
    keep = gate_of("test", tokens, 1.0, None).keep
    torch.testing.assert_close(keep, torch.sigmoid(tokens), rtol=1e-12, atol=1e-12)
    along_time = gate_of("test", sequence, 1.0, (2,)).keep
    columns = gate_of("test", sequence[:, :, None].expand(2, 5, 8, 6), 1.0, None).keep
    torch.testing.assert_close(columns[:, :, 4], along_time)
    channels_last = gate_of("test", last, 1.0, (1, 2)).keep
    torch.testing.assert_close(channels_last.movedim(-1, 1), gate_of("test", last.movedim(-1, 1), 1.0, None).keep)


# --- capacity --------------------------------------------------------------------------------------------------------


def test_capacity_is_the_divergence_in_bits() -> None:
    given, value = statistics(3, 4, 5), uniform(2, 3, 4, 5)
    keep = torch.sigmoid(2 * uniform(2, 3, 4, 5, seed=3))
    expected = references.divergence(value, keep, of_reference(given)) / math.log(2)
    torch.testing.assert_close(capacity(value, keep, given), expected, rtol=1e-9, atol=1e-12)
    floored = references.divergence(value, keep, of_reference(given), min_std=1.2) / math.log(2)
    torch.testing.assert_close(capacity(value, keep, given, min_std=1.2), floored, rtol=1e-9, atol=1e-12)


def test_information_of_a_loss_is_in_nats() -> None:
    given, value = statistics(3, 4, 5), uniform(2, 3, 4, 5)
    keep = torch.sigmoid(2 * uniform(2, 3, 4, 5, seed=3))
    found = information(value, Gate(keep, 1 - keep), prior_of("test", given, value, 0.01))
    torch.testing.assert_close(found, references.divergence(value, keep, of_reference(given)), rtol=1e-9, atol=1e-12)


def test_capacity_of_nothing_is_nothing() -> None:
    given, value = statistics(7), uniform(3, 7)
    torch.testing.assert_close(
        capacity(value, torch.zeros(3, 7), given), torch.zeros(3, 7).double(), rtol=0, atol=1e-12
    )
    assert (capacity(value, torch.full((3, 7), 1e-3), given) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [5.0, 100.0, 1e4])
def test_capacity_is_finite_as_lambda_nears_one(dtype: torch.dtype, alpha: float) -> None:
    given, value = statistics(2, 4, 4), uniform(1, 2, 4, 4).to(dtype)
    prior = prior_of("test", given, value, 0.01)
    wide = value.to(prior.mean.dtype)

    def total(alpha: Tensor) -> Tensor:
        return information(wide, gate_of("test", alpha, 1.0, None), prior).sum()

    at = torch.full_like(wide, alpha)
    assert total(at).isfinite()
    assert torch.func.grad(total)(at).isfinite().all()
    assert capacity(value, torch.ones_like(value), given).isfinite().all()


def test_little_noise_is_counted_to_full_precision() -> None:
    """1 - lambda of float32 would be 0 at alpha = 20, and the capacity the clamp's."""
    given, value = statistics(1, 3, 3), torch.zeros(1, 1, 3, 3)
    prior = prior_of("test", given, value, 0.01)
    found = information(value, gate_of("test", torch.full_like(value, 20.0), 1.0, None), prior)
    gate = gate_of("test", torch.full_like(value, 20.0).double(), 1.0, None)
    exact = information(value.double(), gate, prior_of("test", given, value.double(), 0.01))
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)


# --- maps ------------------------------------------------------------------------------------------------------------


@given(size=st.lists(st.integers(1, 6), min_size=2, max_size=3), factor=st.floats(0.4, 5.0), channels=st.integers(1, 4))
@settings(max_examples=30)
def test_bits_are_preserved(size: list[int], factor: float, channels: int) -> None:
    at_layer = uniform(2, channels, *size).abs()
    shape = [max(1, round(factor * length)) for length in size]
    bits = to_saliency_map(at_layer, shape)
    assert bits.shape == (2, 1, *shape)
    torch.testing.assert_close(bits.flatten(1).sum(1), at_layer.flatten(1).sum(1), rtol=1e-6, atol=1e-9)
    assert (bits >= -1e-9).all()


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_whole_factors_are_the_published_interpolation(factor: int) -> None:
    at_layer = uniform(2, 3, 4, 5).abs()
    summed = at_layer.sum(1, keepdim=True) / factor**2
    expected = F.interpolate(summed, scale_factor=factor, mode="bilinear", align_corners=False)
    actual = to_saliency_map(at_layer, (4 * factor, 5 * factor))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_maps_of_tokens_and_vectors() -> None:
    tokens, vectors = uniform(2, 5, 3), uniform(2, 5)
    torch.testing.assert_close(to_saliency_map(tokens), tokens.sum(2))
    torch.testing.assert_close(to_saliency_map(vectors), vectors)
    last = uniform(2, 4, 6, 3)
    torch.testing.assert_close(to_saliency_map(last, spatial=(1, 2)), to_saliency_map(last.movedim(-1, 1)))
    assert to_saliency_map(tokens, (15,), spatial=(1,)).shape == (2, 1, 15)


# --- restricted flow -------------------------------------------------------------------------------------------------


def net() -> Any:
    return settle(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(75, 4)))


@pytest.mark.parametrize("estimator", ["gaussian", "relu"])
def test_the_model_behind_a_bottleneck(estimator: Any) -> None:
    model, x, given = net(), uniform(2, 2, 5, 5), statistics(3, 5, 5, estimator=estimator)
    alpha, noise = 2 * uniform(2, 3, 5, 5, seed=3), uniform(2, 3, 5, 5, seed=4)
    own = of_reference(given)
    expected = []
    for n in range(2):
        keep = references.smoothed(torch.sigmoid(alpha[n]), 1.0)
        value, tail = references.from_layer(model, x[n : n + 1], "0")
        z = (keep * value[0] + (1 - keep) * (own.std * noise[n] + own.mean)) * own.active
        expected.append(tail(z[None].clamp(min=0) if estimator == "relu" else z[None]))
    restricted = restrict_flow(model, statistics=given, alpha=alpha, noise=noise)
    torch.testing.assert_close(restricted(x), torch.cat(expected), rtol=1e-12, atol=1e-12)
    keep = torch.stack([references.smoothed(torch.sigmoid(a), 1.0) for a in alpha])
    torch.testing.assert_close(restrict_flow(model, statistics=given, keep=keep, noise=noise)(x), restricted(x))
    by_module = restrict_flow(model, statistics=given, layer=model[0], alpha=alpha, noise=noise)
    torch.testing.assert_close(by_module(x), restricted(x))


def test_all_or_nothing() -> None:
    model, given = net(), statistics(3, 5, 5)
    given = FeatureStatistics("0", "gaussian", 100, torch.full_like(given.nonzero, 100), given.centre, given.squares)
    x, other = uniform(2, 2, 5, 5), uniform(2, 2, 5, 5, seed=2)
    everything = restrict_flow(model, statistics=given, keep=torch.ones(2, 3, 5, 5).double())
    torch.testing.assert_close(everything(x), model(x))
    nothing = restrict_flow(model, statistics=given, keep=torch.zeros(2, 3, 5, 5).double())
    torch.testing.assert_close(nothing(x), nothing(other), rtol=1e-12, atol=1e-12)


def test_copies_get_noise_of_their_own_and_seeds_other_noise() -> None:
    model, given, alpha = net(), statistics(3, 5, 5), torch.zeros(2, 3, 5, 5).double()
    restricted = restrict_flow(model, statistics=given, alpha=alpha)
    x = uniform(2, 2, 5, 5)
    once, copies = restricted(x), restricted(x.repeat_interleave(3, 0))
    torch.testing.assert_close(copies[::3], once)
    assert not torch.allclose(copies[0], copies[1])
    assert not torch.allclose(restrict_flow(model, statistics=given, alpha=alpha, generator=1)(x), once)


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.float16])
def test_shares_may_be_of_another_dtype(dtype: torch.dtype) -> None:
    value, given, keep = uniform(2, 3, 5, 5), statistics(3, 5, 5), uniform(2, 3, 5, 5, seed=4) > 0.5
    bits = capacity(value, keep.to(dtype), given)
    assert torch.equal(bits, capacity(value, keep.double(), given))
    restricted = (restrict_flow(net(), statistics=given, keep=keep.to(d)) for d in (dtype, torch.float64))
    first, second = (model(uniform(2, 2, 5, 5)) for model in restricted)
    assert torch.equal(first, second)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_beyond_their_range_are_named(share: float) -> None:
    value, given, keep = uniform(2, 3, 5, 5), statistics(3, 5, 5), torch.full((2, 3, 5, 5), share)
    with pytest.raises(ValueError, match=r"^capacity\(keep=\.\.\.\): expected shares from 0 to 1, got"):
        capacity(value, keep, given)
    with pytest.raises(ValueError, match=r"^restrict_flow\(keep=\.\.\.\): expected shares from 0 to 1, got"):
        restrict_flow(net(), statistics=given, keep=keep)(uniform(2, 2, 5, 5))
    assert capacity(value, torch.full((1, 1, 1, 1), 1 + 1e-7), given).isfinite().all()  # rounding


def test_given_noise_is_that_of_all_copies_of_an_example() -> None:
    model, given, alpha = net(), statistics(3, 5, 5), torch.zeros(2, 3, 5, 5).double()
    x, e = uniform(2, 2, 5, 5), uniform(2, 3, 5, 5, seed=9)
    restricted = restrict_flow(model, statistics=given, alpha=alpha, noise=e)
    torch.testing.assert_close(restricted(x.repeat_interleave(3, 0)), restricted(x).repeat_interleave(3, 0))
    a = funcattr.integrated_gradients(restricted, x, 1, steps=200)
    assert funcattr.metrics.completeness(restricted, x, 1, a).abs().max() < 1e-3
    with pytest.raises(ValueError, match=r"^restrict_flow\(noise=\.\.\.\): expected shape \['2 or 1', 3, 5, 5\], got"):
        restrict_flow(model, statistics=given, alpha=alpha, noise=uniform(3, 3, 5, 5))(x)


def test_is_a_model_like_any_other(fresh_dynamo: None) -> None:
    model, given, alpha = net(), statistics(3, 5, 5), torch.zeros(2, 3, 5, 5).double()
    x = uniform(2, 2, 5, 5)
    restricted = restrict_flow(model, statistics=given, alpha=alpha)
    assert funcattr.gradient(restricted, x, 1).shape == x.shape
    compiled: Any = torch.compile(lambda x: restricted(x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), restricted(x))
    noises = uniform(4, 1, 3, 5, 5, seed=9)
    mapped = torch.func.vmap(lambda e: restrict_flow(model, statistics=given, alpha=alpha, noise=e)(x))(noises)
    looped = [restrict_flow(model, statistics=given, alpha=alpha, noise=e)(x) for e in noises]
    torch.testing.assert_close(mapped, torch.stack(looped))


# --- errors ----------------------------------------------------------------------------------------------------------

GIVEN, ALPHA = statistics(3, 5, 5), torch.zeros(2, 3, 5, 5).double()
BROKEN = FeatureStatistics("0", "gaussian", 100, GIVEN.nonzero, GIVEN.centre * math.nan, GIVEN.squares)
FLAT = FeatureStatistics("0", "gaussian", 100, GIVEN.nonzero, GIVEN.centre, GIVEN.squares * 0)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ValueError, "expected one of alpha= and keep="),
        ({"alpha": ALPHA, "keep": ALPHA}, ValueError, "expected one of alpha= and keep="),
        ({"alpha": ALPHA, "layer": "1"}, ValueError, "they are of the layer '0', not of '1'"),
        (
            {"alpha": ALPHA[:, :2]},
            ValueError,
            r"alpha or keep has shape \[2, 2, 5, 5\], the value at '0' \[2, 3, 5, 5\]",
        ),
        ({"alpha": ALPHA, "statistics": None}, TypeError, "expected FeatureStatistics, got NoneType"),
        (
            {"alpha": ALPHA, "statistics": statistics(3, 4, 5)},
            ValueError,
            r"they are of values of shape \['N', 3, 4, 5\]",
        ),
        ({"alpha": ALPHA, "statistics": BROKEN}, ValueError, "means or standard deviations are NaN"),
        (
            {"alpha": ALPHA, "statistics": FLAT, "min_std": 0},
            ValueError,
            "some elements have a standard deviation of zero",
        ),
        ({"alpha": ALPHA, "min_std": -1}, ValueError, r"\(min_std=-1\): expected a number of at least 0"),
        ({"alpha": ALPHA, "sigma": -1}, ValueError, r"\(sigma=-1\): expected pixels above 0"),
        (
            {"alpha": ALPHA, "spatial": (0,)},
            ValueError,
            r"\(spatial=\(0,\)\): expected dimensions of the value, from 1 to 3",
        ),
        ({"alpha": ALPHA, "generator": "a"}, TypeError, r"\(generator=...\): expected a seed"),
    ],
)
def test_named_errors(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        restrict_flow(net(), **{"statistics": GIVEN, **options})(uniform(2, 2, 5, 5))


def test_named_errors_of_maps() -> None:
    with pytest.raises(ValueError, match=r"\(size=\(3,\)\): expected 2 sizes"):
        to_saliency_map(uniform(2, 3, 4, 4), (3,))
    with pytest.raises(ValueError, match="has no spatial dimensions"):
        to_saliency_map(uniform(2, 3, 4), (3,))
    with pytest.raises(ValueError, match=r"\(spatial=\(1, 1\)\)"):
        to_saliency_map(uniform(2, 3, 4), spatial=(1, 1))


def test_the_gate_is_what_the_reference_keeps() -> None:
    """That the comparison above can fail: another sigma is another gate."""
    alpha = 3 * uniform(1, 1, 5, 5)
    assert not torch.allclose(
        gate_of("test", alpha, 0.9, None).keep[0], references.smoothed(torch.sigmoid(alpha[0]), 1.0)
    )
    assert isinstance(gate_of("test", alpha, None, None), Gate)
