"""Measures that ask the model again: exactly known values, slow references, the pitfalls of others, bad input."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import maps, masks, metrics
from funcattr.attribution.question import ask
from funcattr.metrics import (
    area_between,
    deletion,
    infidelity,
    insertion,
    max_sensitivity,
    randomization,
    sensitivity_n,
)
from funcattr.metrics.players import checked_attributions
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

from ..sweeps import long
from . import references

DOUBLE = torch.float64
SUM: Any = {"activation": None}


def net() -> nn.Module:
    return settle(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 3 * 4, 4)), dtype=DOUBLE
    )


MODEL = net()
X = uniform(3, 2, 5, 6, seed=1)
MAP = uniform(3, 1, 5, 6, seed=2)
BASE = uniform(1, 2, 5, 6, seed=3)
CLASSES = [2, 0, 3]


def score(n: int, softmax: bool = False) -> references.Score:
    def of(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = MODEL(x)
        return (y.softmax(1) if softmax else y)[:, CLASSES[n]]

    return of


# --- known values ----------------------------------------------------------------------------------------------------

W = torch.tensor([3.0, -1.0, 2.0, 0.5, -4.0], dtype=DOUBLE)


def linear(x: Tensor) -> Tensor:
    return (x @ W)[:, None]


def test_a_linear_model_loses_its_terms_one_by_one() -> None:
    x = torch.ones(1, 5, dtype=DOUBLE)
    found = deletion(linear, x, 0, x * W, **SUM)
    torch.testing.assert_close(found.scores[0], torch.tensor([0.5, -2.5, -4.5, -5.0, -4.0, 0.0]).double())
    torch.testing.assert_close(found.shares, torch.arange(6) / 5.0, check_dtype=False)
    torch.testing.assert_close(found.area, torch.tensor([(0.5 / 2 - 2.5 - 4.5 - 5.0 - 4.0) / 5]).double())
    last = deletion(linear, x, 0, x * W, first="lowest", **SUM)
    torch.testing.assert_close(last.scores[0], torch.tensor([0.5, 4.5, 5.5, 5.0, 3.0, 0.0]).double())
    torch.testing.assert_close(area_between(linear, x, 0, x * W), last.area - found.area)
    shown = insertion(linear, x, 0, x * W, **SUM)
    torch.testing.assert_close(shown.scores[0], torch.tensor([0.0, 3.0, 5.0, 5.5, 4.5, 0.5]).double())


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_exact_attribution_of_a_linear_model_is_perfect_at_every_n_below_all(n: int) -> None:
    x = uniform(2, 5, seed=1)
    torch.testing.assert_close(sensitivity_n(linear, x, 0, x * W, n=n), torch.ones(2, dtype=DOUBLE))
    torch.testing.assert_close(sensitivity_n(linear, x, 0, -x * W, n=n), -torch.ones(2, dtype=DOUBLE))


@pytest.mark.parametrize("how", [{"sigma": 0.7}, {"window": 2}])
def test_the_gradient_of_a_linear_model_has_no_infidelity(how: Any) -> None:
    x = uniform(2, 5, seed=1)
    assert (infidelity(linear, x, 0, W.expand(2, 5), **how) < 1e-28).all()
    assert (infidelity(linear, x, 0, 7 * W.expand(2, 5), **how) > 1).all()
    assert (infidelity(linear, x, 0, 7 * W.expand(2, 5), scaled=True, **how) < 1e-26).all()


def test_one_pixel_decides() -> None:
    x = torch.ones(1, 3, 8, 8, dtype=DOUBLE)
    model = lambda x: x[:, :, 5, 2].mean(1, keepdim=True)  # noqa: E731
    right = torch.zeros(1, 1, 8, 8, dtype=DOUBLE)
    right[..., 5, 2] = 1
    assert deletion(model, x, 0, right, steps=64, **SUM).scores[0].tolist() == [1.0] + [0.0] * 64
    assert insertion(model, x, 0, right, steps=64, **SUM).scores[0].tolist() == [0.0] + [1.0] * 64
    assert deletion(model, x, 0, -right, steps=64, **SUM).scores[0].tolist() == [1.0] * 64 + [0.0]
    torch.testing.assert_close(area_between(model, x, 0, right, steps=64).item(), 1 - 1 / 64)


def test_a_product_is_lost_with_its_first_factor() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0]], dtype=DOUBLE)
    model = lambda x: x[:, :2].prod(1, keepdim=True)  # noqa: E731
    assert deletion(model, x, 0, torch.tensor([[0.0, 1.0, 0.5]]).double(), **SUM).scores.tolist() == [[6.0, 0, 0, 0]]
    # gradient (3, 2, 0): y - y(x - I) = 3 I_0 + 2 I_1 - I_0 I_1, so that what is missed is I_0 I_1.
    found = infidelity(model, x, 0, torch.tensor([[3.0, 2.0, 0.0]]).double(), sigma=1.0, samples=50)
    noise = draws.normal(torch.arange(50), (3,), x, 0)
    torch.testing.assert_close(found, ((noise[:, 0] * noise[:, 1]) ** 2).mean()[None])


def test_max_sensitivity_of_known_methods() -> None:
    x = torch.ones(2, 4, dtype=DOUBLE)
    moved = 2 * draws.uniform(torch.arange(10), x.shape[1:], x, 0, 0) - 1
    expected = (0.02 * moved.norm(dim=1).amax() / 2).expand(2)
    torch.testing.assert_close(max_sensitivity(lambda x, target: x, x), expected)
    torch.testing.assert_close(max_sensitivity(lambda x, target: x, x, chunk_size=1), expected)
    assert max_sensitivity(lambda x, target: 0 * x + 1, x).tolist() == [0, 0]
    assert max_sensitivity(lambda x, target: 0 * x, x).isnan().all()


# --- slow references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inserts", [False, True])
@pytest.mark.parametrize(
    ("mask", "steps", "first", "softmax", "chunk_size"),
    [("pixels", 7, "highest", True, None), ("pixels", 30, "lowest", False, 4), ("patches", 4, "lowest", True, 1),
     ("patches", 6, "highest", False, None), ("patches", 9, "highest", True, 3)],
)  # fmt: skip
def test_curves_equal_the_reference(
    mask: str, steps: int, first: Any, inserts: bool, softmax: bool, chunk_size: int | None
) -> None:
    ids = masks.patches(X, 2) if mask == "patches" else None
    measure = insertion if inserts else deletion
    activation = "softmax" if softmax else None
    found = measure(
        MODEL, X, CLASSES, MAP, baseline=BASE, feature_mask=ids, steps=steps, first=first, activation=activation,
        chunk_size=chunk_size,
    )  # fmt: skip
    full = masks.patches(X, 2) if mask == "patches" else torch.arange(30).reshape(1, 1, 5, 6)
    features = int(full.max()) + 1
    for n in range(3):
        a = torch.stack([MAP[n, 0][full[0, 0] == i].sum() for i in range(features)])
        expected = references.curve(
            score(n, softmax), X[n], BASE[0], full[0].expand(2, 5, 6), a, steps, first == "highest", inserts
        )
        torch.testing.assert_close(found.scores[n], torch.tensor(expected, dtype=DOUBLE), rtol=1e-9, atol=1e-9)
        area = np.trapezoid(expected, found.shares.numpy())
        torch.testing.assert_close(found.area[n].item(), float(area), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_sensitivity_equals_the_reference(chunk_size: int | None) -> None:
    found = sensitivity_n(
        MODEL, X, CLASSES, MAP, n=[1, 4, 8], samples=20, baseline=BASE, feature_mask=masks.patches(X, 2),
        generator=5, chunk_size=chunk_size,
    )  # fmt: skip
    ids = masks.patches(X, 2)
    for n in range(3):
        a = torch.stack([MAP[n, 0][ids[0, 0] == i].sum() for i in range(9)])
        for k, size in enumerate((1, 4, 8)):
            expected = references.sensitivity(score(n), X[n], BASE[0], ids[0].expand(2, 5, 6), a, size, 20, 5)
            torch.testing.assert_close(found[n, k].item(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("how", [{"sigma": 0.4}, {"window": (2, 4)}, {"window": 3}])
def test_infidelity_equals_the_reference(how: dict[str, Any], chunk_size: int | None, scaled: bool) -> None:
    a = uniform(*X.shape, seed=6)
    start: Any = {} if "sigma" in how else {"baseline": BASE}
    found = infidelity(
        MODEL, X, CLASSES, a, samples=9, generator=4, chunk_size=chunk_size, scaled=scaled, **start, **how
    )
    for n in range(3):
        if "sigma" in how:
            moves = [0.4 * e for e in draws.normal(torch.arange(9), X.shape[1:], X, 4)]
        else:
            sizes = how["window"] if isinstance(how["window"], tuple) else (how["window"],)
            moves = []
            for s in range(9):
                move, place = torch.zeros_like(X[n]), [slice(None)] * (3 - len(sizes))
                for axis, size in enumerate(sizes, 4 - len(sizes)):
                    high = X.shape[axis] - size + 1
                    begin = int(draws.integers(torch.tensor([s]), high, seed=4, stream=axis))
                    place.append(slice(begin, begin + size))
                move[tuple(place)] = (X[n] - BASE[0])[tuple(place)]
                moves.append(move)
        expected = references.infidelity(score(n), X[n], a[n], moves, scaled)
        torch.testing.assert_close(found[n].item(), expected, rtol=1e-9, atol=1e-12)


def test_max_sensitivity_equals_a_loop() -> None:
    method = partial(funcattr.input_x_gradient, MODEL)
    found = max_sensitivity(method, X, torch.tensor(CLASSES), radius=0.1, samples=6, generator=3)
    here = method(X, CLASSES).flatten(1)
    worst = torch.zeros(3, dtype=DOUBLE)
    for s in range(6):
        d = 0.1 * (2 * draws.uniform(torch.tensor([s]), X.shape[1:], X, 3, 0) - 1)
        worst = worst.maximum((method(X + d, CLASSES).flatten(1) - here).norm(dim=1) / here.norm(dim=1))
    torch.testing.assert_close(found, worst, rtol=1e-9, atol=1e-12)


# --- pitfalls of others ----------------------------------------------------------------------------------------------


def test_pixels_are_never_removed_channel_by_channel() -> None:
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.sum((2, 3))

    deletion(model, torch.ones(1, 3, 4, 4), 1, torch.rand(1, 1, 4, 4), steps=5)
    assert len(seen) > 3
    for copies in seen[3:]:  # behind the check that examples are separate
        assert torch.equal(copies, copies[:, :1].expand_as(copies))
    with pytest.raises(ValueError, match=r"deletion\(attributions=...\): expected one number for each pixel, \[N, 1, "):
        deletion(model, torch.ones(1, 3, 4, 4), 1, torch.rand(1, 3, 4, 4))


def test_the_point_before_the_first_removal_is_kept() -> None:
    for measure, begin, end in ((deletion, X, BASE), (insertion, BASE, X)):
        scores = measure(MODEL, X, CLASSES, MAP, baseline=BASE, steps=3, **SUM).scores
        for at, value in ((0, begin), (-1, end)):
            with torch.no_grad():
                expected = MODEL(value.expand_as(X))[range(3), CLASSES]
            torch.testing.assert_close(scores[:, at], expected)


def test_perturbations_are_not_added_up() -> None:
    furthest: list[float] = []

    def model(x: Tensor) -> Tensor:
        furthest.append(float((x - 1).abs().max()))
        return x.sum(1, keepdim=True)

    infidelity(model, torch.ones(1, 6), 0, torch.ones(1, 6), window=2, samples=50)
    assert max(furthest) == 1


def test_subsets_are_of_their_size_and_not_cumulative() -> None:
    gone: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        gone.append(x == 0)
        return x.sum(1, keepdim=True)

    sensitivity_n(model, torch.ones(1, 8), 0, torch.rand(1, 8), n=3, samples=30)
    rows = [row for copies in gone for row in copies if row.any()]
    assert {int(row.sum()) for row in rows} == {3}
    assert len({tuple(row.tolist()) for row in rows}) > 10


def test_patches_need_not_divide_the_image() -> None:
    x = torch.ones(1, 1, 5, 7)
    ids = masks.patches(x, 3)
    assert ids.shape == (1, 1, 5, 7) and ids.unique().tolist() == list(range(6))
    assert deletion(lambda x: x.sum((1, 2, 3)), x, None, x, feature_mask=ids, **SUM).scores.shape == (1, 7)


def test_a_batch_equals_a_loop_and_draws_do_not_depend_on_it() -> None:
    subsets, noise = partial(sensitivity_n, n=3, samples=10), partial(infidelity, sigma=0.3, samples=8)
    for measure in (partial(area_between, steps=5), subsets, noise):
        alone = torch.cat([measure(MODEL, X[n : n + 1], CLASSES[n], MAP[n : n + 1]) for n in range(3)])
        torch.testing.assert_close(measure(MODEL, X, CLASSES, MAP), alone)


# --- odd maps --------------------------------------------------------------------------------------------------------


def test_a_constant_map_goes_in_reading_order_and_has_no_correlation() -> None:
    x, flat = torch.arange(1.0, 6.0)[None].double(), torch.full((1, 5), 0.1, dtype=DOUBLE)
    assert deletion(linear, x, 0, flat, **SUM).scores[0, 1] == linear(torch.where(x == 1, 0, x))[0, 0]
    assert sensitivity_n(linear, x, 0, flat, n=2).isnan().all()
    assert sensitivity_n(lambda x: 0 * x[:, :1] + 3, x, 0, x, n=2).isnan().all()


def test_nan_is_the_value_of_a_map_with_nan_and_of_no_other() -> None:
    broken = MAP.clone()
    broken[1, 0, 2, 3] = torch.nan
    for found in (
        deletion(MODEL, X, CLASSES, broken).area,
        area_between(MODEL, X, CLASSES, broken),
        sensitivity_n(MODEL, X, CLASSES, broken, n=2),
        infidelity(MODEL, X, CLASSES, broken, sigma=0.2),
    ):
        assert found.isnan().tolist() == [False, True, False]


# --- words, tables, signals; layouts ---------------------------------------------------------------------------------


def test_tokens_go_as_wholes_and_inputs_by_name() -> None:
    model = settle(lambda: nn.Linear(4, 3), dtype=DOUBLE)
    words = {"inputs_embeds": uniform(2, 5, 4, seed=7)}
    run = lambda inputs_embeds: model(inputs_embeds).sum(1)  # noqa: E731
    a = {"inputs_embeds": funcattr.input_x_gradient(run, words, 1)["inputs_embeds"].sum(2, keepdim=True)}
    found = deletion(run, words, 1, a, **SUM)
    assert found.scores.shape == (2, 6)
    steps = a["inputs_embeds"][..., 0].sort(1, descending=True)[0]
    torch.testing.assert_close(found.scores[:, 0] - found.scores[:, 2], steps[:, :2].sum(1))


def test_examples_in_another_dimension() -> None:
    turned = lambda x: MODEL(x.transpose(0, 1))  # noqa: E731
    dims: Any = {"x": 1, "output": 0}
    a, ids = MAP.expand_as(X), masks.patches(X, 2)
    around, other = X.transpose(0, 1), a.transpose(0, 1)
    found = area_between(turned, around, CLASSES, other, feature_mask=ids.transpose(0, 1), example_dims=dims)
    torch.testing.assert_close(found, area_between(MODEL, X, CLASSES, a, feature_mask=ids))
    found = infidelity(turned, around, CLASSES, other, sigma=0.3, example_dims=dims)
    torch.testing.assert_close(found, infidelity(MODEL, X, CLASSES, a, sigma=0.3))


@pytest.mark.parametrize("measure", [area_between, partial(sensitivity_n, n=3), partial(infidelity, sigma=0.3)])
def test_a_model_whose_examples_see_each_other_is_refused(measure: Any) -> None:
    with pytest.raises(ValueError, match=r"\(example_dims=0\): .* depends on what else is in the batch"):
        measure(lambda x: (x - x.mean(0)).flatten(1), X, 1, MAP)


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(area_between, marks=long),
        pytest.param(partial(sensitivity_n, n=3), marks=long),
        partial(infidelity, sigma=0.3),
    ],
)
def test_mapped_over_classes_and_compiled(measure: Any, fresh_dynamo: None) -> None:
    if measure is area_between:
        measure = partial(area_between, steps=4)
    each = torch.stack([measure(MODEL, X, k, MAP) for k in range(4)])
    torch.testing.assert_close(torch.vmap(lambda k: measure(MODEL, X, k, MAP))(torch.arange(4)), each)
    compiled = torch.compile(lambda x, a: measure(MODEL, x, 1, a), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, MAP), each[1])


def test_the_infidelity_of_examples_of_one_number() -> None:
    """Shape [N], which other measures take."""
    x = uniform(4, seed=7)
    assert infidelity(lambda x: 3 * x, x, None, torch.full_like(x, 3), sigma=0.3).abs().max() < 1e-20
    assert (infidelity(lambda x: 3 * x, x, None, 0 * x, sigma=0.3) > 0.1).all()


def test_the_infidelity_has_a_derivative() -> None:
    a = uniform(*X.shape, seed=6)
    slope = torch.func.grad(lambda a: infidelity(MODEL, X, CLASSES, a, sigma=0.3, samples=4).sum())(a)
    step = 1e-6 * uniform(*X.shape, seed=9)
    ahead, behind = (infidelity(MODEL, X, CLASSES, a + s * step, sigma=0.3, samples=4).sum() for s in (1, -1))
    torch.testing.assert_close((slope * step).sum(), (ahead - behind) / 2, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_a_sure_model_in_half_precision_has_losses(activation: Any) -> None:
    """Where 1 - p is less than bfloat16 tells from 0, all scores were 1, and no correlation was known."""
    weight = torch.tensor([[0.25, 0.5, 1.0, 2.0, 4.0]], dtype=torch.bfloat16)
    x, a = torch.ones(1, 5, dtype=torch.bfloat16), weight.float()

    def model(x: Tensor) -> Tensor:
        y = x @ weight.T.to(x) + 1
        return torch.cat([y, torch.zeros_like(y)], 1)

    found = metrics.single_deletion(model, x, 0, a, activation=activation)
    assert found.tolist() == [1.0]
    r = sensitivity_n(model, x, 0, a, n=2, samples=20, activation=activation)
    expected = sensitivity_n(model, x.double(), 0, a.double(), n=2, samples=20, activation=activation)
    torch.testing.assert_close(r.double(), expected, atol=0.02, rtol=0)


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "order": (deletion, {"first": "best"}, ValueError, r"deletion\(first='best'\): expected 'highest' or 'lowest'"),
    "more steps than pixels": (deletion, {"steps": 31}, ValueError, r"\(steps=31\): expected no more .* features, 30"),
    "no steps": (insertion, {"steps": 0}, ValueError, r"insertion\(steps=0\): expected at least 1"),
    "activation": (deletion, {"activation": "relu"}, ValueError, r"\(activation='relu'\): expected 'sigmoid', 'softm"),
    "rows": (deletion, {"baseline": funcattr.distribution(X)}, TypeError, r"\(baseline=...\): .* got a distribution"),
    "count": (deletion, {"features": 7}, ValueError, r"deletion\(features=7\): without a feature_mask there are 30"),
    "all features": (sensitivity_n, {"n": 30}, ValueError, r"sensitivity_n\(n=30\): expected 1 to 29"),
    "no feature": (sensitivity_n, {"n": 0}, ValueError, r"sensitivity_n\(n=0\): expected at least 1"),
    "no sizes": (sensitivity_n, {"n": []}, ValueError, r"sensitivity_n\(n=\[\]\): expected a number of features"),
    "two subsets": (sensitivity_n, {"n": 3, "samples": 2}, ValueError, r"\(samples=2\): expected at least 3"),
    "no noise": (infidelity, {}, ValueError, r"\(sigma=None, window=None\): expected one of both"),
    "two noises": (infidelity, {"sigma": 0.1, "window": 2}, ValueError, r"expected one of both"),
    "noise to a baseline": (infidelity, {"sigma": 0.1, "baseline": 0.5}, ValueError, r"it is for window="),
    "negative noise": (infidelity, {"sigma": -0.1}, ValueError, r"infidelity\(sigma=-0.1\): expected a standard dev"),
    "large window": (infidelity, {"window": (2, 9)}, ValueError, r"infidelity\(window=\(2, 9\)\): expected no more"),
    "text for noise": (infidelity, {"sigma": "1"}, TypeError, r"infidelity\(sigma=...\): expected a number, got str"),
    "flag for noise": (infidelity, {"sigma": True}, TypeError, r"infidelity\(sigma=...\): expected a number, got bool"),
    "number for a window": (infidelity, {"window": 2.0}, TypeError, r"\(window=...\): expected an int, or several"),
    "number for a size": (sensitivity_n, {"n": 2.0}, TypeError, r"sensitivity_n\(n=...\): expected an int, got float"),
    "NumPy's size": (sensitivity_n, {"n": np.int64(2)}, TypeError, r"\(n=...\): expected an int, got int64"),
    "deep window": (infidelity, {"window": (2,) * 4}, ValueError, r"expected 1 to 3 sizes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_named(case: str) -> None:
    measure, options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        measure(MODEL, X, 1, MAP, **options)


@pytest.mark.parametrize(
    ("attributions", "error", "message"),
    [
        (MAP[:2], ValueError, r"expected the input's shape \[3, 2, 5, 6\], or 1 in place .* got \[2, 1, 5, 6\]"),
        (MAP[:, 0], ValueError, r".* got \[3, 5, 6\]"),
        (MAP.long(), TypeError, r"expected floating-point tensors, got torch.int64"),
        ((MAP, MAP), ValueError, r"expected 1, structured as x, got 2"),
        ("lrp", TypeError, r"expected floating-point tensors, got str"),
    ],
)
@pytest.mark.parametrize("measure", [deletion, partial(sensitivity_n, n=3), partial(infidelity, sigma=0.3)])
def test_bad_attributions_are_named(measure: Any, attributions: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^\w+\(attributions=...\): " + message):
        measure(MODEL, X, 1, attributions)


@pytest.mark.parametrize("measure", [deletion, area_between, partial(sensitivity_n, n=2)])
def test_how_features_are_numbered_does_not_count(measure: Any) -> None:
    x, ids = uniform(2, 5, seed=1), torch.tensor([[0, 1, 1, 2, 3]])
    found = [measure(linear, x, 0, x * W, feature_mask=mask, **SUM) for mask in (ids, ids + 1, 7 * ids, 3 + 2 * ids)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    with pytest.raises(ValueError, match=r"\(feature_mask=...\): expected the same features in each example"):
        measure(linear, x, 0, x * W, feature_mask=torch.tensor([[0, 1, 1, 2, 3], [0, 1, 1, 2, 2]]), **SUM)


def test_a_feature_beyond_the_count_is_not_a_number_where_it_cannot_be_looked_at() -> None:
    x, ids = uniform(3, 5, seed=1), torch.tensor([[0, 0, 1, 1, 7]])
    run = lambda ids: deletion(linear, x, 0, x * W, feature_mask=ids, features=2, **SUM).area  # noqa: E731
    with pytest.raises(ValueError, match="expected features from 0 to 1"):
        run(ids)
    assert torch.vmap(run)(ids[None]).isnan().all()


def test_one_logit_has_no_softmax() -> None:
    with pytest.raises(ValueError, match=r"deletion\(activation='softmax'\): expected two classes or more, got shape"):
        deletion(linear, uniform(2, 5, seed=1), 0, uniform(2, 5, seed=2))


def test_maps_of_examples_elsewhere_keep_their_own_shape() -> None:
    words = settle(lambda: nn.Linear(4, 3), dtype=DOUBLE)
    sequence = lambda x: torch.tanh(words(x)).sum(0)  # noqa: E731
    square, own = uniform(5, 5, 4, seed=1), uniform(5, 5, 1, seed=2)  # as many examples as words
    expected = deletion(lambda x: sequence(x.transpose(0, 1)), square.transpose(0, 1), 1, own.transpose(0, 1), **SUM)
    torch.testing.assert_close(deletion(sequence, square, 1, own, example_dims={"x": 1}, **SUM), expected)
    x, a = uniform(5, 2, 4, seed=1), uniform(5, 2, 1, seed=2)
    right = deletion(lambda x: sequence(x.transpose(0, 1)), x.transpose(0, 1), 1, a.transpose(0, 1), **SUM)
    torch.testing.assert_close(deletion(sequence, x, 1, a, example_dims={"x": 1}, **SUM), right)
    one = lambda x: MODEL(x[None])[0]  # noqa: E731
    found = deletion(one, X[0], 2, MAP[0], example_dims=None, steps=5)
    torch.testing.assert_close(found.area, deletion(MODEL, X[:1], 2, MAP[:1], steps=5).area)
    with pytest.raises(ValueError, match="expected 2, structured as x, got 1"):
        deletion(lambda p, q: (p * q).sum(0), (x[..., 0], x[..., 1]), None, x[..., 0], example_dims={"x": 1}, **SUM)


@pytest.mark.parametrize(
    "measure", [max_sensitivity, lambda m, x, t, **o: randomization(funcattr.gradient, MODEL, x, t, **o)]
)
def test_measures_of_methods_count_rows_in_dimension_zero(measure: Any) -> None:
    with pytest.raises(TypeError, match=r"\(example_dims=...\): expected examples in dimension 0"):
        measure(partial(funcattr.gradient, MODEL), X, 1, example_dims={"x": 1})


def test_attributions_go_to_the_inputs_device() -> None:
    """The meta device stands for a card: maps that were kept are on the CPU, the model is not."""
    question = ask("f", MODEL, X)._replace(x=X.to("meta"))
    assert checked_attributions(question, MAP).device.type == "meta"


def test_a_mask_finer_than_the_map_is_refused() -> None:
    ids = torch.arange(60).reshape(1, 2, 5, 6)
    with pytest.raises(ValueError, match=r"along dimension 1 the mask changes, and the attributions have 1 there"):
        deletion(MODEL, X, 1, MAP, feature_mask=ids)
    assert deletion(MODEL, X, 1, MAP.expand_as(X), feature_mask=ids).scores.shape == (3, 51)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"radius": 0}, ValueError, r"max_sensitivity\(radius=0\): expected a number above 0"),
        ({"samples": 0}, ValueError, r"max_sensitivity\(samples=0\): expected at least 1"),
        ({"radius": "1"}, TypeError, r"max_sensitivity\(radius=...\): expected a number, got str"),
        (
            {"method": lambda x, t: x.sum()},
            ValueError,
            r"\(method=...\): expected attributions with 3 rows, got \[\[\]\]",
        ),
        ({"x": X.long()}, TypeError, r"max_sensitivity\(x=...\): expected floating-point tensors"),
    ],
)
def test_bad_input_of_max_sensitivity_is_named(options: Any, error: type[Exception], message: str) -> None:
    given = {"method": lambda x, target: x, "x": X, **options}
    with pytest.raises(error, match=message):
        max_sensitivity(**given)


def test_better_maps_score_better_where_the_answer_is_known() -> None:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    model = lambda x: 20 * torch.stack([x[:, :, 4:8, 6:10].mean((1, 2, 3)), x.mean((1, 2, 3))], 1)  # noqa: E731
    right = maps.sum(funcattr.input_x_gradient(model, x, 0))
    chance = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    ids = masks.patches(x, 2)
    assert (
        area_between(model, x, 0, right, feature_mask=ids) > area_between(model, x, 0, chance, feature_mask=ids)
    ).all()
    assert (sensitivity_n(model, x, 0, right, n=8, feature_mask=ids) > 0.999).all()
    assert (sensitivity_n(model, x, 0, chance, n=8, feature_mask=ids) < 0.9).all()
