"""Run a model with some torch functions rewired: the same value, and a backward pass of our own.

A torch function mode sends each call on a tensor that requires grad to a handler. A handler either leaves it to
autograd (it is then linear bookkeeping), or replaces it by a `Rewired` node, whose backward is the rule. What PyTorch
then "differentiates" is the walk; sums over the uses of a tensor, views and writes in place are autograd's own. Where
a tensor comes from (a gate, a convolution, no linear map at all) is read off the autograd graph.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..references import one_hot


class UnknownOperationError(Exception):
    """A call that no handler knows, on a tensor that requires grad."""


@dataclass
class Node:
    """What a rewired call was: `kind` names it, `facts` is what a later call may want to know of it."""

    kind: str
    value: Tensor
    operands: tuple[Tensor, ...]
    backward: Callable[[Tensor], tuple[Tensor | None, ...]]
    facts: dict[str, Any] = field(default_factory=dict)
    folded: bool = False  # another call has taken its place: nothing may come back through this one


class Rewired(torch.autograd.Function):
    """`node.value`, with the backward `node.backward`."""

    @staticmethod
    def forward(ctx: Any, node: Node, *operands: Tensor) -> Tensor:
        ctx.node = node
        return node.value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        node: Node = ctx.node
        assert not node.folded, f"the output of a {node.kind} is used beside the batch norm that it is folded with"
        back = node.backward(grads[0])
        assert len(back) == len(node.operands), node.kind
        assert all(b is None or b.shape == o.shape for b, o in zip(back, node.operands)), node.kind
        return None, *back


def rewired(
    kind: str,
    value: Tensor,
    operands: tuple[Tensor, ...],
    backward: Callable[[Tensor], tuple[Tensor | None, ...]],
    **facts: Any,
) -> Tensor:
    """`value` as a function of `operands` whose cotangents (or relevances) are `backward(of the value)`."""
    return Rewired.apply(Node(kind, value, operands, backward, facts), *operands)  # type: ignore[no-any-return]


def is_tracked(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


class Call:
    """A call of a torch function, its operands (the tensors that require grad), and the name it goes by.

    The operands are copies, values and graph alike: the model may write into its own.
    """

    def __init__(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name, self.func = name, func
        leaves, self._spec = pytree.tree_flatten((args, kwargs))
        self._leaves = [leaf.clone() if is_tracked(leaf) else leaf for leaf in leaves]
        self._places = [i for i, leaf in enumerate(leaves) if is_tracked(leaf)]
        self.operands: tuple[Tensor, ...] = tuple(self._leaves[i] for i in self._places)
        self.args, self.kwargs = self._with(self.operands)

    def _with(self, operands: tuple[Tensor, ...]) -> Any:
        leaves = list(self._leaves)
        for place, operand in zip(self._places, operands, strict=True):
            leaves[place] = operand
        return pytree.tree_unflatten(leaves, self._spec)

    def __call__(self, *operands: Tensor) -> Any:
        args, kwargs = self._with(operands)
        return self.func(*args, **kwargs)

    def value(self) -> Any:
        return self(*(operand.detach() for operand in self.operands))

    def pull(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The ordinary adjoint."""
        return pull(self, self.operands, cotangent)

    def argument(self, position: int, key: str, default: Any = None) -> Any:
        return self.kwargs.get(key, self.args[position] if len(self.args) > position else default)


def pull(function: Callable[..., Tensor], at: tuple[Tensor, ...], cotangent: Tensor) -> tuple[Tensor, ...]:
    """J^T cotangent of a function at `at`, zeros where it does not depend on an argument."""
    with torch.enable_grad():
        at = tuple(a.detach().requires_grad_() for a in at)
        out = function(*at)
        back = torch.autograd.grad(out, at, cotangent.to(out.dtype), allow_unused=True)
    return tuple(torch.zeros_like(a) if b is None else b for a, b in zip(at, back))


# --- names -----------------------------------------------------------------------------------------------------------

_OPERATORS = "add sub mul matmul pow".split()
_ALIASES = {
    **{f"__{prefix}{name}__": name for name in _OPERATORS for prefix in ("", "i")},
    "__radd__": "add",
    "__rmul__": "mul",
    "__rsub__": "rsub",
    "__rpow__": "rpow",
    "__rdiv__": "rdiv",
    "__rtruediv__": "rdiv",
    **dict.fromkeys("__truediv__ __itruediv__ __div__ __idiv__ divide true_divide".split(), "div"),
    "subtract": "sub",
    "multiply": "mul",
    "negative": "neg",
    "__neg__": "neg",
    "__abs__": "abs",
    "clip": "clamp",
    **dict.fromkeys("mm bmm mv dot".split(), "matmul"),
    "concat": "cat",
    "concatenate": "cat",
    "_threshold": "threshold",
    "expit": "sigmoid",
    "log_sigmoid": "logsigmoid",
}
_INPLACE_ARGUMENT = {
    **dict.fromkeys("relu relu6 silu mish hardswish hardsigmoid selu".split(), 1),
    **dict.fromkeys("leaky_relu elu celu".split(), 2),
    **dict.fromkeys("hardtanh threshold".split(), 3),
}


def _spelled(func: Any) -> str:
    name = getattr(func, "__name__", repr(func))
    return func.__self__.__name__ if name == "__get__" else name


def _writes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    place = _INPLACE_ARGUMENT.get(name, len(args))
    flagged = kwargs.get("inplace", args[place] if len(args) > place else False)
    return flagged is True or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _base(name: str) -> str:
    name = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    return _ALIASES.get(name, name)


def _out_of_place(spelling: str, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """The same call, leaving its first argument as it is."""
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    args = args[: _INPLACE_ARGUMENT.get(spelling, len(args))]
    if spelling.endswith("_"):
        name = _base(spelling)
        func = next(getattr(home, name) for home in (torch, F, Tensor) if hasattr(home, name))
    return func, args, kwargs


# --- the mode --------------------------------------------------------------------------------------------------------

Handler = Callable[["Walk", Call], Any]


class Walk(TorchFunctionMode):
    """Sends each call on a tensor that requires grad to its handler; None leaves it to autograd."""

    def __init__(self, handlers: Mapping[str, Handler | None]) -> None:
        super().__init__()
        self.handlers = handlers

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # parameters are constants here, whether or not they require grad
        args, kwargs = pytree.tree_map_only(nn.Parameter, Tensor.detach, (args, kwargs or {}))
        spelling = _spelled(func)
        handler = self.handlers.get(_base(spelling))
        if handler is None or not torch.is_grad_enabled() or not _any_tracked((args, kwargs)):
            out = func(*args, **kwargs)
            if _base(spelling) not in self.handlers and _any_tracked(out):
                raise UnknownOperationError(f"no handler for {spelling}{_shapes(args)}")
            return out
        if not _writes(spelling, args, kwargs):
            return handler(self, Call(_base(spelling), func, args, kwargs))
        return args[0].copy_(handler(self, Call(_base(spelling), *_out_of_place(spelling, func, args, kwargs))))


def _any_tracked(values: Any) -> bool:
    return any(is_tracked(leaf) for leaf in pytree.tree_leaves(values))


def _shapes(args: Any) -> tuple[Any, ...]:
    return tuple(tuple(arg.shape) if isinstance(arg, Tensor) else arg for arg in args)


def walk_back(
    handlers: Mapping[str, Handler | None], model_call: Callable[[Tensor], Tensor], x: Tensor, target: Any
) -> Tensor:
    """What comes back to x from a one at the target, through the rewired model."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), Walk(handlers):
        output = model_call(x.clone())
    if not output.requires_grad:  # everything was stopped
        return torch.zeros_like(x)
    return torch.autograd.grad(output, x, one_hot(output, target))[0]


# --- where a tensor comes from ---------------------------------------------------------------------------------------

_SAME_NUMBERS = (
    "View UnsafeView ReshapeAlias Alias Transpose Permute T MT Unsqueeze Squeeze Expand Slice Select Split "
    "SplitWithSizes Unbind Index IndexSelect Repeat ToCopy Clone Copy AsStrided Unfold Diagonal Chunk"
).split()


def origin(tensor: Tensor) -> Node | None:
    """The rewired call that a tensor came out of, be it through views, slices and casts."""
    return _origin(tensor.grad_fn)


def _origin(step: Any) -> Node | None:
    while step is not None and not hasattr(step, "node"):
        name = step.name().partition("Backward")[0]
        if name == "Rsub":  # 1 - a: a gate where a is one
            inner = _origin(step.next_functions[-1][0] or step.next_functions[0][0])
            return inner if inner and inner.kind in _GATES else None
        if name not in _SAME_NUMBERS:
            return None
        step = step.next_functions[-1][0]  # of a copy in place, what was written
    if step is not None and step.node.kind == "rsub":
        inner = _origin(step.node.operands[0].grad_fn)
        return inner if inner and inner.kind in _GATES else step.node
    return step and step.node


_GATES = ("sigmoid", "hardsigmoid")


def direct_origin(tensor: Tensor) -> Node | None:
    """The rewired call that returned this very tensor, or what it is a copy of."""
    step: Any = tensor.grad_fn
    while step is not None and step.name().startswith("Clone"):
        step = step.next_functions[0][0]
    return getattr(step, "node", None)


def ancestors(tensor: Tensor) -> Iterator[Node]:
    """Every rewired call that a tensor depends on."""
    todo: list[Any] = [tensor.grad_fn]
    seen = set()
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if hasattr(step, "node"):
            yield step.node
        todo += [parent for parent, _ in step.next_functions]
