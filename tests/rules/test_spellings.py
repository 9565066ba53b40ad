"""Equal functions get equal maps: each call here is written in a way that once had another rule, beside an equal one.

What is compared is the map of the whole function by a rulebook of each space; the other spelling is in calls whose
rules have tests of their own.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.errors import UnsupportedOperationError
from funcattr.testing.seeding import uniform

from ..contract import assert_equal

X, A, B, V = uniform(3, 4), uniform(4, 4, seed=2), uniform(4, 4, seed=3), uniform(4, 2, seed=4)
BOOKS = ("epsilon", "epsilon_plus", "attnlrp", "cp_lrp")
Function = Callable[[Tensor], Tensor]
ZERO = torch.zeros((), dtype=torch.float64)


def assert_alike(first: Function, second: Function, x: Tensor = X, books: Any = BOOKS, tolerance: float = 1e-5) -> None:
    """The same outputs, and the same maps by each rulebook."""
    outputs = [function(x) for function in (first, second)]
    assert_equal(*outputs)
    for book in books:
        maps = [funcattr.lrp(function, x, 0, rules=book) for function in (first, second)]
        assert maps[1].any() and maps[1].isfinite().all()
        assert_equal(*maps, tolerance=tolerance)


def assert_sums(function: Function, x: Tensor = X) -> None:
    """DeepLIFT's multipliers sum to the rise."""
    baseline = 0.5 * x.roll(1, 0) + 0.1
    found = funcattr.deep_lift(function, x, 0, baseline=baseline)
    assert_equal(found.sum(), (function(x) - function(baseline))[:, 0].sum())


# --- what is added is a term, and no factor ---------------------------------------------------------------------------

ROWS = uniform(3, 3, seed=7)
ADDENDS: dict[str, tuple[Function, Function]] = {
    "addmm": (lambda x: torch.addmm(x, (x @ A).relu(), B), lambda x: x + (x @ A).relu() @ B),
    "addmm, scaled": (
        lambda x: torch.addmm(x, (x @ A).relu(), B, beta=2, alpha=3),
        lambda x: 2 * x + 3 * ((x @ A).relu() @ B),
    ),
    "linear": (lambda x: F.linear(x.relu(), A, x.sum(0)), lambda x: x.relu() @ A.T + x.sum(0)),
    "linear of constants": (lambda x: F.linear(A[:3], B, x.sum(0)), lambda x: A[:3] @ B.T + x.sum(0)),
    "conv1d": (
        lambda x: F.conv1d(x[:, None], B[:, None, :2], x.sum(0), padding=1).sum(2),
        lambda x: (F.conv1d(x[:, None], B[:, None, :2], padding=1) + x.sum(0)[:, None]).sum(2),
    ),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x[:, :, None, None], A[:, :, None, None], bias=x.sum(0)).flatten(1),
        lambda x: (F.conv_transpose2d(x[:, :, None, None], A[:, :, None, None]) + x.sum(0)[:, None, None]).flatten(1),
    ),
    "baddbmm": (
        lambda x: torch.baddbmm(x[None], x.relu()[None], A[None])[0],
        lambda x: x + x.relu() @ A,
    ),
    "addbmm": (lambda x: torch.addbmm(x, x.relu()[None], A[None]), lambda x: x + x.relu() @ A),
    "addmv": (
        lambda x: torch.addmv(x[:, 0], x.relu(), A[0])[:, None],
        lambda x: (x[:, 0] + x.relu() @ A[0])[:, None],
    ),
    "addr": (
        lambda x: torch.addr(x, x[:, 0].relu(), A[0]),
        lambda x: x + x[:, 0].relu()[:, None] * A[0],
    ),
    "addcmul": (lambda x: torch.addcmul(x, x.relu(), x.exp(), value=2), lambda x: x + 2 * (x.relu() * x.exp())),
    "addcdiv": (lambda x: torch.addcdiv(x, (x @ A).relu(), x.exp()), lambda x: x + (x @ A).relu() / x.exp()),
    "lerp": (lambda x: torch.lerp(x, x @ A, 0.3), lambda x: 0.7 * x + 0.3 * (x @ A)),
    "outer": (
        lambda x: torch.outer(x[:, 0], (x @ A)[0]),
        lambda x: x[:, 0][:, None] * (x @ A)[0][None],
    ),
}


@pytest.mark.parametrize("name", ADDENDS)
def test_what_is_added_is_no_factor(name: str) -> None:
    first, second = ADDENDS[name]
    assert_alike(first, second)
    assert_sums(first)


# --- what adds up is a sum --------------------------------------------------------------------------------------------

INDEX = torch.tensor([0, 2, 2])
HOT = F.one_hot(INDEX, 3).double()


def _written_into(x: Tensor) -> Tensor:
    y = x * 1
    y.index_put_((INDEX,), x * 0.5, accumulate=True)
    return y @ V


SUMS: dict[str, Function] = {
    "index_put": lambda x: x.index_put((INDEX,), x * 0.5, accumulate=True) @ V,
    "index_put, by position": lambda x: torch.index_put(x, (INDEX,), x * 0.5, True) @ V,
    "index_put_": _written_into,
    "put": lambda x: x.put(4 * INDEX[:, None] + torch.arange(4), x * 0.5, accumulate=True) @ V,
    "scatter": lambda x: x.scatter(0, INDEX[:, None].expand(3, 4), x * 0.5, reduce="add") @ V,
    "scatter_reduce": lambda x: x.scatter_reduce(0, INDEX[:, None].expand(3, 4), x * 0.5, "sum") @ V,
    "index_add": lambda x: x.index_add(0, INDEX, x * 0.5) @ V,
}


@pytest.mark.parametrize("name", [name for name in SUMS if name != "scatter"])  # which torch does not differentiate
def test_what_adds_up_is_a_sum(name: str) -> None:
    assert_alike(SUMS[name], lambda x: (x + HOT.T @ (x * 0.5)) @ V)
    assert_sums(SUMS[name])


def test_a_write_that_adds_nothing_up_moves_values() -> None:
    rows = torch.tensor([2, 0])
    assert_alike(lambda x: x.index_put((rows,), x[:2] * 2) @ V, lambda x: torch.stack([x[1] * 2, x[1], x[0] * 2]) @ V)


# --- complex constants mix the two parts ------------------------------------------------------------------------------

ANGLES = uniform(2, seed=5)
CIS = torch.polar(torch.ones_like(ANGLES), ANGLES)


def pairs_of(matrix: Tensor) -> Tensor:
    """The real matrix of a product with a diagonal of complex numbers, for real and imaginary parts in turn."""
    return torch.block_diag(
        *(torch.stack([torch.stack([c.real, c.imag]), torch.stack([-c.imag, c.real])]) for c in matrix)
    )


FOURIER: Any = torch.autograd.functional.jacobian(
    lambda x: torch.view_as_real(torch.fft.rfft(x)).flatten(), uniform(4)
).T
BACK: Any = torch.autograd.functional.jacobian(
    lambda z: torch.fft.irfft(torch.view_as_complex(z.view(3, 2)), n=4), uniform(6)
).T
FILTER = torch.complex(uniform(3, seed=8), uniform(3, seed=9))
COMPLEX: dict[str, tuple[Function, Function]] = {
    "rotation": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(3, 2, 2)) * CIS).flatten(1) @ V,
        lambda x: x @ pairs_of(CIS) @ V,
    ),
    "from the left": (
        lambda x: torch.view_as_real(torch.mul(CIS, torch.view_as_complex(x.reshape(3, 2, 2)))).flatten(1) @ V,
        lambda x: x @ pairs_of(CIS) @ V,
    ),
    "conjugate": (
        lambda x: (
            torch.view_as_real((torch.view_as_complex(x.reshape(3, 2, 2)) * CIS).conj().resolve_conj()).flatten(1) @ V
        ),
        lambda x: x @ pairs_of(CIS) * torch.tensor([1.0, -1.0, 1.0, -1.0]).double() @ V,
    ),
    "fourier": (
        lambda x: torch.view_as_real(torch.fft.rfft(x)).flatten(1)[:, :4] @ V,
        lambda x: (x @ FOURIER)[:, :4] @ V,
    ),
    "a filter": (
        lambda x: torch.fft.irfft(torch.fft.rfft(x) * FILTER, n=4) @ V,
        lambda x: x @ FOURIER @ pairs_of(FILTER) @ BACK @ V,
    ),
    "a sum": (
        lambda x: torch.view_as_real(torch.view_as_complex(x.reshape(3, 2, 2)) + CIS).flatten(1) @ V,
        lambda x: (x + torch.view_as_real(CIS).flatten()) @ V,
    ),
    "a magnitude": (
        lambda x: (torch.view_as_complex(x.reshape(3, 2, 2)) * CIS).abs() @ V[:2],
        lambda x: ((x @ pairs_of(CIS)).view(3, 2, 2).square().sum(2)).sqrt() @ V[:2],
    ),
    "complex()": (
        lambda x: (torch.complex(x[:, :2], x[:, 2:]) * CIS).real @ V[:2],
        lambda x: (x[:, :2] * CIS.real - x[:, 2:] * CIS.imag) @ V[:2],
    ),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_a_complex_factor_is_a_real_linear_map(name: str) -> None:
    first, second = COMPLEX[name]
    assert_alike(first, second, books=("epsilon", "attnlrp"))
    assert_sums(first)


def test_relevance_of_complex_numbers_is_accounted_for() -> None:
    report = funcattr.conservation(COMPLEX["a filter"][0], X, 0, rules="epsilon")
    assert abs(report.start - report.reached - sum(report.lost.values())) < 1e-9
    assert abs(report.lost["other"]) < 1e-4 * abs(report.start)


def test_a_function_that_mixes_the_parts_is_refused() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.view_as_complex(x.reshape(3, 2, 2)).exp().abs()

    for book in ("epsilon", "attnlrp"):
        with pytest.raises(UnsupportedOperationError, match=r"rule for 'exp'.*view_as_real"):
            funcattr.lrp(f, X, 0, rules=book)


# --- a scale is a constant, however it is divided by ------------------------------------------------------------------

GAMMA = uniform(4, seed=6)
POWER = torch.tensor(-0.5, dtype=torch.float64)


def normed(scale: Callable[[Tensor], Tensor]) -> Function:
    """A layer norm by the scale that a function makes of the variance."""

    def function(x: Tensor) -> Tensor:
        h = x @ A
        c = h - h.mean(1, keepdim=True)
        return c * scale((c * c).mean(1, keepdim=True) + 1e-5) @ V

    return function


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "gamma / sd": lambda var: GAMMA / var.sqrt(),
    "div(1, sd)": lambda var: torch.div(torch.ones(()).double(), var.sqrt()) * GAMMA,
    "div, by keyword": lambda var: torch.div(input=GAMMA, other=torch.sqrt(var)),
    "gamma.div(sd)": lambda var: GAMMA.div(var.sqrt()),
    "true_divide": lambda var: torch.true_divide(GAMMA, var.sqrt()),
    "1 / sd": lambda var: 1 / var.sqrt() * GAMMA,
    "var ** tensor": lambda var: var**POWER * GAMMA,
    "pow(tensor)": lambda var: torch.pow(var, exponent=POWER) * GAMMA,
    "float_power": lambda var: torch.float_power(var, POWER) * GAMMA,
    "pow(field)": lambda var: GAMMA * var.expand(3, 4) ** (POWER * torch.ones(4).double()),
    "rsqrt": lambda var: var.rsqrt() * GAMMA,
}


@pytest.mark.parametrize("name", SCALES)
def test_a_scale_takes_no_share(name: str) -> None:
    assert_alike(normed(SCALES[name]), lambda x: F.layer_norm(x @ A, (4,), GAMMA) @ V)
    assert_sums(normed(SCALES[name]))


def test_a_positive_power_by_a_tensor_is_a_function() -> None:
    power = torch.tensor(3.0).double()
    assert_alike(lambda x: x**power @ V, lambda x: x**3 @ V)
    with pytest.raises(UnsupportedOperationError, match="no rule for\n  pow_by_a_tensor in ''"):
        torch.vmap(lambda p: funcattr.lrp(lambda x: x**p @ V, X, 0))(torch.stack([power, -power]))


# --- softmax written out ----------------------------------------------------------------------------------------------


def _by_groups(z: Tensor) -> Tensor:
    """As graph networks have it: positions of one example are one group."""
    groups = torch.arange(len(z))[:, None].expand_as(z)
    highest = torch.zeros(len(z), 1).to(z).scatter_reduce(1, 0 * groups, z.detach(), "amax", include_self=False)
    e = (z - highest.gather(1, 0 * groups)).exp()
    return e / (torch.zeros(len(z), 1).to(z).scatter_add(1, 0 * groups, e).gather(1, 0 * groups) + 1e-16)


def _in_steps(z: Tensor) -> Tensor:
    z = z - z.max(-1, keepdim=True).values
    e = torch.exp(z)
    total = e.sum(-1)
    return torch.div(e, total.unsqueeze(-1))


SOFTMAX: dict[str, Function] = {
    "a detached maximum": lambda z: (lambda e: e / e.sum(-1, keepdim=True))(
        (z - z.amax(-1, keepdim=True).detach()).exp()
    ),
    "a maximum": lambda z: (lambda e: e / e.sum(-1, keepdim=True))((z - z.amax(-1, keepdim=True)).exp()),
    "no shift": lambda z: (lambda e: e / e.sum(-1, keepdim=True))(z.exp()),
    "a constant": lambda z: (lambda e: e / e.sum(-1, keepdim=True))((z + 0.7).exp()),
    "in steps": _in_steps,
    "by groups": _by_groups,
    "expanded": lambda z: (lambda e: e / e.sum(-1, True).expand_as(e))(z.exp()),
}


@pytest.mark.parametrize("name", SOFTMAX)
def test_a_softmax_that_is_written_out_is_one(name: str) -> None:
    def attends(x: Tensor, soft: Function) -> Tensor:
        return (soft(x @ A)[..., None] * (x @ B)[:, None]).sum(2) @ V

    def multiplied(x: Tensor, soft: Function) -> Tensor:
        return (soft(x @ A)[:, None] @ (x @ B)[..., None]).flatten(1)

    for model in (attends, multiplied):
        assert_alike(lambda x: model(x, SOFTMAX[name]), lambda x: model(x, lambda z: z.softmax(-1)))
        if name not in ("a detached maximum", "by groups"):  # DeepLIFT refuses other constants at the baseline
            assert_sums(lambda x: model(x, SOFTMAX[name]))


def test_a_masked_softmax_that_is_written_out() -> None:
    seen = torch.ones(4, 4, dtype=torch.bool).tril()[:3]

    def written(z: Tensor) -> Tensor:
        z = z.masked_fill(~seen, -math.inf)
        e = (z - z.amax(-1, keepdim=True).detach()).exp()
        return e / e.sum(-1, keepdim=True)

    def named(z: Tensor) -> Tensor:
        return z.masked_fill(~seen, -math.inf).softmax(-1)

    assert_alike(lambda x: written(x @ A) @ V, lambda x: named(x @ A) @ V, books=BOOKS[:3])


@pytest.mark.parametrize("shift", [1e-7, 0.5, 30.0])
def test_a_shift_inside_of_exp_takes_no_relevance(shift: float) -> None:
    """exp(z - c) is exp(z) times a constant, and the function that divides by nothing is no softmax."""
    x = X + shift
    assert_equal(
        funcattr.lrp(lambda x: (x - shift).exp() @ V, x, 0, rules="epsilon"),
        funcattr.lrp(lambda x: x.exp() * math.exp(-shift) @ V, x, 0, rules="epsilon"),
        tolerance=1e-5,
    )


# --- gates ------------------------------------------------------------------------------------------------------------

GATES: dict[str, tuple[Function, Function]] = {
    "-s + 1": (lambda z: -z.sigmoid() + 1, lambda z: 1 - z.sigmoid()),
    "ones - s": (lambda z: torch.ones_like(z) - z.sigmoid(), lambda z: 1 - z.sigmoid()),
    "torch.sub(1, s)": (lambda z: torch.sub(torch.ones(()).double(), z.sigmoid()), lambda z: 1 - z.sigmoid()),
    "2 s": (lambda z: 2 * z.sigmoid(), lambda z: (z.sigmoid() * 1.0) / 0.5),
    "s / 3": (lambda z: z.sigmoid() / 3, lambda z: (-z).sigmoid().neg() / 3 + 1 / 3),
    "relu6(z + 3) / 6": (lambda z: F.relu6(z + 3) / 6, F.hardsigmoid),
    "clamp(z / 6 + 0.5, 0, 1)": (lambda z: (z / 6 + 0.5).clamp(0, 1), F.hardsigmoid),
    "hardtanh(z + 3, 0, 6) / 6": (lambda z: F.hardtanh(z + 3, 0.0, 6.0) * (1 / 6), F.hardsigmoid),
    "1 / (1 + exp(-z))": (lambda z: 1 / (1 + torch.exp(-z)), torch.sigmoid),
    "reciprocal(1 + exp(-z))": (lambda z: torch.reciprocal(torch.exp(-z) + 1), torch.sigmoid),
    "(hardtanh(z) + 1) / 2": (lambda z: (F.hardtanh(z) + 1) / 2, lambda z: F.hardsigmoid(3 * z)),
    "(hardtanh(z, -3, 3) + 3) / 6": (lambda z: (F.hardtanh(z, -3.0, 3.0) + 3) / 6, F.hardsigmoid),
    "(tanh(z / 2) + 1) / 2": (lambda z: 0.5 * (torch.tanh(z / 2) + 1), torch.sigmoid),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_a_gate_however_it_is_written(name: str) -> None:
    first, second = GATES[name]
    for book, own in (("epsilon", 0), ("attnlrp", 0)):
        both = [funcattr.lrp(lambda a, b, g=g: g(b) * a, (X, X @ A), 0, rules=book) for g in (first, second)]
        assert_equal(both[0][0], both[1][0])
        assert not both[0][1].any() and own == 0
    assert_equal(first(X), second(X))


@pytest.mark.parametrize(
    "signal",
    [
        lambda z: F.relu6(z),
        lambda z: F.relu6(z + GAMMA),  # a bias, and no function
        lambda z: (z + 1).relu(),
        lambda z: z.tanh(),
        lambda z: z + 1,
        lambda z: z.clamp(-1, 1),
    ],
)
def test_what_is_no_gate_keeps_its_half(signal: Function) -> None:
    _, of_b = funcattr.lrp(lambda a, b: signal(b) * a, (X, X @ A), 0, rules="epsilon")
    assert of_b.any()


# --- activations written out ------------------------------------------------------------------------------------------

H = math.sqrt(2 / math.pi)
SLOPE = uniform(4, seed=11).abs() + 0.5
ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "gelu_new": (
        lambda h: 0.5 * h * (1 + torch.tanh(H * (h + 0.044715 * torch.pow(h, 3)))),
        lambda h: F.gelu(h, approximate="tanh"),
    ),
    "gelu_fast": (
        lambda h: 0.5 * h * (1.0 + torch.tanh(h * H * (1.0 + 0.044715 * h * h))),
        lambda h: F.gelu(h, approximate="tanh"),
    ),
    "erf gelu": (lambda h: h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0))), F.gelu),
    "ndtr gelu": (lambda h: h * torch.special.ndtr(h), F.gelu),
    "swish": (lambda h: h * torch.sigmoid(h), F.silu),
    "swish by exp": (lambda h: h / (1 + torch.exp(-h)), F.silu),
    "swish by a sigmoid by hand": (lambda h: h * (1 / (1 + torch.exp(-h))), F.silu),
    "hard swish": (lambda h: h * F.relu6(h + 3) / 6, F.hardswish),
    "hard swish by clamp": (lambda h: h * (h / 6 + 0.5).clamp(0, 1), F.hardswish),
    "mish": (lambda h: h * torch.tanh(F.softplus(h)), F.mish),
    "mish by log": (lambda h: h * torch.tanh(torch.log(1 + torch.exp(h))), F.mish),
    "softsign": (lambda h: h / (1 + h.abs()), F.softsign),
    "tanhshrink": (lambda h: h - h.tanh(), F.tanhshrink),
    "relu by abs": (lambda h: (h + h.abs()) / 2, F.relu),
    "leaky relu by maximum": (lambda h: torch.maximum(h, 0.1 * h), lambda h: F.leaky_relu(h, 0.1)),
    "elu": (lambda h: torch.where(h > 0.0, h, torch.exp(h) - 1), F.elu),
    "tanh by exp": (lambda h: (h.exp() - (-h).exp()) / (h.exp() + (-h).exp()), torch.tanh),
    "sigmoid by exp": (lambda h: h.exp() / (1 + h.exp()), torch.sigmoid),  # f(0) is not 0
    "cast inside": (lambda h: h * torch.sigmoid(h.to(torch.float64).clone()), F.silu),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_that_is_written_out_is_that_activation(name: str) -> None:
    first, second = ACTIVATIONS[name]
    x = torch.cat([X, X[:1]])
    x[3, 1:3] = 0  # f(0) / 0 is f'(0)
    books = ("epsilon", "epsilon_plus", "attnlrp", "cp_lrp")
    assert_alike(lambda x: first(x) @ V, lambda x: second(x) @ V, x, books)
    assert_alike(lambda x: first(x @ A) @ V, lambda x: second(x @ A) @ V, x, books)
    if name != "elu":  # its mask is another one at the baseline, which raises
        maps = [funcattr.deep_lift(lambda x, f=f: f(x @ A) @ V, x, 0, baseline=0.3) for f in (first, second)]
        assert_equal(*maps)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda h: h + h * torch.sigmoid(h), lambda h: h + F.silu(h)),  # a skip around it
        (lambda h: h * torch.sigmoid(h) + h @ B, lambda h: F.silu(h) + h @ B),  # h is read elsewhere too
        (lambda h: (lambda s: h * s + s @ B)(torch.sigmoid(h)), None),  # a part of it is read elsewhere
        (lambda h: h * torch.sigmoid(SLOPE * h) / SLOPE, None),  # a parameter for each channel
        (lambda h: h + torch.sin(SLOPE * h) ** 2 / SLOPE, None),
    ],
)
def test_a_region_beside_other_readers(first: Function, second: Function | None) -> None:
    if second is not None:
        assert_alike(lambda x: first(x @ A) @ V, lambda x: second(x @ A) @ V)
        return
    for book in BOOKS:
        report = funcattr.conservation(lambda x: first(x @ A) @ V, X, 0, rules=book)
        assert abs(report.start - report.reached) < 1e-4 * abs(report.start)


HALF = torch.tensor([True, False, True, False])
LARGER = (X @ A + B[0] > SLOPE * (X @ A)).double()
AFFINE: dict[str, tuple[Function, Function]] = {
    "multiples": (lambda h: h + h * SLOPE, lambda h: (1 + SLOPE) * h),
    "a residual": (lambda h: h + (h * SLOPE + B[0]), lambda h: (h + h * SLOPE) + B[0]),
    "addcmul": (lambda h: h + torch.addcmul(B[0], h, SLOPE), lambda h: (h + h * SLOPE) + B[0]),
    "lerp": (lambda h: torch.lerp(h, h / 2 - B[0], 0.3), lambda h: 0.7 * h + (0.15 * h - 0.3 * B[0])),
    "a mask": (lambda h: torch.where(HALF, h, h + B[0]), lambda h: h + torch.where(HALF, 0.0, B[0])),
    "a cast": (lambda h: h.to(torch.float64).clone() - (B[0] - h), lambda h: 2 * h - B[0]),
    "a maximum": (
        lambda h: torch.maximum(h + B[0], h * SLOPE),
        lambda h: LARGER * (h + B[0]) + (1 - LARGER) * SLOPE * h,
    ),
    "a maximum by masks": (
        lambda h: (h + B[0]) * (h + B[0] > h * SLOPE) + h * SLOPE * (h + B[0] <= h * SLOPE),
        lambda h: torch.maximum(h + B[0], h * SLOPE),
    ),
}


@pytest.mark.parametrize("name", AFFINE)
def test_a_sum_that_fans_out_and_meets_keeps_the_share_of_its_constant(name: str) -> None:
    first, second = AFFINE[name]
    assert_alike(lambda x: first(x @ A) @ V, lambda x: second(x @ A) @ V, tolerance=2e-5)
    if "maximum" not in name:  # whose masks are others at the baseline
        assert_sums(lambda x: first(x @ A) @ V)
        table = funcattr.rule_table(lambda x: first(x @ A) @ V, X)
        assert "function" not in [line.operation for line in table]


BIASED: dict[str, Function] = {
    "silu": lambda h: h + (F.silu(h) + B[0]),
    "silu, written out": lambda h: h + (h * torch.sigmoid(h) + B[0]),
    "twice": lambda h: (h + B[0] / 2) + (h * torch.sigmoid(h) + B[0] / 2),
    "in a sum of parts": lambda h: 2 * h - ((h - F.silu(h)) - B[0]),
    "behind a mask": lambda h: torch.where(HALF, h + F.silu(h) + B[0], h + (F.silu(h) + B[0])),
}


@pytest.mark.parametrize("name", BIASED)
def test_a_bias_beside_an_activation_is_no_part_of_it(name: str) -> None:
    def behind(h: Tensor) -> Tensor:
        return (h + F.silu(h)) + B[0]

    x = X.clone()
    x[:, 1] = 1e-9
    for before in (lambda x: x, lambda x: x @ A):
        assert_alike(
            lambda x, before=before: BIASED[name](before(x)) @ V,
            lambda x, before=before: behind(before(x)) @ V,
            x,
            tolerance=2e-5,
        )


def test_a_constant_beside_almost_nothing_takes_almost_all() -> None:
    """Where h is near zero, g f(h) / h would be a million times the output."""
    x = X.clone()
    x[:, 1] = 1e-9
    of_h = funcattr.lrp(lambda x: torch.where(HALF, x, x + 1) @ V, x, 0, rules="epsilon")
    assert of_h[:, 1].abs().max() < 1e-8


def test_a_product_of_two_signals_is_no_activation() -> None:
    of_a, of_b = funcattr.lrp(lambda a, b: a * torch.tanh(b + a * 0), (X, X @ A), 0, rules="epsilon")
    assert of_a.any() and of_b.any()


def test_a_glu_of_an_activation_that_is_written_out() -> None:
    """CP-LRP takes what came out of an activation for a gate."""
    gelu = ACTIVATIONS["gelu_new"][0]

    def glu(x: Tensor, f: Function) -> Tensor:
        return (f(x @ A)[:, None] * (x @ B)[:, None]).squeeze(1) @ V

    assert_alike(lambda x: glu(x, gelu), lambda x: glu(x, lambda h: F.gelu(h, approximate="tanh")))


def test_every_activation_of_transformers_passes_all_on() -> None:
    activations = pytest.importorskip("transformers.activations")
    for name in activations.ACT2CLS:
        act = activations.ACT2FN[name].double()
        x = X.clone()
        got = funcattr.lrp(lambda x, act=act: act(x).sum(1, keepdim=True), x, 0, rules="epsilon")
        if name == "laplace":  # erf of a shifted value: the shift takes its share
            continue
        assert_equal(got, act(x).detach(), tolerance=1e-4)
        gradient_space = funcattr.attnlrp(lambda x, act=act: act(x).sum(1, keepdim=True), x, 0)
        assert_equal(gradient_space, act(x).detach(), tolerance=1e-6)


def test_the_table_shows_the_region_as_one_function() -> None:
    table = funcattr.rule_table(lambda x: x * torch.sigmoid(x), X)
    assert [(line.operation, line.rule) for line in table] == [
        ("sigmoid", "in a function of one value"),
        ("function", "pass_through"),
    ]


def test_a_row_for_every_call_is_left_in_place() -> None:
    seen: list[str] = []

    def note(call: rules.Call, g: Tensor) -> tuple[Tensor, ...]:
        seen.append(call.op)
        return call.vjp(g)

    funcattr.attribute(lambda x: x * torch.sigmoid(x), X, 0, rules=funcattr.Rulebook({"*": note}))
    assert seen == ["mul", "sigmoid"]


# --- relu in other spellings ------------------------------------------------------------------------------------------


def _assigned(h: Tensor) -> Tensor:
    h = h.clone()
    h[h < 0] = 0
    return h


def _without_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        copy = h.clone()
        mask = (copy.detach() > 0).to(h.dtype)
    return h * mask


RELUS: dict[str, Function] = {
    "clamp(min=tensor)": lambda h: h.clamp(min=ZERO),
    "clamp_min": lambda h: torch.clamp_min(h, ZERO),
    "maximum(h, 0)": lambda h: torch.maximum(h, ZERO),
    "maximum(0, h)": lambda h: torch.maximum(torch.zeros_like(h), h),
    "max(h, 0)": lambda h: torch.max(h, ZERO),
    "fmax": lambda h: torch.fmax(h, other=ZERO),
    "where(h > 0, h, 0)": lambda h: torch.where(h > 0, h, 0.0),
    "where(h <= 0, 0, h)": lambda h: torch.where(h <= 0, torch.zeros_like(h), h),
    "a method of h": lambda h: h.where(h > 0, 0.0),
    "a method of the other": lambda h: torch.zeros_like(h).where(h <= 0, h),
    "where by keyword": lambda h: torch.where(condition=torch.gt(h, 0), input=h, other=ZERO),
    "h * (h > 0)": lambda h: h * (h > 0),
    "a mask of floats": lambda h: (h > 0).to(h.dtype) * h,
    "a negated mask": lambda h: h * ~(h < 0),
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.0),
    "an assignment": _assigned,
    "signbit": lambda h: h * ~h.signbit(),
    "a mask of a detached value": lambda h: h * (h.detach() > 0),
    "a mask of data": lambda h: torch.where(h.data > 0, h, 0.0),
    "a mask of a detached copy": lambda h: h.masked_fill(h.detach().clone() <= 0, 0.0),
    "a comparison by keyword": lambda h: h * torch.gt(other=0, input=h),
    "a detached mask": lambda h: h * (h > 0).detach(),
    "a mask without gradients": _without_grad,
    "a mask of each row": lambda h: torch.stack([row * (row.detach() > 0) for row in h]),
    "leaky_relu without a slope": lambda h: F.leaky_relu(h, 0.0),
    "elu(alpha=0)": lambda h: F.elu(h, 0.0),
}


@pytest.mark.parametrize("name", RELUS)
def test_a_relu_is_met_in_every_spelling(name: str) -> None:
    def net(x: Tensor, relu: Function) -> Tensor:
        return relu(relu(x @ A) @ B) @ V

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (
            funcattr.guided_backprop,
            funcattr.deconvnet,
            funcattr.lrp,
            funcattr.attnlrp,
            funcattr.deep_lift,
        ):
            assert_equal(*(method(lambda x, r=r: net(x, r), X, 0) for r in (RELUS[name], torch.relu)))


@pytest.mark.parametrize(
    "other",
    [
        lambda h: h.clamp(min=0.1),
        lambda h: torch.maximum(h, -torch.ones_like(h)),
        lambda h: h * torch.tensor([1.0, 0.0, 1.0, 0.0]).double(),
        lambda h: torch.where(torch.tensor([True, False, True, True]), h, 0.0),
    ],
)
def test_what_is_no_relu_keeps_its_adjoint(other: Function) -> None:
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad((other(x @ A) @ V)[:, 0].sum(), x)[0]
    assert_equal(funcattr.attribute(lambda x: other(x @ A) @ V, X, 0, rules="guided").cotangent, expected)


@pytest.mark.parametrize(
    ("masked", "named"),
    [
        (lambda h: h * ((h > 0) & (h > -1)), "mul"),
        (lambda h: torch.where(h > h.flip(1), h, 0.0), "where"),
        (lambda h: h.masked_fill((h < 0).roll(1, 0), 0.0), "masked_fill"),
    ],
)
def test_a_mask_that_may_be_a_relu_is_named(masked: Function, named: str) -> None:
    with pytest.warns(UserWarning, match=rf"^guided_backprop: {named} in '' may be a relu in another spelling"):
        funcattr.guided_backprop(lambda x: masked(x @ A) @ V, X, 0)


UNCLEAR: dict[str, tuple[Function, str]] = {
    "(h + |h|) / 2": (lambda h: (h + h.abs()) / 2, "add"),
    "|h| first": (lambda h: 0.5 * (abs(h) + h), "add"),
    "two halves": (lambda h: h / 2 + h.abs() * 0.5, "add"),
    "h - (h - |h|) / 2": (lambda h: h - (h - h.abs()) / 2, "sub"),
    "|h| - (-h)": (lambda h: (h.abs() - (-h)) / 2, "sub"),
    "lerp": (lambda h: torch.lerp(h, h.abs(), 0.5), "lerp"),
    "a root of a product": (lambda h: 0.5 * (h + torch.sqrt(h * h)), "add"),
    "a root of a square": (lambda h: 0.5 * (h + h.square().sqrt()), "add"),
    "powers": (lambda h: 0.5 * (h + (h**2) ** 0.5), "add"),
    "hypot": (lambda h: 0.5 * (h + torch.hypot(h, ZERO)), "add"),
    "copysign": (lambda h: 0.5 * (h + torch.copysign(h, torch.ones_like(h))), "add"),
    "h + relu(-h)": (lambda h: h + torch.relu(-h), "add"),
    "h - clamp(max=0)": (lambda h: h - h.clamp(max=0), "clamp"),
    "-clamp_max(-h, 0)": (lambda h: -torch.clamp_max(-h, 0), "clamp_max"),
    "-minimum(-h, 0)": (lambda h: -torch.minimum(-h, ZERO), "minimum"),
    "-min(-h, 0)": (lambda h: -torch.min(-h, torch.zeros_like(h)), "min"),
    "its sign, cut": (lambda h: h * h.sign().clamp(0), "mul"),
    "its sign, moved": (lambda h: h * ((torch.sgn(h) + 1) / 2), "mul"),
    "a sum with its sign": (lambda h: h * (h.sign() + 1) / 2, "mul"),
    "a comparison of its sign": (lambda h: torch.where(h.sign() > 0, h, 0.0), "where"),
    "index_put": (lambda h: h.index_put((h < 0,), ZERO), "index_put"),
    "an assignment at the places of a mask": (lambda h: _assigned_at(h, (h < 0).all(1).nonzero()[:, 0]), "__setitem__"),
    "an assignment at a tuple of places": (
        lambda h: _assigned_places(h, (h < 0).nonzero(as_tuple=True)),
        "__setitem__",
    ),
    "index_put at a tuple of places": (lambda h: h.index_put(torch.where(h < 0), ZERO), "index_put"),
    "an assignment at several indices": (lambda h: _assigned_at(h, (h < 0).all(1)), "__setitem__"),
    "the sign of a detached value": (lambda h: h * (h.detach().sign() + 1) / 2, "mul"),
    "a relu of a detached value": (lambda h: h * (torch.relu(h.detach()) > 0), "mul"),
    "a step of a detached value": (lambda h: h * torch.heaviside(h.detach(), ZERO), "mul"),
    "a comparison the other way round": (lambda h: h * torch.lt(other=h, input=ZERO), "mul"),
    "a multiple of a detached value": (lambda h: torch.where(h.detach() * 2 > 0, h, 0.0), "where"),
}
PLAIN: dict[str, Function] = {
    "a norm": lambda h: h / h.abs().sum(1, keepdim=True),
    "softsign": lambda h: h / (1 + h.abs()),
    "a signed root": lambda h: h.sign() * h.abs().sqrt(),
    "a size by its sign": lambda h: h * h.sign(),
    "a size of another": lambda h: h + h.flip(1).abs(),
    "a size behind a shift": lambda h: h + (h - 1).abs(),
    "a root that is never zero": lambda h: 0.5 * (h + torch.sqrt(h * h + 1)),
    "a skip around a relu": lambda h: h + torch.relu(h),
    "a skip with a factor": lambda h: h - 0.5 * torch.relu(h),
    "both halves": lambda h: torch.cat([torch.relu(h), torch.relu(-h)], 1)[:, :4],
    "a size beside its value": lambda h: torch.cat([h, h.abs()], 1)[:, 2:6],
    "a square beside its value": lambda h: h + h * h,
    "a mean square": lambda h: h / (h.square().mean(1, keepdim=True) + 1).sqrt(),
    "a ceiling": lambda h: h.clamp(max=1.0),
    "a minimum over positions": lambda h: h - h.min(1, keepdim=True).values,
    "a detached norm": lambda h: h / h.detach().norm(dim=1, keepdim=True),
    "a detached gate": lambda h: h * torch.sigmoid(h.detach()),
    "a straight-through rounding": lambda h: h + (h.round() - h).detach(),
}


def _assigned_places(h: Tensor, places: tuple[Tensor, ...]) -> Tensor:
    h = h.clone()
    h[places] = 0.0
    return h


WRITTEN: dict[str, Callable[[Tensor], object]] = {
    "a part of it": lambda mask: mask[:, :1].fill_(True),
    "through a view": lambda mask: mask.view(-1).logical_not_(),
    "in place": lambda mask: mask.logical_not_(),
    "into it": lambda mask: torch.logical_not(mask, out=mask),
    "all of it": lambda mask: mask.copy_(torch.ones_like(mask)),
    "without a trace": lambda mask: mask.data.logical_not_(),
    "by numpy": lambda mask: mask.numpy().fill(True),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_mask_that_was_written_is_no_relu(name: str) -> None:
    def model(x: Tensor, copied: bool = False) -> Tensor:
        h = x @ A
        mask = h.detach() > 0 if copied else h > 0
        WRITTEN[name](mask)
        return (h * mask) @ V

    for copied in (False, True):
        x = X.clone().requires_grad_()
        expected = torch.autograd.grad(model(x)[:, 0].sum(), x)[0]
        with pytest.warns(UserWarning, match=r"^guided_backprop: mul in '' may be a relu"):
            assert_equal(funcattr.guided_backprop(lambda x, c=copied: model(x, c), X, 0), expected)
        assert_equal(funcattr.vjp(lambda x, c=copied: model(x, c), X, rules="epsilon")[0], model(X))
        if name in ("by numpy", "into it", "without a trace"):  # vmap has the first two not, and nobody can look there
            continue
        one = torch.vmap(lambda x, c=copied: funcattr.guided_backprop(lambda x: model(x, c), x, 0))
        with pytest.warns(UserWarning, match=r"^guided_backprop: mul in '' may be a relu"):
            rows = one(X[:, None])
        assert_equal(rows[:, 0], expected)


def test_a_detached_value_that_was_written_is_no_copy() -> None:
    def model(x: Tensor) -> Tensor:
        h = x @ A
        copy = h.detach().clone()
        copy[:, 0].neg_()
        return (h * (copy > 0)) @ V

    with pytest.warns(UserWarning, match=r"^guided_backprop: mul in '' may be a relu"):
        found = funcattr.guided_backprop(model, X, 0)
    x = X.clone().requires_grad_()
    assert_equal(found, torch.autograd.grad(model(x)[:, 0].sum(), x)[0])


def _assigned_at(h: Tensor, rows: Tensor) -> Tensor:
    h = h.clone()
    h[rows, :] = 0.0
    return h


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_what_may_be_a_relu_by_its_parts_is_named(name: str, method: str) -> None:
    spelled, named = UNCLEAR[name]
    with pytest.warns(UserWarning, match=rf"^{method}: {named} in '' may be a relu in another spelling"):
        getattr(funcattr, method)(lambda x: spelled(torch.relu(x @ A) @ B) @ V, X, 0)


@pytest.mark.parametrize("name", PLAIN)
def test_what_only_looks_like_the_parts_of_a_relu_is_not_named(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        funcattr.guided_backprop(lambda x: PLAIN[name](torch.relu(x @ A) @ B) @ V, X, 0)
        funcattr.lrp(lambda x: UNCLEAR["(h + |h|) / 2"][0](x @ A) @ V, X, 0)  # which meets each call by its own rule


def test_a_bound_that_cannot_be_seen_is_named() -> None:
    def one(bound: Tensor) -> Tensor:
        return funcattr.guided_backprop(lambda x: (x @ A).clamp(min=bound) @ V, X, 0)

    with pytest.warns(UserWarning, match=r"^guided_backprop: clamp in '' may be a relu"):
        torch.vmap(one)(torch.zeros(2).double())
