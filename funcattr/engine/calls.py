"""What a rule sees of a call."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .held import Deferred, version, written
from .operations import Operation, bound, spelled
from .positions import Positions, lookup, replace

_DROPPED = object()
"""Stands for an operand that its call let go of, or for its output; unlike None, no argument is it."""


class Origin(NamedTuple):
    """What data flow alone says of a tracked tensor, whatever its values.

    Attributes:
        op: The operation that computed it; views, casts and selections are looked through. '' for a root.
        nonnegative: Whether no value of it can be below zero.
        after_linear: Whether a linear map lies between the input and it.
    """

    op: str = ""
    nonnegative: bool = False
    after_linear: bool = False


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
        reference: The same call in a pass at the reference, for methods that compare with one; else None.
        compared: Whether this call is compared with that one, so that neither lets go of anything.
    """

    __slots__ = (
        "_args",
        "_forms",
        "_func",
        "_kept",
        "_kwargs",
        "_operation",
        "_output",
        "_positions",
        "_versions",
        "compared",
        "origins",
        "path",
        "reference",
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
        self._args, self._kwargs, self._kept, self._forms = args, kwargs, True, ()
        self.path, self.origins = path, origins
        self._output: Any = None
        self._versions: dict[Any, int] = {}
        self.reference: Call | None = None
        self.compared = False

    @property
    def op(self) -> str:
        return self._operation.name

    @property
    def spelling(self) -> str:
        """The name of the torch function that was called, such as `"relu6"` for an operation `"relu"`."""
        return spelled(self._func)

    @property
    def output(self) -> Any:
        if self._output is _DROPPED:
            self._need_inputs()
        return _made(self._output)

    @output.setter
    def output(self, value: Any) -> None:
        self._output = value

    @property
    def args(self) -> tuple[Any, ...]:
        self._need_inputs()
        return tuple([_made(value) for value in self._args])

    @property
    def kwargs(self) -> dict[str, Any]:
        self._need_inputs()
        return {name: _made(value) for name, value in self._kwargs.items()}

    @property
    def operands(self) -> tuple[Tensor, ...]:
        self._need_inputs()
        if len(self._positions) == 1:
            return (_made(lookup(self._args, self._kwargs, self._positions[0])),)
        return tuple([lookup(self._args, self._kwargs, p) for p in self._positions])

    @property
    def forms(self) -> tuple[tuple[torch.Size, torch.dtype], ...]:
        """Shape and dtype of each operand, also where a rule has let the operands go."""
        return self._forms or tuple([(t.shape, t.dtype) for t in self.operands])

    def argument(self, name: str, default: Any = None) -> Any:
        """The argument called `name` in the operations table, positional or keyword."""
        value = bound(self._operation, self._args, self._kwargs, name, default)
        if value is _DROPPED:
            self._need_inputs()
        return _made(value)

    def named(self) -> dict[str, Any]:
        """The arguments by their names in the operations table; those that are not made yet as they are."""
        return dict(zip(self._operation.parameters, self._args, strict=False)) | self._kwargs

    def run(self) -> Any:
        """The call as the model made it."""
        return self._func(*self.args, **self.kwargs)

    def __call__(self, *operands: Tensor) -> Any:
        """The call again, as a pure function of its tracked operands."""
        self._need_inputs()
        return self.with_operands(*operands)

    def with_operands(self, *operands: Tensor) -> Any:
        """The same, for whoever knows the operands where the call has let them go."""
        args, kwargs = replace(self._args, self._kwargs, self._positions, operands)
        return self._func(*(_made(v) for v in args), **{name: _made(v) for name, v in kwargs.items()})

    def vjp(self, cotangent: Any) -> tuple[Tensor, ...]:
        """The ordinary adjoint at the operands, for rules that only change what goes in or comes out of it."""
        return torch.func.vjp(self, *self.operands)[1](cotangent)

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, tracked or not."""
        return [value for value in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(value, Tensor)]

    def with_factors(self, x: Tensor, new_x: Tensor, weight: Tensor, new_weight: Tensor) -> Any:
        """The call again with two of its tensors replaced."""
        new = {id(x): new_x, id(weight): new_weight}
        args, kwargs = pytree.tree_map(lambda value: new.get(id(value), value), (self.args, self.kwargs))
        return self._func(*args, **kwargs)

    def rewritten(
        self,
        output: Any,
        wrap: Callable[[Any], Callable[..., Any]] | None = None,
        origins: tuple[Origin, ...] | None = None,
        **changes: Any,
    ) -> "Call":
        """The operation with some arguments changed, its operand `input` still the tracked one, and its new output.

        A change may be `Deferred`.
        """
        kept = (name for name in self._operation.parameters if name not in changes)
        given = {name: bound(self._operation, self._args, self._kwargs, name, _DROPPED) for name in kept} | changes
        kwargs = {name: value for name, value in given.items() if value is not _DROPPED}
        func = self._func if wrap is None else wrap(self._func)
        self.check_unwritten()
        call = Call(func, self._operation, (), kwargs, (("input",),), self.path, origins or self.origins)
        call.output, call.reference = output, self.reference
        call.watch()
        call._forms = () if "input" in changes else self._forms
        return call

    @property
    def can_run_again(self) -> bool:
        """Whether the call would give the same again: it has its inputs, draws nothing, and autocast is not on."""
        if isinstance(self._output, Deferred):  # found to be so before
            return self._kept
        if not self._kept or not isinstance(self._output, Tensor) or self.op in _RANDOM:
            return False
        given = (v for v in (*self._args, *self._kwargs.values()) if isinstance(v, Tensor) and v.is_floating_point())
        alike = all(v.dtype == self._output.dtype for v in given)
        return alike and not torch.is_autocast_enabled(self._output.device.type)

    def drop_output(self) -> None:
        """Let go of the output, which is computed again if it is asked for and the call has kept its operands."""
        self._output = self.again() if self._kept else _DROPPED

    def again(self) -> Deferred:
        """The output, by a later run of the call."""
        return Deferred(_Run(self), self._sources(), self.path)

    def _sources(self) -> list[Any]:
        values = (*self._args, *self._kwargs.values())
        return [v for value in values for v in (value.sources if isinstance(value, Deferred) else [value])]

    def watch(self) -> None:
        """Note what is held, as it is now: a rule that reads it later reads no other values."""
        self._versions = {place: version(tensor) for place, tensor in self._held()}

    def unwatch(self) -> None:
        """Let anything be written, for a rule that reads no value."""
        self._versions = {}

    def check_unwritten(self) -> None:
        """Raise AliasedWriteError if something that is held was written in place since."""
        before = self._versions
        if before and any(version(t) != before.get(place, version(t)) for place, t in self._held()):
            raise written(self.path)

    def held_arguments(self) -> list[Tensor]:
        """The tensors among the arguments, without statistics that the call itself updates."""
        return [tensor for place, tensor in self._held() if place != "output"]

    def _held(self) -> Iterator[tuple[Any, Tensor]]:
        """The tensors among the arguments and the output by their places, without statistics that calls update."""
        updates = self.op in _UPDATES and self.argument(_UPDATES[self.op], self.op == "instance_norm")
        updated = (self.argument("running_mean"), self.argument("running_var")) if updates else ()
        for key, value in (*enumerate(self._args), *self._kwargs.items(), ("output", self._output)):
            if isinstance(value, Tensor):
                if not any(value is t for t in updated):
                    yield key, value
            elif isinstance(value, list | tuple):
                yield from (((key, i), t) for i, t in enumerate(value) if isinstance(t, Tensor))

    def settled(self) -> "Call":
        """The call with everything made that it has deferred, for the time of one rule."""
        self.check_unwritten()
        if self.reference is not None:
            self.reference.check_unwritten()
        values = (*self._args, *self._kwargs.values(), self._output)
        if not any(isinstance(value, Deferred) for value in values):
            return self
        made = copy.copy(self)
        made._args = tuple([_made(value) for value in self._args])
        made._kwargs = {name: _made(value) for name, value in self._kwargs.items()}
        made.reference = None if self.reference is None else self.reference.settled()
        return made

    def defer_operand(self, operand: Deferred) -> None:
        """Let go of the only operand, which is made again when it is asked for."""
        self._forms = self.forms
        self._args, self._kwargs = replace(self._args, self._kwargs, self._positions, (operand,))

    def tracks(self, name: str) -> bool:
        """Whether the only tracked operand is the argument called `name`."""
        return len(self._positions) == 1 and self.begins_with(name)

    def begins_with(self, name: str) -> bool:
        """Whether the first tracked operand is the argument called `name`."""
        place = self._operation.parameters.index(name) if name in self._operation.parameters else None
        return self._positions[0] in ((name,), (place,))

    def drop_inputs(self) -> None:
        """Let go of the tracked operands, for a rule that needs the output only."""
        self._forms = self.forms
        placeholders = (_DROPPED,) * len(self._positions)
        self._args, self._kwargs = replace(self._args, self._kwargs, self._positions, placeholders)
        self._kept = False

    def _need_inputs(self) -> None:
        if not self._kept:
            raise AttributeError(f"the rule for {self.op!r} declares @output_only, so its call keeps no operands")


_UPDATES = {"batch_norm": "training", "instance_norm": "use_input_stats"}
_RANDOM = frozenset(["rrelu", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "multinomial"])


class _Run:
    """A later run of a call, from its arguments as they are now: what it lets go of after this is still needed here."""

    def __init__(self, call: Call) -> None:
        self.func, self.args, self.kwargs = call._func, call._args, call._kwargs

    def __call__(self) -> Any:
        return self.func(*(_made(v) for v in self.args), **{name: _made(v) for name, v in self.kwargs.items()})


def _made(value: Any) -> Any:
    return value.make() if type(value) is Deferred else value
