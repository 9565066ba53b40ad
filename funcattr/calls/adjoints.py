"""Ordinary adjoints in closed form, for the operations that nets spend their time and memory on.

`torch.func.vjp` of a call keeps the call's output and all of its operands until the pullback is gone. These keep
what the formula needs (the shape for a convolution, the output for a relu, nothing for a sum), as autograd does.
Each runs the call and returns its output with the pullback, or None where the closed form does not apply and
`torch.func.vjp` does the work. Each equals `torch.func.vjp` (tests/calls/test_adjoints.py).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .._torch import (
    has_dispatch_mode,
    has_silent_derivative,
    is_differentiated,
    pytree,
    softmax_backward,
    without_saved_hooks,
)
from ..errors import FuncattrError, UnsupportedOperationError
from ..torch_state import is_plain_eager
from .declarations import giving_own, taking_proportional, writing_over
from .inplace import relu_adjoint, scaled, threshold_backward
from .kinds import LINEAR, is_linear_map, read_by_adjoint
from .linear_map import CLOSED_FORMS, LinearMap
from .proportional import Proportional, Relevance, handed_on
from .recorded_call import RecordedCall
from .saved_tensors import Saved

_max_pool2d_with_indices = torch.ops.aten.max_pool2d_with_indices.default
_max_pool2d_backward = torch.ops.aten.max_pool2d_with_indices_backward.default
Adjoint = tuple[Tensor, Callable[[Tensor], tuple[Tensor, ...]]]


def _only_input(call: RecordedCall) -> Tensor | None:
    """The operand called `input`, if it is the only tracked one and of a real dtype."""
    operands = call.operands
    source = call.argument("input")
    return source if len(operands) == 1 and operands[0] is source and not source.is_complex() else None


def _linear_map(call: RecordedCall) -> Adjoint | None:
    if call.op not in CLOSED_FORMS or not is_linear_map(call):
        return None
    layer = LinearMap(call)
    weight, adjoint = Saved(layer.weight, call.path), layer.closed_form()
    if adjoint is None:
        return None

    def pull(g: Tensor) -> tuple[Tensor]:
        return (adjoint(weight(), g),)

    return call.run(), giving_own(pull)


def _batch_norm(call: RecordedCall) -> Adjoint | None:
    x, given = _only_input(call), call.named()
    variance, weight = given.get("running_var"), given.get("weight")
    if x is None or variance is None or given.get("running_mean") is None or given.get("training", False):
        return None
    scale = torch.rsqrt(variance + given.get("eps", 1e-5))
    scale = scale if weight is None else scale * weight
    scale = scale.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))

    @giving_own
    @writing_over(lambda g: (scaled(g, scale),))
    def pull(g: Tensor) -> tuple[Tensor]:
        return (g * scale,)

    return call.run(), pull


_BOUNDS = ("min", "max", "max_val", "threshold")


def _relu(call: RecordedCall) -> Adjoint | None:
    x, given = _only_input(call), call.named()
    if x is None or call.spelling == "relu6" or any(given.get(name) is not None for name in _BOUNDS):
        return None
    out = call.run()
    held = Saved(out, call.path)

    @giving_own
    @writing_over(lambda g: (relu_adjoint(g, held()),))
    def pull(g: Tensor) -> tuple[Tensor]:
        return (threshold_backward(g, held(), 0),)

    return out, pull


def sum_to(g: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The adjoint of broadcasting: the sum over what was repeated."""
    if g.shape == shape:
        return g if g.dtype == dtype else g.to(dtype)
    extra = tuple(range(g.ndim - len(shape)))
    repeated = tuple(i + len(extra) for i, n in enumerate(shape) if n == 1 and g.shape[i + len(extra)] != 1)
    g = g.sum(dim=extra + repeated, keepdim=True).reshape(shape)
    return g if g.dtype == dtype else g.to(dtype)


def _moving(back: Callable[[Tensor], Tensor], owned: bool) -> Callable[[Tensor], tuple[Tensor]]:
    """The adjoint `back` of a function whose results are some of its values, each in another place."""

    def through(relevance: Relevance) -> tuple[Relevance]:
        if isinstance(relevance, Proportional):
            return (handed_on(relevance, back, owned=owned),)
        return (back(relevance),)

    def pull(g: Tensor) -> tuple[Tensor]:
        return (back(g),)

    return taking_proportional(through)(giving_own(pull) if owned else pull)


def _add(call: RecordedCall) -> Adjoint | None:
    operands = call.operands
    if len(call.args) != 2 or call.kwargs or any(map(torch.is_complex, operands)):
        return None
    shapes = [(t.shape, t.dtype) for t in operands]
    if len(shapes) == 1:
        (shape, dtype), *_ = shapes
        return call.run(), lambda g: (sum_to(g, shape, dtype),)
    return call.run(), lambda g: tuple([sum_to(g, *s) for s in shapes])


def _cat(call: RecordedCall) -> Adjoint | None:
    operands, tensors = call.operands, call.argument("tensors")
    dim = call.argument("dim", call.kwargs.get("axis", 0))
    if len(operands) != len(tensors) or len({(t.dtype, t.ndim) for t in operands}) != 1 or not isinstance(dim, int):
        return None
    sizes = [t.shape[dim] for t in operands]
    return call.run(), lambda g: tuple(g.split(sizes, dim))


def _softmax(call: RecordedCall) -> Adjoint | None:
    x, given = _only_input(call), call.named()
    dim = given.get("dim")
    # A dtype comes by keyword, or behind the dimension.
    if x is None or not isinstance(dim, int) or len(call.args) > 2 or given.get("dtype") is not None:
        return None
    y = call.run()
    held = Saved(y, call.path)
    return y, lambda g: (softmax_backward(g, held(), dim, y.dtype),)


def _reshape(call: RecordedCall) -> Adjoint | None:
    x, out = call.operands[0], call.run()
    if len(call.operands) != 1 or not isinstance(out, Tensor) or out.dtype != x.dtype:
        return None
    shape = x.shape
    return out, _moving(lambda g: g.reshape(shape), owned=False)


def _transpose(call: RecordedCall) -> Adjoint | None:
    dims = (call.args[1:], tuple(call.kwargs.values()))
    first, second = dims[0] if len(dims[0]) == 2 else dims[1] if len(dims[1]) == 2 else (None, None)
    if len(call.operands) != 1 or not isinstance(first, int) or not isinstance(second, int):
        return None
    return call.run(), lambda g: (g.transpose(first, second),)


def _matrix_transpose(call: RecordedCall) -> Adjoint:
    return call.run(), lambda g: (g.mT,)


def _permute(call: RecordedCall) -> Adjoint | None:
    given = [*call.args[1:], *call.kwargs.values()]
    dims = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    x = call.operands[0]
    if len(call.operands) != 1 or len(dims) != x.ndim or not all(isinstance(d, int) for d in dims):
        return None
    back = [0] * x.ndim
    for place, dim in enumerate(dims):
        back[dim] = place
    return call.run(), lambda g: (g.permute(back),)


def _mul(call: RecordedCall) -> Adjoint | None:
    if len(call.args) != 2 or call.kwargs or len(call.operands) != 1:
        return None
    (x,) = call.operands
    other = call.args[1] if call.args[0] is x else call.args[0]
    alike = other.dtype == x.dtype if isinstance(other, Tensor) else not isinstance(other, complex)
    if not alike or x.is_complex():
        return None
    shape, dtype = x.shape, x.dtype
    factor = Saved(other, call.path) if isinstance(other, Tensor) else lambda: other
    return call.run(), lambda g: (sum_to(g * factor(), shape, dtype),)


_POOLING = (("padding", 0), ("dilation", 1), ("ceil_mode", False))


def _max_pool2d(call: RecordedCall) -> Adjoint | None:
    x, given = _only_input(call), call.named()
    if x is None or call.spelling != "max_pool2d" or given.get("return_indices") or len(call.args) > 6:
        return None
    kernel, shape = given["kernel_size"], x.shape
    stride = given.get("stride")
    window = (
        kernel,
        kernel if stride in (None, [], ()) else stride,
        *(given.get(name, default) for name, default in _POOLING),
    )
    by_pixel = x.ndim == 4 and x.shape[1] > 1 and x.stride(1) == 1
    out, indices = _max_pool2d_with_indices(x, *window)
    # Whoever differentiates the result finds it connected to the input, with a derivative of zero, as torch has it.
    source = x if x.requires_grad else None

    def back(g: Tensor) -> Tensor:
        # The indices tell all; of the input it wants the shape, and the layout.
        if source is not None:
            like = source
        elif by_pixel:
            like = torch.empty(shape, dtype=g.dtype, device=g.device, memory_format=torch.channels_last)
        else:
            like = g.new_empty_strided(shape, (0,) * len(shape))
        return _max_pool2d_backward(g, like, *window, indices)

    return out, _moving(back, owned=True)


ADJOINTS: Mapping[str, Callable[[RecordedCall], Adjoint | None]] = {
    **dict.fromkeys(LINEAR, _linear_map),
    "batch_norm": _batch_norm,
    "relu": _relu,
    "add": _add,
    "cat": _cat,
    "max_pool2d": _max_pool2d,
    "mul": _mul,
    "softmax": _softmax,
    **dict.fromkeys(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    "permute": _permute,
    "mT": _matrix_transpose,
}


def is_differentiable(value: Any) -> bool:
    """Whether `value` is a tensor that can carry a derivative."""
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def leaf_of(value: Tensor) -> Tensor:
    """A leaf of autograd's with the same value: the tensor itself is not flagged."""
    return nn.Parameter(outside_inference_mode(value).detach())


class NoDerivativeError(Exception):
    """A call that runs, but of which torch has no derivative."""


Differentiated = tuple[Any, tuple[Tensor, ...], Callable[[Any], tuple[Tensor, ...]]]


def ordinary_adjoint(call: RecordedCall, final: bool = False) -> Differentiated:
    """Run the call: its output, the tensors in it that depend on the operands, and the pullback of their cotangents.

    Args:
        call: The call.
        final: Whether nobody asks for a derivative of the result, so that autograd, the faster way, may do the work.

    Raises:
        NoDerivativeError: Where torch has none.
    """
    closed_form = ADJOINTS.get(call.op)
    # Under autocast a call changes its operands' dtype inside, where only torch's own adjoint follows.
    if closed_form is not None and not torch.is_autocast_enabled(call.operands[0].device.type):
        closed = closed_form(call)
        if closed is not None:
            return closed[0], (closed[0],), closed[1]
    with without_saved_hooks():
        if final and not has_dispatch_mode():  # the model's own, which would see more than the model's operations
            try:
                return _by_autograd(call)
            except Exception:
                pass
        try:
            return _by_func(call)
        except NoDerivativeError:
            raise
        except Exception as error:
            if not is_plain_eager():
                raise
            try:
                return _by_autograd(call)
            except Exception as second:
                call.run()  # what fails without a derivative too is the model's own error
                raise NoDerivativeError(str(second)) from error


def _by_func(call: RecordedCall) -> Differentiated:
    """The adjoint by `torch.func.vjp`."""
    sorting: list[_Sorted] = []

    def split(*operands: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        sorted_output = _Sorted(call(*operands), is_differentiated)
        sorting[:] = [sorted_output]
        # A vjp wants some output: a conversion to integers has none that it could have.
        return sorted_output.parts or (operands[0].new_zeros(()),), sorted_output.constants

    found: Any = torch.func.vjp(split, *call.operands, has_aux=True)
    parts, adjoint, constants = found
    output = sorting[0].with_tensors(parts, constants)
    if not sorting[0].parts:
        return output, (), _nothing_arrives
    held = [Saved(tensor, call.path) for tensor in read_by_adjoint(call, parts)]

    def pull(g: Any) -> tuple[Tensor, ...]:
        for tensor in held:
            tensor()  # torch.func does not notice that one was written
        with _named(call_name):
            return adjoint((g,) if len(parts) == 1 else g)

    call_name = _where(call)
    return output, parts, pull


def _by_autograd(call: RecordedCall) -> Differentiated:
    """The adjoint by autograd, which knows some operations that torch.func does not (custom ones, sparse layouts)."""
    args, kwargs, tensors = call.args, call.kwargs, call.tensors()
    if any(t.is_inference() for t in tensors):
        args, kwargs = pytree.tree_map_only(Tensor, outside_inference_mode, (args, kwargs))
    # Where somebody may differentiate the result, it stays in the graph of the operands and of the constants.
    connected = any(t.requires_grad for t in tensors)
    leaves = [t.view_as(t) if t.requires_grad else leaf_of(t) for t in call.operands]
    with torch.enable_grad():
        found = _Sorted(call.with_arguments(args, kwargs, leaves), lambda value: value.requires_grad)
    if not found.parts:
        return found.with_tensors((), found.constants), (), _nothing_arrives
    outputs, call_name = found.parts, _where(call)
    held = [Saved(tensor, call.path) for tensor in read_by_adjoint(call, outputs)]

    def pull(g: Any) -> tuple[Tensor, ...]:
        for tensor in held:
            tensor()
        cotangents = (g,) if len(outputs) == 1 else g
        with _named(call_name):
            again = torch.is_grad_enabled()
            pulled = torch.autograd.grad(
                outputs, leaves, cotangents, retain_graph=True, create_graph=again, allow_unused=True
            )
        return tuple(torch.zeros_like(t) if p is None else p for p, t in zip(pulled, leaves, strict=True))

    parts = outputs if connected else tuple(t.detach() for t in outputs)
    return found.with_tensors(parts, found.constants), parts, pull


def outside_inference_mode(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that has a derivative, for one that was made in inference mode."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _nothing_arrives(g: Any) -> tuple[Tensor, ...]:
    raise AssertionError("no result of the call is tracked")


_QUANTISED = frozenset([torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4])


class _Sorted:
    """The output of a call: the tensors that depend on its operands, the other tensors, and what is none.

    Args:
        output: Any structure.
        depends: Whether a tensor depends on the operands.
    """

    def __init__(self, output: Any, depends: Callable[[Tensor], bool]) -> None:
        self._spec: pytree.TreeSpec | None = None
        leaves = [output]
        if not isinstance(output, Tensor):
            leaves, self._spec = pytree.tree_flatten(output)
        self._kinds = [
            None if not isinstance(v, Tensor) else "part" if is_differentiable(v) and depends(v) else "constant"
            for v in leaves
        ]
        self._leaves = [v if kind is None else None for v, kind in zip(leaves, self._kinds, strict=True)]
        self.parts = tuple(v for v, kind in zip(leaves, self._kinds, strict=True) if kind == "part")
        self.constants = tuple(v for v, kind in zip(leaves, self._kinds, strict=True) if kind == "constant")
        # What was compared or counted is a constant, as for autograd; these would have had a derivative.
        if any(v.dtype in _QUANTISED for v in self.constants) or any(map(has_silent_derivative, self.parts)):
            raise NoDerivativeError("its result has no derivative")

    def with_tensors(self, parts: tuple[Tensor, ...], constants: tuple[Tensor, ...]) -> Any:
        """The output with other tensors in it."""
        streams = {"part": iter(parts), "constant": iter(constants)}
        leaves = [v if kind is None else next(streams[kind]) for v, kind in zip(self._leaves, self._kinds, strict=True)]
        return leaves[0] if self._spec is None else pytree.tree_unflatten(leaves, self._spec)


def _where(call: RecordedCall) -> str:
    return f"in the module {call.path!r}, {call.spelling}"


@contextmanager
def _named(call_name: str) -> Iterator[None]:
    """Torch's own error of a missing derivative, as one that names the call."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if isinstance(error, FuncattrError | torch.OutOfMemoryError):
            raise
        raise UnsupportedOperationError(
            f"{call_name}: torch cannot differentiate this call ({str(error).splitlines()[0]}). Write that part in "
            "other torch functions, give it a rule, or make its result a constant with detach()."
        ) from error
