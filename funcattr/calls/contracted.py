"""The dimension of an operand that a product of tensors sums over, where its features are."""

from typing import Any

from torch import Tensor

from .call import Call
from .operations import CONVOLUTIONS


def contracted_dim(call: Call) -> int | None:
    """The only dimension of a linear map's operand that is summed over, counted from 0; None if that is not one.

    A convolution sums over its channels, and over a window of each.
    """
    (x,) = call.operands
    if call.op in CONVOLUTIONS:
        return x.ndim - CONVOLUTIONS[call.op][0] - 1
    dims = _DIMS[call.op](call, x) if call.op in _DIMS else ()
    return dims[0] % x.ndim if len(dims) == 1 else None


def _last(call: Call, x: Tensor) -> tuple[int, ...]:
    return (-1,)


def _of_factors(left: str) -> Any:
    """For products of matrices: the last dimension of the argument called `left`, the last but one of the other."""

    def dims(call: Call, x: Tensor) -> tuple[int, ...]:
        return (-1,) if call.tracks(left) or x.ndim == 1 else (-2,)

    return dims


def _vecdot(call: Call, x: Tensor) -> tuple[int, ...]:
    dim, rank = call.kwargs.get("dim", -1), max(t.ndim for t in call.tensors())
    return (dim if dim < 0 else dim - rank,)  # of what both broadcast to


def _einsum(call: Call, x: Tensor) -> tuple[int, ...]:
    equation, tensors = call.argument("equation"), call.tensors()
    if not isinstance(equation, str):
        return ()
    terms, arrow, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    own = letters[next(i for i, t in enumerate(tensors) if t is x)]
    if not arrow:
        result = "".join(letter for letter in terms if terms.count(letter) == 1)
    before, dots, after = own.partition("...")
    places = {letter: i for i, letter in enumerate(before)} | {c: i - len(after) for i, c in enumerate(after)}
    if (dots and "..." not in result) or len(set(own)) < len(own) - 2 * bool(dots):  # sums over more, or a diagonal
        return ()
    return tuple(place for letter, place in places.items() if letter not in result)


def _tensordot(call: Call, x: Tensor) -> tuple[int, ...]:
    is_first = x is (call.args[0] if call.args else call.kwargs.get("a"))
    dims: Any = call.kwargs.get("dims", call.args[2] if len(call.args) > 2 else 2)
    if isinstance(dims, int):
        return tuple(range(-dims, 0)) if is_first else tuple(range(dims))
    if isinstance(dims, Tensor):
        return ()
    own = dims[0] if is_first else dims[1]
    return (own,) if isinstance(own, int) else tuple(own)


_DIMS = {
    **dict.fromkeys(("linear", "inner", "vdot"), _last),
    "addmm": _of_factors("mat1"),
    "grouped_mm": _of_factors("input"),
    "matmul": _of_factors("input"),
    "rmatmul": _of_factors("other"),
    "linalg_vecdot": _vecdot,
    "einsum": _einsum,
    "tensordot": _tensordot,
}
