"""A rule for linear maps of complex numbers is its rule for the same map of real and imaginary parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import UnsupportedOperationError, rules

from ..contract import assert_equal


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def parts(value: Tensor, dim: int) -> Tensor:
    return torch.cat([value.real, value.imag], dim)


def block(weight: Tensor, outputs_first: bool = True) -> Tensor:
    """The matrix of real numbers that multiplies real and imaginary parts as a complex one does complex numbers."""
    a, b = weight.real, weight.imag
    rows = ((a, -b), (b, a)) if outputs_first else ((a, b), (-b, a))
    return torch.cat([torch.cat(row, 1) for row in rows], 0)


W, B, C, T = drawn(5, 3, seed=1), drawn(5, seed=2), drawn(5, 3, 2, 2, seed=3), drawn(3, 5, 2, 2, seed=4)
MAPS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "linear": (lambda x: F.linear(x, W, B), lambda x: F.linear(x, block(W), parts(B, 0)), (4, 3)),
    "linear without bias": (lambda x: F.linear(x, W), lambda x: F.linear(x, block(W)), (4, 3)),
    "linear of tokens": (lambda x: F.linear(x, W, B), lambda x: F.linear(x, block(W), parts(B, 0)), (2, 4, 3)),
    "convolution": (
        lambda x: F.conv2d(x, C, B, padding=1),
        lambda x: F.conv2d(x, block(C), parts(B, 0), padding=1),
        (2, 3, 4, 4),
    ),
    "transposed convolution": (
        lambda x: F.conv_transpose2d(x, T, B, stride=2),
        lambda x: F.conv_transpose2d(x, block(T, outputs_first=False), parts(B, 0), stride=2),
        (2, 3, 3, 3),
    ),
}
RULES = {
    "epsilon": rules.epsilon,
    "epsilon without bias": rules.epsilon(bias="ignore"),
    "z_plus": rules.z_plus,
    "alpha_beta": rules.alpha_beta,
    "gamma": rules.gamma,
    "gamma without bias": rules.gamma(bias="ignore"),
    "z_plus without bias": rules.z_plus(bias="ignore"),
    "w_square": rules.w_square,
    "flat": rules.flat,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", MAPS)
def test_it_is_the_rule_of_the_real_map(name: str, rule: str) -> None:
    of_complex, of_real, shape = MAPS[name]
    dim = -1 if "linear" in name else 1
    x = drawn(*shape, seed=5)
    book: Any = rules.composite("one", convolution=RULES[rule], dense=RULES[rule])
    z, back = funcattr.vjp(of_complex, x, rules=book)
    real_z, real_back = funcattr.vjp(of_real, parts(x, dim), rules=book)
    assert_equal(parts(z, dim), real_z)
    relevance = drawn(*z.shape, seed=6)
    (found,), (expected,) = back(relevance), real_back(parts(relevance, dim))
    assert expected.abs().max() > 0.1
    assert_equal(parts(found, dim), expected)


def test_relevance_is_accounted_for() -> None:
    head = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))

    def model(x: Tensor) -> Tensor:
        z = F.linear(torch.view_as_complex(x.reshape(-1, 3, 2)), W, B)
        return torch.view_as_real(z).flatten(1) @ head

    x = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    for rule in (rules.epsilon, rules.z_plus, rules.gamma):
        book = rules.composite("one", convolution=rule, dense=rule)
        report = funcattr.conservation(model, x, 1, rules=book)
        assert report.lost["bias"] != 0
        assert abs(report.lost["other"]) < 1e-9 * max(abs(flow.arrived) for flow in report.flows)
        found = funcattr.lrp(model, x, 1, rules=book)
        assert_equal(found.sum(), torch.tensor(report.start - sum(report.lost.values()), dtype=torch.float64))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: F.conv1d(x.unsqueeze(1).expand(-1, 2, -1), drawn(4, 1, 2, seed=9), groups=2),
        lambda x: x @ drawn(3, 5, seed=9),
        lambda x: torch.einsum("bi,ij->bj", x, drawn(3, 5, seed=9)),
    ],
)
def test_other_complex_maps_are_refused(model: Callable[[Tensor], Tensor]) -> None:
    z, back = funcattr.vjp(model, drawn(4, 3, seed=5), rules="epsilon")
    with pytest.raises(
        UnsupportedOperationError, match="of complex numbers, only linear layers and convolutions of one"
    ):
        back(z)
