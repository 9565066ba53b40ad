"""The table of all rules: one small call for each, and what the rule makes of it, written down by hand.

A rule that the package exports and that is not here fails `tests/rules/test_table.py`; the families' own tests have the
hard cases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from funcattr import rules

EPS = 1e-6
Tensors = tuple[Tensor, ...]


class Row(NamedTuple):
    """A rule in a call.

    Attributes:
        op: The operation that gets the rule; all others keep their adjoint.
        call: `(*operands) -> result [1, ...]`.
        operands: Each [1, ...].
        expected: `(*operands, m) -> cotangents`, m the cotangent of the result; None: the sum to delta alone.
        baseline: Operands of the pass at the baseline, for rules that compare.
        rule: The rule, where it needs options or a neighbour; None: the exported one.
    """

    op: str
    call: Callable[..., Tensor]
    operands: Tensors
    expected: Callable[..., Any] | None
    baseline: Tensors | None = None
    rule: Any = None


def _t(*rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def s(z: Tensor, eps: Any = EPS) -> Tensor:
    """z + eps sgn(z)"""
    return z + eps * torch.where(z >= 0, 1.0, -1.0)


def _parts(t: Tensor) -> tuple[Tensor, Tensor]:
    return t.clamp(min=0), t.clamp(max=0)


X, W, B = _t([1.0, -2.0, 3.0]), _t([0.5, -1.0, 2.0], [-1.5, 0.25, 1.0]), torch.tensor([0.3, -0.7]).double()
A, C = _t([0.8, -1.2]), _t([2.0, 0.5])
X0, A0, C0 = _t([0.5, 1.0, -1.0]), _t([0.3, 0.4]), _t([1.0, -0.25])
VP, VN = _parts(W)
XP, XN = _parts(X)
BP, BN = _parts(B)


def _linear(x: Tensor) -> Tensor:
    return F.linear(x, W, B)


def _supported(m: Tensor, bias: Tensor | float = 0.0, eps: Any = EPS) -> Tensor:
    q = m / s(XP @ VP.T + XN @ VN.T + bias, eps)
    return XP * (q @ VP) + XN * (q @ VN)


def _opposed(m: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    q = m / s(XP @ VN.T + XN @ VP.T + bias)
    return XP * (q @ VN) + XN * (q @ VP)


def _gamma(x: Tensor, m: Tensor, bias: float = 1.0) -> Tensor:
    up = [v + 0.25 * p for v, p in ((W, VP), (W, VN))]
    z, found = _linear(x), torch.zeros_like(x)
    for above, (v, w), b in ((z > 0, up, bias * (B + 0.25 * BP)), (z <= 0, up[::-1], bias * (B + 0.25 * BN))):
        q = torch.where(above, m, 0) / s(XP @ v.T + XN @ w.T + b)
        found = found + XP * (q @ v) + XN * (q @ w)
    return found


def _z_box(x: Tensor, m: Tensor) -> Tensor:
    low, high = -2.0 * torch.ones_like(x), 3.0 * torch.ones_like(x)
    q = m / s(x @ W.T - low @ VP.T - high @ VN.T)
    return x * (q @ W) - low * (q @ VP) - high * (q @ VN)


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, (3,), torch.tensor([1.0, 2.0, -1.0]).double(), torch.tensor([0.1, 0.2, 0.3]).double())


def _frozen(x: Tensor, g: Tensor) -> Tensor:
    g = g * torch.tensor([1.0, 2.0, -1.0]).double()
    return (g - g.mean(1, keepdim=True)) * torch.rsqrt(x.var(1, correction=0, keepdim=True) + 1e-5)


def _log_mean(x: Tensor, x0: Tensor) -> Tensor:
    p, p0 = x.softmax(1), x0.softmax(1)
    return (p - p0) / (p.log() - p0.log())


def _softmax_slope(x: Tensor, m: Tensor) -> Tensor:
    mean = _log_mean(x, X0)
    return mean * (m - (mean * m).sum(1, keepdim=True) / mean.sum(1, keepdim=True))


WITHOUT_BIAS: dict[str, Row] = {
    "epsilon": Row("linear", _linear, (X,), lambda x, m: x * (m / s(x @ W.T) @ W)),
    "z_plus": Row("linear", _linear, (X,), lambda x, m: _supported(m)),
    "alpha_beta": Row("linear", _linear, (X,), lambda x, m: 2 * _supported(m) - _opposed(m)),
    "gamma": Row("linear", _linear, (X,), lambda x, m: _gamma(x, m, bias=0.0)),
    "w_square": Row("linear", _linear, (X,), lambda x, m: m / s(W.square().sum(1)) @ W.square()),
}
"""The rules that have `bias="ignore"`, with it."""

ROWS: dict[str, Row] = {
    "epsilon": Row("linear", _linear, (X,), lambda x, m: x * (m / s(_linear(x)) @ W)),
    "z_plus": Row("linear", _linear, (X,), lambda x, m: _supported(m, BP)),
    "alpha_beta": Row("linear", _linear, (X,), lambda x, m: 2 * _supported(m, BP) - _opposed(m, BN)),
    "gamma": Row("linear", _linear, (X,), _gamma),
    "z_box": Row("linear", _linear, (X,), _z_box, rule=rules.z_box(low=-2.0, high=3.0)),
    "w_square": Row("linear", _linear, (X,), lambda x, m: m / s(W.square().sum(1) + B.square()) @ W.square()),
    "flat": Row("linear", _linear, (X,), lambda x, m: (m / (3 + EPS)).sum(1, keepdim=True).expand_as(x)),
    "winning_probability": Row("linear", _linear, (X.abs(),), lambda x, m: x * (m / (x @ VP.T) @ VP)),
    "e_rule": Row("linear", _linear, (X,), lambda x, m: x * (m / s(x @ W.T) @ W)),
    # Nothing opposes the first output, so all its relevance follows what supports it.
    "b_rule": Row(
        "linear",
        _linear,
        (X,),
        lambda x, m: _supported(m * _t([1.0, 1.5]), eps=_t([EPS / 1.5, EPS])) + _opposed(m * _t([1.0, -0.5])),
    ),
    "norm": Row("add", torch.add, (A, C), lambda a, c, m: (a * m / s(a + c), c * m / s(a + c))),
    "affine": Row("layer_norm", _layer_norm, (X,), lambda x, m: x * _frozen(x, m / s(_layer_norm(x)))),
    "softmax_taylor": Row(
        "softmax", lambda x: x.softmax(1), (X,), lambda x, m: x * (m - x.softmax(1) * m.sum(1, keepdim=True))
    ),
    "pass_through": Row("tanh", torch.tanh, (X,), lambda x, m: m),
    "product": Row("mul", torch.mul, (A, C), lambda a, c, m: (m / 2, m / 2)),
    "quotient": Row("div", torch.div, (A, C), lambda a, c, m: (m, 0 * m)),
    "signal_takes_all": Row("mul", lambda a, c: a.relu() * c, (A, C), lambda a, c, m: (0 * m, m)),
    "uniform": Row(
        "matmul",
        torch.matmul,
        (_t([[1.0, 2.0]]), _t([[0.5], [-2.0]])),
        lambda a, c, m: (a * (m / 2 / s(a @ c) @ c.mT), c * (a.mT @ (m / 2 / s(a @ c)))),
    ),
    "frozen": Row("layer_norm", _layer_norm, (X,), _frozen),
    "halved": Row("mul", torch.mul, (A, C), lambda a, c, m: (m * c / 2, m * a / 2)),
    "ungated": Row("mul", lambda a, c: a.relu() * c, (A, C), lambda a, c, m: (0 * m, m * a.relu())),
    "numerator": Row("div", torch.div, (A, C), lambda a, c, m: (m / c, 0 * m)),
    "ratio": Row("silu", F.silu, (X,), lambda x, m: m * x.sigmoid()),
    "guided": Row("relu", F.relu, (X,), lambda x, m: torch.where((x > 0) & (m > 0), m, 0)),
    "deconvnet": Row("relu", F.relu, (X,), lambda x, m: m.clamp(min=0)),
    "beta_smooth": Row("relu", F.relu, (X,), lambda x, m: m * (10 * x).sigmoid()),
    "rescale": Row("tanh", torch.tanh, (X,), lambda x, m: m * (x.tanh() - X0.tanh()) / (x - X0), (X0,)),
    "bilinear": Row("mul", torch.mul, (A, C), lambda a, c, m: (m * (c + C0) / 2, m * (a + A0) / 2), (A0, C0)),
    "quotient_slope": Row(
        "div",
        torch.div,
        (A, C),
        lambda a, c, m: (m * (1 / c + 1 / C0) / 2, -m * (a + A0) / 2 / (c * C0)),
        (A0, C0),
    ),
    "sqrt_slope": Row("sqrt", torch.sqrt, (C.abs(),), lambda c, m: m / (c.sqrt() + C0.abs().sqrt()), (C0.abs(),)),
    "undropped": Row("dropout", lambda x: F.dropout(x, 0.5, False), (X,), lambda x, m: m, (X0,)),
    "softmax_slope": Row("softmax", lambda x: x.softmax(1), (X,), _softmax_slope, (X0,)),
    "log_softmax_slope": Row(
        "log_softmax",
        lambda x: x.log_softmax(1),
        (X,),
        lambda x, m: m - _log_mean(x, X0) / _log_mean(x, X0).sum() * m.sum(1, keepdim=True),
        (X0,),
    ),
    "logsumexp_slope": Row(
        "logsumexp",
        lambda x: x.logsumexp(1),
        (X,),
        lambda x, m: m[:, None] * _log_mean(x, X0) / _log_mean(x, X0).sum(),
        (X0,),
    ),
    # 3 at x (the last), 1 at the baseline (the second): dy = 2 = t 4 + (1 - t) (-3), t = 5 / 7.
    "extremum": Row("amax", lambda x: x.amax(1), (X,), lambda x, m: m[:, None] * _t([0.0, 2 / 7, 5 / 7]), (X0,)),
    "max_pool_slope": Row(
        "max_pool1d",
        lambda x: F.max_pool1d(x[:, None], 3)[:, 0],
        (X,),
        lambda x, m: m * _t([0.0, 2 / 7, 5 / 7]),
        (X0,),
    ),
    "norm_slope": Row("layer_norm", _layer_norm, (X,), None, (X0,)),
    "linear_multiplier": Row("linear", _linear, (X,), lambda x, m: m @ W, (X0,)),
    "reveal_cancel": Row(
        "linear",
        lambda x: _linear(x).relu(),
        (X,),
        None,
        (X0,),
        {"linear": rules.linear_multiplier, "relu": rules.join(rules.rescale)},
    ),
}
"""Every exported rule by its name."""
