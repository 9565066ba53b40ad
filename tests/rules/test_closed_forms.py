"""The oracle: each formula by hand on two inputs and two outputs, and known mistakes that it tells from the rule."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import find, given, settings
from torch import Tensor

from . import closed_forms
from .closed_forms import Dense
from .linear_draws import linear_maps
from .linear_maps import OPERATIONS, LinearMap, assert_relevance

# x = (2, -1); R = (3, 5)
# z_1 = 1 * 2 + 3 * -1 + 2 = 1, all of x+ W+ = 2, x- W+ = -3; z_2 = -2 * 2 - 1 * -1 - 1 = -4, x+ W- = -4, x- W- = 1
LAYER = Dense(np.array([[1.0, 3.0], [-2.0, -1.0]]), np.ones((2, 2)), np.array([2.0, -1.0]))
X, R = np.array([2.0, -1.0]), np.array([3.0, 5.0])


@pytest.mark.parametrize(
    ("rule", "options", "messages"),
    [
        # from output 1: 2 * 3 / 2, -3 * 3 / 2; from output 2: -4 * 5 / -5, 1 * 5 / -5
        ("epsilon", {"eps": 1}, [[3, -4.5], [4, -1]]),
        ("norm", {"eps": 1}, [[3, -4.5], [4, -1]]),
        # z without its bias: -1 and -3
        ("epsilon", {"eps": 1, "bias": "ignore"}, [[-3, 4.5], [5, -1.25]]),
        # n = 2 + 2 and 1 + 0
        ("z_plus", {"eps": 1}, [[6 / 5, 0], [0, 5 / 2]]),
        # n' = -3 + 0 and -4 - 1
        ("alpha_beta", {"eps": 1}, [[12 / 5, -9 / 4], [-20 / 6, 5]]),
        ("alpha_beta", {"eps": 1, "alpha": 1, "beta": 0}, [[6 / 5, 0], [0, 5 / 2]]),
        # z_1 > 0: W + gamma W+ for x+, W for x-: 4 - 3, b 4; z_2 < 0: W + gamma W- for x+, W for x-: -8 + 1, b -2
        ("gamma", {"eps": 1, "gamma": 1}, [[2, -1.5], [4, -0.5]]),
        # z_1 = -1 + 1 * (1 + 3) = 3; z_2 = -3 + 3 * (2 + 1) = 6
        ("z_box", {"eps": 1, "low": -1.0, "high": 3.0}, [[9 / 4, 0], [10 / 7, 20 / 7]]),
        # low = (-1, -2), high = (3, 2): z_1 = -1 + 1 + 6 = 6; z_2 = -3 + 6 + 2 = 5
        ("z_box", {"eps": 1, "low": np.array([-1, -2]), "high": np.array([3, 2])}, [[9 / 7, 9 / 7], [10 / 6, 15 / 6]]),
        # 1 + 9 + 4 and 4 + 1 + 1
        ("w_square", {"eps": 1}, [[3 / 15, 27 / 15], [20 / 7, 5 / 7]]),
        ("flat", {"eps": 1}, [[1, 1], [5 / 3, 5 / 3]]),
        ("e_rule", {"eps": 1}, [[-3, 4.5], [5, -1.25]]),
        # 4 + 9 and 16 + 1
        ("e_rule", {"eps": 1, "p": 2}, [[12 / 14, 27 / 14], [80 / 18, 5 / 18]]),
        # 8 - 27 and -64 + 1
        ("e_rule", {"eps": 1, "p": 3}, [[-24 / 20, 81 / 20], [5, -5 / 64]]),
        # 2 and -3, 1 and -4
        ("b_rule", {"eps": 1, "beta": 1}, [[4, -9 / 4], [-4, 5]]),
        # W+ as it is: 2 - 3 = -1 and 0
        ("winning_probability", {"eps": 1}, [[-3, 4.5], [0, 0]]),
        ("winning_probability", {}, [[-6, 9], [0, 0]]),
    ],
)
def test_formulas_by_hand(rule: str, options: dict[str, Any], messages: Any) -> None:
    found = closed_forms.RULES[rule](LAYER, X, R, **options)
    np.testing.assert_allclose(found.sum(0), messages, rtol=1e-14)


def test_stabilised_moves_away_from_zero() -> None:
    assert [closed_forms.stabilised(z, 0.5) for z in (-1.0, 0.0, 1.0)] == [-1.5, 0.5, 1.5]


def test_the_b_rule_conserves_at_rare_outputs() -> None:
    layer = Dense(np.array([[1.0, 3.0], [-2.0, -2.0], [1.0, -1.0]]), np.ones((3, 2)), np.ones(3))
    # all positive; all negative; both
    found = closed_forms.b_rule(layer, np.array([1.0, 1.0]), np.array([4.0, 6.0, 8.0]), beta=0.5, eps=1e-15)
    np.testing.assert_allclose(found.sum(0), [[1, 3], [3, 3], [12, -4]], rtol=1e-12)


def test_the_b_rule_divides_the_stabiliser_by_the_weight_at_rare_outputs() -> None:
    layer = Dense(np.array([[1.0, 3.0], [-2.0, -2.0]]), np.ones((2, 2)), np.ones(2))
    found = closed_forms.b_rule(layer, np.array([1.0, 1.0]), np.array([4.0, 6.0]), beta=0.5, eps=1)
    # 4 + 1 / 1.5 and -4 - 1 / 0.5
    np.testing.assert_allclose(found.sum(0), [[4 / (4 + 2 / 3), 12 / (4 + 2 / 3)], [2, 2]], rtol=1e-12)


def test_the_b_rule_below_0_shares_among_both_signs() -> None:
    layer = Dense(np.array([[3.0, -1.0]]), np.ones((1, 2)), np.zeros(1))
    found = closed_forms.b_rule(layer, np.array([1.0, 1.0]), np.array([8.0]), beta=-0.25, eps=1e-15)
    np.testing.assert_allclose(found.sum(0), [[6, 2]], rtol=1e-12)


def test_the_b_rule_with_beta_0_sends_nothing_along_negative_contributions() -> None:
    layer = Dense(np.array([[1.0, 3.0], [-2.0, -2.0]]), np.ones((2, 2)), np.ones(2))
    found = closed_forms.b_rule(layer, np.array([1.0, 1.0]), np.array([4.0, 6.0]), beta=0, eps=1e-15)
    np.testing.assert_allclose(found.sum(0), [[1, 3], [0, 0]], rtol=1e-12)


def test_gamma_and_the_e_rule_send_nothing_where_the_output_is_zero() -> None:
    layer = Dense(np.array([[1.0, -1.0]]), np.ones((1, 2)), np.zeros(1))
    for rule in (closed_forms.gamma, closed_forms.e_rule):
        assert not rule(layer, np.array([1.0, 1.0]), np.array([1.0])).any()
    assert closed_forms.epsilon(layer, np.array([1.0, 1.0]), np.array([1.0])).any()


def test_a_dead_output_sends_nothing() -> None:
    layer = Dense(np.zeros((1, 2)), np.ones((1, 2)), np.zeros(1))
    for name in closed_forms.RULES:
        options = {"low": -1.0, "high": 1.0} if name == "z_box" else {}
        found = closed_forms.RULES[name](layer, np.array([1.0, -1.0]), np.array([1.0]), **options)
        assert found.any() == (name == "flat")


def test_dense_is_the_matrix_and_the_bias() -> None:
    weight, bias = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    matrix, found = closed_forms.dense(lambda x: x @ weight.T + bias, (4, 2))
    np.testing.assert_allclose(matrix, torch.kron(torch.eye(4).double(), weight), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found, bias.repeat(4), rtol=1e-14)


def test_bounds_are_one_for_each_input() -> None:
    assert closed_forms.per_input(2, (1, 2, 2), 1) == 2
    assert closed_forms.per_input((1, 2), (1, 2, 2), 1).tolist() == [1, 1, 2, 2]  # pyright: ignore
    assert closed_forms.per_input((1, 2), (2, 2, 1), -3).tolist() == [1, 1, 2, 2]  # pyright: ignore


@pytest.mark.parametrize("op", OPERATIONS)
def test_drawn_maps_are_their_matrix_and_rebuilt_by_their_repr(op: str) -> None:
    @given(linear_maps(op))
    def check(m: LinearMap) -> None:
        matrix, _, bias = m.dense()
        z = torch.from_numpy(matrix) @ m.arriving.flatten() + torch.from_numpy(bias)
        assert torch.equal(z.view(m.relevance.shape), m.model(m.x))  # exactly: the sums are exact
        again = eval(repr(m), {"LinearMap": LinearMap, "Description": type(m.description)})
        assert torch.equal(again.model(again.x), m.model(m.x))
        assert torch.equal(again.relevance, m.relevance)

    check()


# What others got wrong, on a linear layer of two matrices; each is told from the rule by some drawn example.


def _sign(z: Tensor) -> Tensor:
    return torch.where(z >= 0, 1.0, -1.0).to(z)  # in double precision, or eps is off by 3e-8


def _parts(m: LinearMap) -> tuple[Tensor, ...]:
    matrix, _, bias = (torch.from_numpy(a) for a in m.dense())
    x, r = m.arriving.flatten(), m.relevance.flatten()
    return matrix, bias, x, r


def _right(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    z = w @ x + b
    return x * ((r / (z + 1e-6 * _sign(z))) @ w)


def _no_sign(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    return x * ((r / (w @ x + b + 1e-6)) @ w)


def _no_clamp_of_x(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    up = w.clamp(min=0)
    z = up @ x + b.clamp(min=0)
    return x * ((r / (z + 1e-6 * _sign(z))) @ up)


def _bias_in_both(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    up = w.clamp(min=0) * x.clamp(min=0) + w.clamp(max=0) * x.clamp(max=0)
    down = w * x - up
    n, p = down.sum(1) + b, up.sum(1) + b
    return (2 * r / (p + 1e-6 * _sign(p))) @ up - (r / (n + 1e-6 * _sign(n))) @ down


def _plain_gamma(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    w, b = w + 0.25 * w.clamp(min=0), b + 0.25 * b.clamp(min=0)
    z = w @ x + b
    return x * ((r / (z + 1e-6 * _sign(z))) @ w)


def _squared_gamma(m: LinearMap) -> Tensor:
    w, b, x, r = _parts(m)
    w = w + 0.25 * w * w.clamp(min=0)
    z = w @ x + b
    return x * ((r / (z + 1e-6 * _sign(z))) @ w)


def _differs(m: LinearMap, rule: str, found: Tensor) -> bool:
    expected, scale = m.expected(rule)
    try:
        assert_relevance(found.view(m.x.shape), expected, scale)
    except AssertionError:
        return True
    return False


@given(linear_maps())
def test_the_right_rule_is_not_told_from_itself(m: LinearMap) -> None:
    x = m.arriving
    found = torch.func.vjp(m.before, m.x)[1](_right(m).view(x.shape))[0]
    assert not _differs(m, "epsilon", found)


@pytest.mark.parametrize(
    ("rule", "mistake"),
    [
        ("epsilon", _no_sign),
        ("epsilon", lambda m: m.expected("epsilon", eps=1e-5)[0]),
        ("z_plus", _no_clamp_of_x),
        ("alpha_beta", _bias_in_both),
        ("gamma", _plain_gamma),
        ("gamma", _squared_gamma),
        ("b_rule", lambda m: m.expected("alpha_beta", alpha=1.5, beta=0.5)[0]),
        ("winning_probability", lambda m: m.expected("z_plus")[0]),
    ],
)
def test_a_known_mistake_is_told_from_the_rule(rule: str, mistake: Any) -> None:
    options = settings(max_examples=200, database=None, derandomize=True)
    find(linear_maps("linear"), lambda m: _differs(m, rule, mistake(m)), settings=options)
