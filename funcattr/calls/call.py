"""A recorded call of a torch function, as a rule sees it."""

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import func_vjp, pytree
from ..copies import ATOMS, is_fixed
from .operations import Operation, bound, is_argument, named, spelled
from .parts import Parts
from .ranges import Range

Positions = tuple[tuple[Any, ...], ...]
"""Places among the arguments of a call: an index or a keyword each, and further keys inside of containers."""


_CONTAINERS = (list, tuple, dict)


class Origin(NamedTuple):
    """What data flow alone says of a tracked tensor, whatever its values.

    Attributes:
        op: The operation that computed it; views, casts and selections are looked through. '' for a root. What moves
            values of several origins has its own.
        nonnegative: Whether no value of it can be below zero.
        after_linear: Whether a linear map lies between the input and it.
        range: Its values at both ends, if it is an affine function of a gate; None as well if `op` tells them.
        parts: What lies where in it, if it was put together of values of several origins.
    """

    op: str = ""
    nonnegative: bool = False
    after_linear: bool = False
    range: Range | None = None
    parts: Parts | None = None


class Call:
    """One recorded call of a torch function, as a rule sees it.

    Attributes:
        op: Canonical operation, such as `"conv2d"`.
        path: Qualified name of the module that made the call, '' outside of any.
        operands: The tracked tensors among the arguments, in order; a rule returns one cotangent for each.
        origins: For each operand, what data flow says of it.
        output: What the call returned (a tensor, or a structure of them).
        args, kwargs: The arguments as the model gave them, in-place flags removed.
        forms: Shape and dtype of each operand.
        baseline: The same call in a pass at the baseline, for methods that compare with one; else None.
    """

    __slots__ = (
        *("_args", "_func", "_kwargs", "_operation", "_output", "_positions"),
        *("baseline", "op", "origins", "path"),
    )

    def __init__(
        self,
        func: Callable[..., Any],
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Positions,
        path: str,
        origins: tuple[Origin, ...] = (),
    ) -> None:
        self._func, self._operation, self._positions = func, operation, positions
        self._args, self._kwargs = args, kwargs
        self.op, self.path, self.origins = operation.name, path, origins
        self._output: Any = None
        self.baseline: Any = None

    def _value(self, stored: Any) -> Any:
        """The value of a stored argument or output, which a `RecordedCall` may have let go of."""
        return stored

    @property
    def spelling(self) -> str:
        """The name of the torch function that was called, such as `"relu6"` for an operation `"relu"`."""
        return spelled(self._func)

    @property
    def output(self) -> Any:
        return self._value(self._output)

    @output.setter
    def output(self, value: Any) -> None:
        self._output = value

    @property
    def args(self) -> tuple[Any, ...]:
        return tuple([self._value(stored) for stored in self._args])

    @property
    def kwargs(self) -> dict[str, Any]:
        return {name: self._value(stored) for name, stored in self._kwargs.items()}

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return tuple([self._value(lookup(self._args, self._kwargs, p)) for p in self._positions])

    @property
    def has_one_operand(self) -> bool:
        """Whether one tensor among the arguments is tracked, in one place."""
        return len(self._positions) == 1

    @property
    def forms(self) -> tuple[tuple[torch.Size, torch.dtype], ...]:
        return tuple([(t.shape, t.dtype) for t in self.operands])

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument called `name` in the operations table, positional or keyword."""
        return self._value(bound(self._operation, self._args, self._kwargs, name, default))

    def named(self) -> dict[str, Any]:
        """The arguments by their names in the operations table, as they are stored."""
        return self.by_name(self._args, self._kwargs)

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Other arguments of the call, by their names in the operations table."""
        return named(self._operation, args, kwargs)

    def run(self) -> Any:
        """The call as the model made it."""
        return self._func(*self.args, **self.kwargs)

    def __call__(self, *operands: Tensor) -> Any:
        """The call again, as a pure function of its tracked operands."""
        args, kwargs = replace(self._args, self._kwargs, self._positions, operands)
        return self._func(*(self._value(v) for v in args), **{name: self._value(v) for name, v in kwargs.items()})

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], operands: Sequence[Tensor]) -> Any:
        """The call by other arguments, and other operands among them."""
        args, kwargs = replace(args, kwargs, self._positions, tuple(operands))
        return self._func(*args, **kwargs)

    def vjp(self, cotangent: Any, of: Callable[..., Any] | None = None) -> tuple[Tensor, ...]:
        """The ordinary adjoint at the operands, for rules that only change what goes in or comes out of it.

        `of`: what computes the same from the same arguments, for rules that write the call in other operations.
        """
        if of is None:
            return func_vjp(self, *self.operands)[1](cotangent)

        def run(*operands: Tensor) -> tuple[Tensor, ...]:
            args, kwargs = replace(self.args, self.kwargs, self._positions, operands)
            return tuple([leaf for leaf in pytree.tree_leaves(of(*args, **kwargs)) if isinstance(leaf, Tensor)])

        return func_vjp(run, *self.operands)[1](cotangent if isinstance(cotangent, tuple) else (cotangent,))

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, tracked or not."""
        values = [v for v in (*self.args, *self.kwargs.values()) if type(v) not in ATOMS]
        if not all(isinstance(v, Tensor) for v in values):
            values = [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]
        return values

    def with_factors(self, x: Tensor, new_x: Tensor, weight: Tensor, new_weight: Tensor) -> Any:
        """The call again with two of its tensors replaced."""
        new = {id(x): new_x, id(weight): new_weight}
        args, kwargs = pytree.tree_map(lambda value: new.get(id(value), value), (self.args, self.kwargs))
        return self._func(*args, **kwargs)

    def tracks(self, name: str) -> bool:
        """Whether the only tracked operand is the argument called `name`."""
        return self.has_one_operand and self.begins_with(name)

    def tracked_names(self) -> tuple[str, ...]:
        """The names of the tracked arguments in the operations table."""
        names, keywords = self._operation.parameters, self._operation.keywords
        own = dict(zip(keywords, names, strict=False))
        keys = [position[0] for position in self._positions]
        return tuple(
            [own.get(k, k) if isinstance(k, str) else names[k] for k in keys if isinstance(k, str) or k < len(names)]
        )

    def begins_with(self, name: str) -> bool:
        """Whether the first tracked operand is the argument called `name`."""
        return is_argument(self._positions[0], self._operation, name)


def lookup(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: tuple[Any, ...]) -> Any:
    """The argument at a position."""
    key = position[0]
    value: Any = kwargs[key] if type(key) is str else args[key]
    for key in position[1:]:
        value = value[key]
    return value


def replace(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], positions: Positions, values: tuple[Any, ...]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `values` at `positions`; containers on the way are copied."""
    new_args, new_kwargs = list(args), dict(kwargs)
    for position, value in zip(positions, values, strict=True):
        top: Any = new_kwargs if type(position[0]) is str else new_args
        if len(position) == 1:
            top[position[0]] = value
        else:
            _put(top, position, value)
    return tuple(new_args), new_kwargs


def _put(container: Any, position: Any, value: Any) -> None:
    if len(position) > 1:
        inner = container[position[0]]
        mutable = dict(inner) if isinstance(inner, dict) else list(inner)
        _put(mutable, position[1:], value)
        value = tuple(mutable) if isinstance(inner, tuple) else mutable
    container[position[0]] = value


def plain_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Any, Tensor]] | None:
    """The tensors among the arguments with their places; None if a container may hold some."""
    found: list[tuple[Any, Tensor]] = []
    for items in (enumerate(args), kwargs.items()) if kwargs else (enumerate(args),):
        for key, value in items:
            if type(value) in ATOMS:
                continue
            if isinstance(value, Tensor):
                found.append((key, value))
            elif isinstance(value, _CONTAINERS) and not is_fixed(value):
                return None
    return found


def tracked_positions(args: tuple[Any, ...], kwargs: Mapping[str, Any], tracked: Container[Tensor]) -> Positions:
    """Where among the arguments, lists and dicts in them too, the tracked tensors are."""
    found: list[Any] = []
    for items in (enumerate(args), kwargs.items()) if kwargs else (enumerate(args),):
        for key, value in items:
            if isinstance(value, Tensor):
                if value in tracked:
                    found.append((key,))
            elif is_fixed(value):
                continue
            elif isinstance(value, dict):
                found += ((key, *rest) for rest in tracked_positions((), value, tracked))
            elif isinstance(value, list | tuple):
                found += ((key, *rest) for rest in tracked_positions(tuple(value), {}, tracked))
    return tuple(found)
