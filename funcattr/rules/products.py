"""Rules for products, quotients and matrix products of tracked operands."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..calls.adjoints import sum_to
from ..calls.call import Call, Origin
from ..calls.declarations import forms_only, row_by_row, taking_proportional
from ..calls.kinds import FUNCTION, GATES, GROUPS
from ..calls.operations import ACTIVATIONS
from ..calls.origins import upper_bound
from ..calls.proportional import Proportional, Relevance, handed_on, multiplied
from ..errors import UnsupportedOperationError
from .linear import check_eps
from .parametric import rule
from .stabilizer import contributed, stabilized
from .stabilizer import quotient as over_stabilized


def _through_in_proportion(call: Call, relevance: Relevance) -> Any:
    """Behind a relu, nothing has arrived where its operand is not above zero."""
    if isinstance(relevance, Proportional) and call.forms == ((relevance.shape, relevance.dtype),):
        bound = upper_bound(call) if call.op == "relu" else None
        if call.op == "relu" and bound is None:
            return (Proportional(relevance.g, relevance.x, rectified=True, owned=relevance.owned),)
        # In training, some dropouts make other numbers of zeros.
        changes_nothing = call.op in GROUPS["dropout"] and not call.argument("training", True)
        if changes_nothing or (bound is not None and bound > 0):
            return (handed_on(relevance, lambda passed: passed, rectified=bound is not None),)
    return pass_through(call, multiplied(relevance))


@taking_proportional(_through_in_proportion)
@forms_only
def pass_through(call: Call, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """All relevance goes to the first operand: R_x = R (summed over what was broadcast).

    Of a complex operand the two parts share it, for |x|, -x and the like; functions that mix them have no rule.
    """
    if call.forms[0][1].is_complex or relevance.is_complex():
        return by_parts(call, relevance)
    return tuple(_given(call, relevance, [1.0] + [0.0] * (len(call.forms) - 1)))


def by_parts(call: Call, relevance: Tensor) -> tuple[Tensor, ...]:
    """A function that is homogeneous in the real and imaginary part together: R_x = x J^T[R / s(y)] of each part."""
    check_homogeneous(call)
    flow = over_stabilized(relevance, call.output, torch.finfo(relevance.dtype).tiny)
    return tuple(contributed(x, back) for x, back in zip(call.operands, call.vjp(flow), strict=True))


def check_homogeneous(call: Call) -> None:
    """Raise for a function of complex numbers, unless f(t x) = t f(x) for real t >= 0."""
    if call.op not in _HOMOGENEOUS:
        raise UnsupportedOperationError(
            f"the rule for {call.op!r} in {call.path!r}: a function of complex numbers mixes their real and imaginary "
            "part, and has no rule. Write it in real numbers (torch.view_as_real), or give it a rule of its own."
        )


_HOMOGENEOUS = frozenset("abs neg conj conj_physical resolve_conj positive".split())


@row_by_row
@forms_only
def product(call: Call, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Product a * b: a constant gets nothing, a gate (out of a sigmoid) leaves all to the signal; else half each.

    A complex factor mixes the real and the imaginary part of the other: that is a matrix product of them (`uniform`).

    References:
        Arras et al., 2017, arXiv:1706.07206, section 3.2 (gates); Achtibat et al., 2024, arXiv:2402.05602, equation 14.
    """
    if relevance.is_complex():
        return uniform(call, relevance)
    return tuple(_given(call, relevance, shares(call.origins)))


@forms_only
def signal_takes_all(call: Call, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Product a * b: a factor that came out of an activation is a gate and gets nothing, the other one all.

    References:
        Arras et al., 2017, arXiv:1706.07206, section 3.2.
    """
    return tuple(_given(call, relevance, ungated_shares(call.origins)))


@forms_only
def quotient(call: Call, relevance: Tensor) -> tuple[Tensor | None, ...]:
    """Quotient a / b: the numerator takes all, the denominator is a scale."""
    if relevance.is_complex() and call.begins_with("input"):
        flow = over_stabilized(relevance, call.output, 1e-6)
        return contributed(call.operands[0], call.vjp(flow)[0]), *[None] * (len(call.forms) - 1)
    return tuple(_given(call, relevance, numerator_shares(call)))


def shares(origins: Sequence[Origin], gates: frozenset[str] = GATES) -> list[float]:
    """What part of the result of a product each tracked factor stands for, by their origins; they sum to 1."""
    count = len(origins)
    is_gate = [origin.op in gates for origin in origins]
    if count == 1 or not any(is_gate) or all(is_gate):
        return [1 / count] * count
    return [0.0 if gate else 1 / is_gate.count(False) for gate in is_gate]


def ungated_shares(origins: Sequence[Origin]) -> list[float]:
    """As `shares`, where without a sigmoid a factor out of any other activation is the gate."""
    found = shares(origins)
    return found if 0.0 in found else shares(origins, ACTIVATIONS | {FUNCTION})


def numerator_shares(call: Call) -> list[float]:
    """1 for the numerator of a quotient, if it is tracked, and 0 for the denominator."""
    return [float(name == "input") for name in call.tracked_names()]


def factor_adjoints(call: Call, g: Tensor) -> tuple[Tensor, ...]:
    """The ordinary adjoint of a product at its tracked factors, in closed form where that spares running it again."""
    operands, args = call.operands, call.args
    if len(args) != 2 or call.kwargs or g.is_complex() or any(t.is_complex() for t in operands):
        return call.vjp(g)
    a, b = args
    if call.op == "mul":
        backs = [sum_to(g * other, x.shape, x.dtype) for x, other in _each_tracked(call, a, b)]
    elif call.op == "matmul" and len(operands) == 2 and min(a.ndim, b.ndim) >= 2 and a.dtype == b.dtype == g.dtype:
        backs = [sum_to(g @ b.mT, a.shape, a.dtype), sum_to(a.mT @ g, b.shape, b.dtype)]
    else:
        return call.vjp(g)
    return tuple(backs)


def _each_tracked(call: Call, a: Any, b: Any) -> list[tuple[Tensor, Any]]:
    """Each tracked factor with the other one."""
    return [(x, other) for x, other in ((a, b), (b, a)) if any(x is t for t in call.operands)]


def _given(call: Call, relevance: Tensor, parts: list[float]) -> list[Tensor | None]:
    return [
        None if part == 0 else sum_to(relevance if part == 1 else part * relevance, *form)
        for form, part in zip(call.forms, parts, strict=True)
    ]


def _uniform_leaks(call: Call, relevance: Tensor, *, eps: float) -> dict[str, Any]:
    z = call.output
    if z.is_complex():
        return {}
    taken = torch.where(z == 0, 0, relevance * (1 - z / stabilized(z, eps)))
    return {"stabilizer": taken.sum(), "dead units": torch.where(z == 0, relevance, 0).sum()}


@rule(lambda eps: check_eps("uniform", eps), _uniform_leaks)
@row_by_row
def uniform(call: Call, relevance: Tensor, *, eps: float = 1e-6) -> tuple[Tensor | None, ...]:
    """A matrix product (or einsum, or convolution) of n tracked factors: relevance by contribution, 1/n to each factor.

    R_a = a J_a^T[R / (n s(z))], and likewise for the others; gates (out of a sigmoid) leave all to the n signals

    Args:
        eps: Stabiliser, in units of z.

    References:
        Achtibat et al., 2024, arXiv:2402.05602, equation 15; Arras et al., 2017, arXiv:1706.07206, section 3.2 (gates).
    """
    parts = shares(call.origins)
    flow = over_stabilized(relevance, call.output, eps) * max(parts)
    backs = zip(call.operands, factor_adjoints(call, flow), parts, strict=True)
    return tuple(None if part == 0 else contributed(x, back) for x, back, part in backs)
