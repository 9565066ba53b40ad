"""The multipliers of operations, one by one: exact sums at any operands, and the derivative where x = x'."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.calls.kinds import GROUPS
from funcattr.testing.seeding import uniform

from ...contract import assert_equal
from ..slopes import DOUBLE, RESCALE, Function, assert_sums_to_delta, multipliers, pairs, sums

CONSTANT = torch.tensor([0.25, -0.5, 2.0])

# --- functions of one value ------------------------------------------------------------------------------------------

SMOOTH: dict[str, Function] = {
    **{n: getattr(F, n) for n in ("elu", "celu", "silu", "mish", "gelu", "sigmoid", "tanh", "softplus", "logsigmoid")},
    **{n: getattr(F, n) for n in ("softsign", "tanhshrink", "selu")},
    **{n: getattr(torch, n) for n in ("square", "exp", "exp2", "expm1", "sin", "cos", "atan", "sinh", "cosh", "asinh")},
    **{n: getattr(torch, n) for n in ("erf", "erfc", "sinc", "deg2rad", "rad2deg")},
    "ldexp": lambda x: torch.ldexp(x, torch.tensor(2)),
    "atan2": lambda x: torch.atan2(x, CONSTANT[2].to(x.dtype)),
    "logaddexp": lambda x: torch.logaddexp(x, CONSTANT[2].to(x.dtype)),
    "logaddexp2": lambda x: torch.logaddexp2(CONSTANT[2].to(x.dtype), x),
    "xlogy": lambda x: torch.xlogy(x, CONSTANT[2].to(x.dtype)),
    "xlog1py": lambda x: torch.special.xlog1py(x, CONSTANT[2].to(x.dtype)),
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "pow": lambda x: x**3,
    "function, gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "rpow": lambda x: 2**x,
}
KINKED: dict[str, Function] = {
    **{n: getattr(F, n) for n in ("relu", "relu6", "hardtanh", "leaky_relu", "hardswish", "hardsigmoid", "softshrink")},
    "hardshrink": F.hardshrink,  # it jumps
    "threshold": lambda x: F.threshold(x, 1.0, -2.0),
    "clamp": lambda x: x.clamp(-1, 0.5),
    "clamp_min": lambda x: torch.clamp_min(x, -0.5),
    "clamp_max": lambda x: torch.clamp_max(x, 3),
    "clamp, tensor": lambda x: torch.clamp(x, max=CONSTANT.to(x.dtype)),
    "prelu": lambda x: F.prelu(x, CONSTANT.to(x.dtype)),
    "rrelu": F.rrelu,
    "abs": torch.abs,
    "neg": torch.neg,
    "positive": torch.positive,
    "nan_to_num": torch.nan_to_num,
    **{n: getattr(torch, n) for n in ("frac", "floor", "ceil", "round", "trunc", "angle")},
    "fmod": lambda x: torch.fmod(x, 1.5),
    "remainder": lambda x: torch.remainder(x, 1.5),
    "copysign": lambda x: torch.copysign(x, CONSTANT.to(x.dtype)),
}
POSITIVE: dict[str, Function] = {
    **{n: getattr(torch, n) for n in ("sqrt", "log", "log2", "log10", "log1p", "rsqrt", "reciprocal")},
    "acos": lambda x: torch.acos(x / 9),
    "asin": lambda x: torch.asin(x / 9),
    "atanh": lambda x: torch.atanh(x / 9),
    "acosh": lambda x: torch.acosh(x + 1.5),
    "tan": lambda x: torch.tan(x / 6),
    "rdiv": lambda x: 3 / x,
    # Torch has these in double and single precision only.
    **{n: getattr(torch.special, n) for n in ("ndtr", "log_ndtr", "i0e", "i1e")},
    "i0": lambda x: torch.i0(x / 4),
    "i1": lambda x: torch.special.i1(x / 4),
    "erfcx": lambda x: torch.special.erfcx(x / 4),
    "logit": lambda x: torch.logit(x / 20 + 0.2),
    "ndtri": lambda x: torch.special.ndtri(x / 20 + 0.2),
    "erfinv": lambda x: torch.erfinv(x / 20),
    **{n: getattr(torch.special, n) for n in ("entr",)},
    **{n: getattr(torch, n) for n in ("lgamma", "digamma")},
    "polygamma": lambda x: torch.polygamma(1, x),
    "mvlgamma": lambda x: torch.mvlgamma(x + 2, 2),
    "nextafter": lambda x: torch.nextafter(x, torch.zeros_like(x)),
    "pow, negative": lambda x: x**-1.5,
    "pow, tensor": lambda x: x ** CONSTANT.to(x.dtype),
}
ROUGH = {"i0", "i1", "i0e", "i1e", "erfcx", "ndtr", "log_ndtr", "ndtri", "erfinv", "lgamma", "digamma", "polygamma"}
ROUGH |= {"mvlgamma", "nextafter", "entr"}
"""Functions whose values torch rounds by more than the last digit, which their slopes over tiny steps show."""
SPELLED = {"glu", "log_softmax"}  # in the group of activations, with a rule of their own, tested below


def test_every_function_of_one_value_is_tested_here() -> None:
    listed = {name.partition(",")[0] for name in (*SMOOTH, *KINKED, *POSITIVE)} | SPELLED
    assert GROUPS["activation"] - listed == set()


def function(name: str) -> tuple[Function, float]:
    """The function and the lowest operand that is drawn for it."""
    return ({**SMOOTH, **KINKED, **POSITIVE})[name], 0.05 if name in POSITIVE else -7.0


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@settings(max_examples=100)
@given(data=st.data(), name=st.sampled_from([*SMOOTH, *KINKED, *POSITIVE]))
def test_functions_of_one_value_are_exact_element_by_element(
    dtype: torch.dtype, data: st.DataObject, name: str
) -> None:
    f, low = function(name)
    x, x0 = data.draw(pairs(8, 3, low=low, high=7.0, dtype=dtype))
    (m,) = multipliers(f, (x,), (x0,))
    y, y0 = f(x), f(x0)
    size = torch.maximum(torch.maximum(x.abs(), x0.abs()), torch.maximum(y.abs(), y0.abs()))
    assert (m * (x - x0) - (y - y0)).abs().le(6 * torch.finfo(dtype).eps * size).all()


@pytest.mark.parametrize(("dtype", "error"), [(DOUBLE, 3e-7), (torch.float32, 5e-3)])
def test_slopes_of_smooth_functions_pass_into_the_derivative(dtype: torch.dtype, error: float) -> None:
    """At any distance, tiny ones too: the mean derivative between x' and x, to about the square root of eps."""
    nodes, weights = (torch.from_numpy(v)[:, None, None] for v in np.polynomial.legendre.leggauss(16))
    steps = 10.0 ** -torch.arange(1, 19, dtype=DOUBLE)
    for name in {*SMOOTH, *POSITIVE} - {"pow, tensor"} - ROUGH:
        f, low = function(name)
        start = torch.tensor([-3.5, 0, 1e-9, 0.3, 1.1, 2.9] if low < 0 else [0.3, 0.5, 1, 2, 3, 5], dtype=DOUBLE)
        x0 = start[:, None].expand(-1, len(steps)).to(dtype)
        x = (start[:, None] + steps * start[:, None].abs().clamp(min=1e-2)).to(dtype)
        between = x0.double() + (nodes + 1) / 2 * (x.double() - x0.double())
        expected = (torch.func.grad(lambda v: f(v).sum())(between) * weights / 2).sum(0)
        (m,) = multipliers(f, (x,), (x0,))
        off = (m.double() - expected).abs() / (1 + expected.abs())
        assert off.max() <= error, (name, off.max())


def test_equal_operands_give_the_plain_gradient() -> None:
    for name in (*SMOOTH, *KINKED, *POSITIVE):
        f, low = function(name)
        x = uniform(5, 3).abs() + 0.1 if low > 0 else torch.cat([uniform(5, 3), torch.zeros(1, 3).double()])
        (m,) = multipliers(f, (x,), (x.clone(),))
        assert_equal(m, torch.func.grad(lambda v: f(v).sum())(x), tolerance=1e-14)


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from([*SMOOTH, *KINKED]), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
def test_functions_of_one_value_are_finite_in_half_precision(
    data: st.DataObject, name: str, dtype: torch.dtype
) -> None:
    f, _ = function(name)
    x, x0 = data.draw(pairs(4, 3, low=-7.0, high=7.0, dtype=dtype))
    (m,) = multipliers(f, (x,), (x0,))
    assert m.dtype == dtype
    assert m.isfinite().all()


def test_a_wider_result_is_summed_over() -> None:
    exponents = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE)
    x, x0 = uniform(4, 1).abs(), uniform(4, 1, seed=2).abs()
    (m,) = multipliers(lambda x: x**exponents, (x,), (x0,))
    assert_equal(m, torch.stack([(x**e - x0**e) / (x - x0) for e in (1, 2, 3)]).sum(0))
    assert_equal(multipliers(lambda x: x**exponents, (x,), (x.clone(),))[0], 1 + 2 * x + 3 * x**2)


def test_a_square_root_of_nothing_has_the_slope_zero() -> None:
    x, x0 = torch.tensor([[0.0, 4.0, 0.0]]), torch.tensor([[0.0, 0.0, 9.0]])
    assert multipliers(torch.sqrt, (x,), (x0,))[0].tolist() == [pytest.approx([0, 1 / 2, 1 / 3])]


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda a, b: a**b, "no multiplier of pow of 2 tracked operands"),
        (lambda a, b: torch.clamp(a, min=b), "no multiplier of clamp of 2 tracked operands"),
        (lambda a, b: torch.einsum("ni,nj,nj->n", a, b, b), "no multiplier of an einsum of 3 tracked factors"),
    ],
)
def test_what_has_no_multiplier_is_refused(f: Function, message: str) -> None:
    x, x0 = (uniform(2, 3).abs() + 1, uniform(2, 3, seed=2).abs() + 1), (torch.ones(2, 3).double(),) * 2
    with pytest.raises(
        funcattr.UnsupportedOperationError, match=f"^deep_lift: in the module '', {message}.*rules.deep"
    ):
        multipliers(f, x, x0)


def test_dropout_is_the_identity_or_refused() -> None:
    x, x0 = uniform(2, 3), torch.zeros(2, 3).double()
    for idle in (lambda x: F.dropout(x, 0.5, training=False), lambda x: F.dropout(x, 0.0)):
        assert_equal(multipliers(idle, (x,), (x0,))[0], torch.ones_like(x))
    for drawn in (F.dropout, lambda x: torch.dropout(x, 0.3, True), lambda x: F.alpha_dropout(x, training=True)):
        with pytest.raises(funcattr.UnsupportedOperationError, match=r"no multiplier of a dropout.*model\.eval\(\)"):
            multipliers(drawn, (x,), (x0,))


def test_a_rule_without_a_partner_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"^the rule for 'tanh' compares with a baseline: pass attribute\(\.\.\., baseline="
    ):
        funcattr.attribute(torch.tanh, torch.ones(1, 1), 0, rules=RESCALE)


# --- products --------------------------------------------------------------------------------------------------------

PRODUCTS: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "mul": (torch.mul, ((3, 4), (3, 4))),
    "mul, broadcast": (lambda a, b: a * b, ((3, 4, 2), (1, 4, 1))),
    "mul, with itself": (lambda a: a * a, ((3, 4),)),
    "mul, of itself changed": (lambda a: a * a.sigmoid(), ((3, 4),)),
    "mul, constant": (lambda a: a * CONSTANT.double(), ((2, 3),)),
    "div": (lambda a, b: a / (b.abs() + 0.1), ((3, 4), (3, 4))),
    "div, broadcast": (lambda a, b: a / (b.abs() + 0.1), ((3, 4), (3, 1))),
    "div, by keyword": (lambda a, b: torch.div(other=b.abs() + 0.1, input=a), ((3, 4), (3, 4))),
    "div, of itself": (lambda a: a.square() / a.exp(), ((3, 4),)),
    "div, by itself": (lambda a: (lambda b: b / b)(a.abs() + 0.1), ((3, 4),)),
    "div, constant": (lambda a: a / CONSTANT.double(), ((2, 3),)),
    "div, of a constant": (lambda a: torch.div(CONSTANT.double(), a.abs() + 0.1), ((2, 3),)),
    "matmul": (torch.matmul, ((3, 4), (4, 2))),
    "matmul, batched": (lambda a, b: a @ b, ((3, 2, 4), (4, 2))),
    "matmul, with itself": (lambda a: a @ a.mT, ((3, 2, 4),)),
    "baddbmm": (lambda a, b, c: torch.baddbmm(a, b, c, alpha=2, beta=3), ((2, 3, 3), (2, 3, 4), (2, 4, 3))),
    "addmm": (lambda a, b, c: torch.addmm(a, b, c, alpha=2, beta=3), ((3, 3), (3, 4), (4, 3))),
    "einsum": (lambda a, b: torch.einsum("ni,nj->nij", a, b), ((3, 4), (3, 2))),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), ((3, 4), (4, 2))),
    "linear": (lambda a, w, b: F.linear(a, w, b[0]), ((3, 4), (2, 4), (1, 2))),
    "conv1d": (lambda a, w, b: F.conv1d(a, w, b[0], padding=1, dilation=2), ((2, 3, 6), (2, 3, 3), (1, 2))),
    "conv2d": (lambda a, w: F.conv2d(a, w, stride=2, groups=2), ((2, 4, 5, 5), (2, 2, 3, 3))),
    "conv_transpose1d": (lambda a, w: F.conv_transpose1d(a, w, stride=2), ((2, 3, 4), (3, 2, 3))),
    "glu": (lambda a: F.glu(a, dim=1), ((3, 4),)),
    "attention": (F.scaled_dot_product_attention, ((2, 3, 4), (2, 5, 4), (2, 5, 2))),
}


@settings(max_examples=100)
@given(data=st.data(), name=st.sampled_from(list(PRODUCTS)))
def test_products_sum_to_delta(data: st.DataObject, name: str) -> None:
    f, shapes = PRODUCTS[name]
    x, x0 = zip(*(data.draw(pairs(*shape)) for shape in shapes), strict=True)
    assert_sums_to_delta(f, x, x0)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_equal_operands_give_the_plain_gradient(name: str) -> None:
    f, shapes = PRODUCTS[name]
    x = tuple(uniform(*shape, seed=i) for i, shape in enumerate(shapes))
    expected: Any = torch.func.vjp(f, *x)[1](torch.ones_like(f(*x)))
    for m, g in zip(multipliers(f, x, tuple(v.clone() for v in x)), expected, strict=True):
        assert_equal(m, g, tolerance=1e-13)


def test_a_product_and_a_quotient_by_hand() -> None:
    a, b, a0, b0 = (torch.tensor([[v]]) for v in (3.0, 4.0, 1.0, 2.0))
    assert [m.item() for m in multipliers(torch.mul, (a, b), (a0, b0))] == [3.0, 2.0]  # the means of b and of a
    to_a, to_b = multipliers(torch.div, (a, b), (a0, b0))
    assert (to_a.item(), to_b.item()) == pytest.approx(((1 / 4 + 1 / 2) / 2, -2 / 8))


def test_a_quotient_of_large_numbers_in_half_precision_does_not_overflow() -> None:
    a, b = torch.full((1, 1), 2e3).half(), torch.full((1, 1), 5e2).half()  # b b' is beyond 65504
    to_a, to_b = multipliers(torch.div, (a, b), (a / 2, b / 2))
    assert to_a.item() == pytest.approx(0.003, rel=1e-2)
    assert to_b.item() == pytest.approx(-1500 / 500 / 250, rel=1e-2)


# --- softmax and its kin ---------------------------------------------------------------------------------------------

SOFTMAXES: dict[str, Function] = {
    "F.softmax": lambda x: F.softmax(x, 1),
    "x.softmax": lambda x: x.softmax(-1),
    "torch.softmax": lambda x: torch.softmax(x, dim=1),
    "F.log_softmax": lambda x: F.log_softmax(x, dim=-1),
    "x.log_softmax": lambda x: x.log_softmax(1),
    "torch.log_softmax": lambda x: torch.log_softmax(input=x, dim=1),
    "logsumexp": lambda x: x.logsumexp(1),
    "logsumexp, kept": lambda x: torch.logsumexp(x, dim=-1, keepdim=True),
    "logsumexp, of two": lambda x: torch.logsumexp(x, (0, 1)),
    "logsumexp, of two kept": lambda x: x.logsumexp([-1, 0], keepdim=True),
    "by hand": lambda x: (lambda e: e / e.sum(1, keepdim=True))((x - x.amax(1, keepdim=True)).exp()),
}
each_softmax = pytest.mark.parametrize("name", SOFTMAXES)
MASK = torch.tensor([[False, True, False, False], [True, True, False, False], [False, False, False, True]])


@settings(max_examples=80)
@given(
    data=st.data(),
    name=st.sampled_from(list(SOFTMAXES)),
    masked=st.booleans(),
    scale=st.sampled_from([1.0, 1.0, 30.0, 1e3]),
)
def test_softmaxes_sum_to_delta(data: st.DataObject, name: str, masked: bool, scale: float) -> None:
    x, x0 = (scale * v for v in data.draw(pairs(3, 4)))

    def f(x: Tensor) -> Tensor:
        x = x.masked_fill(MASK, -torch.inf) if masked else x
        return SOFTMAXES[name](x).clamp(min=-1e6) if "log_" in name else SOFTMAXES[name](x)

    assert_sums_to_delta(f, (x,), (x0,))
    assert multipliers(f, (x,), (x0,))[0].isfinite().all()


@each_softmax
def test_softmaxes_of_equal_scores_give_the_plain_gradient(name: str) -> None:
    x, m = uniform(3, 4), uniform(12, seed=3)
    f = SOFTMAXES[name]
    m = m[: f(x).numel()].reshape(f(x).shape)
    expected: Any = torch.func.vjp(f, x)[1](m)
    assert_equal(multipliers(f, (x,), (x.clone(),), m)[0], expected[0], tolerance=1e-13)


@pytest.mark.parametrize("name", [name for name in SOFTMAXES if name != "by hand"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_no_shift_of_the_scores_matters(name: str, dtype: torch.dtype) -> None:
    """The rule has no exp(x), which would overflow at 1e4, and goes by x - x' less their common part."""
    x, x0 = (uniform(3, 4, seed=s).to(dtype) for s in (1, 2))
    (near,), (far,) = (multipliers(SOFTMAXES[name], (x + a,), (x0 + b,)) for a, b in ((0, 0), (1e4, -2e4)))
    assert far.isfinite().all()
    expected: Any = multipliers(SOFTMAXES[name], ((x + 1e4) - 1e4,), ((x0 - 2e4) + 2e4,))[0]  # what rounding leaves
    both = name == "logsumexp, of two" or "kept" in name
    assert_equal(far, expected, tolerance=1e-3 if dtype == torch.float32 else 1e-9)
    assert_equal(far, near, tolerance=1e-2 if dtype == torch.float32 else 1e-9) if both else None


def test_a_softmax_by_hand() -> None:
    """Of two scores it is a sigmoid of their difference, whose slope is dp / (dx_1 - dx_2)."""
    x, x0 = torch.tensor([[2.0, -1.0]], dtype=DOUBLE), torch.tensor([[-0.5, 0.3]], dtype=DOUBLE)
    slope = ((x[:, 0] - x[:, 1]).sigmoid() - (x0[:, 0] - x0[:, 1]).sigmoid()) / (3 + 0.8)
    (m,) = multipliers(lambda x: x.softmax(1), (x,), (x0,), torch.tensor([[1.0, 0.0]]))
    assert_equal(m, torch.stack([slope, -slope], 1))
    log_slope = ((x[:, 0] - x[:, 1]).sigmoid().log() - (x0[:, 0] - x0[:, 1]).sigmoid().log()) / (3 + 0.8)
    (m,) = multipliers(lambda x: x.log_softmax(1), (x,), (x0,), torch.tensor([[1.0, 0.0]]))
    assert_equal(m, torch.stack([log_slope, -log_slope], 1))


@pytest.mark.parametrize("offset", [0.0, 1e5, 3e6])
@pytest.mark.parametrize("name", ["F.softmax", "F.log_softmax"])
def test_large_scores_in_single_precision_have_the_multipliers_of_double_precision(name: str, offset: float) -> None:
    x, x0, m = (uniform(4, 9, seed=seed).float() for seed in (1, 2, 3))
    x = x + offset  # rounded: what is left of the scores is given
    (single,), (double,) = (
        multipliers(SOFTMAXES[name], (a,), (a0,), g) for a, a0, g in ((x, x0, m), (x.double(), x0.double(), m.double()))
    )
    assert_equal(single.double(), double, tolerance=1e-6)
    if name == "F.softmax":
        assert single.sum(1).abs().max() < 1e-6 * single.abs().max()


def test_a_softmax_that_jumps_from_one_score_to_another() -> None:
    x, x0 = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    (m,) = multipliers(lambda x: x.softmax(1), (x,), (x0,), torch.tensor([[1.0, 0.0]]))
    assert (m * (x - x0)).sum().item() == pytest.approx(1.0, rel=1e-6)
    assert m.tolist() == [pytest.approx([5e-5, -5e-5])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_softmaxes_are_finite_in_half_precision(dtype: torch.dtype) -> None:
    x, x0 = (50 * uniform(3, 4, seed=s).to(dtype) for s in (1, 2))
    for f in SOFTMAXES.values():
        (m,) = multipliers(f, (x,), (x0,))
        assert m.dtype == dtype and m.isfinite().all()


# --- maxima ----------------------------------------------------------------------------------------------------------

MAXIMA: dict[str, tuple[Function, int]] = {
    "amax": (lambda x: x.amax(1), 1),
    "amax, all": (lambda x: x.amax().reshape(1), 1),
    "amax, of two": (lambda x: torch.amax(x, (0, 2), keepdim=True), 1),
    "amin": (lambda x: torch.amin(x, dim=-1, keepdim=True), 1),
    "max": (lambda x: x.max().reshape(1), 1),
    "max, dim": (lambda x: x.max(1).values, 1),
    "max, kept": (lambda x: torch.max(x, -1, keepdim=True)[0], 1),
    "min, dim": (lambda x: x.min(dim=2).values, 1),
    "max, of two": (torch.max, 2),
    "maximum": (torch.maximum, 2),
    "minimum, broadcast": (lambda a, b: torch.minimum(a, b[:, :1]), 2),
    "minimum, with itself": (lambda a: torch.minimum(a, a), 1),
    "maximum, constant": (lambda a: torch.maximum(a, CONSTANT.double()[0]), 1),
    "fmax": (torch.fmax, 2),
    "fmin": (torch.fmin, 2),
}


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(list(MAXIMA)), ties=st.booleans())
def test_maxima_sum_to_delta(data: st.DataObject, name: str, ties: bool) -> None:
    f, operands = MAXIMA[name]
    x, x0 = zip(*(data.draw(pairs(2, 3, 4)) for _ in range(operands)), strict=True)
    if ties:
        x, x0 = (tuple(v.round() for v in part) for part in (x, x0))
    assert_sums_to_delta(f, x, x0)


@pytest.mark.parametrize("name", MAXIMA)
def test_maxima_of_equal_operands_give_the_plain_gradient(name: str) -> None:
    f, operands = MAXIMA[name]
    x = tuple(uniform(2, 3, 4, seed=i).round() for i in range(operands))
    expected: Any = torch.func.vjp(f, *x)[1](torch.ones_like(f(*x)))
    for m, g in zip(multipliers(f, x, tuple(v.clone() for v in x)), expected, strict=True):
        assert_equal(m, g)


def test_a_maximum_deals_its_gain_to_both_winners() -> None:
    x, x0 = torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 2.0]])
    # dx = (4, -1), dy = 3 = t 4 - (1 - t)
    for f in (lambda x: x.amax(1), lambda x: x.max(1).values, lambda x: F.max_pool1d(x[:, None], 2).flatten()):
        assert multipliers(f, (x,), (x0,))[0].tolist() == [pytest.approx([0.8, 0.2])]


@given(data=st.data())
def test_multipliers_of_maxima_lie_between_zero_and_one(data: st.DataObject) -> None:
    x, x0 = data.draw(pairs(2, 6))
    for f in (lambda x: x.amax(1), lambda x: F.max_pool1d(x[:, None], 6).flatten()):
        (m,) = multipliers(f, (x,), (x0,))
        assert ((m >= 0) & (m <= 1)).all()
        assert_equal(m.sum(1), torch.ones(2).double())


def test_a_mask_of_infinities_takes_no_part_in_a_maximum() -> None:
    x, x0 = (uniform(3, 4, seed=s) for s in (1, 2))
    for f in (lambda x: x.amax(1), lambda x: x.max(1)[0], lambda x: F.max_pool1d(x[:, None], 4).flatten()):
        (m,) = multipliers(lambda x: f(x.masked_fill(MASK, -torch.inf)), (x,), (x0,))
        assert m.isfinite().all() and (m[MASK] == 0).all()
        assert_sums_to_delta(lambda x: f(x.masked_fill(MASK, -torch.inf)), (x,), (x0,))


POOLS: tuple[dict[str, Any], ...] = (
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 2, "stride": 3, "dilation": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"output_size": 2},
)


@pytest.mark.parametrize("options", POOLS, ids=str)
@settings(max_examples=15)
@given(
    data=st.data(),
    spatial=st.sampled_from([1, 2, 3]),
    indices=st.booleans(),
    ties=st.booleans(),
    batched=st.booleans(),
)
def test_max_pools_sum_to_delta(
    options: dict[str, Any], data: st.DataObject, spatial: int, indices: bool, ties: bool, batched: bool
) -> None:
    pool = getattr(F, f"{'adaptive_' * ('output_size' in options)}max_pool{spatial}d")
    x, x0 = data.draw(pairs(*([2, 3] if batched else [3]), *[5] * spatial))
    x, x0 = (x.round(), x0.round()) if ties else (x, x0)

    def f(x: Tensor) -> Tensor:
        return pool(x, **options, return_indices=True)[0] if indices else pool(x, **options)

    assert_sums_to_delta(f, (x,), (x0,))
    expected: Any = torch.func.vjp(f, x)[1](torch.ones_like(f(x)))
    assert_equal(multipliers(f, (x,), (x.clone(),))[0], expected[0])


def test_max_pools_of_every_spelling() -> None:
    x, x0 = uniform(2, 2, 6), uniform(2, 2, 6, seed=2)
    expected = multipliers(lambda x: F.max_pool1d(x, 3, 2), (x,), (x0,))[0]
    for f in (
        lambda x: torch.max_pool1d(x, 3, 2),
        lambda x: torch.nn.MaxPool1d(3, 2)(x),
        lambda x: torch.max_pool1d_with_indices(x, [3], [2])[0],
        lambda x: F.max_pool2d(x[..., None, :], (1, 3), (1, 2))[..., 0, :],
        lambda x: torch.max_pool2d(x[..., None], [3, 1], [2, 1])[..., 0],
        lambda x: x.unfold(-1, 3, 2).amax(-1),
    ):
        assert_equal(multipliers(f, (x,), (x0,))[0], expected)


# --- what is linear, and what is not there ---------------------------------------------------------------------------

LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "sums": lambda x: 2 * x.mean(1, keepdim=True) - x + x.cumsum(1) + (1 - x).sum(0),
    "pools": lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="bilinear"), 3, 1, 1),
    "views": lambda x: torch.cat([x.flip(1)[:, 1:].mT, F.pad(x, (1, 2))[..., 1:-2].roll(1, 0)[:, :2].mT], 1),
    "writes": lambda x: x.clone().index_copy(1, torch.tensor([0]), 3 * x[:, 1:2]).masked_fill(torch.eye(4) > 0, 7.0),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_keep_their_adjoint(name: str) -> None:
    x, x0 = uniform(2, 3, 4, 4), uniform(2, 3, 4, 4, seed=2)
    f = LINEAR[name]
    expected: Any = torch.func.vjp(f, x)[1](torch.ones_like(f(x)))
    assert_equal(multipliers(f, (x,), (x0,))[0], expected[0])
    assert_sums_to_delta(f, (x,), (x0,))


@pytest.mark.parametrize(
    "name", ["topk", "sort", "kthvalue", "median", "cummax", "masked_select", "prod", "linalg_det"]
)
def test_operations_without_a_rule_are_named(name: str) -> None:
    functions: dict[str, Function] = {
        "topk": lambda x: x.topk(2, 1)[0],
        "kthvalue": lambda x: x.kthvalue(2, 1)[0],
        "sort": lambda x: x.sort(1)[0],
        "median": lambda x: x.median(1)[0],
        "cummax": lambda x: x.cummax(1)[0],
        "masked_select": lambda x: x.masked_select(torch.eye(3) > 0),
        "prod": lambda x: x.prod(1),
        "linalg_det": lambda x: torch.linalg.det(x)[None],
    }
    with pytest.raises(
        funcattr.UnsupportedOperationError, match=rf"^attribute\(rules='deep_lift'\): no rule for\s+{name}"
    ):
        multipliers(functions[name], (uniform(3, 3),), (torch.zeros(3, 3).double(),))


# --- the helpers can fail --------------------------------------------------------------------------------------------


def test_the_check_of_sums_fails_on_the_plain_gradient() -> None:
    x, x0 = (uniform(3, 4),), (uniform(3, 4, seed=2),)
    found, expected, size = sums(torch.tanh, x, x0, RESCALE | {"tanh": funcattr.rules.GRADIENT})
    assert abs(found - expected) > 1e-3 * size
    with pytest.raises(AssertionError):
        assert_sums_to_delta(lambda x: x.tanh() if x.sum() == x[0].sum() else x.tanh() * math.nan, x, x0)
    one_sided = RESCALE | {"mul": lambda call, m: call.vjp(m)}
    found, expected, size = sums(torch.mul, x * 2, x0 * 2, one_sided)
    assert abs(found - expected) > 1e-3 * size


def test_the_rulebooks_rows_are_listed() -> None:
    assert {entry.op for entry in rules.DEEP_LIFT} >= {"activation", "softmax", "max_pool2d", "mul", "layer_norm"}
