"""Contexts in which the user's own forward pass gets a backward pass with rules.

`with GuidedBackpropContext(): y = model(x)`, and then `y.backward(z)`, inside or outside of the context. A context is a
torch function mode: it belongs to the thread that has entered it, and leaves nothing behind. A call that has a rule in
the context's rulebook runs on copies of its operands. A tensor hook on its result notes the cotangent p that arrives,
and a tensor hook on the copies puts the rule's cotangents in place of those of the ordinary adjoint. Both are hooks on
tensors that are made here; the model and its tensors get none. A rule reads the weights when the backward pass runs, so
that a user may change them in between (`weight.data.neg_()`), as TorchRay's own example does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from .... import Rulebook, rules

_NONE = Rulebook(name="TorchRay's NullContext")


def eltwise_sum(*inputs: Tensor) -> Tensor:
    """The sum of tensors, at which excitation backpropagation splits p in proportion; a plain `+` hands p to each."""
    if has_torch_function(inputs):
        return handle_torch_function(eltwise_sum, inputs, *inputs)
    total, *others = inputs
    for other in others:
        total = total + other
    return total


class RuledContext:
    """A context whose rulebook holds for the calls of torch functions inside, in the backward pass of autograd."""

    rulebook: Rulebook = _NONE

    def __enter__(self) -> "RuledContext":
        mode = _RuledMode(self.run)
        mode.__enter__()
        vars(self).setdefault("_entered", []).append(mode)
        return self

    def __exit__(self, *error: Any) -> None:
        vars(self)["_entered"].pop().__exit__(*error)

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """One torch function of the model: with its rule in the backward pass, if it has one."""
        operands = _operands(func, args, kwargs)
        found = rules.ruled_call(self.rulebook, func, args, kwargs, tracked=operands) if operands else None
        if found is None:
            return func(*args, **kwargs)
        return written(found.written, self.ruled(func, args, kwargs, operands))

    def ruled(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], operands: Any) -> Any:
        """The result of a call that has a rule. Its pullback is the rule; other tensors get no gradient from it."""
        copies = [operand.clone() for operand in operands]
        # What a hook holds must not lead back to the hook, or neither would ever be freed.
        stored = {id(operand): copy.detach() for operand, copy in zip(operands, copies, strict=True)}

        def constant(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.requires_grad:
                return value
            return stored[id(value)] if id(value) in stored else value.detach()

        args = tuple(map(constant, args))
        kwargs = {name: constant(value) for name, value in kwargs.items()}
        found = rules.ruled_call(self.rulebook, func, args, kwargs, tracked=tuple(stored.values()))
        assert found is not None
        call, rule, _ = found
        out = call(*copies)
        call.output = out.detach()
        arrived: list[Any] = []

        def note(p: Tensor) -> None:
            cotangents = rule(call, p)
            arrived[:] = [cotangents] if isinstance(cotangents, Tensor) else cotangents

        out.register_hook(note)
        for place, copy in enumerate(copies):
            copy.register_hook(lambda _, place=place: arrived[place])
        # A copy, so that what the model writes into it is not what the rule reads.
        return out.clone()


class _RuledMode(TorchFunctionMode):
    """Hands each torch function to `run`."""

    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self._run(func, args, kwargs or {})


class NullContext(RuledContext):
    """Changes nothing: the backward pass is that of autograd."""


class ReLUContext(RuledContext):
    """Replaces every relu by a function of the user's.

    Args:
        relu_func: A subclass of `torch.autograd.Function`, or anything else with `apply(x)`.

    Example:
        >>> import torch
        >>> from funcattr.compat.torchray.attribution.common import ReLUContext
        >>> class Leaky:
        ...     apply = staticmethod(lambda x: torch.where(x > 0, x, 0.1 * x))
        >>> with ReLUContext(Leaky):
        ...     print(torch.relu(torch.tensor([-1.0, 2.0])))
        tensor([-0.1000,  2.0000])
    """

    rulebook = Rulebook({"relu": rules.guided}, name="TorchRay's ReLUContext")

    def __init__(self, relu_func: Any) -> None:
        self.relu_func = relu_func

    def run(self, func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """One torch function of the model: the user's function, if it is a relu."""
        operands = _operands(func, args, kwargs) or [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)][:1]
        found = rules.ruled_call(self.rulebook, func, args, kwargs, tracked=operands) if operands else None
        if found is None:
            return func(*args, **kwargs)
        (x,) = operands
        return written(found.written, self.relu_func.apply(x.clone() if found.written else x))


def written(targets: Sequence[Tensor], result: Any) -> Any:
    """The result of a call, in place of what the call was to write it into."""
    for target in targets:
        target.copy_(result)
    return targets[0] if targets else result


def _operands(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The tensors that a rule hands p back to: the input of the call; never its weights."""
    if not torch.is_grad_enabled():
        return ()
    first = args[0] if args else kwargs.get("input")
    if func is not eltwise_sum and isinstance(first, Tensor) and first.requires_grad:
        return (first,)
    values = (*args, *kwargs.values())
    found = [v for v in values if isinstance(v, Tensor) and v.requires_grad and not isinstance(v, nn.Parameter)]
    return tuple(dict.fromkeys(found)) if func is eltwise_sum else tuple(found[:1])
