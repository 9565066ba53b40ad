"""A linear operation as a function of its input and its weight, with the adjoint in closed form."""

import copy
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._torch import func_vjp
from ..errors import UnsupportedOperationError
from .call import Call
from .contracted import contracted_dim
from .operations import CONVOLUTIONS

_convolution_backward = torch.ops.aten.convolution_backward.default
_BLOCK, _MOST_BLOCKS = 2**19, 64
"""Values of a weight in a block, and the most blocks."""
CLOSED_FORMS = frozenset(CONVOLUTIONS) | {"linear", "addmm", "grouped_mm"}
"""Operations of which some calls have an adjoint that needs no values of the input."""
_COMPRESSED = frozenset({torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})
_PLAIN_SUMS = frozenset({"linear", "matmul"})
_GEOMETRY = (("output_padding", 0), ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` in two dimensions: for strided tokens [L, N, F], torch would multiply L small matrices."""
    if input.ndim < 3 or weight.ndim != 2:
        return F.linear(input, weight, bias)
    return F.linear(input.flatten(0, -2), weight, bias).unflatten(0, input.shape[:-1])


def in_one_piece(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a torch function, where nothing is on record; linear maps of strided tokens run in one piece."""
    if func is F.linear:
        return linear(*args, **kwargs)
    if func is F.multi_head_attention_forward:  # its linear maps are no calls that a mode would see
        whole = {id(t): t.contiguous() for t in args[:3]}
        args = (*(whole[id(t)] for t in args[:3]), *args[3:])
    return func(*args, **kwargs)


def running_in_one_piece(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for a pass without a recorder."""

    def run(*inputs: Tensor) -> Any:
        with InOnePiece():
            return fn(*inputs)

    return run


class InOnePiece(TorchFunctionMode):
    """Runs linear maps of strided tokens in one piece."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return in_one_piece(func, args, kwargs or {})


class LinearMap:
    """z = f(x, W) + b, the map that a call computes: f is linear in x and in W.

    Attributes:
        x: The tracked operand.
        weight: The other factor, a constant.
        bias: What is added, or None. A convolution's is [channels], or a field that broadcasts against z.
        multiply: `(x, weight) -> f(x, weight)`.
        is_nonnegative: Whether data flow tells that x has no negative values.
        is_rectified: Whether no relevance arrives where z is not above zero, as through a relu.
        rectified: max(z, 0) then, if it is at hand: a rule may look at it in place of z.
    """

    is_rectified = False
    rectified: Tensor | None = None

    def __init__(self, call: Call) -> None:
        (self.x,) = call.operands
        self._call, self._output, self._z = call, partial(getattr, call, "output"), None
        self.op = call.op
        self.is_nonnegative = bool(call.origins) and call.origins[0].nonnegative
        self.bias: Tensor | None = call.argument("bias")
        self.weight: Tensor
        self.multiply: Callable[[Tensor, Tensor], Tensor]
        self._closed: Callable[..., Tensor] | None = None
        if self.op in CONVOLUTIONS:
            self._read_convolution(call)
        elif self.op == "linear":
            self._read_linear(call)
        elif self.op == "addmm":
            self._read_addmm(call)
        elif self.op == "grouped_mm":
            self._read_grouped(call)
        elif self.op == "einsum" and len(call.tensors()) != 2:
            self._read_einsum(call)
        else:
            self.weight = _other_factor(call, self.x)
            self.multiply = lambda x, weight: call.with_factors(self.x, x, self.weight, weight)
            if self.op == "einsum":
                self._sum_weight(call)

    @property
    def is_plain_sum(self) -> bool:
        """Whether z is a sum of products that nothing multiplies afterwards, as `alpha` does in addmm."""
        return self.op in CONVOLUTIONS or self.op in _PLAIN_SUMS

    @property
    def z(self) -> Tensor:
        """The call's output; made again where the call has let go of it."""
        if self._z is None:
            self._z = self._output()
        return self._z

    def take_output(self, output: Callable[[], Tensor]) -> None:
        """Let `z` be what `output` makes, and the adjoint that of `multiply`: the map has other tensors now."""
        self._output, self._z, self._closed = output, None, None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """f(x, weight) + bias."""
        if bias is None or bias.ndim != 1 or self.op not in CONVOLUTIONS:
            z = self.multiply(x, weight)
            return z if bias is None else z + bias
        return self._convolve(x, weight, bias)

    def adjoint(self, weight: Tensor, cotangent: Tensor) -> Tensor:
        """J^T cotangent, where J is the map's derivative by x with `weight` in place of W; a tensor of its own."""
        if self._closed is not None and not torch.is_autocast_enabled(self.x.device.type):
            return self._closed(weight, cotangent, self.x)
        # The map is linear, so its derivative is the same everywhere, at the input too. It may come as a view.
        return func_vjp(lambda x: self.multiply(x, weight), self.x)[1](cotangent)[0].clone()

    def blocks(self) -> "list[LinearMap]":
        """The map cut into maps of some outputs each, whose weights are small enough to stay in a cache while used."""
        rows = self.weight.shape[0]
        count = min(_MOST_BLOCKS, self.weight.numel() // _BLOCK, rows)
        if self._closed is not _linear_adjoint or count < 2:
            return [self]
        size = -(-rows // count)
        biases = [None] * count if self.bias is None else self.bias.split(size)
        pieces = zip(self.weight.split(size), range(0, rows, size), biases, strict=False)
        return [self._piece(*piece) for piece in pieces]

    def _piece(self, weight: Tensor, start: int, bias: Tensor | None) -> "LinearMap":
        piece = copy.copy(self)
        piece.weight, piece.bias = weight, bias
        piece._output = lambda: self.z[..., start : start + len(weight)]
        return piece

    def closed_form(self) -> Callable[..., Tensor] | None:
        """`adjoint` where it needs no values of x, else None; holds no reference to x."""
        return self._closed

    @property
    def is_batched_convolution(self) -> bool:
        """Whether x is [N, C, *spatial]; a convolution takes [C, *spatial] too."""
        return self.op in CONVOLUTIONS and self.x.ndim == CONVOLUTIONS[self.op][0] + 2

    @property
    def channel_dim(self) -> int | None:
        """Dimension of x that the weight's input channels (or features) are; None if that is not one."""
        return contracted_dim(self._call)

    @property
    def channels(self) -> int | None:
        """How many numbers the bias of a convolution has; None for other operations."""
        if self.op not in CONVOLUTIONS:
            return None
        transposed = CONVOLUTIONS[self.op][1]
        return self.weight.shape[1] * self._convolve.keywords["groups"] if transposed else self.weight.shape[0]

    def field(self, bias: Tensor) -> Tensor:
        """A bias, shaped to broadcast against z."""
        if bias.ndim == 1 and self.op in CONVOLUTIONS:
            return bias.reshape(-1, *[1] * CONVOLUTIONS[self.op][0])
        return bias

    def _read_convolution(self, call: Call) -> None:
        given = call.named()
        self.weight = call.argument("weight")
        rank, transposed = CONVOLUTIONS[self.op]
        names = _GEOMETRY if transposed else _GEOMETRY[1:]
        options = [given.get(name, default) for name, default in names]
        options = tuple([tuple(value) if type(value) is list else value for value in options])
        try:
            convolve, order = _convolution(self.op, options)
        except TypeError:  # numbers that are symbols have no hash
            convolve, order = _convolution.__wrapped__(self.op, options)
        self._convolve = self.multiply = convolve
        if order is not None and self.x.ndim == rank + 2 and not self.x.is_complex():
            self._closed = partial(_convolution_adjoint, self.x.shape, order)

    def _read_linear(self, call: Call) -> None:
        if call.tracks("input"):
            self.weight, self.multiply = call.argument("weight"), linear
            self._closed = _linear_adjoint if self.weight.ndim == 2 else None
        else:
            self.weight, self.multiply = call.argument("input"), lambda weight, x: linear(x, weight)

    def _read_addmm(self, call: Call) -> None:
        # beta * input + alpha * mat1 @ mat2
        alpha, beta = call.kwargs.get("alpha", 1), call.kwargs.get("beta", 1)
        bias, mat1, mat2 = (call.argument(name) for name in ("input", "mat1", "mat2"))
        on_the_left = self.x is mat1
        weight = mat2 if on_the_left else mat1
        self.bias = bias if beta == 1 else beta * bias
        self.weight = weight if alpha == 1 else alpha * weight
        self.multiply = torch.matmul if on_the_left else (lambda x, weight: weight @ x)
        self._closed = _addmm_adjoint if on_the_left else None

    def _read_grouped(self, call: Call) -> None:
        # Rows up to offs[0] by the first matrix, those up to offs[1] by the second.
        mat2 = call.argument("mat2")
        self.weight = call.argument("input") if self.x is mat2 else mat2
        self.multiply = lambda x, weight: call.with_factors(self.x, x, self.weight, weight)
        if self.x.ndim == 2 and self.weight is mat2 and mat2.ndim == 3:
            self._closed = partial(_grouped_adjoint, call.argument("offs"))

    def _sum_weight(self, call: Call) -> None:
        """Sum the weight over what it alone has, so that no rule tells its parts by their signs before."""
        equation, whole = call.argument("equation"), self.weight
        if not isinstance(equation, str):
            return
        terms, arrow, result = equation.replace(" ", "").partition("->")
        letters = terms.split(",")
        place = next(i for i, t in enumerate(call.tensors()) if t is self.x)
        own, other = letters[place], letters[1 - place]
        alone = {c for c in other if c not in f".{own}{result}" and (arrow or terms.count(c) > 1)}
        if not alone:
            return
        kept = "".join(c for c in other if c not in alone)
        order = f"{own},{kept}->{result}" if arrow else f"{own},{kept}"
        self.weight = torch.einsum(f"{other}->{kept}", whole)
        self.multiply = lambda x, weight: torch.einsum(order, x, weight)

    def _read_einsum(self, call: Call) -> None:
        # The product of all constants is the other factor.
        equation, tensors = call.argument("equation"), call.tensors()
        if not isinstance(equation, str) or "." in equation:
            raise _several_factors(call, len(tensors))
        terms, _, result = equation.replace(" ", "").partition("->")
        letters = terms.split(",")
        if "->" not in equation:
            every = "".join(letters)
            result = "".join(sorted(letter for letter in set(every) if every.count(letter) == 1))
        place = next(i for i, t in enumerate(tensors) if t is self.x)
        own = letters.pop(place)
        constants = [t for i, t in enumerate(tensors) if i != place]
        kept = "".join(letter for letter in dict.fromkeys("".join(letters)) if letter in own + result)
        product = torch.einsum(f"{','.join(letters)}->{kept}", *constants)
        if kept:
            self.weight = product
            self.multiply = lambda x, weight: torch.einsum(f"{own},{kept}->{result}", x, weight)
        else:
            self.weight = product.reshape(1)
            self.multiply = lambda x, weight: torch.einsum(f"{own}->{result}", x * weight)


def _linear_adjoint(weight: Tensor, cotangent: Tensor, x: Tensor | None = None) -> Tensor:
    # In two dimensions, as `linear`.
    return (cotangent.reshape(-1, cotangent.shape[-1]) @ weight.conj()).reshape(*cotangent.shape[:-1], weight.shape[1])


def _addmm_adjoint(weight: Tensor, cotangent: Tensor, x: Tensor | None = None) -> Tensor:
    return cotangent @ weight.mH


def _grouped_adjoint(offs: Tensor, weight: Tensor, cotangent: Tensor, x: Tensor | None = None) -> Tensor:
    # Torch's own takes no expanded cotangent, which a sum over the rows has.
    return F.grouped_mm(cotangent.contiguous(), weight.mT, offs=offs)


def _convolution_adjoint(
    shape: torch.Size, geometry: tuple[Any, ...], weight: Tensor, cotangent: Tensor, x: Tensor | None = None
) -> Tensor:
    # The values of the input do not enter its own gradient, only its shape does; without x, torch makes room for one.
    like = cotangent.new_empty_strided(shape, (0,) * len(shape)) if x is None else x
    return _convolution_backward(cotangent, like, weight, None, *geometry, [True, False, False])[0]


@lru_cache(maxsize=1024)
def _convolution(op: str, options: tuple[Any, ...]) -> "tuple[partial[Tensor], tuple[Any, ...] | None]":
    """A convolution with options, in the order of `_GEOMETRY`, and the arguments of its adjoint, if it has that."""
    rank, transposed = CONVOLUTIONS[op]
    named = dict(zip([name for name, _ in _GEOMETRY[0 if transposed else 1 :]], options, strict=True))
    convolve = partial(getattr(F, op), **named)
    groups = named.pop("groups")
    geometry = [] if isinstance(named["padding"], str) else [_each(value, rank) for value in named.values()]
    if {*map(len, geometry)} != {rank}:
        return convolve, None
    shift, stride, padding, dilation = geometry if transposed else ([0] * rank, *geometry)
    return convolve, (stride, padding, dilation, transposed, shift, groups)


def _each(value: Any, rank: int) -> list[int]:
    if isinstance(value, int):
        return [value] * rank
    return list(value) * rank if len(value) == 1 else list(value)


def _other_factor(call: Call, x: Tensor) -> Tensor:
    others = [t for t in call.tensors() if t is not x and t is not call.argument("bias")]
    if len(others) != 1:
        raise _several_factors(call, len(others) + 1)
    if others[0].layout in _COMPRESSED:
        raise UnsupportedOperationError(
            f"a rule for linear maps at {call.op!r} in {call.path!r}: expected a dense matrix or one in coordinates, "
            f"got {others[0].layout}. Give the model matrix.to_sparse_coo() or matrix.to_dense()."
        )
    return others[0]


def _several_factors(call: Call, count: int) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"a rule for linear maps at {call.op!r} in {call.path!r}: expected two factors, got {count}. "
        "Write it as products of two, or give the call a rule of its own, such as rules.norm."
    )
