"""Noisy linear imputation: a dense solution of its equations, known values, odd masks; ROAD; functions as baselines."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import ConvergenceError, masks
from funcattr.metrics import area_between, deletion, impute, insertion
from funcattr.sampling import draws
from funcattr.testing.seeding import uniform

from ..sweeps import long
from . import references
from .test_faithfulness import BASE, CLASSES, DOUBLE, MAP, MODEL, SUM, X, score

IMAGES = uniform(3, 2, 7, 9, seed=1)
linear = partial(impute, sigma=0.0)


def random_mask(*shape: int, share: float = 0.7, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


BLOCK = torch.zeros(1, 1, 7, 9, dtype=torch.bool)
BLOCK[..., 2:7, :6] = True
ONE_KEPT = torch.ones(1, 1, 7, 9, dtype=torch.bool)
ONE_KEPT[..., 6, 0] = False
TWO_KEPT = ONE_KEPT.clone()
TWO_KEPT[..., 0, 8] = False


# --- the equations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "removed",
    [
        random_mask(3, 1, 7, 9),
        random_mask(3, 2, 7, 9, share=0.9),
        random_mask(1, 2, 7, 9, share=0.2),
        *(BLOCK, ONE_KEPT, TWO_KEPT, ~ONE_KEPT),
    ],
)
def test_it_is_the_dense_solution_of_its_equations(removed: Tensor) -> None:
    found = linear(IMAGES, removed)
    for n, c in np.ndindex(3, 2):
        expected = references.imputed(IMAGES[n, c], removed.expand_as(IMAGES)[n, c])
        torch.testing.assert_close(found[n, c], torch.tensor(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(11,), (4, 5, 3)])
def test_signals_and_volumes_too(shape: tuple[int, ...]) -> None:
    x, removed = uniform(2, 2, *shape, seed=2), random_mask(2, 1, *shape)
    found = linear(x, removed)
    for n, c in np.ndindex(2, 2):
        expected = references.imputed(x[n, c], removed[n, 0])
        torch.testing.assert_close(found[n, c], torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_the_weights_are_a_sixth_beside_and_a_twelfth_across_and_sum_to_one_at_the_border() -> None:
    x = torch.arange(1.0, 10.0, dtype=DOUBLE).reshape(1, 1, 3, 3) ** 2
    middle = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    middle[..., 1, 1] = True
    expected = (4 + 16 + 36 + 64) / 6 + (1 + 9 + 49 + 81) / 12
    torch.testing.assert_close(linear(x, middle)[0, 0, 1, 1].item(), expected)
    corner = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    corner[..., 0, 0] = True
    torch.testing.assert_close(linear(x, corner)[0, 0, 0, 0].item(), ((4 + 16) / 6 + 25 / 12) / (2 / 6 + 1 / 12))


def test_a_slope_is_continued_inside_and_what_is_kept_stays_as_it_is() -> None:
    x = torch.arange(63.0).reshape(1, 1, 7, 9) * 100 + 1e6
    removed = torch.zeros(1, 1, 7, 9, dtype=torch.bool)
    removed[..., 2:5, 2:7] = True
    found = linear(torch.where(removed, torch.nan, x), removed)
    assert torch.equal(found[~removed], x[~removed])
    torch.testing.assert_close(found, x, rtol=0, atol=0.5)  # the offset costs the digits of single precision


@pytest.mark.parametrize(("unit", "offset"), [(1e-30, 0.0), (1e25, 0.0), (3.0, 1e4)])
def test_units_and_offsets_cost_no_digits(unit: float, offset: float) -> None:
    removed = random_mask(3, 1, 7, 9)
    x = IMAGES.float()
    found = linear(x * unit + offset, removed)
    torch.testing.assert_close((found - offset) / unit, linear(x, removed), rtol=0, atol=1e-5 + 1e-7 * offset)


# --- nothing, everything, what is no number --------------------------------------------------------------------------


def test_nothing_removed_changes_nothing() -> None:
    assert torch.equal(impute(IMAGES, torch.zeros_like(BLOCK)), IMAGES)


def test_an_image_that_is_removed_as_a_whole_has_the_mean_of_each_channel() -> None:
    removed = random_mask(3, 1, 7, 9)
    rest = linear(IMAGES, removed)
    removed[1] = True
    found = linear(IMAGES, removed)
    torch.testing.assert_close(found[1], IMAGES[1].mean((1, 2), keepdim=True).expand(2, 7, 9))
    torch.testing.assert_close(found[[0, 2]], rest[[0, 2]])


def test_a_channel_that_is_removed_alone_is_an_error_or_not_a_number() -> None:
    removed = torch.zeros_like(IMAGES, dtype=torch.bool)
    removed[1, 1] = True
    with pytest.raises(ValueError, match=r"impute\(removed=...\): a channel is removed as a whole beside one that is "):
        linear(IMAGES, removed)
    found = torch.vmap(linear)(IMAGES[None], removed[None])[0]
    assert torch.equal(found.isnan(), removed)


def test_a_nan_that_is_kept_is_of_its_channel_alone_and_one_that_is_removed_is_forgotten() -> None:
    removed, broken = random_mask(3, 1, 7, 9), IMAGES.clone()
    where_kept, where_removed = (~removed[0, 0]).nonzero()[0], removed[1, 0].nonzero()[0]
    broken[0, 1, where_kept[0], where_kept[1]] = torch.nan
    broken[1, 0, where_removed[0], where_removed[1]] = torch.nan
    found, whole = linear(broken, removed), linear(IMAGES, removed)
    assert found[0, 1][removed[0, 0]].isnan().all()
    torch.testing.assert_close(found[[0, 1, 1, 2, 2], [0, 0, 1, 0, 1]], whole[[0, 1, 1, 2, 2], [0, 0, 1, 0, 1]])


def test_too_few_iterations_are_an_error_or_not_a_number() -> None:
    with pytest.raises(ConvergenceError, match=r"impute\(steps=2\): 6 of 6 channels have not converged .* steps="):
        impute(IMAGES, BLOCK, steps=2)
    found = torch.vmap(lambda x: linear(x, BLOCK, steps=2))(IMAGES[None])[0]
    assert torch.equal(found.isnan(), BLOCK.expand_as(IMAGES))
    torch.testing.assert_close(torch.vmap(lambda x: linear(x, BLOCK))(IMAGES[None])[0], linear(IMAGES, BLOCK))


@pytest.mark.parametrize("kept", ["two", "line", "few"])
def test_the_default_number_of_iterations_is_enough(kept: str) -> None:
    x, removed = uniform(1, 1, 24, 24, seed=1), torch.ones(1, 1, 24, 24, dtype=torch.bool)
    if kept == "two":
        removed[..., 0, 0] = removed[..., 23, 23] = False
    elif kept == "line":
        removed[..., 0, :] = False
    else:
        removed = random_mask(1, 1, 24, 24, share=0.99)
    expected = references.imputed(x[0, 0], removed[0, 0])
    torch.testing.assert_close(linear(x, removed)[0, 0], torch.tensor(expected), rtol=1e-9, atol=1e-9)


# --- noise -----------------------------------------------------------------------------------------------------------


def test_the_noise_is_of_removed_pixels_and_of_its_size() -> None:
    x, removed = uniform(2, 3, 40, 40, seed=1), random_mask(2, 1, 40, 40, share=0.5)
    extra = impute(x, removed, sigma=0.25, generator=3) - linear(x, removed)
    assert (extra[~removed.expand_as(x)] == 0).all()
    noise = 0.25 * draws.normal(torch.zeros(1).long(), x.shape[1:], x, 3)
    torch.testing.assert_close(extra, torch.where(removed, noise, 0), rtol=0, atol=1e-9)
    assert abs(extra[removed.expand_as(x)].std() - 0.25) < 0.01
    assert not torch.allclose(extra, impute(x, removed, sigma=0.25, generator=4) - linear(x, removed))
    drawn = impute(x, removed, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn, impute(x, removed, generator=torch.Generator().manual_seed(1)))


def test_an_image_is_filled_alike_whatever_lies_beside_it() -> None:
    removed = random_mask(3, 1, 7, 9)
    alone = torch.cat([impute(IMAGES[n : n + 1], removed[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(impute(IMAGES, removed), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    found = linear(IMAGES.to(dtype), BLOCK)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), linear(IMAGES.to(dtype).double(), BLOCK), rtol=1e-2, atol=1e-2)


def test_it_is_linear_in_what_is_kept_and_has_that_derivative() -> None:
    x, step = IMAGES.clone().requires_grad_(), uniform(*IMAGES.shape, seed=4)
    (slope,) = torch.autograd.grad(linear(x, BLOCK).square().sum(), x)
    ahead, behind = (linear(IMAGES + s * step, BLOCK).square().sum() for s in (1e-6, -1e-6))
    torch.testing.assert_close((slope * step).sum(), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8)
    assert (slope[BLOCK.expand_as(IMAGES)] == 0).all()
    mapped = torch.func.grad(lambda x: linear(x, BLOCK).square().sum())(IMAGES)
    torch.testing.assert_close(mapped, slope, rtol=1e-8, atol=1e-10)


def test_compiled(fresh_dynamo: None) -> None:
    x, removed = IMAGES[..., :4, :5], random_mask(3, 1, 4, 5)
    compiled = torch.compile(partial(impute, steps=20), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, removed), impute(x, removed))


# --- ROAD ------------------------------------------------------------------------------------------------------------


def road(n: int, chosen: Tensor) -> Tensor:
    """The example without the chosen pixels, by the dense solution. [H, W] -> [C, H, W]"""
    return torch.stack([torch.tensor(references.imputed(channel, chosen)) for channel in X[n]])


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("first", ["highest", "lowest"])
def test_deletion_with_it_is_road(first: Any, chunk_size: int | None) -> None:
    found = deletion(MODEL, X, CLASSES, MAP, baseline=linear, steps=10, first=first, chunk_size=chunk_size)
    torch.testing.assert_close(found.shares, torch.arange(11) / 10.0, check_dtype=False)
    for n in range(3):
        order = MAP[n].flatten().argsort(descending=first == "highest")
        for t in range(10):
            chosen = torch.zeros(30, dtype=torch.bool)
            chosen[order[: 3 * t]] = True
            expected = score(n, softmax=True)(road(n, chosen.reshape(5, 6))[None])[0]
            torch.testing.assert_close(found.scores[n, t], expected, rtol=1e-9, atol=1e-9)
        mean = X[n].mean((1, 2), keepdim=True).expand(2, 5, 6)
        torch.testing.assert_close(found.scores[n, 10], score(n, softmax=True)(mean[None])[0])


def test_chunks_do_not_change_the_noise() -> None:
    for measure in (deletion, insertion):
        whole, parts = (measure(MODEL, X, CLASSES, MAP, baseline=impute, steps=6, chunk_size=c).scores for c in (7, 2))
        torch.testing.assert_close(whole, parts)


def test_all_measures_of_curves_take_it() -> None:
    options: Any = {"feature_mask": masks.patches(X, 2), "baseline": linear, **SUM}
    last, first = (deletion(MODEL, X, CLASSES, MAP, first=f, **options).area for f in ("lowest", "highest"))
    torch.testing.assert_close(area_between(MODEL, X, CLASSES, MAP, **options), last - first)
    # What is shown first is what is removed last.
    shown = insertion(MODEL, X, CLASSES, MAP, first="highest", baseline=linear, steps=30, **SUM).scores
    removed = deletion(MODEL, X, CLASSES, MAP, first="lowest", baseline=linear, steps=30, **SUM).scores
    torch.testing.assert_close(shown, removed.flip(1))


@long
def test_road_is_mapped_over_classes_and_compiled(fresh_dynamo: None) -> None:
    road = partial(area_between, steps=4, baseline=partial(impute, steps=40))
    each = torch.stack([road(MODEL, X, k, MAP) for k in range(4)])
    torch.testing.assert_close(torch.vmap(lambda k: road(MODEL, X, k, MAP))(torch.arange(4)), each)
    compiled = torch.compile(lambda x, a: road(MODEL, x, 1, a), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(X, MAP), each[1])


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": IMAGES.long()}, TypeError, r"impute\(x=...\): expected a floating-point tensor, got torch.int64"),
        ({"removed": BLOCK.float()}, TypeError, r"impute\(removed=...\): expected a tensor of bool, got torch.float32"),
        ({"removed": BLOCK[:, 0]}, ValueError, r"expected shape \['3 or 1', '2 or 1', 7, 9\], got \[1, 7, 9\]"),
        ({"removed": BLOCK[..., :1]}, ValueError, r"expected shape .* got \[1, 1, 7, 1\]"),
        ({"removed": BLOCK.expand(1, 3, 7, 9)}, ValueError, r"expected shape .* got \[1, 3, 7, 9\]"),
        ({"x": IMAGES[0, 0]}, ValueError, r"impute\(x=...\): expected images .* got \[7, 9\]"),
        ({"sigma": -0.1}, ValueError, r"impute\(sigma=-0.1\): expected a standard deviation of 0 or more"),
        ({"sigma": float("nan")}, ValueError, r"impute\(sigma=nan\)"),
        ({"sigma": "0.1"}, TypeError, r"impute\(sigma=...\): expected a number, got str"),
        ({"steps": 0}, ValueError, r"impute\(steps=0\): expected at least 1"),
        ({"generator": None}, TypeError, r"impute\(generator=...\): expected a seed"),
    ],
)
def test_bad_input_is_named(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        impute(**{"x": IMAGES, "removed": BLOCK, **given})


def test_tokens_have_no_neighbours() -> None:
    words, a = uniform(3, 5, 4, seed=7), uniform(3, 5, 1, seed=8)
    with pytest.raises(ValueError, match=r"impute\(removed=...\): a channel is removed as a whole .* \[15, 5, 4\]"):
        deletion(lambda x: x.sum(1), words, 1, a, baseline=impute, **SUM)


# --- other functions as baselines ------------------------------------------------------------------------------------


def test_a_function_that_gives_numbers_is_those_numbers() -> None:
    for measure in (deletion, insertion):
        expected = measure(MODEL, X, CLASSES, MAP, baseline=BASE, steps=5).scores
        found = measure(MODEL, X, CLASSES, MAP, baseline=lambda x, removed: BASE, steps=5).scores
        torch.testing.assert_close(found, expected)
    for ids in (None, masks.patches(X, 2)):
        subsets = partial(funcattr.metrics.sensitivity_n, MODEL, X, CLASSES, MAP, n=3, samples=9, feature_mask=ids)
        torch.testing.assert_close(subsets(baseline=lambda x, removed: BASE), subsets(baseline=BASE))


def test_a_function_is_given_copies_and_what_is_removed() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def fill(x: Tensor, removed: Tensor) -> Tensor:
        seen.append((x.clone(), removed.clone()))
        x[...] = 7  # its own
        removed[...] = True
        return x

    before = X.clone()
    found = deletion(lambda x: x.sum((2, 3)), X, 1, MAP, baseline=fill, steps=3, chunk_size=2, **SUM)
    assert torch.equal(X, before)
    torch.testing.assert_close(found.scores[:, 0], X[:, 1].sum((1, 2)))
    torch.testing.assert_close(found.scores[:, 3], torch.full((3,), 210.0).double())
    # The first calls are those of the check.
    x, removed = seen[-1]
    assert x.shape == (6, 2, 5, 6) and removed.shape == (6, 2, 5, 6)
    assert removed.sum((1, 2, 3)).tolist() == [40, 60] * 3
    torch.testing.assert_close(x, X.repeat_interleave(2, 0))


def test_a_function_for_one_of_several_inputs() -> None:
    rows = {"image": X, "age": uniform(3, 4, seed=5)}
    run = lambda image, age: MODEL(image) * age.sum(1, keepdim=True)  # noqa: E731
    a = {"image": MAP, "age": uniform(3, 4, seed=6)}
    mixed: Any = {"image": linear, "age": 0.5}
    found = deletion(run, rows, 1, a, baseline=mixed, steps=7, **SUM)
    both: Any = {
        "image": lambda x, removed: linear(x, removed) + 0,
        "age": lambda x, removed: torch.full_like(x, 0.5),
    }
    torch.testing.assert_close(found.scores, deletion(run, rows, 1, a, baseline=both, steps=7, **SUM).scores)
    pair: Any = (linear, 0.5)
    other = deletion(run, (X, rows["age"]), 1, (MAP, a["age"]), baseline=pair, steps=7, **SUM)
    assert other.scores.shape == (3, 8)
    with pytest.raises(ValueError, match=r"deletion\(baseline=...\): expected a number, or 2 baselines structured"):
        deletion(run, rows, 1, a, baseline={"image": linear}, steps=7, **SUM)


def test_examples_elsewhere_are_filled_in_front() -> None:
    turned = lambda x: MODEL(x.transpose(0, 1))  # noqa: E731
    dims: Any = {"x": 1, "output": 0}
    around, other = X.transpose(0, 1), MAP.expand_as(X).transpose(0, 1)
    ids = masks.patches(X, 2)
    found = area_between(
        turned, around, CLASSES, other, baseline=impute, feature_mask=ids.transpose(0, 1), example_dims=dims
    )
    torch.testing.assert_close(found, area_between(MODEL, X, CLASSES, MAP, baseline=impute, feature_mask=ids))
    one = deletion(lambda x: MODEL(x[None])[0], X[0], 2, MAP[0], baseline=impute, example_dims=None, steps=5)
    torch.testing.assert_close(one.area, deletion(MODEL, X[:1], 2, MAP[:1], baseline=impute, steps=5).area)


@pytest.mark.parametrize(
    ("fill", "error", "message"),
    [
        (lambda x, removed: 0.0, TypeError, r"expected a function that returns a tensor, got float"),
        (lambda x, removed: x[0], ValueError, r"expected a function that returns the shape that it is given"),
        (lambda x, removed: x.repeat(2, 1, 1, 1), ValueError, r"expected a function that returns the shape"),
    ],
)
def test_bad_functions_are_named(fill: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"^deletion\(baseline=...\): " + message):
        deletion(MODEL, X, 1, MAP, baseline=fill)


def test_token_ids_are_filled_with_token_ids() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(9, 2)).eval()
    ids, attributions = torch.tensor([[1, 2, 3]]), torch.tensor([[3.0, 1.0, 2.0]])
    found = deletion(model, ids, 1, attributions, baseline=lambda rows, removed: torch.full(rows.shape, 2.0))
    torch.testing.assert_close(found.scores, deletion(model, ids, 1, attributions, baseline=2).scores)
    with pytest.raises(ValueError, match=r"^deletion\(baseline=<function>\): expected values that the inputs' dtype"):
        deletion(model, ids, 1, attributions, baseline=lambda rows, removed: torch.full(rows.shape, 0.5))


@pytest.mark.parametrize(
    "fill",
    [
        lambda x, removed: x.mean((0, 2, 3), keepdim=True),
        lambda x, removed: x.flip(0),
        lambda x, removed: x * (1 + removed.double().mean()),
    ],
)
@pytest.mark.parametrize("measure", [deletion, partial(funcattr.metrics.sensitivity_n, n=2)])
def test_a_function_that_mixes_examples_is_refused(measure: Any, fill: Any) -> None:
    with pytest.raises(ValueError, match=r"depends on what else is in the batch.* It is the function baseline="):
        measure(MODEL, X, 1, MAP, baseline=fill)
