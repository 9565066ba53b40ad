"""Rules of integration: what they integrate exactly, against nodes and weights found another way."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcattr.methods.paths.quadrature import nodes_and_weights

from ... import sampling_references as references

RULES: Any = ("gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid")
LIKE = torch.zeros((), dtype=torch.float64)
each_rule = pytest.mark.parametrize("name", RULES)


def rule(name: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = nodes_and_weights("f", name, steps, LIKE)
    return nodes.numpy(), weights.numpy()


@each_rule
@given(steps=st.integers(2, 60))
def test_equals_the_reference(name: Any, steps: int) -> None:
    nodes, weights = rule(name, steps)
    expected = references.rule(name, steps)
    np.testing.assert_allclose(nodes, expected[0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(weights, expected[1], rtol=0, atol=1e-13)


@each_rule
@pytest.mark.parametrize("steps", [2, 3, 10, 50, 101])
def test_weights_are_positive_and_sum_to_one(name: Any, steps: int) -> None:
    nodes, weights = rule(name, steps)
    assert abs(weights.sum() - 1) < 1e-14 and (weights > 0).all()
    assert (nodes >= 0).all() and (nodes <= 1).all() and (np.diff(nodes) > 0).all()


@given(st.integers(1, 12), st.data())
def test_gauss_legendre_integrates_polynomials_of_degree_2n_minus_1(steps: int, data: st.DataObject) -> None:
    nodes, weights = rule("gausslegendre", steps)
    coefficients = data.draw(st.lists(st.floats(-1, 1), min_size=2 * steps, max_size=2 * steps))
    exact = sum(c / (k + 1) for k, c in enumerate(coefficients))
    assert abs(sum(c * (weights * nodes**k).sum() for k, c in enumerate(coefficients)) - exact) < 1e-13
    beyond = abs((weights * nodes ** (2 * steps)).sum() - 1 / (2 * steps + 1))
    assert beyond > 0.5 * 16.0**-steps / (2 * steps + 1)  # and not of the next degree


@pytest.mark.parametrize(("name", "degree"), [("riemann_middle", 1), ("riemann_trapezoid", 1), ("riemann_left", 0)])
def test_riemann_sums_integrate_what_they_should(name: Any, degree: int) -> None:
    for steps in (2, 5, 40):
        nodes, weights = rule(name, steps)
        for k in range(degree + 1):
            assert abs((weights * nodes**k).sum() - 1 / (k + 1)) < 1e-14
        assert abs((weights * nodes ** (degree + 1)).sum() - 1 / (degree + 2)) > 1e-5


def test_left_and_right_are_mirrored() -> None:
    left, right = rule("riemann_left", 7), rule("riemann_right", 7)
    np.testing.assert_allclose(left[0], (1 - right[0])[::-1], atol=1e-15)
    assert left[0][0] == 0 and right[0][-1] == 1
    assert rule("riemann_trapezoid", 7)[0][[0, -1]].tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@each_rule
def test_sums_are_in_single_precision_at_least(name: Any, dtype: torch.dtype) -> None:
    nodes, weights = nodes_and_weights("f", name, 50, torch.zeros((), dtype=dtype))
    assert nodes.dtype == weights.dtype == torch.promote_types(dtype, torch.float32)
    assert abs(weights.sum() - 1) < 1e-6 * 4


@pytest.mark.parametrize(
    ("name", "steps", "kind", "message"),
    [
        ("simpson", 5, ValueError, r"\(quadrature='simpson'\): expected one of 'gausslegendre', 'riemann_left', "),
        (None, 5, ValueError, r"\(quadrature=None\): expected one of"),
        ("gausslegendre", 0, ValueError, r"\(steps=0\): expected at least 1"),
        ("gausslegendre", 2.0, TypeError, r"\(steps=\.\.\.\): expected an int, got float"),
        ("riemann_trapezoid", 1, ValueError, r"\(steps=1\): expected at least 2 for 'riemann_trapezoid'"),
    ],
)
def test_unknown_rules_and_numbers_of_steps_are_refused(
    name: Any, steps: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^f{message}"):
        nodes_and_weights("f", name, steps, LIKE)
