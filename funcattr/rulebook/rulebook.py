"""The tables that say which call gets which rule."""

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

from .._torch import pytree
from ..calls.declarations import declared, is_folded_alike
from ..calls.kinds import FUNCTION, GROUPS, in_group
from ..calls.operations import CONVOLUTIONS, OPERATIONS, canonical, is_known, refine, spelled
from ..text_tables import table
from .actions import GRADIENT, UNLISTED, Action
from .holding import may_hold

Space = Literal["gradient", "relevance", "multiplier"]


class Match(NamedTuple):
    """The properties of a call that decide its row.

    Attributes:
        op, path, module: What was called, and where.
        linear: Whether it is a linear map of its only tracked operand.
        first, last: Whether it is the first, or the last linear map.
        tracked: Names of the tracked arguments, where some row asks for them.
    """

    op: str
    path: str = ""
    module: type = type(None)
    linear: bool = False
    first: bool = False
    last: bool = False
    tracked: tuple[str, ...] = ()


class Entry(NamedTuple):
    """A row of a rulebook: the calls that match all of its conditions get `action`.

    Attributes:
        op: An operation, a group of them (`"convolution"`, `"dense"`, `"activation"`, ...; see `docs/rulebooks.md`) or
            "*". A rulebook takes any spelling of an operation.
        action: A rule or an action.
        path: Glob that the qualified name of the calling module matches.
        module: Class of the calling module.
        position: "first": linear maps with no linear map between the input and them; "last": linear maps with none
            between them and the output. By data flow, whatever the order of registration.
        required: Whether a pass without such a call is an error.
        tracked: Name of an argument that depends on the root ("bias": a linear layer whose bias does), or several.
    """

    op: Any
    action: Any
    path: str = "*"
    module: type | None = None
    position: Literal["first", "last"] | None = None
    required: bool = False
    tracked: str | tuple[str, ...] | None = None

    def matches(self, call: Match) -> bool:
        """Whether a call gets this row's action."""
        if self.op not in (call.op, "*") and not (self.op in GROUPS and in_group(self.op, call.op, call.linear)):
            return False
        if self.position is not None and not (call.first if self.position == "first" else call.last):
            return False
        if self.tracked is not None and not set(self._asked).issubset(call.tracked):
            return False
        if self.module is not None and not issubclass(call.module, self.module):
            return False
        return self.path == "*" or fnmatchcase(call.path, self.path)

    @property
    def _asked(self) -> tuple[str, ...]:
        return (self.tracked,) if isinstance(self.tracked, str) else self.tracked or ()

    @property
    def where(self) -> str:
        """The conditions beside the operation, for printing."""
        kind = self.module.__name__ if self.module else ""
        tracked = f"tracked {', '.join(self._asked)}" if self.tracked else ""
        return " ".join(part for part in (self.position, self.path if self.path != "*" else "", kind, tracked) if part)


class Rulebook:
    """An immutable table of rules; the first entry that matches a call wins.

    Args:
        rules: Operation (canonical name, any spelling, a function, or a group) to rule, or `Entry` rows. A rule is
            `rule(call, cotangent) -> one cotangent per tracked operand`.
        unlisted: What an operation without an entry gets: `"gradient"`, its ordinary adjoint, or `"raise"`.
        name: Shown in error messages.
        expects: Operations without any of which the rulebook changes nothing; a model with other nonlinearities
            only gets a warning.
        space: What flows back: `"gradient"`, a modified gradient g (the attribution is x * g), `"relevance"`, or
            `"multiplier"`, a slope m between the input and a baseline x' (the attribution is (x - x') m).

    Example:
        >>> import torch, funcattr
        >>> half = funcattr.Rulebook({"relu": lambda call, cotangent: cotangent / 2})
        >>> y, pullback = funcattr.vjp(torch.relu, torch.ones(2), rules=half)
        >>> pullback(torch.ones(2))
        (tensor([0.5000, 0.5000]),)
    """

    def __init__(
        self,
        rules: "Mapping[Any, Any] | tuple[Entry, ...] | Entry" = (),
        *,
        unlisted: Literal["gradient", "raise"] = "gradient",
        name: str = "rules",
        expects: tuple[str, ...] = (),
        space: Space = "gradient",
    ) -> None:
        if unlisted not in ("gradient", "raise"):
            raise ValueError(f"Rulebook(unlisted=...): expected 'gradient' or 'raise', got {unlisted!r}.")
        if space not in get_args(Space):
            raise ValueError(f"Rulebook(space=...): expected one of {get_args(Space)}, got {space!r}.")
        self.entries = _entries(rules)
        self.unlisted: Literal["gradient", "raise"] = unlisted
        self.space: Space = space
        self.name, self.expects = name, tuple(expects)
        self._found: dict[Match, Action] = {}
        self._of_softmax: dict[Match, Action | None] = {}
        for_functions = [e.action for e in self.entries if e.op == FUNCTION or FUNCTION in GROUPS.get(e.op, ())]
        self.takes_functions = any(action.kind in ("rule", "join") for action in for_functions)
        for_softmax = [e.action for e in self.entries if e.op == "softmax"]
        self.takes_softmax = self.takes_functions or bool(for_softmax)
        # Whether a sum that is in one of them may be asked for its operands by the rule for the whole.
        self.shifts_need_values = any(map(_needs_values, for_functions)) or any(a.kind != "stop" for a in for_softmax)
        asking = (e.op for e in self.entries if e.tracked is not None)
        self.asks_what_is_tracked = frozenset(op for name in asking for op in GROUPS.get(name, (name,)))
        # Whether the action for a product may depend on what comes before or after it (batch norms are folded into
        # linear layers and convolutions, not into products); whether some call must be met.
        self.looks_around = any(e.position or e.action.kind == "join" for e in self.entries)
        self.asks_what_is_last = any(e.position == "last" for e in self.entries)
        self.must_be_met = any(e.required for e in self.entries)

    @cached_property
    def folds_alike(self) -> bool:
        """Whether a batch norm and the linear map before it get the same, be they one map or two."""
        norms = self._possible("batch_norm")
        maps = set[Action]().union(*(self._possible(op) for op in ("linear", *CONVOLUTIONS)))
        return all(a.kind == "fold" for a in norms) or all(map(_is_ordinary, norms | maps))

    @cached_property
    def may_hold(self) -> bool:
        """Whether some rule may hold tensors, by which somebody could ask for a derivative."""
        return any(e.action.pulls and may_hold(e.action.function) for e in self.entries)

    def _possible(self, op: str) -> set[Action]:
        """The actions that calls of an operation may get, wherever they are, whose other arguments are constants."""
        found = set[Action]()
        for entry in self.entries:
            met = entry.op in (op, "*") or (entry.op in GROUPS and in_group(entry.op, op, op != "batch_norm"))
            if met and entry.tracked is None:
                found.add(entry.action)
                if not entry.where:
                    return found
        return found | {self._default}

    @property
    def is_resolved_late(self) -> bool:
        """Whether some action depends on what comes after the call."""
        return any(e.position == "last" or e.action.kind in ("fold", "join") for e in self.entries)

    def __or__(self, other: "Rulebook | Mapping[Any, Any] | tuple[Entry, ...] | Entry") -> "Rulebook":
        """This rulebook, preceded by the rows of `other`."""
        rows = other.entries if isinstance(other, Rulebook) else _entries(other)
        options: dict[str, Any] = {"unlisted": self.unlisted, "expects": self.expects, "space": self.space}
        return Rulebook(rows + self.entries, name=self.name, **options)

    def action(self, call: Match) -> Action:
        """The action for a call."""
        found = self._found.get(call)
        if found is None:
            found = self._found[call] = next((e.action for e in self.entries if e.matches(call)), self._default)
        return found

    def function_action(self, path: str) -> Action | None:
        """The rule for several elementwise calls that are one function; None where each of them has its own."""
        match = Match(FUNCTION, path)
        row = next((e for e in self.entries if e.matches(match)), None)
        # A row for all operations means each call that there is.
        return None if row is None or row.op == "*" or row.action.kind not in ("rule", "join") else row.action

    def softmax_action(self, path: str, module: type) -> Action | None:
        """The action for a softmax that is written out; None where each of its calls has its own."""
        match = Match("softmax", path, module)
        if match not in self._of_softmax:
            row = next((e for e in self.entries if e.matches(match)), None)
            action = self._default if row is None else row.action
            # Each call's own multiplier keeps the sum too; that of a softmax by name knows its dimension.
            own = (row is not None and row.op == "*") or (self.space == "multiplier" and action.kind == "rule")
            self._of_softmax[match] = None if own or action.kind == "unlisted" else action
        return self._of_softmax[match]

    @property
    def _default(self) -> Action:
        return GRADIENT if self.unlisted == "gradient" else UNLISTED

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rulebook) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        rows = [*((e.op, e.where, repr(e.action)) for e in self.entries), ("(unlisted)", "", self.unlisted)]
        return f"Rulebook {self.name!r}\n" + table(("operation", "where", "rule"), rows)

    def _key(self) -> tuple[Any, ...]:
        return self.entries, self.unlisted, self.name, self.expects, self.space


# A rulebook is a constant of compiled code, like a number.
pytree.register_constant(Rulebook)


def _entries(rules: Any) -> tuple[Entry, ...]:
    if isinstance(rules, Mapping):
        return tuple(_entry(Entry(op, action)) for op, action in rules.items())
    if isinstance(rules, Entry):
        return (_entry(rules),)
    if isinstance(rules, tuple) and all(isinstance(row, Entry) for row in rules):
        return tuple(map(_entry, rules))
    raise TypeError(f"Rulebook(rules=...): expected a dict or a tuple of Entry, got {type(rules).__name__}: {rules!r}.")


def _is_ordinary(action: Action) -> bool:
    return action.kind == "gradient" or (action.function is not None and is_folded_alike(action.function))


def _needs_values(action: Action) -> bool:
    if action.function is None:
        return False
    reads = declared(action.function)
    return action.kind == "join" or reads.operands or reads.output


def _entry(row: Entry) -> Entry:
    action = row.action if isinstance(row.action, Action) else Action("rule", row.action)
    if action.kind in ("rule", "decompose", "fold", "join") and not callable(action.function):
        raise TypeError(
            f"Rulebook({{{row.op!r}: ...}}): expected a rule or an action, got {type(row.action).__name__}."
        )
    if row.position not in (None, "first", "last"):
        raise ValueError(f"Entry(position=...): expected 'first', 'last' or None, got {row.position!r}.")
    if row.module is not None and not isinstance(row.module, type):
        raise TypeError(f"Entry(module=...): expected a class of modules, got {type(row.module).__name__}.")
    if row.position == "last" and action.kind not in ("rule", "gradient"):
        raise ValueError(f"Entry(position='last'): what is last is known after the pass, too late for {action!r}.")
    return row._replace(op=_operation(row.op), action=action)


class _Operation(str):
    """The canonical name of an operation that was checked, or given as a function; tables may be made from its row."""

    __slots__ = ()


def _operation(op: Any) -> str:
    if isinstance(op, _Operation) or (isinstance(op, str) and (op == "*" or op in GROUPS)):
        return op
    if not isinstance(op, str) and (not callable(op) or isinstance(op, type)):
        raise TypeError(f"Rulebook({{{op!r}: ...}}): expected an operation's name or a torch function.")
    if isinstance(op, str) and not is_known(op):
        closest = difflib.get_close_matches(op, (*OPERATIONS, *GROUPS), n=3) or ["relu", "linear", "conv2d"]
        raise ValueError(
            f"Rulebook({{{op!r}: ...}}): no torch function has that name. Closest: {', '.join(map(repr, closest))}. "
            "An operation of your own is given as the function."
        )
    return _Operation(refine(canonical(op if isinstance(op, str) else spelled(op)), (), {}).name)
