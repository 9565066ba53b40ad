"""The rule of a single call of a torch function, apart from any pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..calls.call import Call, Origin, tracked_positions
from ..calls.declarations import Rule
from ..calls.kinds import LINEAR, is_linear_map
from ..calls.operations import CONTAINS, known, out_of_place, refine, writes
from ..errors import UnsupportedOperationError
from .actions import GRADIENT
from .rulebook import Match, Rulebook


class RuledCall(NamedTuple):
    """A call of a torch function that has a rule.

    Attributes:
        call: The call without in-place effects; `call(*operands)` runs it, and its `output` is None until it is set.
        rule: `rule(call, cotangent) -> one cotangent for each operand`, as the rulebook has it.
        written: Tensors that the call as it was made writes its result into.
    """

    call: Call
    rule: Rule
    written: tuple[Tensor, ...] = ()


def ruled_call(
    rules: Rulebook,
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    tracked: Sequence[Tensor],
) -> RuledCall | None:
    """The rule that a rulebook has for one call, for who meets it without a pass: in a mode of their own, say.

    Args:
        rules: A rulebook whose rules need nothing but their call: no folds, decompositions or positions.
        func, args, kwargs: The call: a torch function and its arguments.
        tracked: The tensors among the arguments that depend on the root; the others are constants.

    Returns:
        The call as the rule sees it, and the rule; None where the call has its ordinary adjoint.

    Raises:
        UnsupportedOperationError: If the rulebook wants an action that only a pass can take, has no row for the
            operation and wants to raise, or has a rule for an operation that is hidden inside the call.

    Example:
        >>> import torch, funcattr
        >>> book = funcattr.rules.guided_backprop()
        >>> x = torch.tensor([-1.0, 2.0])
        >>> call, rule, _ = funcattr.rules.ruled_call(book, torch.relu, (x,), tracked=(x,))
        >>> call.output = call(x)
        >>> rule(call, torch.tensor([3.0, 4.0]))
        tensor([0., 4.])
    """
    kwargs, told = dict(kwargs or {}), known(func)
    if told.is_query:
        return None
    args, written = tuple(args), tuple(writes(told, tuple(args), kwargs))
    if written:
        func, args, kwargs, *_ = out_of_place(func, told, args, kwargs)
    positions = tracked_positions(args, kwargs, _Among(tracked))
    call = Call(func, refine(told.operation, args, kwargs, positions), args, kwargs, positions, "")
    call.origins = (Origin(),) * len(positions)
    action = rules.action(Match(call.op, linear=call.op in LINEAR and is_linear_map(call)))
    if action.kind == "rule" and action.function is not None:
        return RuledCall(call, action.function, written)
    inside = CONTAINS.get(call.op)
    if action is not GRADIENT or (inside is not None and rules.action(Match(inside)) is not GRADIENT):
        hidden = f"{call.op} contains {inside}, which" if action is GRADIENT else f"{call.op}, which"
        raise UnsupportedOperationError(
            f"ruled_call(rules={rules.name!r}): {hidden} has no rule that a single call can take. Use a pass: "
            "attribute(rules=...) or vjp(rules=...)."
        )
    return None


class _Among:
    """Some tensors, by identity."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._ids = {id(tensor) for tensor in tensors}

    def __contains__(self, tensor: Any) -> bool:
        return id(tensor) in self._ids
