"""Operations in simpler ones, each of which has its rule: `decompose` these in a rulebook.

What is added to a product and depends on the input is a term of the sum, and no factor of the product.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..calls.operations import CONVOLUTIONS
from ..errors import UnsupportedOperationError
from ..rulebook.actions import UNLISTED, decompose
from ..rulebook.rulebook import Entry


def linear(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """X W^T, and then + b."""
    return F.linear(input, weight) + bias


def convolution(name: str) -> Callable[..., Tensor]:
    """A convolution, and then its bias."""
    function, (rank, _) = getattr(F, name), CONVOLUTIONS[name]

    def apart(input: Tensor, weight: Tensor, bias: Tensor, *options: Any, **named: Any) -> Tensor:
        return function(input, weight, None, *options, **named) + bias.reshape(-1, *[1] * rank)

    apart.__name__ = name
    return apart


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Beta * input + alpha * mat1 @ mat2"""
    return _sum(input, mat1 @ mat2, beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Beta * input + alpha * batch1 @ batch2"""
    return _sum(input, batch1 @ batch2, beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Beta * input + alpha * sum_i batch1_i @ batch2_i"""
    return _sum(input, (batch1 @ batch2).sum(0), beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Beta * input + alpha * mat @ vec"""
    return _sum(input, mat @ vec, beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """Beta * input + alpha * vec1 vec2^T"""
    return _sum(input, outer(vec1, vec2), beta, alpha)


def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Input + value * tensor1 * tensor2"""
    return _sum(input, tensor1 * tensor2, 1, value)


def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """Input + value * tensor1 / tensor2"""
    return _sum(input, tensor1 / tensor2, 1, value)


def rounded_div(input: Tensor, other: Tensor, *, rounding_mode: str) -> Tensor:
    """Quotient x / y, and then rounded."""
    whole = input / other
    return whole.floor() if rounding_mode == "floor" else whole.trunc()


def lerp(input: Tensor, end: Tensor, weight: Tensor | float) -> Tensor:
    """(1 - w) * input + w * end"""
    return input * (1 - weight) + end * weight


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """x_i y_j, an elementwise product"""
    return input.unsqueeze(1) * vec2.unsqueeze(0)


def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product, an elementwise product of all pairs."""
    rank = max(input.ndim, other.ndim)
    a = input.reshape(*[1] * (rank - input.ndim), *input.shape)
    b = other.reshape(*[1] * (rank - other.ndim), *other.shape)
    pairs = a.reshape([n for size in a.shape for n in (size, 1)]) * b.reshape(
        [n for size in b.shape for n in (1, size)]
    )
    return pairs.reshape([m * n for m, n in zip(a.shape, b.shape, strict=True)])


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x^T W y + b"""
    product = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return product if bias is None else product + bias


def embedding(
    input: Tensor, weight: Tensor, padding_idx: Any = None, max_norm: float | None = None, *options: Any, **named: Any
) -> Tensor:
    """Rows of a matrix; padding and frequencies change its gradient only, which is no derivative then."""
    if max_norm is not None:
        raise UnsupportedOperationError("embedding(max_norm=...): it rewrites the weight, and has no rule.")
    return weight[input]


def multi_dot(tensors: Any) -> Tensor:
    """A product of matrices, from the left."""
    product, *others = tensors
    for matrix in others:
        product = product @ matrix
    return product


def chain_matmul(*matrices: Any) -> Tensor:
    """A product of matrices, from the left."""
    return multi_dot(matrices if isinstance(matrices[0], Tensor) else matrices[0])


def var_mean(input: Tensor, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """The variance and, apart from it, the mean, which is no scale but a sum."""
    return torch.var(input, *options, **named), _mean(input, *options, **named)


def std_mean(input: Tensor, *options: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """The standard deviation and, apart from it, the mean, which is no scale but a sum."""
    return torch.std(input, *options, **named), _mean(input, *options, **named)


def _mean(input: Tensor, *options: Any, **named: Any) -> Tensor:
    """The mean over what a variance is of, by the arguments of the variance: `(dim, unbiased, keepdim)` or fewer."""
    dim, _, keepdim = (*options, *(None,) * 3)[:3]
    dim, keepdim = named.get("dim", dim), named.get("keepdim", keepdim)
    over_all = dim is None or isinstance(dim, bool)  # var(x, unbiased)
    return torch.mean(input, None if over_all else dim, bool(keepdim))


def _sum(term: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    product = product if alpha == 1 else alpha * product
    return product if beta == 0 else (term if beta == 1 else beta * term) + product


ENTRIES = (
    # A constant bias is a part of the linear map; one that depends on the input is not.
    Entry("linear", decompose(linear), tracked="bias"),
    Entry("addmm", decompose(addmm), tracked="input"),
    *(Entry(name, decompose(convolution(name)), tracked="bias") for name in CONVOLUTIONS),
    *(Entry(function.__name__, decompose(function)) for function in (baddbmm, addbmm, addmv, addr, addcmul, addcdiv)),
    *(
        Entry(function.__name__, decompose(function))
        for function in (rounded_div, lerp, outer, kron, bilinear, chain_matmul, var_mean, std_mean)
    ),
    Entry("embedding", decompose(embedding)),
    Entry("ger", decompose(outer)),
    Entry("linalg_multi_dot", decompose(multi_dot)),
)
"""Rows of every rulebook."""

_TWO_VALUES = ("fmod", "remainder", "atan2", "copysign", "ldexp", "xlogy", "xlog1py", "logaddexp", "logaddexp2")
NOT_LINEAR = (
    # Linear in one argument alone.
    Entry("grid_sample", UNLISTED, tracked="grid"),
    Entry("cholesky_solve", UNLISTED, tracked="input2"),
    Entry("lu_solve", UNLISTED, tracked="LU_data"),
    Entry("linalg_solve", UNLISTED, tracked="A"),
    Entry("linalg_solve_triangular", UNLISTED, tracked="input"),
    # Functions of one value, where the other is a constant.
    *(Entry(name, UNLISTED, tracked=("input", "other")) for name in _TWO_VALUES),
)
"""Rows of every rulebook: calls that are in a group by what they do to one argument, and have another tracked."""
