"""beta-smooth: the derivative of a softplus in place of relu's."""

import pytest
import torch

import funcattr
from funcattr import rules

from ..contract import assert_equal


@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_beta_smooth_is_the_gradient_of_a_softplus(beta: float) -> None:
    x = torch.linspace(-2, 2, 9).double()
    _, pullback = funcattr.vjp(torch.relu, x, rules={"relu": rules.beta_smooth(beta=beta)})
    expected = torch.func.grad(lambda x: torch.nn.functional.softplus(x, beta=beta, threshold=1e3).sum())(x)
    assert_equal(pullback(torch.ones_like(x))[0], expected)


def test_beta_smooth_needs_a_sharpness() -> None:
    with pytest.raises(ValueError, match=r"^beta_smooth\(beta=0\): expected a sharpness above 0"):
        rules.beta_smooth(beta=0)
