"""What a rule sees of a call, and the tables that say which call gets which rule."""

import difflib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .operations import OPERATIONS, Operation, bound, canonical, is_known, refine, spelled

Positions = tuple[tuple[Any, ...], ...]
_DROPPED = object()
"""Stands for an operand that its call let go of; unlike None, no argument is it."""


class Call:
    """One recorded call of a torch function, as a rule sees it.

    Attributes:
        op: Canonical operation, such as `"conv2d"`.
        path: Qualified name of the module that made the call, '' outside of any.
        operands: The tracked tensors among the arguments, in order; a rule returns one cotangent for each.
        output: What the call returned (a tensor, or a structure of them).
        args, kwargs: The arguments as the model gave them, in-place flags removed.
    """

    __slots__ = ("_args", "_func", "_kept", "_kwargs", "_operation", "_positions", "output", "path")

    def __init__(
        self,
        func: Callable[..., Any],
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Positions,
        path: str,
    ) -> None:
        self._func, self._operation, self._positions = func, operation, positions
        self._args, self._kwargs, self._kept = args, kwargs, True
        self.path = path
        self.output: Any = None

    @property
    def op(self) -> str:
        return self._operation.name

    @property
    def spelling(self) -> str:
        """The name of the torch function that was called, such as `"relu6"` for an operation `"relu"`."""
        return spelled(self._func)

    @property
    def args(self) -> tuple[Any, ...]:
        self._need_inputs()
        return self._args

    @property
    def kwargs(self) -> dict[str, Any]:
        self._need_inputs()
        return self._kwargs

    @property
    def operands(self) -> tuple[Tensor, ...]:
        self._need_inputs()
        return tuple(_lookup(self._args, self._kwargs, p) for p in self._positions)

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument called `name` in the operations table, positional or keyword."""
        value = bound(self._operation, self._args, self._kwargs, name, default)
        if value is _DROPPED:
            self._need_inputs()
        return value

    def __call__(self, *operands: Tensor) -> Any:
        """The call again, as a pure function of its tracked operands."""
        args, kwargs = replace(self.args, self.kwargs, self._positions, operands)
        return self._func(*args, **kwargs)

    def vjp(self, cotangent: Any) -> tuple[Tensor, ...]:
        """The ordinary adjoint at the operands, for rules that only change what goes in or comes out of it."""
        return torch.func.vjp(self, *self.operands)[1](cotangent)

    def drop_inputs(self) -> None:
        """Let go of the tracked operands, for a rule that needs the output only."""
        placeholders = (_DROPPED,) * len(self._positions)
        self._args, self._kwargs = replace(self._args, self._kwargs, self._positions, placeholders)
        self._kept = False

    def _need_inputs(self) -> None:
        if not self._kept:
            raise AttributeError(f"the rule for {self.op!r} declares @output_only, so its call keeps no operands")


def _lookup(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: tuple[Any, ...]) -> Any:
    value: Any = kwargs[position[0]] if isinstance(position[0], str) else args[position[0]]
    for key in position[1:]:
        value = value[key]
    return value


def replace(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions, values: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `values` at `positions`; containers on the way are copied."""
    new_args, new_kwargs = list(args), dict(kwargs)
    for position, value in zip(positions, values, strict=True):
        top: Any = new_kwargs if isinstance(position[0], str) else new_args
        _put(top, position, value)
    return tuple(new_args), new_kwargs


def _put(container: Any, position: Any, value: Any) -> None:
    if len(position) > 1:
        inner = container[position[0]]
        mutable = dict(inner) if isinstance(inner, dict) else list(inner)
        _put(mutable, position[1:], value)
        value = tuple(mutable) if isinstance(inner, tuple) else mutable
    container[position[0]] = value


Rule = Callable[[Call, Any], Any]
R = TypeVar("R", bound=Callable[..., Any])


def output_only(rule: R) -> R:
    """Declare that `rule` reads the output of its call and not its operands, which are then freed early.

    Args:
        rule: A rule; `call.operands` and `call.args` raise AttributeError in it.

    Returns:
        The same rule.
    """
    vars(rule)["needs_operands"] = False
    return rule


def needs_operands(rule: Rule) -> bool:
    """Whether a rule (or what a `functools.partial` of it binds) reads the operands of its call."""
    return getattr(rule, "needs_operands", getattr(getattr(rule, "func", None), "needs_operands", True))


def apply_rule(
    rule: Rule, call: Call, shapes: tuple[torch.Size, ...], caller: str, cotangent: Any
) -> tuple[Tensor, ...]:
    """The cotangents that a rule gives, one for each operand, checked for their shapes."""
    result = rule(call, cotangent)
    result = (result,) if isinstance(result, Tensor) else tuple(result)
    if tuple(getattr(r, "shape", None) for r in result) != shapes:
        got = [tuple(getattr(r, "shape", ())) for r in result]
        raise ValueError(
            f"{caller}(rules=...): the rule for {call.op!r} in {call.path!r} returned cotangents of shapes {got}, "
            f"expected one for each operand: {[tuple(s) for s in shapes]}."
        )
    return result


class Action(NamedTuple):
    """What a rulebook does with a call: a `rule`, or one of the kinds that need none."""

    kind: Literal["rule", "gradient", "stop", "decompose"]
    function: Callable[..., Any] | None = None


GRADIENT = Action("gradient")
"""The ordinary adjoint, said on purpose (where the rulebook would otherwise raise)."""
STOP = Action("stop")
"""The output becomes a constant: nothing flows back through the call."""


def decompose(function: Callable[..., Any]) -> Action:
    """An action: run `function`, written in simpler torch functions that are recorded in turn, in place of the call.

    Args:
        function: Takes the call's arguments as the model gave them and returns what the call would.

    Returns:
        The action, for a `Rulebook`. The pass raises ValueError if `function` calls the operation itself.

    Example:
        >>> import torch, funcattr
        >>> rules = {"square": funcattr.decompose(lambda x: x * x), "mul": lambda call, p: (p, p)}
        >>> funcattr.vjp(torch.square, torch.ones(1), rules=rules)[1](torch.ones(1))
        (tensor([2.]),)
    """
    return Action("decompose", function)


class Entry(NamedTuple):
    """A row of a rulebook: calls of operation `op` in modules whose path matches the glob `path` get `action`.

    `op` "*" is every operation. A rulebook takes any spelling of an operation and a bare rule for an action.
    """

    op: Any
    action: Any
    path: str = "*"

    def matches(self, op: str, path: str) -> bool:
        return self.op in (op, "*") and (self.path == "*" or fnmatchcase(path, self.path))


class Rulebook:
    """An immutable table of rules; the first entry that matches a call wins.

    Args:
        rules: Operation (canonical name or any spelling, as a function) to rule, or a tuple of `Entry`. A rule is
            `rule(call, cotangent) -> one cotangent per tracked operand`.
        unlisted: What an operation without an entry gets: `"gradient"`, its ordinary adjoint, or `"raise"`.
        name: Shown in error messages.
        expects: Operations without any of which the rulebook changes nothing; a model with other nonlinearities
            only gets a warning.

    Example:
        >>> import torch, funcattr
        >>> half = funcattr.Rulebook({"relu": lambda call, cotangent: cotangent / 2})
        >>> y, pullback = funcattr.vjp(torch.relu, torch.ones(2), rules=half)
        >>> pullback(torch.ones(2))
        (tensor([0.5000, 0.5000]),)
    """

    def __init__(
        self,
        rules: Mapping[Any, Any] | tuple[Entry, ...] = (),
        *,
        unlisted: Literal["gradient", "raise"] = "gradient",
        name: str = "rules",
        expects: tuple[str, ...] = (),
    ) -> None:
        if unlisted not in ("gradient", "raise"):
            raise ValueError(f"Rulebook(unlisted=...): expected 'gradient' or 'raise', got {unlisted!r}.")
        self.entries = _entries(rules)
        self.unlisted: Literal["gradient", "raise"] = unlisted
        self.name, self.expects = name, tuple(expects)

    def __or__(self, other: "Rulebook | Mapping[Any, Any]") -> "Rulebook":
        """This rulebook, preceded by the rows of `other`."""
        other = as_rulebook(other)
        return Rulebook(other.entries + self.entries, unlisted=self.unlisted, name=self.name, expects=self.expects)

    def action(self, op: str, path: str) -> Action | None:
        """The action for a call; None if the rulebook does not know the operation and wants to raise."""
        for entry in self.entries:
            if entry.matches(op, path):
                return entry.action
        return GRADIENT if self.unlisted == "gradient" else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rulebook) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        rows = (f"{e.op:<16} {e.path:<8} {getattr(e.action.function, '__name__', e.action.kind)}" for e in self.entries)
        return "\n".join((f"Rulebook {self.name!r}", *rows, f"{'(unlisted)':<16} {'*':<8} {self.unlisted}"))

    def _key(self) -> tuple[Any, ...]:
        return self.entries, self.unlisted, self.name, self.expects


# A rulebook is a constant of compiled code, like a number.
pytree.register_constant(Rulebook)


def _entries(rules: Any) -> tuple[Entry, ...]:
    if isinstance(rules, Mapping):
        return tuple(_entry(op, action) for op, action in rules.items())
    if isinstance(rules, tuple) and all(isinstance(row, Entry) for row in rules):
        return tuple(_entry(*row) for row in rules)
    raise TypeError(f"Rulebook(rules=...): expected a dict or a tuple of Entry, got {type(rules).__name__}: {rules!r}.")


def _entry(op: Any, action: Any, path: str = "*") -> Entry:
    if not isinstance(op, str) and (not callable(op) or isinstance(op, type)):
        raise TypeError(f"Rulebook({{{op!r}: ...}}): expected an operation's name or a torch function.")
    name = refine(canonical(op if isinstance(op, str) else spelled(op)), (), {}).name
    if isinstance(op, str) and op != "*" and not is_known(op):
        closest = difflib.get_close_matches(op, OPERATIONS, n=3) or ["relu", "linear", "conv2d"]
        raise ValueError(
            f"Rulebook({{{op!r}: ...}}): no torch function has that name. Closest: {', '.join(map(repr, closest))}. "
            "An operation of your own is given as the function."
        )
    if isinstance(action, Action):
        return Entry(name, action, path)
    if not callable(action):
        raise TypeError(f"Rulebook({{{name!r}: ...}}): expected a rule or an action, got {type(action).__name__}.")
    return Entry(name, Action("rule", action), path)


def as_rulebook(rules: "Rulebook | Mapping[Any, Any] | None") -> Rulebook:
    """A rulebook from what a user may give as one; None is the rulebook of the plain gradient."""
    return rules if isinstance(rules, Rulebook) else Rulebook(rules or {})
