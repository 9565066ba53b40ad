"""Declarations of a rule: which values of its call it reads, and whether its cotangents may be written over.

What a rule does not read is freed early.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from .call import Call

Rule = Callable[[Call, Any], Any]
"""`rule(call, cotangent) -> one cotangent for each operand`."""
R = TypeVar("R", bound=Callable[..., Any])


def _declare(rule: R, declaration: str) -> R:
    # By its id, which functools.wraps copies to a wrapper that may do otherwise.
    vars(rule)[declaration] = id(rule)
    return rule


def _declares(rule: Rule, declaration: str) -> bool:
    """Whether a rule, or the function that a `functools.partial` binds, has a declaration."""
    rule = rule.func if isinstance(rule, partial) else rule
    return getattr(rule, declaration, None) == id(rule)


class Declarations(NamedTuple):
    """What a rule declares.

    Attributes:
        operands, output: Whether it reads the operands of its call, and the output, which are freed early otherwise.
        gives_own: Whether its cotangents are new tensors, which may be written over.
    """

    operands: bool
    output: bool
    gives_own: bool


def declared(rule: Callable[..., Any]) -> Declarations:
    """What a rule declares."""
    return Declarations(
        not _declares(rule, "reads_no_operands"),
        not _declares(rule, "reads_no_output"),
        _declares(rule, "gives_own"),
    )


def output_only(rule: R) -> R:
    """Declare that `rule` reads the output of its call and not its operands, which are then freed early.

    Args:
        rule: A rule; `call.operands` and `call.args` raise AttributeError in it.

    Returns:
        The same rule.
    """
    return _declare(rule, "reads_no_operands")


def forms_only(rule: R) -> R:
    """Declare that `rule` reads no value of its call, only `call.forms`."""
    return operands_only(output_only(rule))


def operands_only(rule: R) -> R:
    """Declare that `rule` reads the operands of its call; the output is freed early."""
    return _declare(rule, "reads_no_output")


def giving_own(rule: R) -> R:
    """Declare that the cotangents of `rule` are new tensors, which may be written over."""
    return _declare(rule, "gives_own")


def writing_over(over: Callable[..., Any]) -> Callable[[R], R]:
    """Declare the form of a rule, or of a pullback, for a cotangent that nobody else holds.

    Args:
        over: Takes what the rule takes and gives equal numbers. It may write over the cotangent, and give it back.
    """

    def declare(rule: R) -> R:
        vars(rule)["over"] = (id(rule), over)
        return rule

    return declare


def form_that_writes_over(rule: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `writing_over` declared of a rule; not of what wraps it."""
    owner, over = getattr(rule, "over", (None, None))
    return over if owner == id(rule) else None


def taking_proportional(form: Callable[..., Any]) -> Callable[[R], R]:
    """Declare the form of a rule, or of a pullback, that knows where relevance is zero.

    Args:
        form: Takes what the rule takes, or a `Proportional` relevance, and gives equal numbers, some `Proportional`.
    """

    def declare(rule: R) -> R:
        vars(rule)["in_proportion"] = form
        return _declare(rule, "takes_proportional")

    return declare


def proportional_form(rule: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `taking_proportional` declared of a rule; not of what wraps it, nor of what binds some of its options."""
    return getattr(rule, "in_proportion", None) if getattr(rule, "takes_proportional", None) == id(rule) else None


def takes_activation(together: Callable[[Call, Call, Any], Tensor]) -> Callable[[R], R]:
    """Declare the form of a rule for linear maps whose result goes to one activation and nowhere else.

    Args:
        together: `(linear call, activation call, cotangent of the activation) -> cotangent of the linear operand`.
    """

    def declared(rule: R) -> R:
        vars(rule)["together"] = together
        return rule

    return declared


def row_by_row(rule: R) -> R:
    """Declare that `rule` treats each row alone where its operation does, and sums what rows give to one operand."""
    return _declare(rule, "is_row_by_row")


def is_row_by_row(rule: Rule) -> bool:
    """Whether a rule gives the same from some rows at a time."""
    return _declares(rule, "is_row_by_row")


def folded_alike(rule: R) -> R:
    """Declare that `rule` gives a batch norm by constant statistics its ordinary adjoint."""
    return _declare(rule, "is_folded_alike")


def is_folded_alike(rule: Rule) -> bool:
    """Whether a rule gives what the ordinary adjoint does for a batch norm by constant statistics."""
    return _declares(rule, "is_folded_alike")


def runs_in_one(whole: Callable[..., Any]) -> Callable[[R], R]:
    """Declare how a decomposition runs as the one call that it stands for, where the rulebook allows it.

    Args:
        whole: `(decomposition, call, what the rulebook does with an operation, what pulls a cotangent back through a
            function on record) -> (output, pullback or None), or None`.
    """

    def declared(decomposition: R) -> R:
        vars(decomposition)["in_one"] = partial(whole, decomposition)
        return decomposition

    return declared


def in_one(decomposition: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `runs_in_one` declared of a decomposition; not of what wraps it."""
    found = getattr(decomposition, "in_one", None)
    return found if found is not None and found.args[0] is decomposition else None
