"""Perturbation methods beside Captum's: equal where both compute one thing, with the same draws where they are random.

Runs where Captum is installed: `pip install captum`, or the extra "bench".
"""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from funcattr.methods.perturbation.feature_ablation import feature_ablation
from funcattr.methods.perturbation.kernel_shap import kernel_shap
from funcattr.methods.perturbation.lime import lime
from funcattr.methods.perturbation.occlusion import occlusion
from funcattr.methods.perturbation.shapley_sampling import shapley_sampling
from funcattr.testing.seeding import settle, uniform

from . import perturbation_references as references
from .contract import assert_equal as equal

captum: Any = pytest.importorskip("captum.attr", reason="captum is not installed (it is in the extra 'bench')")

X, BASELINE = uniform(2, 2, 4, 5), uniform(2, 2, 4, 5, seed=2)
CLASSES = torch.tensor([2, 0])
MASK = (torch.arange(40) * 7 % 6).reshape(1, 2, 4, 5)


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 1e-6) -> None:
    """Captum adds up in single precision whatever the inputs are."""
    equal(ours, theirs.double(), tolerance=tolerance)


def net() -> nn.Module:
    model = settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(40, 6), nn.Tanh(), nn.Linear(6, 3)))
    return model.requires_grad_(False)


@pytest.mark.parametrize("window", [(2, 2, 2), (1, 3, 2), (2, 4, 5), (1, 1, 1)])
@pytest.mark.parametrize("stride", [1, "window", (1, 1, 2)])
def test_occlusion(window: Any, stride: Any) -> None:
    steps = {"window": window, 1: (1, 1, 1)}.get(stride, stride)
    steps = tuple(min(step, wide) for step, wide in zip(steps, window, strict=True))
    theirs = captum.Occlusion(net()).attribute(X, window, strides=steps, baselines=BASELINE, target=CLASSES)
    assert theirs.dtype == torch.float32
    assert_equal(occlusion(net(), X, CLASSES, window=window, stride=steps, baseline=BASELINE), theirs)


def test_occlusion_refuses_gaps_as_captum_does() -> None:
    with pytest.raises(AssertionError):
        captum.Occlusion(net()).attribute(X, (1, 2, 2), strides=(1, 3, 1), target=1)
    with pytest.raises(ValueError, match="larger than the window"):
        occlusion(net(), X, 1, window=(1, 2, 2), stride=(1, 3, 1))


@pytest.mark.parametrize("mask", [None, MASK])
def test_feature_ablation(mask: Any) -> None:
    theirs = captum.FeatureAblation(net()).attribute(X, baselines=BASELINE, target=CLASSES, feature_mask=mask)
    assert_equal(feature_ablation(net(), X, CLASSES, feature_mask=mask, baseline=BASELINE), theirs)


def test_groups_that_span_inputs() -> None:
    inner = net()

    def both(a: Tensor, b: Tensor) -> Tensor:
        return inner(torch.cat([a, b], 2))

    x, masks = X.split([1, 3], 2), tuple(m.expand(1, -1, -1, -1) for m in MASK.split([1, 3], 2))
    theirs = captum.FeatureAblation(both).attribute(x, baselines=(0.5, 0.5), target=1, feature_mask=masks)
    ours = feature_ablation(both, x, 1, feature_mask=masks, baseline=0.5)
    for a, e in zip(ours, theirs, strict=True):
        assert_equal(a, e)


def test_shapley_sampling_of_the_same_orders() -> None:
    orders = torch.stack([torch.randperm(6) for _ in range(7)])
    theirs = captum.ShapleyValueSampling(net())
    theirs.permutation_generator = lambda features, samples: iter(orders.tolist())
    options: Any = {"baselines": BASELINE, "target": CLASSES, "feature_mask": MASK, "n_samples": 7}
    ours = shapley_sampling(net(), X, CLASSES, feature_mask=MASK, baseline=BASELINE, permutations=orders)
    assert_equal(ours, theirs.attribute(X, **options))


def test_kernel_shap_of_all_coalitions_is_captums_sum_over_all_orders() -> None:
    options: Any = {"baselines": BASELINE, "target": CLASSES, "feature_mask": MASK}
    theirs = captum.ShapleyValues(net()).attribute(X, **options, perturbations_per_eval=50)
    ours = kernel_shap(net(), X, CLASSES, feature_mask=MASK, baseline=BASELINE)
    assert_equal(ours, theirs, tolerance=1e-5)  # 720 orders


class Replayed(captum.KernelShap):
    """Captum's kernel SHAP on given coalitions."""

    def __init__(self, model: Any, coalitions: Tensor) -> None:
        super().__init__(model)
        self.coalitions, self.perturb_func = coalitions, self.replay
        self.inf_weight = 1e9  # for the constraint, which captum fits as two samples

    def replay(self, original: Any, **_: Any) -> Iterator[Tensor]:
        both = torch.ones(1, 6).long(), torch.zeros(1, 6).long()
        yield from (*both, *self.coalitions.long().split(1))


def test_kernel_shap_of_the_same_coalitions() -> None:
    coalitions = torch.stack([torch.randperm(6) < 1 + i % 5 for i in range(30)])
    options: Any = {"baselines": BASELINE[:1], "target": 1, "feature_mask": MASK, "n_samples": 32}
    theirs = Replayed(net(), coalitions).attribute(X[:1], **options)
    ours = kernel_shap(net(), X[:1], 1, feature_mask=MASK, baseline=BASELINE[:1], coalitions=coalitions)
    assert theirs.dtype == torch.float32
    assert_equal(ours, theirs, tolerance=1e-4)


def test_kernel_shap_is_nearer_than_captums_for_the_same_forwards() -> None:
    x, mask = X[:1], torch.arange(40).reshape(1, 2, 4, 5) % 8
    exact = references.shapley_values(net(), x, 1, feature_mask=mask)
    options: Any = {"target": 1, "feature_mask": mask}
    ours = [kernel_shap(net(), x, **options, samples=78, chunk_size=78, generator=i) - exact for i in range(8)]
    theirs = [captum.KernelShap(net()).attribute(x, **options, n_samples=80).double() - exact for _ in range(8)]
    assert torch.stack(ours).square().mean() < torch.stack(theirs).square().mean() / 3


@pytest.mark.parametrize("regression", ["lasso", "ridge", "linear"])
def test_lime_of_the_same_coalitions(regression: Any) -> None:
    kinds = {"lasso": captum_model("SkLearnLasso", 0.001), "ridge": captum_model("SkLearnRidge", 0.1)}
    coalitions, left = torch.rand(40, 6) < 0.5, list[Tensor]()
    left.extend(coalitions.long().split(1))

    def similarity(_original: Any, _perturbed: Any, present: Tensor, **_: Any) -> Tensor:
        return torch.tensor(references.lime_weights(present, 0.25))

    theirs = captum.Lime(
        net(),
        interpretable_model=kinds.get(regression) or captum_model("SkLearnLinearRegression"),
        similarity_func=similarity,
        perturb_func=lambda original, **_: left.pop(0),
    ).attribute(X[:1], baselines=BASELINE[:1], target=1, feature_mask=MASK, n_samples=40)
    assert theirs.dtype == torch.float32
    penalty = 0.1 if regression == "ridge" else 0.001
    options: Any = {"baseline": BASELINE[:1], "coalitions": coalitions, "regression": regression, "penalty": penalty}
    assert_equal(lime(net(), X[:1], 1, feature_mask=MASK, **options), theirs, tolerance=2e-3)


def captum_model(name: str, alpha: float | None = None) -> Any:
    linear_model = importlib.import_module("captum._utils.models.linear_model")
    return getattr(linear_model, name)(**({} if alpha is None else {"alpha": alpha}))
