"""Groups of values as features: how masks are read, and what is refused, by way of the methods that take them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported

import funcattr
from funcattr.methods.perturbation.feature_ablation import feature_ablation
from funcattr.methods.perturbation.kernel_shap import kernel_shap
from funcattr.methods.perturbation.lime import lime
from funcattr.methods.perturbation.shapley_sampling import shapley_sampling
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal, loop

MASK = torch.tensor([[0, 1, 1, 2, 0, 2]])
X = uniform(2, 6)
METHODS: dict[str, Any] = {
    "feature_ablation": feature_ablation,
    "shapley_sampling": shapley_sampling,
    "kernel_shap": kernel_shap,
    "lime": partial(lime, regression="ridge"),
}
EXACT: dict[str, Any] = {
    "feature_ablation": (feature_ablation, references.feature_ablation),
    "kernel_shap": (kernel_shap, references.shapley_values),
}
each_method = pytest.mark.parametrize("name", METHODS)
each_exact_method = pytest.mark.parametrize("name", EXACT)

NET = settle(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))


class Two(nn.Module):
    """Two inputs, [N, 3] and [N, 2, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.net(torch.cat([first, second.flatten(1)], 1))


# --- masks and baselines ---------------------------------------------------------------------------------------------


@each_exact_method
def test_groups_may_span_inputs_and_differ_between_examples(name: str) -> None:
    method, reference = EXACT[name]
    model, x = settle(Two), (uniform(2, 3), uniform(2, 2, 2, seed=2))
    masks = torch.tensor([[0, 1, 2], [2, 2, 0]]), torch.tensor([[[1, 3]]])
    for feature_mask in (masks, (masks[0][:1], masks[1])):
        for baseline in (0.5, (0.1, uniform(1, 1, 2, seed=3)), (uniform(2, 3, seed=4), 1)):
            options: Any = {"feature_mask": feature_mask, "baseline": baseline}
            actual, expected = method(model, x, [0, 2], **options), reference(model, x, [0, 2], **options)
            for a, e in zip(actual, expected, strict=True):
                assert_equal(a, e)


@each_exact_method
def test_every_value_is_a_feature_by_default(name: str) -> None:
    method, reference = EXACT[name]
    model, x = settle(Two), (uniform(1, 3), uniform(1, 2, 2, seed=2))
    for actual, expected in zip(method(model, x, 1), reference(model, x, 1), strict=True):
        assert_equal(actual, expected)
    by_mask = method(model, x, 1, feature_mask=(torch.arange(3)[None], torch.arange(3, 7).reshape(1, 2, 2)))
    assert_equal(method(model, x, 1, features=7)[1], by_mask[1], tolerance=1e-12)


@each_method
def test_a_dict_of_inputs_goes_by_keyword(name: str) -> None:
    model, x = settle(Two), {"second": uniform(2, 2, 2), "first": uniform(2, 3, seed=2)}
    masks = {"second": torch.tensor([[[0], [1]]]), "first": torch.tensor([[1, 2, 2]])}
    baseline: Any = {"second": 0.5, "first": uniform(1, 3, seed=3)}
    found: Any = METHODS[name](model, x, 1, feature_mask=masks, baseline=baseline)
    in_order: Any = METHODS[name](
        model,
        (x["first"], x["second"]),
        1,
        feature_mask=(masks["first"], masks["second"]),
        baseline=(baseline["first"], baseline["second"]),
    )
    assert list(found) == ["second", "first"]
    assert_equal(found["first"], in_order[0], tolerance=1e-12)
    assert_equal(found["second"], in_order[1], tolerance=1e-12)


@each_method
def test_token_ids_get_the_scores_dtype(name: str) -> None:
    embedding, ids = settle(lambda: nn.Embedding(7, 3)), torch.tensor([[1, 4, 2], [6, 6, 0]])

    def model(ids: Tensor) -> Tensor:
        return embedding(ids).prod(1)

    found = METHODS[name](model, ids, 1, baseline=5)
    assert found.dtype == torch.float64 and found.shape == (2, 3)
    if name in EXACT:
        assert_equal(found, EXACT[name][1](model, ids, 1, baseline=5))


@each_method
def test_a_feature_without_values_changes_nothing(name: str) -> None:
    """Shapley values of the others stay, and so does what is there; a gap in a mask is such a feature."""
    if name in EXACT:
        whole = METHODS[name](NET, X, 1, feature_mask=MASK)
        assert_equal(METHODS[name](NET, X, 1, feature_mask=MASK * 2), whole)
        assert_equal(METHODS[name](NET, X, 1, feature_mask=MASK, features=5), whole)
    assert METHODS[name](NET, X, 1, feature_mask=MASK, features=5).shape == X.shape


@each_exact_method
def test_features_may_have_any_labels(name: str) -> None:
    """Segments may be numbered by what they are; a table of all numbers between would need a terabyte."""
    labels = torch.tensor([7, 10**9, 10**12])[MASK]
    for mask in (labels, labels.expand(len(X), -1)):
        assert_equal(
            METHODS[name](NET, X, 1, feature_mask=mask), METHODS[name](NET, X, 1, feature_mask=MASK), tolerance=1e-10
        )


@each_method
def test_a_mask_is_read_inside_transforms_of_other_things(name: str) -> None:
    def one(x: Tensor) -> Tensor:
        return METHODS[name](NET, x[None], 1, feature_mask=MASK)[0]

    assert_equal(torch.vmap(one)(X), loop(one, X), tolerance=1e-10)
    slope = torch.func.grad(lambda x: METHODS[name](NET, x, 1, feature_mask=MASK).square().sum())(X)
    assert slope.abs().max() > 0


@each_method
def test_mapped_masks_need_the_number_of_features(name: str) -> None:
    masks = torch.stack([MASK[0], MASK[0].flip(0)])

    def one(x: Tensor, mask: Tensor, features: int | None = 3) -> Tensor:
        return METHODS[name](NET, x[None], 1, feature_mask=mask[None], features=features)[0]

    assert_equal(torch.vmap(one)(X, masks), loop(one, X, masks), tolerance=1e-10)
    with pytest.raises(
        ValueError, match=rf"^{name}\(feature_mask=...\): its values cannot be looked at .* features=\."
    ):
        torch.vmap(partial(one, features=None))(X, masks)
    beyond = torch.stack([masks[0], masks[1] + 1, masks[1] - 1])
    found = torch.vmap(one)(X[[0, 1, 1]], beyond)
    assert_equal(found[0], one(X[0], masks[0]), tolerance=1e-10)
    assert found[1:].isnan().all()


def test_compiled_code_needs_the_number_of_features(fresh_dynamo: None) -> None:
    fm = funcattr.functionalize(NET)
    compiled = torch.compile(lambda x: feature_ablation(fm, x, 1, feature_mask=MASK), fullgraph=True, backend="eager")
    with pytest.raises(Unsupported, match=r"feature_ablation\(feature_mask=...\): its values cannot be looked at"):
        compiled(X)


# --- bad input -------------------------------------------------------------------------------------------------------


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "mask's shape": (
        {"feature_mask": MASK[:, :5]},
        ValueError,
        r"\(feature_mask=...\): expected the input's shape \[2, 6\]",
    ),
    "mask's rows": (
        {"feature_mask": MASK.expand(3, 6)},
        ValueError,
        r"\(feature_mask=...\): expected .*, got \[3, 6\]",
    ),
    "mask's dtype": (
        {"feature_mask": MASK.double()},
        TypeError,
        r"\(feature_mask=...\): expected integers, .* got torch.f",
    ),
    "a boolean mask": (
        {"feature_mask": MASK > 0},
        TypeError,
        r"\(feature_mask=...\): expected integers, .* torch.bool",
    ),
    "mask as a list": (
        {"feature_mask": [0, 1]},
        ValueError,
        r"\(feature_mask=...\): expected 1 masks structured as x, got 2",
    ),
    "mask as a number": ({"feature_mask": 3}, TypeError, r"\(feature_mask=...\): expected integer tensors, got int"),
    "two masks": ({"feature_mask": (MASK, MASK)}, ValueError, r"\(feature_mask=...\): expected 1 masks .*, got 2"),
    "negative feature": (
        {"feature_mask": MASK - 1},
        ValueError,
        r"\(feature_mask=...\): expected features from 0, got -1 to 1",
    ),
    "too few features": (
        {"feature_mask": MASK, "features": 2},
        ValueError,
        r"\(feature_mask=...\): expected features from 0 to 1, got 0 to 2",
    ),
    "no features": ({"feature_mask": MASK, "features": 0}, ValueError, r"\(features=0\): expected at least 1"),
    "features as text": (
        {"feature_mask": MASK, "features": "3"},
        TypeError,
        r"\(features=...\): expected an int, got str",
    ),
    "features without a mask": (
        {"features": 3},
        ValueError,
        r"\(features=3\): without a feature_mask each of the 6 values",
    ),
    "baseline's shape": ({"baseline": X[:, :5]}, ValueError, r"\(baseline=...\): expected the input's shape \[2, 6\]"),
    "baseline as text": ({"baseline": "mean"}, TypeError, r"\(baseline=...\): expected numbers and tensors, got str"),
    "two baselines": ({"baseline": (0.0, 1.0)}, ValueError, r"\(baseline=...\): expected a number, or 1 baselines"),
    "chunk": ({"chunk_size": 0}, ValueError, r"\(chunk_size=0\): expected at least 1"),
    "half a chunk": ({"chunk_size": 1.5}, TypeError, r"\(chunk_size=...\): expected an int, got float"),
    "no batch": ({"x": X[:0]}, ValueError, r"\(x=...\): expected a batch of at least one example"),
    "class": ({"target": 3}, ValueError, r"\(target=3\): class out of range"),
    "several numbers": (
        {"target": None},
        ValueError,
        r"\(target=None\): expected an output with one number per example",
    ),
}


@each_method
@pytest.mark.parametrize("what", BAD)
def test_bad_input(name: str, what: str) -> None:
    change, kind, message = BAD[what]
    with pytest.raises(kind, match=f"^{name}{message}"):
        METHODS[name](**{"model": NET, "x": X, "target": 1} | change)


@pytest.mark.parametrize("name", ["kernel_shap", "lime"])
@pytest.mark.parametrize(
    ("coalitions", "kind", "message"),
    [
        (torch.ones(4, 6), TypeError, r"expected a boolean or integer tensor, got torch.float32"),
        ([[True] * 6], TypeError, r"expected a boolean or integer tensor, got list"),
        (
            torch.ones(4, 5) > 0,
            ValueError,
            r"expected shape \['S', 6\], which of the 6 features are present, got \[4, 5\]",
        ),
        (torch.ones(0, 6) > 0, ValueError, r"expected shape \['S', 6\], .* got \[0, 6\]"),
        (torch.ones(6) > 0, ValueError, r"expected shape \['S', 6\], .* got \[6\]"),
    ],
)
def test_bad_coalitions(name: str, coalitions: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^{name}\(coalitions=...\): {message}"):
        METHODS[name](NET, X, 1, coalitions=coalitions)


@pytest.mark.parametrize("name", ["shapley_sampling", "kernel_shap", "lime"])
def test_bad_draws(name: str) -> None:
    for samples, kind, message in (
        (0, ValueError, r"\(samples=0\): expected at least 1"),
        (-3, ValueError, r"\(samples=-3\): expected at least 1"),
        (2.0, TypeError, r"\(samples=...\): expected an int, got float"),
        (True, TypeError, r"\(samples=...\): expected an int, got bool"),
    ):
        with pytest.raises(kind, match=f"^{name}{message}"):
            METHODS[name](NET, X, 1, samples=samples)
    with pytest.raises(
        TypeError, match=rf"^{name}\(generator=...\): expected a seed or a torch.Generator, got NoneType"
    ):
        METHODS[name](NET, X, 1, generator=None)
