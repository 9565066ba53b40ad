"""The rise of a map's entropy in a random model, against numpy's histograms and closed forms."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.metrics import randomization_entropy
from funcattr.metrics.randomization_entropy import histogram_entropy
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

DOUBLE = torch.float64


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 12), nn.Tanh(), nn.Linear(12, 3))


MODEL, X = settle(network, dtype=DOUBLE), uniform(4, 40, seed=1)


def by_numpy(values: Tensor, bins: int) -> list[float]:
    found = []
    for row in values.numpy():
        shares = np.histogram(row, bins=bins)[0] / row.size
        found.append(float(-sum(p * math.log(p) for p in shares if p > 0)))
    return found


@pytest.mark.parametrize("bins", [1, 2, 7, 100])
def test_entropy_equals_that_of_numpys_histogram(bins: int) -> None:
    values = torch.cat([uniform(3, 500), (3 * uniform(3, 500, seed=2)).round(), uniform(3, 500, seed=4).relu()])
    expected = torch.tensor(by_numpy(values, bins), dtype=DOUBLE)
    torch.testing.assert_close(histogram_entropy(values, bins), expected, rtol=1e-9, atol=1e-9)


def test_known_entropies() -> None:
    spread, one, flat = torch.arange(8.0), torch.eye(8)[0], torch.full((8,), 0.1)
    found = histogram_entropy(torch.stack([spread, one, flat]), 8)
    pixel = -(math.log(1 / 8) / 8 + 7 / 8 * math.log(7 / 8))
    torch.testing.assert_close(found, torch.tensor([math.log(8), pixel, 0.0], dtype=DOUBLE))
    assert histogram_entropy(torch.tensor([[0.3, 0.1 + 0.2, 0.3]], dtype=DOUBLE), 2).item() == 0  # but for rounding
    assert histogram_entropy(torch.tensor([[0.0, torch.nan, 1.0], [0.0, torch.inf, 1.0]]), 2).isnan().all()


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("absolute", [False, True])
def test_equals_a_loop_over_random_copies(absolute: bool, chunk_size: Any) -> None:
    def entropy(model: nn.Module) -> np.ndarray:
        found = funcattr.gradient(model, X, 1)
        return np.array(by_numpy(found.abs() if absolute else found, 20))

    rises = []
    for sample in range(3):
        other = settle(network, dtype=DOUBLE)
        new = {}
        for stream, (name, value) in enumerate(MODEL.named_parameters()):
            p = value.detach()
            new[name] = p.mean() + p.std(correction=0) * draws.normal(torch.tensor([sample]), p.shape, p, 5, stream)[0]
        other.load_state_dict(new)
        rises.append((entropy(other) - entropy(MODEL)) / entropy(MODEL))
    found = randomization_entropy(
        funcattr.gradient, MODEL, X, 1, bins=20, absolute=absolute, samples=3, generator=5, chunk_size=chunk_size
    )
    torch.testing.assert_close(found, torch.tensor(np.mean(rises, 0)), rtol=1e-9, atol=1e-9)


def switched(trained: Tensor, random: Tensor) -> Any:
    """A method with one map for the trained model and another for all others."""
    weight = MODEL.get_parameter("0.weight").detach()

    def method(model: Any, x: Tensor, target: Any) -> Tensor:
        same = (model.params["0.weight"] == weight).all()
        return torch.where(same, trained, random)

    return method


def test_known_rises() -> None:
    pixel, half, flat = torch.eye(8)[:1], torch.arange(8.0).reshape(1, 8), torch.ones(1, 8)
    low, high = -(math.log(1 / 8) / 8 + 7 / 8 * math.log(7 / 8)), math.log(2)
    rise = partial(randomization_entropy, model=MODEL, x=X[:1], bins=2)
    torch.testing.assert_close(rise(switched(pixel, half)).item(), (high - low) / low)
    torch.testing.assert_close(rise(switched(half, pixel)).item(), (low - high) / high)
    torch.testing.assert_close(rise(switched(half, half)).item(), 0.0)
    torch.testing.assert_close(rise(switched(half, flat)).item(), -1.0)


def test_a_constant_map_and_one_with_nan_have_no_rise() -> None:
    rise = partial(randomization_entropy, model=MODEL, x=X[:1], bins=2)
    half, flat = torch.arange(8.0).reshape(1, 8), torch.ones(1, 8)
    for broken in (torch.nan, torch.inf):
        bad = half.clone()
        bad[0, 2] = broken
        assert rise(switched(bad, half)).isnan().all() and rise(switched(half, bad)).isnan().all()
    assert rise(switched(flat, half)).isnan().all()


def test_a_sharp_map_becomes_more_complex_and_the_units_of_a_map_do_not_count() -> None:
    x = uniform(4, 40, seed=2)
    model = settle(network, dtype=DOUBLE)
    with torch.no_grad():
        model.get_parameter("0.weight")[:, 3:] *= 0.01  # three inputs are all that is looked at
    found = randomization_entropy(funcattr.gradient, model, x, 1, bins=20, samples=5)
    assert (found > 0.2).all()
    scaled = randomization_entropy(lambda *given: 8 * funcattr.gradient(*given), model, x, 1, bins=20, samples=5)
    torch.testing.assert_close(scaled, found)


def test_works_compiled_and_under_vmap(fresh_dynamo: None) -> None:
    measure = partial(randomization_entropy, funcattr.gradient, MODEL, target=1, bins=20)
    expected = measure(x=X)
    compiled = torch.compile(lambda x: measure(x=x), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), expected)
    torch.testing.assert_close(torch.vmap(lambda x: measure(x=x.unsqueeze(0))[0])(X), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, r"^randomization_entropy\(bins=0\): expected at least 1"),
        ({"samples": 0}, r"^randomization_entropy\(samples=0\): expected at least 1"),
        ({"model": torch.tanh}, r"^randomization_entropy\(model=...\): expected a model with floating-point"),
        (
            {"method": lambda *_: torch.ones(3, 2)},
            r"^randomization_entropy\(method=...\): expected attributions with 4",
        ),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    given = {"method": funcattr.gradient, "model": MODEL, "x": X, "target": 1, **options}
    with pytest.raises(ValueError, match=message):
        randomization_entropy(**given)
    with pytest.raises(TypeError, match=r"^randomization_entropy\(example_dims=...\)"):
        randomization_entropy(funcattr.gradient, MODEL, X, 1, example_dims=1)
