"""The information bottleneck of single examples: the optimisation step by step, tasks, layers, cost, errors."""

import inspect
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr import iba
from funcattr.bottleneck import FeatureStatistics, feature_statistics, iba_search
from funcattr.testing.seeding import settle, uniform

from ... import bottleneck_references as references
from ...graphs import calls_in
from ...sweeps import long
from .test_bottleneck import of_reference, statistics

STEPS, SAMPLES = 4, 3


def convolutions() -> Any:
    first, second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
    return settle(lambda: nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))


def noise(shape: tuple[int, ...], *, steps: int = STEPS, rows: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(steps, SAMPLES, rows, *shape, generator=generator, dtype=torch.float64)


X = uniform(2, 2, 6, 6)
SHAPE = (3, 6, 6)


def assert_equal(found: Any, runs: list[references.Run], tolerance: float = 1e-9) -> None:
    near = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
    near(found.attributions, references.stacked(runs, "capacity") / math.log(2))
    near(found.information, references.stacked(runs, "information") / math.log(2))
    for name in ("alpha", "loss", "gradient_norm"):
        near(getattr(found, name), references.stacked(runs, name))


# --- the optimisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 1},
        {"steps": 10},
        {"beta": 0.5, "lr": 0.3},
        {"sigma": None},
        {"sigma": 1.7, "initial_alpha": 0.0},
        {"min_std": 1.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, 2])
def test_equals_the_reference_step_by_step(options: dict[str, Any], rows: int) -> None:
    steps = options.get("steps", STEPS)
    given, drawn = statistics(*SHAPE), noise(SHAPE, steps=steps, rows=rows)
    told = {"steps": STEPS, **options}
    found = iba_search(
        convolutions(), X, [3, 1], statistics=given, samples=SAMPLES, noise=drawn, per="element", **told,
    )  # fmt: skip
    options = {name: value for name, value in options.items() if name != "steps"}
    target = torch.tensor([3, 1])
    runs = references.iba(convolutions(), X, target, "0", statistics=of_reference(given), noise=drawn, **options)
    assert_equal(found, runs)


def test_equals_the_reference_of_the_papers_code() -> None:
    given, drawn = statistics(*SHAPE, layer="1", estimator="relu"), noise(SHAPE)
    found = iba_search(
        convolutions(), X, 2, statistics=given, steps=STEPS, samples=SAMPLES, noise=drawn, per="element",
    )  # fmt: skip
    runs = references.iba(convolutions(), X, 2, "1", statistics=of_reference(given), noise=drawn, relu=True)
    assert_equal(found, runs)


@pytest.mark.parametrize("rows", [1, 2])
def test_equals_the_reference_behind_a_relu_with_gaussian_statistics(rows: int) -> None:
    given, drawn = statistics(*SHAPE, layer="1"), noise(SHAPE, rows=rows)
    told: Any = {"statistics": given, "steps": STEPS, "samples": SAMPLES, "noise": drawn, "per": "element"}
    found = iba_search(convolutions(), X, 2, relu=True, **told)
    runs = references.iba(convolutions(), X, 2, "1", statistics=of_reference(given), noise=drawn, relu=True)
    assert_equal(found, runs)
    assert not torch.allclose(found.alpha, iba_search(convolutions(), X, 2, **told).alpha)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_layer_that_is_constant_on_the_data_gives_finite_bits(level: float) -> None:
    """0: a relu that is never on; 3: a layer that is its bias."""
    model = convolutions()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(level)
    value = model[0](X).detach()
    given = FeatureStatistics.of(value.expand(1000, 2, *SHAPE).flatten(0, 1), layer="0")
    found = iba_search(model, X, 2, statistics=given, steps=STEPS, samples=SAMPLES)
    assert all(numbers.isfinite().all() for numbers in found)
    if level == 0:
        torch.testing.assert_close(found.attributions, torch.zeros(2, 1, 6, 6, dtype=X.dtype))
    with pytest.raises(ValueError, match="all 5 examples have the same values, so no information"):
        feature_statistics(model, uniform(5, 2, 6, 6), layer="0")


class Skips(nn.Module):
    """With a connection around the layer of the bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(108, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.head((h + self.layer(h).tanh()).flatten(1))


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_equals_the_reference_around_a_connection_that_skips_the_layer(chunk_size: int) -> None:
    given, drawn, model = statistics(*SHAPE, layer="layer"), noise(SHAPE), settle(Skips)
    options: Any = {"steps": STEPS, "samples": SAMPLES, "noise": drawn, "per": "element", "chunk_size": chunk_size}
    found = iba_search(model, X, 2, statistics=given, **options)
    assert_equal(found, references.iba(model, X, 2, "layer", statistics=of_reference(given), noise=drawn))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, None])
def test_chunks_change_rounding_only(chunk_size: int | None) -> None:
    given: Any = {"statistics": statistics(*SHAPE), "steps": STEPS, "samples": SAMPLES, "per": "element"}
    whole = iba(convolutions(), X, 3, **given, chunk_size=3)
    torch.testing.assert_close(iba(convolutions(), X, 3, **given, chunk_size=chunk_size), whole, rtol=1e-8, atol=1e-8)


def test_seeds_are_other_noise_and_generators_move_on() -> None:
    run = partial(iba, convolutions(), X, 3, statistics=statistics(*SHAPE), steps=5, samples=2, per="element")
    torch.testing.assert_close(run(), run(generator=0))
    assert not torch.allclose(run(), run(generator=1))
    generator = torch.Generator().manual_seed(3)
    assert not torch.allclose(run(generator=generator), run(generator=generator))


@pytest.mark.parametrize("per", ["position", "element"])
def test_bits_are_those_of_the_search(per: Any) -> None:
    model = convolutions()
    given: Any = {"statistics": statistics(*SHAPE), "steps": 3, "samples": 2, "per": per}
    found = iba_search(model, X, 3, **given)
    torch.testing.assert_close(iba(model, X, 3, **given), found.attributions)
    torch.testing.assert_close(iba(model, X, 3, layer=model[0], **given), found.attributions)
    shape = (2, 1, 6, 6) if per == "position" else (2, *SHAPE)
    assert found.attributions.shape == shape and found.alpha.shape == (2, *SHAPE)
    assert found.loss.shape == found.information.shape == found.gradient_norm.shape == (2, 3)
    assert inspect.signature(iba).parameters == inspect.signature(iba_search).parameters


def test_the_map_has_the_bits_of_the_capacity() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), *convolutions()[:4], nn.Flatten(), nn.LazyLinear(3).double())
    x = uniform(2, 2, 12, 12)
    with torch.random.fork_rng():
        model(x)
    run = partial(iba, model.eval(), x, 1, statistics=statistics(*SHAPE, layer="1"), steps=2, samples=2)
    bits, capacity = run(), run(per="element")
    assert bits.shape == (2, 1, 12, 12)
    assert capacity.shape == (2, *SHAPE)
    torch.testing.assert_close(bits.flatten(1).sum(1), capacity.flatten(1).sum(1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("initial_alpha", [40.0, 1e4])
def test_is_finite_where_everything_goes_through(initial_alpha: float) -> None:
    found = iba_search(
        convolutions().float(), X.float(), 3, statistics=statistics(*SHAPE), steps=3, samples=2,
        initial_alpha=initial_alpha,
    )  # fmt: skip
    for value in found:
        assert value.isfinite().all()


def test_behind_the_bottleneck_is_the_model_that_was_optimised() -> None:
    """The last loss of the history is that of `restrict_flow` with the noise of the last step."""
    given, drawn = statistics(*SHAPE), noise(SHAPE)
    found = iba_search(convolutions(), X, 3, statistics=given, steps=STEPS, samples=SAMPLES, noise=drawn)
    losses = []
    for e in drawn[-1]:
        restricted = funcattr.bottleneck.restrict_flow(convolutions(), statistics=given, alpha=found.alpha, noise=e)
        losses.append(F.cross_entropy(restricted(X), torch.tensor([3, 3]), reduction="none"))
    torch.testing.assert_close(found.loss[:, -1], torch.stack(losses).mean(0))


# --- what it finds ---------------------------------------------------------------------------------------------------


class Looks(nn.Module):
    """Answers by one quarter of the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return 20 * self.head(self.features(x)[:, :, :4, 4:].mean((2, 3)))


def test_finds_what_the_model_looks_at() -> None:
    model = settle(Looks, dtype=torch.float32)
    data = torch.randn(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    given = feature_statistics(model, data + data.mean((1, 2, 3), keepdim=True) * 9, layer="features")
    x = 2 + uniform(4, 1, 8, 8, dtype=torch.float32) / 4
    target = model(x).argmax(1)
    bits = iba(model, x, target, statistics=given, beta=1.0, sigma=0.5, steps=30)
    inside = bits[:, 0, :4, 4:].flatten(1).sum(1) / bits.flatten(1).sum(1)
    assert (inside > 0.7).all(), inside


# --- layers and tasks ------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(ids)).mean(1))


def test_tokens_get_bits_each() -> None:
    model, ids = settle(Tokens), torch.arange(10).reshape(2, 5) % 9
    given: Any = {"statistics": statistics(5, 4, layer="embedding"), "steps": 2, "samples": 2, "beta": 1e-3}
    bits, capacity = iba(model, ids, 1, **given), iba(model, ids, 1, **given, per="element")
    assert bits.shape == (2, 5)
    torch.testing.assert_close(bits, capacity.sum(2))


def test_vectors_get_bits_each() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    drawn = noise((6,))
    found = iba_search(
        model, uniform(2, 4), 1, statistics=statistics(6, layer="1"), steps=STEPS, samples=SAMPLES, noise=drawn,
    )  # fmt: skip
    given = of_reference(statistics(6))
    assert_equal(found, references.iba(model, uniform(2, 4), 1, "1", statistics=given, noise=drawn))


def test_what_goes_into_a_layer() -> None:
    model, drawn = convolutions(), noise(SHAPE)
    told: Any = {"steps": STEPS, "samples": SAMPLES, "noise": drawn, "per": "element"}
    before = iba(model, X, 3, statistics=statistics(*SHAPE, layer="2@input"), **told)
    after = iba(model, X, 3, statistics=statistics(*SHAPE, layer="1"), **told)
    torch.testing.assert_close(before, after)
    measured = feature_statistics(model, uniform(1000, 2, 6, 6), layer="2@input")
    torch.testing.assert_close(measured.mean, feature_statistics(model, uniform(1000, 2, 6, 6), layer="1").mean)


def _segmentation(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none").flatten(1).mean(1)


LOSSES: dict[str, tuple[Callable[..., Tensor] | None, Any, Callable[[int], Callable[[Tensor], Tensor]]]] = {
    "regression": (
        lambda output, target: ((output - target) ** 2).mean(1),
        uniform(2, 5, seed=5),
        lambda n: lambda y: ((y - uniform(2, 5, seed=5)[n]) ** 2).mean(1),
    ),
    "similarity": (
        lambda output: -torch.cosine_similarity(output, torch.ones_like(output)),
        None,
        lambda n: lambda y: -torch.cosine_similarity(y, torch.ones_like(y)),
    ),
    "torch's own": (
        partial(F.cross_entropy, reduction="none"),
        torch.tensor([3, 1]),
        lambda n: references.cross_entropy([3, 1][n]),
    ),
    "a function to keep large": (None, lambda y: y[:, 1] - y[:, 0], lambda n: lambda y: y[:, 0] - y[:, 1]),
    "an index": (None, (2,), lambda n: references.cross_entropy(2)),
    "soft labels": (
        None,
        torch.full((2, 5), 0.2, dtype=torch.float64),
        lambda n: lambda y: -torch.log_softmax(y, 1).mean(1),
    ),
}


@pytest.mark.parametrize("task", LOSSES)
def test_any_task(task: str) -> None:
    loss, target, expected = LOSSES[task]
    given, drawn = statistics(*SHAPE), noise(SHAPE)
    found = iba_search(
        convolutions(), X, target, statistics=given, loss=loss, steps=STEPS, samples=SAMPLES, noise=drawn,
        per="element",
    )  # fmt: skip
    runs = []
    for n in range(2):
        value, tail = references.from_layer(convolutions(), X[n : n + 1], "0")
        runs.append(references.run(tail, value[0], expected(n), of_reference(given), drawn[:, :, 0]))
    assert_equal(found, runs)


@pytest.mark.parametrize("of", [list, torch.tensor, np.array])
def test_an_index_per_example_is_one_place_each(of: Callable[[Any], Any]) -> None:
    model, places = convolutions()[:3], [(3, 4, 5), (1, 0, 2)]
    given: Any = {"statistics": statistics(*SHAPE), "steps": STEPS, "samples": SAMPLES, "per": "element"}
    found = iba_search(model, X, of(places), **given)
    for n, place in enumerate(places):
        alone = iba_search(model, X[n : n + 1], place, **given)
        torch.testing.assert_close(found.attributions[n], alone.attributions[0])
        torch.testing.assert_close(found.loss[n], alone.loss[0])


def test_targets_of_a_loss_are_repeated() -> None:
    given: Any = {"statistics": statistics(*SHAPE), "steps": 2, "samples": 2}

    def loss(output: Tensor, target: Any) -> Tensor:
        return F.cross_entropy(output, torch.as_tensor(target), reduction="none")

    expected = iba(convolutions(), X, torch.tensor([3, 1]), loss=loss, **given)
    torch.testing.assert_close(iba(convolutions(), X, [3, 1], loss=loss, **given), expected)
    torch.testing.assert_close(iba(convolutions(), X, (3, 1), loss=loss, **given), expected)


def test_channels_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(2, 3).double(), nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.inner(x[:, ::2, ::2])).mean((1, 2)))

    given: Any = {"statistics": statistics(5, 6, 3, layer="inner"), "steps": 2, "samples": 2, "spatial": (1, 2)}
    assert iba(settle(Last), uniform(2, 10, 12, 2), 1, **given).shape == (2, 1, 10, 12)


def test_segmentation() -> None:
    model, classes = convolutions()[:3], torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    given, drawn = statistics(*SHAPE), noise(SHAPE)
    told: Any = {"statistics": given, "steps": STEPS, "samples": SAMPLES, "noise": drawn, "per": "element"}
    found = iba_search(model, X, classes, loss=_segmentation, **told)
    runs = []
    for n in range(2):
        value, tail = references.from_layer(model, X[n : n + 1], "0")
        runs.append(
            references.run(
                tail, value[0], lambda y, n=n: _segmentation(y, classes[n : n + 1]), of_reference(given), drawn[:, :, 0]
            )
        )
    assert_equal(found, runs)
    by_class = references.iba(model, X, 1, "0", statistics=of_reference(given), noise=drawn)
    assert_equal(iba_search(model, X, 1, **told), by_class)


# --- cost ------------------------------------------------------------------------------------------------------------


class Counts(TorchDispatchMode):
    """Rows of each convolution, of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, list[int]] = {}

    def __copy__(self) -> "Counts":
        return self  # the copies of a model that holds it count together

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.rows.setdefault(args[1].shape[1], []).append(len(result))
        return result


class Counted(nn.Conv2d):
    """A convolution that is counted where it runs, under whatever is active around the model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts = Counts()

    def forward(self, input: Tensor) -> Tensor:
        with self.counts:
            return super().forward(input)


def test_the_head_runs_for_the_batch_and_once_for_its_copies_and_the_tail_for_all_samples() -> None:
    first, second = Counted(2, 3, 3, padding=1), Counted(3, 4, 3, padding=1)
    model = settle(lambda: nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))
    given: Any = {"statistics": statistics(*SHAPE, layer="1"), "steps": STEPS, "samples": SAMPLES}
    iba(model, X, 3, **given)
    check = [2, 2, 6]  # the examples alone, drawn in and as they are; and all of these beside others, once
    assert first.counts.rows == {2: [*check, 2, 2 * SAMPLES]}
    assert second.counts.rows == {3: [*check, *[2 * SAMPLES] * STEPS]}


@long
def test_compiled_steps_are_one_body_of_the_tail_alone(fresh_dynamo: None) -> None:
    fm, given = funcattr.functionalize(convolutions()), statistics(*SHAPE, layer="1")

    def run(x: Tensor) -> Tensor:
        return iba(fm, x, 3, statistics=given, steps=6, samples=SAMPLES, per="element")

    counter = calls_in(run, "convolution")
    torch.testing.assert_close(counter.run(X), run(X), rtol=1e-7, atol=1e-9)
    # the head, and the tail in the loop's body
    assert counter.calls == {"aten.convolution.default": 1 + 1, "aten.convolution_backward.default": 1}
    assert counter.graphs == 1
    counter.run(X + 1)
    assert counter.graphs == 1


def test_a_bare_module_has_no_sites_in_compiled_code(fresh_dynamo: None) -> None:
    model, given = convolutions(), statistics(*SHAPE)
    compiled: Any = torch.compile(lambda x: iba(model, x, 3, statistics=given), fullgraph=True, backend="aot_eager")
    with pytest.raises(Unsupported, match="made outside of the"):
        compiled(X)


# --- errors ----------------------------------------------------------------------------------------------------------


def _few(**change: Any) -> FeatureStatistics:
    given = statistics(*SHAPE)
    fields: dict[str, Any] = {"nonzero": given.nonzero, "centre": given.centre, "squares": given.squares} | change
    return FeatureStatistics("0", "gaussian", 100, **fields)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "another layer": ({"layer": "2"}, ValueError, r"\(statistics=...\): they are of the layer '0', not of '2'"),
    "another shape": ({"statistics": statistics(3, 5, 5)}, ValueError, r"values of shape \['N', 3, 5, 5\] at '0'"),
    "no statistics": ({"statistics": 3}, TypeError, "expected FeatureStatistics, got int"),
    "NaN": ({"statistics": _few(centre=torch.full(SHAPE, math.nan))}, ValueError, "deviations are NaN or infinite"),
    "zero std": (
        {"statistics": _few(squares=torch.zeros(SHAPE)), "min_std": 0.0},
        ValueError,
        "some elements have a standard deviation of zero",
    ),
    "no such layer": (
        {"statistics": statistics(*SHAPE, layer="conv")},
        funcattr.UnknownSiteError,
        r"\(layer='conv'\): no such site 'conv'",
    ),
    "steps": ({"steps": 0}, ValueError, r"\(steps=0\): expected at least 1"),
    "samples": ({"samples": 0}, ValueError, r"\(samples=0\): expected at least 1"),
    "beta": ({"beta": -1}, ValueError, r"\(beta=-1\): expected a finite number of at least 0"),
    "lr": ({"lr": math.nan}, ValueError, r"\(lr=nan\): expected a finite number"),
    "beta's kind": ({"beta": "10"}, TypeError, r"\(beta=...\): expected a number, got str"),
    "per": ({"per": "bits"}, ValueError, r"\(per='bits'\): expected 'position' or 'element'"),
    "sigma": ({"sigma": 0}, ValueError, r"\(sigma=0\): expected pixels above 0"),
    "noise": ({"noise": torch.zeros(1, 3, 1, *SHAPE)}, ValueError, r"expected shape \[4, 3, '2 or 1', 3, 6, 6\]"),
    "noise's kind": ({"noise": 3}, TypeError, r"\(noise=...\): expected a floating-point tensor"),
    "a loss for all": (
        {"loss": lambda output, target: output.mean()},
        ValueError,
        r'one number for each of the 6 copies .*got \[\]. Losses of torch take reduction="none"',
    ),
    "an integer loss": ({"loss": lambda output, target: output.argmax(1)}, TypeError, "floating-point numbers"),
    "no loss": ({"loss": "mse"}, TypeError, r"\(loss=...\): expected a function, got str"),
    "a loss of nothing": (
        {"loss": lambda output, target: output.detach().sum(1)},
        funcattr.UntrackedPathError,
        "the loss does not depend on the layer's value",
    ),
    "no class": ({"target": None}, ValueError, r"\(target=None\)"),
    "class out of range": ({"target": torch.tensor([1, 7])}, ValueError, r"class out of range in \[1, 7\]"),
    "spatial": ({"spatial": 2}, ValueError, r"\(spatial=2\): expected dimensions of the value"),
    "chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\)"),
}


@pytest.mark.parametrize("method", [iba, iba_search])
@pytest.mark.parametrize("what", BAD)
def test_named_errors(what: str, method: Any) -> None:
    change, kind, message = BAD[what]
    given: dict[str, Any] = {"target": 1, "statistics": statistics(*SHAPE), "steps": 4, "samples": 3} | change
    with pytest.raises(kind, match=message) as raised:
        method(convolutions(), X, given.pop("target"), **given)
    assert re.match(rf"{method.__name__}[(:]", str(raised.value))


def test_one_number_needs_a_loss() -> None:
    model = nn.Sequential(convolutions(), nn.Linear(5, 1).double(), nn.Flatten(0))
    given: Any = {"statistics": statistics(*SHAPE, layer="0.0"), "steps": 2, "samples": 2}
    with pytest.raises(ValueError, match=r"the cross-entropy needs classes\. Give the loss"):
        iba(model, X, **given)
    assert iba(model, X, loss=lambda output: output**2, **given).shape == (2, 1, 6, 6)


def test_warns_in_training_mode() -> None:
    model = nn.Sequential(convolutions(), nn.Dropout())
    with pytest.warns(UserWarning, match="iba: the model is in training mode"):
        iba(model, X, 1, statistics=statistics(*SHAPE, layer="0.0"), steps=2, samples=2)


def test_statistics_by_site_give_a_bottleneck_at_each() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    x = uniform(2, 4)
    by_site = feature_statistics(model, uniform(1000, 4), layer=["0", "1"])
    options: dict[str, Any] = {"steps": 2, "samples": 2, "per": "element"}
    found = funcattr.iba(model, x, 1, statistics=by_site, **options)
    assert list(found) == ["0", "1"]
    for site in by_site:
        torch.testing.assert_close(found[site], funcattr.iba(model, x, 1, statistics=by_site[site], **options))
    assert list(funcattr.bottleneck.iba_search(model, x, 1, statistics=by_site, layer=[model[1]], **options)) == ["1"]
    for one in ("1", model[1]):
        torch.testing.assert_close(funcattr.iba(model, x, 1, statistics=by_site, layer=one, **options), found["1"])
    with pytest.raises(ValueError, match=r"^iba\(statistics=...\): expected those of the layer '2'"):
        funcattr.iba(model, x, 1, statistics=by_site, layer=["0", "2"], **options)
