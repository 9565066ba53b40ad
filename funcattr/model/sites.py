"""Sites: named values inside a model, which the active torch function mode of this thread may read or replace.

A module's output is a site under the module's qualified name; what it is given is one under that name with `@input`
(the first argument) and `@args` (the tuple of all positional ones), and its attention weights under that with
`@weights`. A plain function marks its own with `site`. A part of a value that is a tuple is a site too: `lstm:0`.
Further calls of one module are numbered: `relu#1`, `relu#1@input`.
State lives in the mode, never on the model, so that sites are right in threads, under `vmap` and in compiled code.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function

from .._torch import function_modes, pytree
from ..errors import unknown_site

T = TypeVar("T")
Run = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Runs a torch function with arguments."""
Fold = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], "SiteMode"], Any]
"""The same, by way of a mode."""


def site(value: T, name: str) -> T:
    """Mark `value` as the site `name` of a plain callable; the identity unless a method asks for that site.

    Args:
        value: A tensor (or a structure of tensors) of any shape.
        name: The site's name; the second value of the same name in one call is `name#1`, and so on.

    Returns:
        `value`, or what an edit made of it.

    Example:
        >>> import torch, funcattr
        >>> model = lambda x: funcattr.site(x * 2, "doubled").sum(1)
        >>> funcattr.read(model, "doubled")(torch.ones(1, 2))[1]["doubled"]
        tensor([[2., 2.]])
    """
    return cast(T, handle_torch_function(site, (), value, name)) if function_modes() else value


INPUT = "@input"
"""Follows a module's name in the name of the site of its first argument."""
ARGS = "@args"
"""Follows a module's name in the name of the site of the tuple of its positional arguments."""

WEIGHTS = "@weights"
"""Follows a module's name in the name of the site of its attention weights, [..., heads, queries, keys]."""
_OF_MODULES = (INPUT, ARGS, WEIGHTS)

PART = ":"
"""Stands between the name of a site whose value is a tuple and the position of the part that is meant."""


_UNNUMBERED = re.compile(rf"#\d+(?=$|{'|'.join(f'{end}$' for end in _OF_MODULES)})")


def _numbered(name: str, number: int) -> str:
    """The name of a site's value at a call: `c@input` at the fifth one is `c#4@input`, at the first `c@input`."""
    if not number:
        return name
    end = next((end for end in _OF_MODULES if name.endswith(end)), "")
    return f"{name.removesuffix(end)}#{number}{end}"


def enter_module(
    modes: list["SiteMode"], name: str, kind: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Tell the active modes that the module `name`, of class `kind`, begins; the arguments go on to it."""
    asked = False
    for mode in modes:
        mode.modules.append((name, kind))
        asked = asked or mode.asks_inputs
    if not asked:  # nearly always
        return args, kwargs
    if any(mode.wants(name + ARGS) for mode in modes):
        args = site(args, name + ARGS)
    if any(mode.wants(name + INPUT) for mode in modes):
        if args:
            return (site(args[0], name + INPUT), *args[1:]), kwargs
        parameters = [p for p in inspect.signature(kind.forward).parameters if p != "self"]
        first = next((p for p in parameters if p in kwargs), next(iter(kwargs), None))
        return args, kwargs if first is None else {**kwargs, first: site(kwargs[first], name + INPUT)}
    return args, kwargs


def leave_module(value: T, name: str, modes: Sequence["SiteMode"] | None = None) -> T:
    """Tell the active modes, those of `enter_module`, that the module `name` ends with `value`, the site `name`."""
    modes = site_modes() if modes is None else modes  # not told by a mode that hands the site on to those below
    for mode in modes:
        if mode.wants(name):
            return cast(T, handle_torch_function(leave_module, (), value, name))
    for mode in modes:  # nearly always: nobody asks for this site
        mode.leave(name)
        mode.reached[name] = mode.reached.get(name, 0) + 1
    return value


def site_modes() -> list["SiteMode"]:
    """The modes of this thread that know sites, outermost first."""
    return [mode for mode in function_modes() if isinstance(mode, SiteMode)]


def _parts_of(asked: Iterable[str]) -> dict[str, list[tuple[int, ...]]]:
    """The positions of the parts asked for in the value of each site: those of "lstm:1:0" are (1, 0)."""
    parts: dict[str, list[tuple[int, ...]]] = {}
    for name in asked:
        found = re.fullmatch(rf"(.+?)((?:{PART}\d+)+)", name)
        if found:
            positions = tuple(map(int, found[2].split(PART)[1:]))
            parts.setdefault(found[1], []).append(positions)
    return parts


class SiteMode(TorchFunctionMode):
    """A mode that knows the module path of the running call and numbers the sites that it passes.

    Attributes:
        asked: The sites whose values it reads or replaces.
        modules: The modules that run, outermost first: an entry of its own for each call of one.
        left: While a site is visited, the entry of the module whose output it is; None at other sites.
        look: What a guard does before each torch function, where one has the mode for its eyes.
        fold: What then runs each torch function by way of `call`, where batch norms are folded.
        saves: Whether it keeps what a derivative needs itself, and autograd nothing.
    """

    saves = False
    look: Run | None = None
    fold: Fold | None = None

    def __init__(self, asked: Iterable[str] = ()) -> None:
        super().__init__()
        self.asked = frozenset(asked)
        self.modules: list[tuple[str, type]] = []
        self.left: tuple[str, type] | None = None
        self.reached: dict[str, int] = {}
        self._asked_parts = _parts_of(self.asked)
        self._asked_modules = {_UNNUMBERED.sub("", name) for name in (*self.asked, *self._asked_parts)}
        self.asks_inputs = any(name.endswith((INPUT, ARGS)) for name in self._asked_modules)
        self.asks_weights = any(name.endswith(WEIGHTS) for name in self._asked_modules)

    @property
    def path(self) -> str:
        """Qualified name of the module that runs, '' outside of any."""
        return self.modules[-1][0] if self.modules else ""

    @property
    def module(self) -> type:
        """Class of the module that runs, NoneType outside of any."""
        return self.modules[-1][1] if self.modules else type(None)

    def wants(self, name: str) -> bool:
        """Whether a value of the site `name`, at any of its calls, is asked for."""
        return name in self._asked_modules

    @property
    def folds_alike(self) -> bool:
        """Whether a batch norm and the linear map before it may come as one map."""
        return True

    def visit(self, value: Any, name: str) -> Any:
        """Give back the value that goes on from the site `name`, one of those asked for."""
        return value

    def leave(self, name: str) -> None:
        # Modules left by an exception that the model caught have not said so.
        while self.modules:
            self.left = self.modules.pop()
            if self.left[0] == name:
                break

    def count(self, name: str) -> str:
        """The name of this call's site: numbered from the second call on."""
        before = self.reached.get(name, 0)
        self.reached[name] = before + 1
        return _numbered(name, before)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is leave_module or func is site:
            value, name = args
            self.left = None
            if func is leave_module:
                self.leave(name)
            numbered = self.count(name)
            value = self.visit(value, numbered) if numbered in self.asked else value
            for positions in self._asked_parts.get(numbered, ()):
                value = self._with_part_visited(value, numbered, positions)
            return func(value, name)
        kwargs = kwargs or {}
        if self.look is not None:
            self.look(func, args, kwargs)
        fold = self.fold
        if fold is None:
            return self.call(func, args, kwargs)
        self.fold = None  # what a mode calls on its own account is no call of the model
        try:
            return fold(func, args, kwargs, self)
        finally:
            self.fold = fold

    def _with_part_visited(self, value: Any, name: str, positions: tuple[int, ...]) -> Any:
        """The value with its part, named after all of its positions, replaced by what goes on from there."""
        if not positions:
            self.reached[name] = 1
            return self.visit(value, name)
        first, *rest = positions
        if not isinstance(value, tuple | list) or first >= len(value):
            got = f"{len(value)} parts" if isinstance(value, tuple | list) else type(value).__name__
            raise ValueError(f"the site '{name}{PART}{first}': expected a tuple or list with such a part, got {got}.")
        parts: Any = list(value)
        parts[first] = self._with_part_visited(parts[first], f"{name}{PART}{first}", tuple(rest))
        kind: Any = type(value)
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one torch function of the model."""
        return func(*args, **kwargs)

    def finished(self, output: Any) -> Any:
        """The output of the model, which a mode may refuse."""
        return output

    def require(self, call: str, sites: tuple[str, ...], known: tuple[str, ...] = ()) -> None:
        """Raise UnknownSiteError for the first of `sites` that was not passed."""
        passed = [_numbered(n, i) for n, count in self.reached.items() for i in range(count)]
        for name in sites:
            if name not in passed:
                raise unknown_site(call, name, (*passed, *known))


class Reader(SiteMode):
    """Keeps the values at some sites, as they are when passed (a later in-place write does not show)."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        super().__init__(sites)
        self.values: dict[str, Any] = {}

    def visit(self, value: Any, name: str) -> Any:
        self.values[name] = pytree.tree_map_only(Tensor, torch.clone, value)
        return value
