"""Randomised layers and correlations of ranks, against plain computations."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.metrics import randomization
from funcattr.metrics.correlation import pearson, spearman
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

DOUBLE = torch.float64


class Odd(nn.Module):
    """Its layers run in another order than they are registered in; a parameter is its own, a module is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(6, 3), nn.Linear(5, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.attention = nn.MultiheadAttention(6, 1, batch_first=True)
        self.unused = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).tanh().unsqueeze(1)
        return self.head(self.attention(h, h, h)[0].squeeze(1) * self.scale)


MODEL = settle(Odd, dtype=DOUBLE)
X = uniform(4, 5, seed=1)


def test_layers_come_as_they_end_with_the_last_first() -> None:
    found = randomization(funcattr.gradient, MODEL, X, 1)
    assert found.layers == ("", "head", "attention", "body")
    assert found.similarity.shape == (4, 4)


CONSTANT = nn.Linear(5, 3, dtype=DOUBLE)
nn.init.constant_(CONSTANT.weight, 0.5)
nn.init.zeros_(CONSTANT.bias)


def changed_copies(order: str, sample: int) -> Iterator[nn.Module]:
    """Copies of the model with more and more of its layers, or one of them, randomised by hand."""
    groups = [["scale", "unused.weight", "unused.bias"], ["head.weight", "head.bias"]]
    groups.append([name for name, _ in MODEL.named_parameters() if name.startswith("attention")])
    groups.append(["body.weight", "body.bias"])
    names = [name for name, _ in MODEL.named_parameters()]
    changed: dict[str, Tensor] = {}
    for group in groups:
        changed = changed if order == "cascading" else {}
        for name in group:
            p = MODEL.get_parameter(name).detach()
            e = draws.normal(torch.tensor([sample]), p.shape, p, 7, names.index(name))[0]
            changed[name] = p.mean() + p.std(correction=0) * e
        other = settle(Odd, dtype=DOUBLE)
        other.load_state_dict({**MODEL.state_dict(), **changed})
        yield other


def correlations(a: Tensor, b: Tensor) -> list[float]:
    return [float(np.corrcoef(one.numpy(), other.numpy())[0, 1]) for one, other in zip(a, b, strict=True)]


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_equals_a_loop_over_changed_copies(order: Any, chunk_size: Any) -> None:
    options: Any = {"similarity": "pearson", "absolute": False, "generator": 7, "samples": 3}
    found = randomization(funcattr.gradient, MODEL, X, 1, order=order, chunk_size=chunk_size, **options)
    whole = funcattr.gradient(MODEL, X, 1)
    rows = [
        [correlations(whole, funcattr.gradient(other, X, 1)) for other in changed_copies(order, sample)]
        for sample in range(3)
    ]
    expected = torch.tensor(np.mean(rows, 0).T)  # [samples, layers, N] -> [N, layers]
    torch.testing.assert_close(found.similarity, expected, rtol=1e-9, atol=1e-9)


def test_smooth_mprt_is_the_measure_of_a_noise_tunnel() -> None:
    noise = torch.randn(6, 1, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))

    def smooth(model: Any, x: Tensor, target: Any) -> Tensor:
        return funcattr.noise_tunnel(partial(funcattr.gradient, model), x, target, noise=noise, sigma=0.3)

    def slow(model: nn.Module) -> Tensor:
        return torch.stack([funcattr.gradient(model, X + 0.3 * e, 1) for e in noise]).mean(0).abs()

    for chunk_size in (None, 1):
        found = randomization(smooth, MODEL, X, 1, similarity="pearson", generator=7, chunk_size=chunk_size)
        expected = torch.tensor(
            [correlations(slow(MODEL), slow(other)) for other in changed_copies("cascading", 0)], dtype=DOUBLE
        )
        torch.testing.assert_close(found.similarity, expected.T, rtol=1e-9, atol=1e-9)


METHODS = {
    "gradient": funcattr.gradient,
    "guided_backprop": funcattr.guided_backprop,
    "lrp": partial(funcattr.lrp, rules="epsilon_plus"),
    "integrated_gradients": partial(funcattr.integrated_gradients, steps=3),
    "grad_cam": partial(funcattr.grad_cam, layer="2"),
    "occlusion": partial(funcattr.occlusion, window=(4, 4), stride=4),
}


def network() -> nn.Module:
    first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


@pytest.mark.parametrize("name", METHODS)
def test_many_models_at_once_give_what_each_alone_gives(name: str) -> None:
    model, x = settle(network, dtype=DOUBLE), uniform(2, 1, 12, 12)
    options: Any = {"similarity": "pearson", "absolute": False, "samples": 2}
    alone = randomization(METHODS[name], model, x, 1, chunk_size=1, **options)
    for chunk_size in (5, None):
        found = randomization(METHODS[name], model, x, 1, chunk_size=chunk_size, **options)
        assert found.layers == alone.layers
        torch.testing.assert_close(found.similarity, alone.similarity, rtol=1e-9, atol=1e-9)


def test_models_that_run_at_once_are_one_call() -> None:
    calls: list[int] = []

    def method(model: Any, x: Tensor, target: Any) -> Tensor:
        calls.append(1)
        return funcattr.gradient(model, x, target)

    for chunk_size, expected in ((1, 9), (3, 4), (100, 2), (None, 3)):  # 8 models of 4 examples, and the trained one
        calls.clear()
        randomization(method, MODEL, X, 1, samples=2, chunk_size=chunk_size)
        assert len(calls) == expected


def by_a_look_at_the_value(model: Any, x: Tensor, target: Any) -> Tensor:
    return funcattr.gradient(model, x, target) * float(model(x).sum())


def by_numpy(model: Any, x: Tensor, target: Any) -> Tensor:
    return torch.from_numpy(np.tanh(funcattr.gradient(model, x, target).numpy()))


@pytest.mark.parametrize("method", [by_a_look_at_the_value, by_numpy])
def test_a_method_that_cannot_be_mapped_runs_model_by_model(method: Any) -> None:
    alone = randomization(method, MODEL, X, 1, samples=2, chunk_size=1)
    found = randomization(method, MODEL, X, 1, samples=2)
    torch.testing.assert_close(found.similarity, alone.similarity, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match=r"vmap|Tensor"):
        randomization(method, MODEL, X, 1, samples=2, chunk_size=8)


def test_what_a_method_raises_is_its_own() -> None:
    def fails(model: Any, x: Tensor, target: Any) -> Tensor:
        if model.bound:
            raise KeyError("mine")
        return x

    with pytest.raises(KeyError, match="mine"):
        randomization(fails, MODEL, X, 1)


def test_a_method_that_does_not_look_at_the_model_stays_the_same() -> None:
    for order in ("cascading", "independent"):
        found = randomization(lambda model, x, target: x, MODEL, X, order=order).similarity
        torch.testing.assert_close(found, torch.ones_like(found))


def test_nothing_of_the_model_or_of_the_random_state_is_touched() -> None:
    before, state = {k: v.clone() for k, v in MODEL.state_dict().items()}, torch.get_rng_state()
    randomization(funcattr.gradient, MODEL, X, 1)
    assert all(torch.equal(v, before[k]) for k, v in MODEL.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_guided_backpropagation_changes_less_than_the_gradient() -> None:
    model = settle(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        ),
        dtype=DOUBLE,
    )
    x = uniform(6, 1, 8, 8, seed=3)
    guided, plain = (
        randomization(method, model, x, 1).similarity[:, 0].mean()
        for method in (funcattr.guided_backprop, funcattr.gradient)
    )
    assert guided > plain + 0.1


class InPlace(nn.Module):
    """Normalises what it is given where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused = nn.Linear(5, 3), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.last(x.sub_(1.0).div_(0.5)).tanh())


def test_an_input_that_the_model_overwrites_stays_and_layers_without_an_effect_are_left_out() -> None:
    model, x = settle(InPlace, dtype=DOUBLE).eval(), X.clone()
    torch.nn.init.ones_(model.get_parameter("norm.weight"))
    torch.nn.init.zeros_(model.get_parameter("norm.bias"))
    found = randomization(funcattr.gradient, model, x, 1)
    assert torch.equal(x, X) and found.layers == ("last",)  # the norm's parameters have no spread


def test_compiled_code_does_not_say_which_layers_run(fresh_dynamo: None) -> None:
    with pytest.raises(Exception, match="it asks which layers run"):
        torch.compile(lambda x: randomization(funcattr.gradient, MODEL, x, 1), fullgraph=True, backend="eager")(X)


def naive_spearman(a: np.ndarray, b: np.ndarray) -> float:
    def rank(v: np.ndarray) -> np.ndarray:
        return np.array([(v < one).sum() + ((v == one).sum() - 1) / 2 for one in v])

    return float(np.corrcoef(rank(a), rank(b))[0, 1])


def test_correlations_equal_plain_ones_ties_included() -> None:
    a, b = uniform(5, 40, seed=1), uniform(5, 40, seed=2)
    a[2:4], b[3] = (5 * a[2:4]).round(), (3 * b[3]).round()
    for n in range(5):
        torch.testing.assert_close(spearman(a, b)[n].item(), naive_spearman(a[n].numpy(), b[n].numpy()))
        torch.testing.assert_close(pearson(a, b)[n].item(), float(np.corrcoef(a[n], b[n])[0, 1]))


def test_constant_rows_and_nan_have_no_correlation() -> None:
    a = uniform(3, 9, seed=1)
    flat, broken = torch.full((3, 9), 0.1, dtype=DOUBLE), a.clone()
    broken[1, 4] = torch.nan
    assert spearman(a, flat).isnan().all() and pearson(flat, a).isnan().all()
    assert spearman(a, broken).isnan().tolist() == pearson(a, broken).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "bottom"}, r"^randomization\(order='bottom'\): expected one of 'cascading', 'independent'"),
        ({"similarity": "cosine"}, r"^randomization\(similarity='cosine'\): expected one of 'spearman', 'pearson'"),
        ({"similarity": "ssim"}, r"^randomization\(similarity='ssim'\): expected maps \[N, C, H, W\] of at least 11"),
        ({"samples": 0}, r"^randomization\(samples=0\): expected at least 1"),
        ({"chunk_size": 0}, r"^randomization\(chunk_size=0\): expected at least 1"),
        ({"model": CONSTANT}, r"^randomization\(model=...\): expected a layer with parameters that change the output"),
        ({"model": torch.tanh}, r"^randomization\(model=...\): expected a model with floating-point parameters"),
        ({"method": lambda *_: torch.ones(3, 2)}, r"^randomization\(method=...\): expected attributions with 4 rows"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    given = {"method": funcattr.gradient, "model": MODEL, "x": X, "target": 1, **options}
    with pytest.raises(ValueError, match=message):
        randomization(**given)


@pytest.mark.parametrize(("steps", "places"), [(1, [3]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3])])
def test_groups_of_layers_are_points_of_the_cascade(steps: int, places: list[int]) -> None:
    whole = randomization(funcattr.gradient, MODEL, X, 1)
    found = randomization(funcattr.gradient, MODEL, X, 1, steps=steps)
    assert found.layers == tuple(whole.layers[k] for k in places)
    torch.testing.assert_close(found.similarity, whole.similarity[:, places], rtol=0, atol=1e-12)


def test_groups_alone_are_the_cascade_less_what_came_before() -> None:
    alone = randomization(funcattr.gradient, MODEL, X, 1, order="independent", steps=1)
    torch.testing.assert_close(alone.similarity, randomization(funcattr.gradient, MODEL, X, 1).similarity[:, 3:])


def test_no_more_groups_than_layers() -> None:
    with pytest.raises(ValueError, match=r"randomization\(steps=5\): expected no more than there are layers, 4"):
        randomization(funcattr.gradient, MODEL, X, 1, steps=5)
