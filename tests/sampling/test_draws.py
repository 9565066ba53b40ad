"""Keyed draws: the same number for a sample whatever is drawn with it, independent of its neighbours, and fair."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcattr.sampling.draws import integers, normal, permutations, seed_from, uniform

LIKE = torch.zeros((), dtype=torch.float64)
Draw = Callable[[Tensor, int, int], Tensor]
DRAWS: dict[str, Draw] = {
    "normal": lambda samples, seed, stream: normal(samples, (3, 7), LIKE, seed, stream),
    "one normal": lambda samples, seed, stream: normal(samples, (), LIKE, seed, stream),
    "uniform": lambda samples, seed, stream: uniform(samples, (20,), LIKE, seed, stream),
    "integers": lambda samples, seed, stream: integers(samples, 10**6, (4,), seed=seed, stream=stream),
    "permutations": lambda samples, seed, stream: permutations(samples, 12, seed=seed, stream=stream),
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


# --- what a number depends on ----------------------------------------------------------------------------------------


@each_draw
@given(samples=st.lists(st.integers(0, 2**31), min_size=1, max_size=6), seed=st.integers(-(2**63), 2**63 - 1))
@settings(max_examples=10)
def test_a_sample_has_its_numbers_whichever_others_are_drawn(draw: Draw, samples: list[int], seed: int) -> None:
    together = draw(torch.tensor(samples), seed, 0)
    assert len(together) == len(samples)
    for row, sample in zip(together, samples, strict=True):
        assert torch.equal(row, draw(torch.tensor([sample]), seed, 0)[0])


@each_draw
def test_seeds_streams_and_samples_have_numbers_of_their_own(draw: Draw) -> None:
    index = torch.arange(20)
    rows = [draw(index, seed, stream) for seed in (-1, 0, 1, 2, 2**62) for stream in (-2, -1, 0, 1)]
    flat = torch.cat(rows).reshape(len(rows) * 20, -1)
    assert len(flat.unique(dim=0)) == len(flat)


@each_draw
def test_the_global_generator_stands_still(draw: Draw) -> None:
    before = torch.get_rng_state()
    draw(torch.arange(5), 0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@each_draw
def test_transforms_and_compiled_code_draw_the_same(draw: Draw, fresh_dynamo: None) -> None:
    def drawn(x: Tensor) -> Tensor:
        return draw(torch.arange(4), 3, 1) + x

    x = torch.zeros((), dtype=torch.float64)
    eager = drawn(x)
    for found in (
        torch.vmap(drawn)(torch.zeros(2, dtype=torch.float64))[1],
        torch.func.jvp(drawn, (x,), (x,))[0],
        torch.compile(drawn, fullgraph=True, backend="aot_eager")(x),
    ):
        torch.testing.assert_close(found, eager, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_numbers_have_the_dtype_asked_for(dtype: torch.dtype) -> None:
    like, index = torch.zeros((), dtype=dtype), torch.arange(50)
    for draw in (normal, uniform):
        values = draw(index, (40,), like, 0)
        assert values.dtype == dtype and values.shape == (50, 40) and values.isfinite().all()
        assert len(values.unique()) > 100
    assert (uniform(index, (40,), like, 0) >= 0).all() and (uniform(index, (40,), like, 0) <= 1).all()


# --- fairness, with fixed seeds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (64,)])
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_normal_numbers_are_standard_normal(shape: tuple[int, ...], seed: int) -> None:
    x = normal(torch.arange(4000), shape, LIKE, seed).reshape(4000, -1)
    n = x.numel()
    assert x.mean().abs() < 4 / n**0.5
    assert (x.var() - 1).abs() < 4 * (2 / n) ** 0.5
    assert (x**3).mean().abs() < 4 * (15 / n) ** 0.5
    assert ((x**4).mean() - 3).abs() < 4 * (96 / n) ** 0.5
    grid = torch.linspace(-3, 3, 25, dtype=torch.float64)
    share = (x.flatten()[:, None] < grid).double().mean(0)
    assert (share - torch.special.ndtr(grid)).abs().max() < 2 / n**0.5  # Kolmogorov and Smirnov


@pytest.mark.parametrize("seed", [0, 7])
def test_uniform_numbers_are_uniform(seed: int) -> None:
    x = uniform(torch.arange(20000), (), LIKE, seed)
    assert (x >= 0).all() and (x < 1).all()
    share = (x[:, None] < torch.linspace(0, 1, 21, dtype=torch.float64)).double().mean(0)
    assert (share - torch.linspace(0, 1, 21, dtype=torch.float64)).abs().max() < 2 / 20000**0.5


@pytest.mark.parametrize("high", [2, 7])
def test_integers_come_evenly(high: int) -> None:
    counts = integers(torch.arange(7000), high, seed=3).bincount(minlength=high)
    assert len(counts) == high
    expected = 7000 / high
    assert ((counts - expected) ** 2 / expected).sum() < 25  # chi squared


def test_permutations_are_orders_and_come_evenly() -> None:
    orders = permutations(torch.arange(6000), 3, seed=1)
    assert torch.equal(orders.sort(1).values, torch.arange(3).expand(6000, 3))
    counts = (orders * torch.tensor([9, 3, 1])).sum(1).unique(return_counts=True)[1]
    assert len(counts) == 6 and ((counts - 1000) ** 2 / 1000).sum() < 25


@pytest.mark.parametrize("neighbours", ["samples", "seeds", "streams", "sample and seed", "stream and seed"])
def test_neighbours_have_nothing_in_common(neighbours: str) -> None:
    count, size = 200, 500

    def row(k: int) -> Tensor:
        sample = k if "sample" in neighbours else 0
        seed = k if "seed" in neighbours and "stream" not in neighbours else -k if "seed" in neighbours else 0
        stream = k if "stream" in neighbours else 0
        return normal(torch.tensor([sample]), (size,), LIKE, seed, stream)[0]

    correlation = torch.corrcoef(torch.stack([row(k) for k in range(count)]))
    off = correlation[~torch.eye(count, dtype=torch.bool)]
    assert off.abs().max() < 5 / size**0.5  # of 40 thousand
    assert (off.std() * size**0.5 - 1).abs() < 0.05
    following = correlation.diagonal(1)
    assert following.mean().abs() < 4 / (size * count) ** 0.5


def test_single_numbers_of_following_samples_have_nothing_in_common() -> None:
    for values in (uniform(torch.arange(20000), (), LIKE, 0), normal(torch.arange(20000), (), LIKE, 0, stream=-2)):
        for lag in (1, 2, 3):
            assert torch.corrcoef(torch.stack([values[:-lag], values[lag:]]))[0, 1].abs() < 4 / 20000**0.5


# --- seeds -----------------------------------------------------------------------------------------------------------


def test_a_seed_is_any_int() -> None:
    assert [seed_from("f", seed) for seed in (0, 5, -1, 2**62)] == [0, 5, -1, 2**62]
    index = torch.arange(3)
    for seed in (2**63, 2**64 - 1, -(2**63), 10**30, torch.random.default_generator.seed()):
        assert normal(index, (4,), LIKE, seed_from("f", seed)).isfinite().all()


def test_a_generator_gives_a_seed_and_moves_on() -> None:
    generator, twin = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    seeds = [seed_from("f", generator) for _ in range(3)]
    assert seeds == [int(torch.randint(2**62, (), generator=twin)) for _ in range(3)] and len(set(seeds)) == 3
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("generator", [True, 0.5, "0", None, torch.tensor(3)])
def test_other_generators_are_refused(generator: Any) -> None:
    kind = type(generator).__name__
    with pytest.raises(
        TypeError, match=rf"^f\(generator=\.\.\.\): expected a seed or a torch.Generator, got {kind}\.$"
    ):
        seed_from("f", generator)
