"""The multipliers of normalisations: exact sums, also of constant inputs, and the derivative where x = x'."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.testing.seeding import uniform

from ...contract import assert_equal
from ..slopes import DOUBLE, RESCALE, Function, assert_sums_to_delta, multipliers, pairs

W, B, MEAN = (uniform(4, seed=s) for s in (5, 6, 7))
VARIANCE = W.abs() + 0.3


def c(t: Tensor, x: Tensor) -> Tensor:
    return t.to(x.dtype)


NORMS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "layer": (lambda x: F.layer_norm(x, (4,), c(W, x), c(B, x)), (3, 4)),
    "layer, of two dimensions": (lambda x: F.layer_norm(x, (2, 4), c(W * B[:2, None], x), None, 1e-3), (3, 2, 4)),
    "layer, plain": (lambda x: F.layer_norm(x, [4]), (2, 3, 4)),
    "rms": (lambda x: F.rms_norm(x, (4,), c(W, x)), (3, 4)),
    "rms, eps": (lambda x: F.rms_norm(x, (3, 4), None, 1e-2), (2, 3, 4)),
    "rms, by hand": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), (3, 4)),
    "group": (lambda x: F.group_norm(x, 2, c(W, x), c(B, x)), (3, 4, 5)),
    "group, one": (lambda x: F.group_norm(x, 1, c(W, x)), (2, 4, 2, 2)),
    "instance": (lambda x: F.instance_norm(x, weight=c(W, x), bias=c(B, x)), (2, 4, 5)),
    "instance, plain": (F.instance_norm, (2, 3, 2, 2)),
    "instance, running": (
        lambda x: F.instance_norm(x, c(MEAN, x), c(VARIANCE, x), c(W, x), c(B, x), use_input_stats=False),
        (2, 4, 5),
    ),
    "batch": (lambda x: F.batch_norm(x, c(MEAN, x), c(VARIANCE, x), c(W, x), c(B, x)), (3, 4, 5)),
    "batch, training": (lambda x: F.batch_norm(x, None, None, c(W, x), c(B, x), training=True), (3, 4, 5)),
    "batch, training, flat": (lambda x: F.batch_norm(x, None, None, training=True, eps=1e-3), (5, 4)),
}
each = pytest.mark.parametrize("name", NORMS)


@settings(max_examples=80)
@given(data=st.data(), name=st.sampled_from(list(NORMS)), constant=st.sampled_from(["", "", "x", "x0"]))
def test_norms_sum_to_delta(data: st.DataObject, name: str, constant: str) -> None:
    f, shape = NORMS[name]
    x, x0 = data.draw(pairs(*shape))
    x = torch.full_like(x, 0.7) if constant == "x" else x  # no variance: s = 316
    x0 = torch.zeros_like(x0) if constant == "x0" else x0
    assert_sums_to_delta(f, (x,), (x0,))


@each
def test_norms_of_equal_operands_give_the_plain_gradient(name: str) -> None:
    f, shape = NORMS[name]
    x, m = uniform(*shape), uniform(*shape, seed=3)
    expected: Any = torch.func.vjp(f, x)[1](m)
    assert_equal(multipliers(f, (x,), (x.clone(),), m)[0], expected[0], tolerance=1e-12)


@pytest.mark.parametrize("name", ["layer", "rms, eps", "group", "instance, plain", "batch, training"])
def test_norms_are_products_of_a_centred_value_and_its_scale(name: str) -> None:
    """By the rules of sums, products and one power, of the norm written out."""
    f, shape = NORMS[name]
    centred, dims = "rms" not in name, {"layer": (1,), "rms, eps": (1, 2), "batch, training": (0, 2)}.get(name, (2,))
    parts = {"group": (3, 2, 10), "instance, plain": (2, 3, 4)}.get(name, shape)
    eps, weight = {"rms, eps": 1e-2}.get(name, 1e-5), {"layer": W, "group": W[:, None], "batch, training": W[:, None]}

    def written_out(x: Tensor) -> Tensor:
        u = x.reshape(parts)
        u = u - u.mean(dims, keepdim=True) if centred else u
        y = u * ((u * u).mean(dims, keepdim=True) + eps) ** -0.5
        return y.reshape(shape) * weight.get(name, 1)

    x, x0, m = (uniform(*shape, seed=s) for s in (1, 2, 3))
    assert_equal(multipliers(f, (x,), (x0,), m)[0], multipliers(written_out, (x,), (x0,), m)[0])


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norms_are_finite_in_low_precision_beside_a_constant(name: str, dtype: torch.dtype) -> None:
    """The square of s, about 1e5, is beyond float16."""
    f, shape = NORMS[name]
    x, of_y, x0 = uniform(*shape).to(dtype), uniform(*shape, seed=3).to(dtype), torch.zeros(shape, dtype=dtype)
    (m,) = multipliers(f, (x,), (x0,), of_y)
    assert m.dtype == dtype and m.isfinite().all()
    (exact,) = multipliers(f, (x.to(DOUBLE),), (x0.to(DOUBLE),), of_y)
    if "by hand" not in name and "rms" not in name:  # whose default eps is that of the dtype
        assert_equal(m.double(), exact, tolerance=1e-5 if dtype == torch.float32 else 0.02)


def test_a_constant_cotangent_of_a_centred_norm_leaves_nothing() -> None:
    x, x0 = uniform(2, 4), torch.zeros(2, 4).double()
    (m,) = multipliers(lambda x: F.layer_norm(x, (4,)), (x,), (x0,))
    assert m.abs().max() <= 1e-12


def test_a_layer_norm_by_hand() -> None:
    x, x0 = torch.tensor([[3.0, -3.0]], dtype=DOUBLE), torch.tensor([[0.5, -0.5]], dtype=DOUBLE)
    (m,) = multipliers(lambda x: F.layer_norm(x, (2,), eps=0.0), (x,), (x0,), torch.tensor([[1.0, 0.0]]))
    assert m.abs().max() <= 1e-15  # y = y' = (1, -1)
    (m,) = multipliers(lambda x: F.layer_norm(x, (2,), eps=7.0), (x,), (x0,), torch.tensor([[1.0, 0.0]]))
    slope = (3 / 4 - 0.5 / 7.25**0.5) / 5  # of y_1 by x_1 - x_2
    assert_equal(m, torch.tensor([[slope, -slope]], dtype=DOUBLE))


def test_batch_norm_in_training_mode_sums_over_the_batch() -> None:
    """Every example moves the statistics of all, so that only the total is what the outputs have gained."""
    f, shape = NORMS["batch, training"]
    x, x0 = uniform(*shape), uniform(*shape, seed=2)
    (m,) = multipliers(f, (x,), (x0,), uniform(*shape, seed=3))
    by_example = (m * (x - x0)).flatten(1).sum(1) - (uniform(*shape, seed=3) * (f(x) - f(x0))).flatten(1).sum(1)
    assert by_example.abs().max() > 1e-2
    assert by_example.sum().abs() < 1e-12


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_a_weight_that_depends_on_the_input_is_refused(which: str) -> None:
    def f(x: Tensor) -> Tensor:
        weight, bias = (x.sum(0) if name == which else None for name in ("weight", "bias"))
        return F.layer_norm(2 * x, (4,), weight, bias)

    x, x0 = uniform(3, 4), uniform(3, 4, seed=2)
    with pytest.raises(funcattr.UnsupportedOperationError, match="of layer_norm with a weight or bias that depends"):
        multipliers(f, (x,), (x0,))


def test_the_check_fails_on_a_norm_whose_scale_is_held_constant() -> None:
    f, shape = NORMS["layer"]
    with pytest.raises(AssertionError):
        assert_sums_to_delta(
            f, (uniform(*shape),), (uniform(*shape, seed=2),), book=RESCALE | {"layer_norm": rules.frozen}
        )
