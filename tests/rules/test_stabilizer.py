"""s(z) = z + eps sgn(z), sgn(0) = +1."""

import pytest
import torch

from funcattr.rules.stabilizer import stabilized


def test_moves_away_from_zero_on_either_side() -> None:
    z = torch.tensor([2.0, -2.0, 0.0, 1e-9, -1e-9], dtype=torch.float64)
    assert stabilized(z, 0.5).tolist() == [2.5, -2.5, 0.5, 0.5 + 1e-9, -0.5 - 1e-9]


@pytest.mark.parametrize("own", [False, True])
def test_a_zero_has_no_sign(own: bool) -> None:
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
