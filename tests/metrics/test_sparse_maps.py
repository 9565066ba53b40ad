"""Sparseness and complexity of maps: known values, other formulas for the same, structures, what is no number."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from funcattr import masks
from funcattr.metrics import complexity, sparseness
from funcattr.testing.seeding import uniform

BOTH = (sparseness, complexity)
MAPS = uniform(4, 1, 5, 6, seed=2)


def flat(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_one_feature_has_it_all_or_all_are_alike(count: int) -> None:
    one, alike = flat([0.0] * (count - 1) + [-3.0]), flat([-1.0, 1.0] * count)
    torch.testing.assert_close(sparseness(one).item(), 1 - 1 / count)
    torch.testing.assert_close(sparseness(alike).item(), 0.0)
    torch.testing.assert_close(complexity(one).item(), 0.0)
    torch.testing.assert_close(complexity(alike).item(), float(np.log2(2 * count)))


def test_values_by_hand() -> None:
    # |A| = 1, 2, 5: (-2 * 1 + 0 * 2 + 2 * 5) / (3 * 8)
    torch.testing.assert_close(sparseness(flat([2.0, -5.0, 1.0])).item(), 8 / 24)
    # Shares of 1/2, 1/4, 1/8, 1/8
    torch.testing.assert_close(complexity(flat([1.0, -4.0, 2.0, 1.0])).item(), 0.5 + 0.5 + 0.75)


def test_the_gini_index_is_half_the_relative_mean_difference() -> None:
    for n, found in enumerate(sparseness(MAPS)):
        a = MAPS[n].abs().flatten().numpy()
        expected = np.abs(a[:, None] - a[None]).mean() / (2 * a.mean())
        torch.testing.assert_close(found.item(), float(expected), rtol=1e-9, atol=1e-12)


def test_the_entropy_equals_a_loop() -> None:
    for n, found in enumerate(complexity(MAPS)):
        a = MAPS[n].abs().flatten().tolist()
        expected = -sum(v / sum(a) * np.log2(v / sum(a)) for v in a)
        torch.testing.assert_close(found.item(), float(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("measure", BOTH)
@pytest.mark.parametrize("unit", [1e-310, 1e-30, -1.0, 1e300])
def test_units_and_signs_do_not_count(measure: Any, unit: float) -> None:
    rtol = 1e-9 if abs(unit) > 1e-300 else 1e-2  # there are no more digits
    torch.testing.assert_close(measure(MAPS * unit), measure(MAPS), rtol=rtol, atol=0)


@pytest.mark.parametrize("measure", BOTH)
def test_zeros_and_what_is_no_number_have_none(measure: Any) -> None:
    broken = MAPS.clone()
    broken[0], broken[1, 0, 2, 3], broken[2, 0, 1, 1] = 0, torch.nan, torch.inf
    assert measure(broken).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("measure", BOTH)
def test_features_of_several_values_have_their_sum(measure: Any) -> None:
    ids = masks.patches(MAPS, 2)
    sums = torch.stack([(MAPS * (ids == i)).sum((1, 2, 3)) for i in range(9)], 1)
    torch.testing.assert_close(measure(MAPS, feature_mask=ids), measure(sums))
    torch.testing.assert_close(measure(MAPS, feature_mask=3 * ids + 1), measure(sums))
    mapped = torch.vmap(lambda ids: measure(MAPS, feature_mask=ids, features=9))(ids[None])[0]
    torch.testing.assert_close(mapped, measure(sums))
    with pytest.raises(ValueError, match=r"\(feature_mask=...\): expected the same features in each example"):
        measure(MAPS[:2], feature_mask=torch.stack([ids[0], ids[0] * 0]))
    opposed = flat([1.0, -1.0, 2.0])
    torch.testing.assert_close(measure(opposed, feature_mask=torch.tensor([[0, 0, 1]])), measure(flat([0.0, 2.0])))


@pytest.mark.parametrize("measure", BOTH)
def test_any_structure(measure: Any) -> None:
    parts = (MAPS[..., :2], MAPS[..., 2:])
    torch.testing.assert_close(measure(parts), measure(MAPS))
    torch.testing.assert_close(measure(dict(zip("ab", parts, strict=True))), measure(MAPS))
    ids = {"a": torch.zeros(1, 1, 1, 1, dtype=torch.long), "b": torch.arange(4)}
    sums = torch.stack([parts[0].sum((1, 2, 3)), *[torch.zeros(4).double()] * 3], 1)
    sums += parts[1].sum((1, 2))
    torch.testing.assert_close(measure(dict(zip("ab", parts, strict=True)), feature_mask=ids), measure(sums))


@pytest.mark.parametrize("measure", BOTH)
@pytest.mark.parametrize("masked", [False, True])
def test_the_first_of_several_parts_does_not_set_the_precision(measure: Any, masked: bool) -> None:
    parts = (MAPS[..., :2].float(), MAPS[..., 2:])
    ids = tuple(torch.arange(part[0].numel()).reshape(1, *part.shape[1:]) for part in parts)
    masks = (ids, ids[::-1]) if masked else (None, None)
    found, other = (measure(p, feature_mask=m) for p, m in zip((parts, parts[::-1]), masks, strict=True))
    assert found.dtype == other.dtype == torch.float64
    torch.testing.assert_close(found, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("measure", BOTH)
def test_mapped_compiled_and_in_half_precision(measure: Any, fresh_dynamo: None) -> None:
    torch.testing.assert_close(torch.vmap(measure)(MAPS[None])[0], measure(MAPS))
    compiled = torch.compile(measure, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(MAPS), measure(MAPS))
    half = measure(MAPS.half())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), measure(MAPS), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("measure", BOTH)
def test_they_have_a_derivative(measure: Any) -> None:
    a = MAPS.clone()
    a[0, 0, 0, 0] = 0
    slope = torch.func.grad(lambda a: measure(a).sum())(a)
    step = 1e-6 * uniform(*a.shape, seed=9) * (a != 0)
    ahead, behind = (measure(a + s * step).sum() for s in (1, -1))
    torch.testing.assert_close((slope * step).sum(), (ahead - behind) / 2, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("measure", BOTH)
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"attributions": MAPS.long()}, TypeError, r"\(attributions=...\): expected floating-point .* got torch.int64"),
        ({"attributions": "lrp"}, TypeError, r"\(attributions=...\): expected floating-point tensors, got str"),
        ({"attributions": MAPS[0, 0, 0]}, ValueError, r"\(attributions=...\): expected shape \[N, ...\]"),
        ({"attributions": (MAPS, MAPS[:2])}, ValueError, r"with one N for all, got \[\[4, 1, 5, 6\], \[2, 1, 5, 6\]\]"),
        ({"attributions": MAPS[:, :0]}, ValueError, r"got \[\[4, 0, 5, 6\]\]"),
        ({"feature_mask": MAPS}, TypeError, r"\(feature_mask=...\): expected integers"),
        ({"feature_mask": torch.zeros(1, 3, 5, 6).long()}, ValueError, r"\(feature_mask=...\): expected the input's"),
        ({"features": 7}, ValueError, r"\(features=7\): without a feature_mask"),
    ],
)
def test_bad_input_is_named(measure: Any, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"^{measure.__name__}" + ".*" + message):
        measure(**{"attributions": MAPS, **given})
