"""Baselines: one value in many forms, rows that belong together, and the errors of those that do not fit."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import distribution
from funcattr.sampling.baselines import baseline_like, broadcasts

from ..contract import assert_equal


@pytest.mark.parametrize(
    "baseline",
    [2, 2.0, torch.tensor(2), torch.full((3,), 2.0), torch.full((1, 3), 2), torch.full((2, 1), 2.0).double()],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_a_baseline_has_the_inputs_shape_and_dtype(baseline: Any, dtype: torch.dtype) -> None:
    x = torch.ones(2, 3).to(dtype)
    found = baseline_like("f", x, baseline)
    assert found.dtype == dtype and torch.equal(found, torch.full_like(x, 2))


def test_one_baseline_serves_all_inputs_and_a_structure_each() -> None:
    a, b = torch.ones(2, 3), torch.ones(2, 4).double()
    for one in (0.5, torch.tensor(0.5)):
        first, second = baseline_like("f", (a, b), one)
        assert torch.equal(first, 0.5 * a) and torch.equal(second, 0.5 * b)
    found = baseline_like("f", {"a": a, "b": b}, {"a": 1, "b": torch.arange(4.0)})
    assert torch.equal(found["a"], a) and torch.equal(found["b"], torch.arange(4.0).double().expand(2, 4))


def test_a_baseline_of_the_inputs_shape_is_differentiated() -> None:
    baseline = torch.zeros(3, requires_grad=True)
    assert baseline_like("f", torch.ones(2, 3), baseline).requires_grad


ids, floats = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("x", "baseline", "kind", "message"),
    [
        (ids, 0.5, ValueError, r"0.5\): expected an integer, as the inputs are \(torch.int64\)"),
        (
            torch.ones(2, 3, dtype=torch.bool),
            2,
            ValueError,
            r"2\): expected an integer, .*torch.bool\), in their range",
        ),
        (torch.ones(2, 3, dtype=torch.uint8), -1, ValueError, r"-1\): expected an integer, .*torch.uint8\), in their"),
        (
            floats,
            torch.tensor(0j),
            TypeError,
            r": expected real values, as the inputs are .*float32\), got .*complex64",
        ),
        (floats, "0", TypeError, r": expected numbers and tensors, got str"),
        (floats, True, TypeError, r": expected numbers and tensors, got bool"),
        (floats, None, TypeError, r": expected numbers and tensors, got NoneType"),
        (floats, torch.zeros(2), ValueError, r"input's shape \[2, 3\] or one that broadcasts to it, got \[2\]"),
        (
            floats,
            torch.zeros(5, 3),
            ValueError,
            r"got \[5, 3\]\. Many baselines are a distribution: baseline=distribut",
        ),
        (floats, torch.zeros(1, 2, 3), ValueError, r"or one that broadcasts to it, got \[1, 2, 3\]"),
        (floats, (0.0,), ValueError, r"expected a number, or 1 baselines structured as the inputs, got tuple of 1"),
        ((floats, ids), (0.0, 0, 1), ValueError, r"or 2 baselines structured as the inputs, got tuple of 3"),
        ((floats, ids), (0.0, "x"), TypeError, r"expected numbers and tensors, got str"),
        (
            {"a": floats},
            {"b": 0.0},
            ValueError,
            r"or 1 baselines structured .* by name: a, got dict of 1: b",
        ),
    ],
)
def test_what_does_not_fit_is_refused(x: Any, baseline: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=rf"^f\(baseline.*{message}"):
        baseline_like("f", x, baseline)


CHANGED = {
    "a fraction of an integer": (torch.long, torch.tensor(0.9)),
    "a fraction of a bool": (torch.bool, torch.tensor([0.3, 0.0, 1.0])),
    "not a number": (torch.long, torch.tensor(float("nan"))),
    "beyond the range": (torch.int8, torch.tensor([200, 0, 0], dtype=torch.uint8)),
}


@pytest.mark.parametrize("name", CHANGED)
def test_values_that_the_inputs_dtype_has_not_are_refused(name: str) -> None:
    dtype, baseline = CHANGED[name]
    x = torch.ones(2, 3).to(dtype)
    with pytest.raises(ValueError, match=rf"^f\(baseline=...\): expected values that the inputs' dtype {dtype} has"):
        baseline_like("f", x, baseline)
    with pytest.raises(ValueError, match=r"^f\(baseline=distribution\(...\)\): expected values that the inputs' dtype"):
        distribution(baseline.expand(4, 3)).like("f", x)


@pytest.mark.parametrize(
    ("dtype", "baseline"),
    [
        (torch.long, torch.tensor(2.0)),
        (torch.bool, torch.tensor([1, 0, 1])),
        (torch.int8, torch.tensor([100, 0, 0], dtype=torch.uint8)),
        (torch.complex64, torch.tensor(0.1, dtype=torch.float64)),
        (torch.float16, torch.tensor(0.1, dtype=torch.float64)),
    ],
)
def test_values_that_it_has_or_rounds_are_cast(dtype: torch.dtype, baseline: Tensor) -> None:
    found = baseline_like("f", torch.ones(2, 3).to(dtype), baseline)
    assert found.dtype == dtype
    assert torch.allclose(found.to(torch.complex128), baseline.to(torch.complex128).expand(2, 3), rtol=1e-3)


@pytest.mark.parametrize("baseline", [1e6, torch.tensor([0.0, 1e6, 1.0]), torch.full((2, 3), -(10**6))])
def test_values_beyond_the_inputs_range_are_refused(baseline: Any) -> None:
    """float16 makes infinity of a million: lines from there have no points, and what is put there is no input."""
    match = r"^f\(baseline=.*\): expected .* in the range of the inputs' dtype,? torch\.float16"
    with pytest.raises(ValueError, match=match):
        baseline_like("f", torch.ones(2, 3).half(), baseline)
    with pytest.raises(ValueError, match=r"distribution.*expected values in the range of the inputs' dtype"):
        distribution(torch.full((4, 3), 1e6)).like("f", torch.ones(2, 3).half())


def test_infinity_stays_infinity() -> None:
    for baseline in (float("inf"), torch.tensor(-float("inf"))):
        assert baseline_like("f", torch.ones(2, 3).half(), baseline).isinf().all()


def test_values_that_cannot_be_looked_at_are_cast() -> None:
    x = torch.ones(2, 3, dtype=torch.long)
    found = torch.vmap(lambda b: baseline_like("f", x, b))(torch.tensor([0.9, 2.0]))
    assert torch.equal(found, torch.tensor([0, 2]).reshape(2, 1, 1).expand(2, 2, 3))


@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(1, 3), max_size=3))
def test_broadcasting_is_torchs(shape: list[int], to: list[int]) -> None:
    try:
        torch.zeros(shape).expand(to)
        expected = True
    except RuntimeError:
        expected = False
    assert broadcasts(torch.Size(shape), torch.Size(to)) == expected


# --- distributions ---------------------------------------------------------------------------------------------------


def test_rows_of_a_structure_stay_together() -> None:
    a, b = torch.arange(4.0)[:, None], torch.arange(8.0).reshape(4, 2)
    index = torch.tensor([3, 0, 3])
    rows = distribution((a, b))
    first, second = rows.at(index)
    assert torch.equal(first, a[index]) and torch.equal(second, b[index])
    named = distribution({"a": a, "b": b}).at(index)
    assert torch.equal(named["b"], b[index])
    assert (rows.count, repr(rows)) == (4, "distribution(4 rows)")


@pytest.mark.parametrize("rows", [1.0, None, [1.0, 2.0], (torch.zeros(2), "text")])
def test_rows_are_tensors(rows: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^distribution\(x=\.\.\.\): expected a tensor, a tuple or a dict of tensors, got"
    ):
        distribution(rows)


@pytest.mark.parametrize("rows", [torch.tensor(1.0), torch.zeros(0, 3), (torch.zeros(2, 3), torch.zeros(3, 3))])
def test_rows_have_a_number_in_common(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^distribution\(x=\.\.\.\): expected "):
        distribution(rows)


def test_rows_fit_the_examples() -> None:
    x: tuple[Tensor, Tensor] = (torch.zeros(2, 3), torch.zeros(2, 4, 5))
    distribution((torch.zeros(7, 3), torch.zeros(7, 4, 5))).check("f", x)
    for rows in ((torch.zeros(7, 3), torch.zeros(7, 4)), torch.zeros(7, 3), [torch.zeros(7, 3), torch.zeros(7, 4, 5)]):
        message = r"^f\(baseline=distribution\(\.\.\.\)\): expected rows of shapes \[\[3\], \[4, 5\]\], got \["
        with pytest.raises(ValueError, match=message):
            distribution(rows).check("f", x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_cast_to_the_inputs_dtype_by_every_method(dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 4, dtype=dtype)
    model, x = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2, dtype=dtype)), torch.ones(2, 3, dtype=dtype)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    rows = torch.linspace(-1, 1, 12).reshape(4, 3)
    same, cast = distribution(rows.to(dtype)), distribution(rows.to(other))
    methods: list[Any] = [
        funcattr.integrated_gradients,
        partial(funcattr.integrated_gradients, layer="1"),
        funcattr.expected_gradients,
        partial(funcattr.layer_conductance, layer="1"),
        partial(funcattr.internal_influence, layer="1"),
        funcattr.deep_lift,
        funcattr.feature_ablation,
        funcattr.kernel_shap,
        partial(funcattr.noise_tunnel, partial(funcattr.integrated_gradients, model)),
    ]
    for method in methods:
        given = () if "noise_tunnel" in repr(method) else (model,)
        found = method(*given, x, 1, baseline=cast)
        assert found.dtype == dtype
        assert_equal(found, method(*given, x, 1, baseline=same), tolerance=1e-5)
    found = funcattr.integrated_gradients(model, x, 1, baseline=cast)
    assert funcattr.metrics.completeness(model, x, 1, found, baseline=cast).dtype == dtype
