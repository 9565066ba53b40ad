"""What is known of a call before its rule is chosen."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr.calls.kinds import softmax_dims
from funcattr.testing.seeding import uniform

from ..contract import assert_equal


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_a_softmax_goes_over_the_dimension_that_torch_chooses_where_none_is_given(shape: tuple[int, ...]) -> None:
    found: list[int] = []

    def note(call: funcattr.rules.Call, g: Tensor) -> Tensor:
        found.append(softmax_dims(call))
        return g

    y, pull = funcattr.vjp(F.softmax, x := uniform(*shape), rules={"softmax": note})
    pull(y)
    torch_chose = [dim for dim in range(len(shape)) if F.softmax(x).sum(dim).sub(1).abs().max() < 1e-12]
    assert found == torch_chose


def test_the_added_matrix_of_addmm_is_no_factor_of_a_linear_map() -> None:
    x, a, b = uniform(2, 3), uniform(2, 4, seed=2), uniform(4, 3, seed=3)
    z = x + a @ b
    expected = torch.zeros_like(x)
    expected[:, 1] = (x / torch.where(z >= 0, z + 1e-6, z - 1e-6))[:, 1]
    assert_equal(funcattr.lrp(lambda x: torch.addmm(x, a, b), x, 1, rules="epsilon", start="one"), expected)
