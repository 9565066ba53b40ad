"""Statistics of features: numpy's over the whole set, whatever the batches; what runs; files; errors."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import funcattr
from funcattr.bottleneck import FeatureStatistics, feature_statistics
from funcattr.testing.seeding import settle, uniform

from ... import bottleneck_references as references

pytestmark = pytest.mark.filterwarnings("ignore:feature_statistics.* examples are few")


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("more than the part up to the layer runs")


def net() -> Any:
    return settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), Fails()))


def features(x: Tensor) -> Tensor:
    with torch.no_grad():
        return net()[:2](x)


def assert_same(a: FeatureStatistics, b: FeatureStatistics, tolerance: float = 1e-12) -> None:
    assert (a.layer, a.estimator, a.count, a.threshold) == (b.layer, b.estimator, b.count, b.threshold)
    assert torch.equal(a.nonzero, b.nonzero)
    for name in ("mean", "std"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=tolerance, atol=tolerance)


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6).filter(lambda s: sum(s) > 1), shift=st.floats(-9, 9))
@settings(max_examples=20)
def test_equals_the_running_formulas(sizes: list[int], shift: float) -> None:
    x = uniform(sum(sizes), 4) + shift
    for estimator, reference in (("gaussian", references.welford), ("relu", references.rectified)):
        expected = reference(features(x))
        assume(bool((expected.std > 0).any()))
        found = feature_statistics(net(), x.split(sizes), layer="1", estimator=estimator)  # type: ignore[arg-type]
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.std, expected.std, rtol=1e-9, atol=1e-9)
        assert torch.equal(found.active, expected.active)
        assert found.count == sum(sizes)


def test_is_stable_far_from_zero() -> None:
    x = (torch.rand(3000, 1, generator=torch.Generator().manual_seed(0)) + 5e4).float()
    found = feature_statistics(nn.Sequential(nn.Identity()), x, layer="0")
    assert found.std.dtype == torch.float32
    exact = np.std(x.double().numpy(), ddof=1)
    assert abs(found.std.item() / exact - 1) < 1e-3
    naive = ((x**2).mean() - x.mean() ** 2).clamp(min=0).sqrt()
    assert abs(naive.item() / exact - 1) > 0.1  # what the test is about


@given(cut=st.integers(1, 28), estimator=st.sampled_from(["gaussian", "relu"]))
@settings(max_examples=10)
def test_adds_up(cut: int, estimator: Any) -> None:
    x = uniform(31, 4)
    whole = feature_statistics(net(), x, layer="1", estimator=estimator)
    first, second = (
        feature_statistics(net(), part, layer="1", estimator=estimator) for part in (x[: cut + 1], x[cut + 1 :])
    )
    assert_same(first + second, whole, 1e-10)
    assert_same(second + first, whole, 1e-10)


def test_half_precision_is_summed_in_single() -> None:
    x = uniform(200, 4).to(torch.bfloat16)
    found = feature_statistics(net().to(torch.bfloat16), x, layer="0")
    assert found.mean.dtype == torch.float32
    values = net()[:1].to(torch.bfloat16)(x).double()
    torch.testing.assert_close(found.mean.double(), values.mean(0), rtol=1e-4, atol=1e-4)


def test_takes_loaders_tuples_dicts_and_tensors() -> None:
    x, labels = uniform(12, 4), torch.arange(12)
    expected = feature_statistics(net(), x, layer="1")
    loader = DataLoader(TensorDataset(x, labels), batch_size=5)
    named = [{"input": part} for part in x.split(5)]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()[:2]

        def forward(self, *, input: Tensor, factor: float = 1.0) -> Tensor:
            return self.body(factor * input)

    assert_same(feature_statistics(net(), loader, layer="1"), expected)
    assert_same(feature_statistics(net(), x.split(5), layer="1"), expected)
    assert_same(feature_statistics(net(), (p for p in [((part,), None) for part in x.split(5)]), layer="1"), expected)
    of_named = feature_statistics(Named(), named, layer="body.1")
    assert torch.allclose(of_named.mean, expected.mean)
    scaled = feature_statistics(Named(), named, layer="body.0", kwargs={"factor": 2.0})
    assert torch.allclose(scaled.std, 2 * feature_statistics(net(), x, layer="0").std)


def test_looks_at_no_more_than_asked() -> None:
    def endless() -> Any:
        for seed in range(4):
            yield uniform(5, 4, seed=seed)
        raise AssertionError("one batch too many")

    found = feature_statistics(net(), endless(), layer="1", examples=18)
    x = torch.cat([uniform(5, 4, seed=seed) for seed in range(4)])[:18]
    assert_same(found, feature_statistics(net(), x, layer="1"))


def test_several_layers_in_one_pass() -> None:
    x = uniform(12, 4)
    model, found = net(), feature_statistics(net(), x, layer=["1", "0"])
    assert list(found) == ["1", "0"] and all(statistics.layer == site for site, statistics in found.items())
    assert_same(found["1"], feature_statistics(net(), x, layer="1"))
    assert_same(found["0"], feature_statistics(net(), x, layer="0"))
    for statistics, again in zip(
        found.values(), feature_statistics(model, x, layer=[model[1], "0"]).values(), strict=True
    ):
        assert_same(again, statistics)
    assert_same(feature_statistics(net(), x, layer=("1",))["1"], found["1"])
    assert_same(feature_statistics(model, x, layer=model[1]), found["1"])


def test_an_element_is_active_if_it_is_not_zero_often_enough() -> None:
    x = torch.zeros(100, 3)
    x[:1, 0], x[:2, 1], x[:, 2] = 1.0, 1.0, torch.randn(100, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Identity())
    assert feature_statistics(model, x, layer="0").active.tolist() == [False, True, True]
    assert feature_statistics(model, x, layer="0", threshold=0.0).active.tolist() == [True, True, True]
    assert feature_statistics(model, x, layer="0", estimator="relu").active.tolist() == [True, True, True]


def test_saved_and_loaded(tmp_path: Path) -> None:
    for estimator in ("gaussian", "relu"):
        found = feature_statistics(net(), uniform(12, 4), layer="1", estimator=estimator, threshold=0.3)
        found.save(tmp_path / "statistics.safetensors")
        loaded = FeatureStatistics.load(tmp_path / "statistics.safetensors")
        assert_same(found, loaded, 0.0)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no feature statistics"):
        FeatureStatistics.load(tmp_path / "other.safetensors")


def test_moves_between_dtypes_and_is_immutable() -> None:
    found = feature_statistics(net(), uniform(12, 4), layer="1")
    half = found.to(torch.float32)
    assert half.mean.dtype == half.std.dtype == torch.float32
    assert half.nonzero.dtype == torch.int64
    with pytest.raises(AttributeError):
        found.count = 3  # type: ignore[misc]


def test_half_precision_keeps_the_sums_in_single() -> None:
    found = feature_statistics(net(), 100 * uniform(1000, 4), layer="0").to(torch.float16)
    assert found.centre.dtype == found.squares.dtype == torch.float32
    assert found.std.isfinite().all()
    assert (found.std > 1).all()


def test_leaves_the_model_and_its_inputs_alone() -> None:
    model, x = net(), uniform(12, 4)
    state = torch.random.get_rng_state()
    before = x.clone()
    feature_statistics(nn.Sequential(nn.ReLU(inplace=True), *model[:2]), x, layer="1")
    assert torch.equal(before, x)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


# --- errors ----------------------------------------------------------------------------------------------------------


def test_warns_of_few_examples() -> None:
    with pytest.warns(UserWarning, match="feature_statistics: 12 examples are few"):
        feature_statistics(net(), uniform(12, 4), layer="1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feature_statistics(net(), uniform(1000, 4), layer="1")


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "one example": ({"batches": uniform(1, 4)}, ValueError, "expected 2 examples or more, got 1"),
    "none": ({"batches": []}, ValueError, "expected 2 examples or more, got 0"),
    "all the same": ({"batches": uniform(1, 4).expand(5, 4)}, ValueError, "all 5 examples have the same values"),
    "the same but for rounding": (
        {"batches": torch.full((900, 4), 0.1, dtype=torch.float64)},
        ValueError,
        "all 900 examples have the same values",
    ),
    "a number for a layer": (
        {"layer": 1},
        TypeError,
        r"feature_statistics\(layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "another model's layer": ({"layer": nn.ReLU()}, ValueError, "the module is not one of the model's"),
    "NaN": ({"batches": torch.full((5, 4), float("nan")).double()}, ValueError, "the values are not finite"),
    "no iterable": ({"batches": 3}, TypeError, "expected a tensor or an iterable of batches, got int"),
    "a dict": ({"batches": {"x": uniform(3, 4)}}, TypeError, "expected a tensor or an iterable of batches, got dict"),
    "text": ({"batches": ["cat"]}, TypeError, "expected a tensor, a tuple or a dict of tensors, got str"),
    "layer": ({"layer": "7", "model": net()[:2]}, funcattr.UnknownSiteError, "feature_statistics: no such site '7'"),
    "no layer": ({"layer": []}, ValueError, "expected at least one site"),
    "examples": ({"examples": 0}, ValueError, r"\(examples=0\): expected at least 1"),
    "estimator": ({"estimator": "median"}, ValueError, "expected 'gaussian' or 'relu'"),
    "training": ({"model": nn.Sequential(nn.Dropout(), nn.ReLU())}, UserWarning, "the model is in training mode"),
    "tuple at the layer": (
        {"model": nn.Sequential(nn.GRU(4, 3).double())},
        TypeError,
        "expected a floating-point tensor",
    ),
    "no rows": ({"model": nn.Sequential(nn.Flatten(0)).eval()}, TypeError, "one row for each of the 9 examples"),
}


@pytest.mark.parametrize("what", BAD)
def test_named_errors(what: str) -> None:
    change, kind, message = BAD[what]
    given: dict[str, Any] = {"model": net(), "batches": uniform(9, 4), "layer": "0"} | change
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(kind, match=message):
            feature_statistics(given.pop("model"), given.pop("batches"), **given)


def test_named_errors_of_several_layers() -> None:
    with pytest.raises(ValueError, match=r"^feature_statistics\(layer=\[\]\): expected at least one site"):
        feature_statistics(net(), uniform(9, 4), layer=[])
    with pytest.raises(TypeError, match=r"^feature_statistics\(layer=\.\.\.\): expected the name of a site"):
        feature_statistics(net(), uniform(9, 4), layer=["0", 1])  # type: ignore[list-item]


def test_others_do_not_add_up() -> None:
    first, second = (feature_statistics(net(), uniform(12, 4), layer=name) for name in ("0", "1"))
    with pytest.raises(ValueError, match="do not add up"):
        _ = first + second


@pytest.mark.parametrize("estimator", ["gaussian", "relu"])
def test_of_values_at_hand(estimator: Any) -> None:
    values = uniform(1000, 3, 4).relu()
    found = FeatureStatistics.of(values, layer="0", estimator=estimator, threshold=0.3)
    expected = feature_statistics(nn.Sequential(nn.Identity()), values, layer="0", estimator=estimator, threshold=0.3)
    for name in ("mean", "std", "active"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert found.count == 1000
    torch.testing.assert_close((found + found).mean, found.mean)


@pytest.mark.parametrize(
    ("values", "error"), [(torch.ones(3, 4).long(), TypeError), (torch.ones(3), TypeError), ([1.0], TypeError)]
)
def test_values_at_hand_are_checked(values: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"FeatureStatistics\.of"):
        FeatureStatistics.of(values)
    with pytest.raises(ValueError, match="estimator='median'"):
        FeatureStatistics.of(torch.ones(3, 4), estimator="median")  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ["gaussian", "relu"])
def test_a_worker_without_examples_adds_nothing(estimator: Any) -> None:
    values = uniform(5, 3)
    none, some = (FeatureStatistics.of(v, estimator=estimator) for v in (values[:0], values))
    for both in (none + some, some + none):
        assert both.count == 5
        torch.testing.assert_close((both.mean, both.std), (some.mean, some.std))
