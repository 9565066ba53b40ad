"""s(z) = z + eps sgn(z), sgn(0) = sgn(-0) = 1."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import funcattr
from funcattr import rules
from funcattr.rules.stabilizer import stabilized


def test_moves_away_from_zero_on_either_side() -> None:
    z = torch.tensor([2.0, -2.0, 0.0, 1e-9, -1e-9], dtype=torch.float64)
    assert stabilized(z, 0.5).tolist() == [2.5, -2.5, 0.5, 0.5 + 1e-9, -0.5 - 1e-9]


@pytest.mark.parametrize("own", [False, True])
def test_a_zero_has_no_sign_wherever_it_runs(own: bool) -> None:
    def of(z: torch.Tensor) -> torch.Tensor:
        return stabilized(z * 1, 0.5, own)  # a product of its own: it may be written over

    zeros = torch.tensor([0.0, -0.0])
    assert of(zeros).tolist() == [0.5, 0.5]
    assert torch.vmap(of)(zeros).tolist() == [0.5, 0.5]
    assert torch.compile(of, fullgraph=True)(zeros).tolist() == [0.5, 0.5]
    with torch.no_grad():
        assert of(zeros).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_parts_of_a_complex_zero_have_no_sign(dtype: torch.dtype) -> None:
    assert stabilized(torch.tensor([complex(-0.0, -0.0)], dtype=dtype), 0.5).tolist() == [0.5 + 0.5j]


@pytest.mark.parametrize("rule", [rules.epsilon, rules.norm])
def test_what_multiplies_a_sum_changes_no_sign_of_its_zero(rule: Any) -> None:
    pair = torch.tensor([[1.0], [-1.0]])

    def minus(x: torch.Tensor) -> torch.Tensor:  # its zero is +0, but -0 where it is mapped
        return torch.addmm(-torch.zeros(1), x, pair, alpha=-1)

    def relevance(x: torch.Tensor) -> torch.Tensor:
        return funcattr.vjp(minus, x, rules={"addmm": rule})[1](torch.ones(1, 1))[0]

    x = torch.ones(1, 2)
    assert math.copysign(1.0, torch.vmap(minus)(x[None]).item()) == -1.0
    assert relevance(x).abs().min() > 1e5  # a stabilizer away from zero
    torch.testing.assert_close(torch.vmap(relevance)(x[None])[0], relevance(x))


@pytest.mark.parametrize(
    "rule", [rules.epsilon, rules.z_plus, rules.alpha_beta, rules.gamma, rules.z_box(low=0, high=0)]
)
def test_a_sum_of_nothing_but_negative_zeros_gets_no_relevance(rule: Any) -> None:
    weight, x = -torch.ones(1, 3), torch.zeros(1, 3)
    z = (x * weight).sum(1)  # -0, from 0 * -1
    assert math.copysign(1.0, (x * weight)[0, 0].item()) == -1.0
    given = funcattr.vjp(lambda x: F.linear(x, weight), x, rules={"linear": rule})[1](torch.ones(1, 1))[0]
    assert z.item() == 0 and given.count_nonzero() == 0


def test_terms_that_cancel_leave_a_positive_zero() -> None:
    for weight in ([1.0, -1.0], [-1.0, 1.0]):
        for map_of in (lambda w: F.linear(torch.ones(1, 2), w), lambda w: F.conv1d(torch.ones(1, 2, 1), w[..., None])):
            assert math.copysign(1.0, map_of(torch.tensor([weight])).item()) == 1.0


def test_an_output_that_is_minus_what_cancels_starts_like_one_that_cancels() -> None:
    x = torch.ones(1, 2)
    one, minus = (lambda x: x[:, :1] - x[:, 1:]), (lambda x: -(x[:, 1:] - x[:, :1]))
    assert math.copysign(1.0, minus(x).item()) == -1.0
    found = [funcattr.attribute(f, x, 0, rules="attnlrp", start="one").cotangent for f in (one, minus)]
    torch.testing.assert_close(*found)


def test_leaves_its_argument_alone() -> None:
    z = torch.ones(2)
    stabilized(z)
    assert z.tolist() == [1.0, 1.0]


def test_takes_the_place_of_an_owned_argument_where_nobody_can_tell() -> None:
    z = torch.tensor([2.0, -2.0])
    assert stabilized(z, 0.5, own=True).tolist() == [2.5, -2.5]
    assert z.tolist() == [2.0, -2.0]  # a graph may be recorded here, which would want the old value
    with torch.no_grad():
        assert stabilized(z, 0.5, own=True) is z


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_never_rounds_to_zero(dtype: torch.dtype) -> None:
    s = stabilized(torch.zeros(3, dtype=dtype), 1e-20)
    assert s.dtype == dtype
    assert (s > 0).all()
    assert (1 / s).isfinite().all()


def test_has_the_derivative_of_z() -> None:
    z = torch.tensor([2.0, -2.0, 0.0])
    assert torch.func.grad(lambda z: stabilized(z).sum())(z).tolist() == [1.0, 1.0, 1.0]
    assert torch.func.jvp(stabilized, (z,), (torch.ones(3),))[1].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(torch.vmap(stabilized)(z), stabilized(z), rtol=1e-6, atol=0)
