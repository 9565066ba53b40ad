"""A call on the tape: which of its tensors are saved until its pullback, let go of, or computed again.

A rule sees a `Call` that has everything it may ask for; in between, a `RecordedCall` saves as little as it can, and
raises AliasedWriteError if something that it has saved is written in place.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._torch import version
from ..copies import ATOMS
from .call import Call, Origin, Positions, lookup, replace
from .operations import UPDATES, draws_at_random, known
from .saved_tensors import Deferred, made_again, written

_LISTS = (list, tuple)
_NOTHING: Mapping[Any, int] = {}
_OUTPUT = object()
"""The place of a call's output, beside those of its arguments."""
_DROPPED = object()
"""Stands for an operand that its call let go of, or for its output; unlike None, no argument is it."""


class RecordedCall(Call):
    """A call on the tape.

    Attributes:
        compared: Whether a pass at the baseline is compared with this one, so that neither lets go of anything.
    """

    __slots__ = ("_forms", "_given", "_kept", "_versions", "compared")

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._kept, self._forms, self.compared = True, (), False
        self._look()
        self._versions: Mapping[Any, int] = _NOTHING

    def _look(self) -> None:
        """Know the operands as long as every argument is stored as it was given, which saves most of the questions."""
        args, kwargs = self._args, self._kwargs
        self._given: tuple[Tensor, ...] | None = None
        if self._kept and Deferred not in map(type, (*args, *kwargs.values()) if kwargs else args):
            self._given = tuple([lookup(args, kwargs, p) for p in self._positions])

    def _value(self, stored: Any) -> Any:
        if stored is _DROPPED:
            raise self._no_operands()
        return stored.make() if type(stored) is Deferred else stored

    def _no_operands(self) -> AttributeError:
        return AttributeError(f"the rule for {self.op!r} declares @output_only, so its call keeps no operands")

    @property
    def operands(self) -> tuple[Tensor, ...]:
        return super().operands if self._given is None else self._given

    @property
    def args(self) -> tuple[Any, ...]:
        return super().args if self._given is None else self._args

    @property
    def kwargs(self) -> dict[str, Any]:
        if self._given is not None:
            return dict(self._kwargs)
        if not self._kept:
            raise self._no_operands()
        return super().kwargs

    def __call__(self, *operands: Tensor) -> Any:
        """The call again, as a pure function of its tracked operands."""
        if not self._kept:
            raise self._no_operands()
        return super().__call__(*operands)

    def with_operands(self, *operands: Tensor) -> Any:
        """The call again, also where it has let go of its own operands."""
        return super().__call__(*operands)

    @property
    def forms(self) -> tuple[tuple[torch.Size, torch.dtype], ...]:
        """Shape and dtype of each operand, also where the operands are gone."""
        self._forms = self._forms or super().forms
        return self._forms

    def run(self) -> Any:
        """The call as the model made it."""
        return super().run() if self._given is None else self._func(*self._args, **self._kwargs)

    def parts(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Positions]:
        """The function, its arguments as they are stored, and where the operands are among them."""
        return self._func, self._args, self._kwargs, self._positions

    def retell(self, op: str) -> None:
        """Let the call be one of the operation `op`, by which it gets its rule."""
        self._operation, self.op = self._operation._replace(name=op), op

    def rewritten(
        self,
        output: Any,
        wrap: Callable[[Any], Callable[..., Any]] | None = None,
        origins: tuple[Origin, ...] | None = None,
        **changes: Any,
    ) -> "RecordedCall":
        """The operation with some arguments changed, its operand `input` still the tracked one, and its new output.

        A change may be `Deferred`.
        """
        kept = {name: value for name, value in self.named().items() if name in self._operation.parameters}
        func = self._func if wrap is None else wrap(self._func)
        self.check_unwritten()
        given = {**kept, **changes}
        call = RecordedCall(func, self._operation, (), given, (("input",),), self.path, origins or self.origins)
        call.output, call.baseline = output, self.baseline
        call.watch()
        call._forms = () if "input" in changes else self._forms
        return call

    # --- letting go, and computing again -------------------------------------------------------------------------

    @property
    def keeps_operands(self) -> bool:
        """Whether the call has not let go of its operands."""
        return self._kept

    @property
    def is_complex(self) -> bool:
        """Whether the output or an operand is a complex tensor."""
        is_complex = [dtype.is_complex for _, dtype in self.forms]
        return True in is_complex or (isinstance(self._output, Tensor) and self._output.is_complex())

    @property
    def can_run_again(self) -> bool:
        """Whether the call would give the same again: it has its inputs, draws nothing, and autocast is not on."""
        if isinstance(self._output, Deferred):  # found to be so before
            return self._kept
        if not self._kept or not isinstance(self._output, Tensor):
            return False
        if draws_at_random(known(self._func), self._args, self._kwargs):
            return False
        dtype = self._output.dtype
        given = {v.dtype for v in (*self._args, *self._kwargs.values()) if isinstance(v, Tensor)}
        alike = not any(found.is_floating_point for found in given - {dtype})
        return alike and not torch.is_autocast_enabled(self._output.device.type)

    def drop_output(self) -> None:
        """Let go of the output, which is computed again if it is asked for and the call has kept its operands."""
        self._output = self.again() if self._kept else _DROPPED

    def drop_inputs(self) -> None:
        """Let go of the tracked operands, for a rule that needs the output only."""
        self._forms = self.forms
        placeholders = (_DROPPED,) * len(self._positions)
        self._args, self._kwargs = replace(self._args, self._kwargs, self._positions, placeholders)
        self._kept, self._given = False, None

    def defer_operand(self, operand: Deferred) -> None:
        """Let go of the only operand, which is computed again when it is asked for."""
        self._forms = self.forms
        self._args, self._kwargs = replace(self._args, self._kwargs, self._positions, (operand,))
        self._given = None

    def drop_gathered(self) -> None:
        """Let go of arguments that can be made again, such as the parameters of a sharded model."""
        tensors = [v for v in (*self._args, *self._kwargs.values()) if type(v) is Tensor]
        if not any(map(made_again, tensors)):  # nearly always
            return
        self._args = tuple([self._unless_made_again(value) for value in self._args])
        self._kwargs = {name: self._unless_made_again(value) for name, value in self._kwargs.items()}
        self._look()

    def _unless_made_again(self, value: Any) -> Any:
        again = made_again(value) if type(value) is Tensor else None
        return value if again is None else Deferred(again, (), self.path)

    def again(self) -> Deferred:
        """The output, by a later run of the call."""
        return Deferred(_Run(self), self._sources(), self.path)

    def settled(self) -> Call:
        """The call with all deferred values computed, for the time of one rule."""
        self.check_unwritten()
        if self.baseline is not None:
            self.baseline.check_unwritten()
        if Deferred not in map(type, (*self._args, *self._kwargs.values(), self._output)):
            return self
        args = tuple([_computed(value) for value in self._args])
        kwargs = {name: _computed(value) for name, value in self._kwargs.items()} if self._kwargs else {}
        made = RecordedCall(self._func, self._operation, args, kwargs, self._positions, self.path, self.origins)
        made._output, made._forms, made.compared = self._output, self._forms, self.compared
        made._versions = self._versions
        if not self._kept:
            made._kept, made._given = False, None
        made.baseline = None if self.baseline is None else self.baseline.settled()
        return made

    def _sources(self) -> list[Any]:
        values = (*self._args, *self._kwargs.values())
        return [v for value in values for v in (value.sources if isinstance(value, Deferred) else [value])]

    # --- writes in place between the call and its pullback ----------------------------------------------------------

    def watch(self) -> None:
        """Note the versions of what is saved, if anything is read: a rule reads later what it would have read now."""
        if self._kept or self._output is not _DROPPED:
            self._versions = {place: version(tensor) for place, tensor in self._saved()}

    def unwatch(self) -> None:
        """Let anything be written, for a rule that reads no value."""
        self._versions = _NOTHING

    def check_unwritten(self) -> None:
        """Raise AliasedWriteError if something that is saved was written in place since."""
        for place, before in self._versions.items():
            saved = self._saved_at(place)
            if isinstance(saved, Tensor) and version(saved) != before:  # else it was let go of since
                raise written(self.path)

    def _saved_at(self, place: Any) -> Any:
        """What is saved at a place of `_saved`."""
        if place is _OUTPUT:
            return self._output
        if type(place) is not tuple:
            return self._kwargs[place] if type(place) is str else self._args[place]
        container = self._saved_at(place[0])
        return container[place[1]] if isinstance(container, _LISTS) else None

    def saved_arguments(self) -> list[Tensor]:
        """The tensors among the arguments, without statistics that the call itself updates."""
        return [tensor for place, tensor in self._saved() if place is not _OUTPUT]

    def _saved(self) -> list[tuple[Any, Tensor]]:
        """The tensors among the arguments and the output by their places, without statistics that calls update."""
        updates = self.op in UPDATES and self.argument(*UPDATES[self.op])
        updated = (self.argument("running_mean"), self.argument("running_var")) if updates else ()
        found: list[tuple[Any, Tensor]] = [(_OUTPUT, self._output)] if isinstance(self._output, Tensor) else []
        stored = (*enumerate(self._args), *self._kwargs.items()) if self._kwargs else enumerate(self._args)
        for key, value in stored:
            if type(value) in ATOMS:
                continue
            if isinstance(value, Tensor):
                if not updated or not any(value is t for t in updated):
                    found.append((key, value))
            elif isinstance(value, _LISTS) and not ATOMS.issuperset(map(type, value)):
                found += [((key, i), t) for i, t in enumerate(value) if isinstance(t, Tensor)]
        if isinstance(self._output, _LISTS):
            found += [((_OUTPUT, i), t) for i, t in enumerate(self._output) if isinstance(t, Tensor)]
        return found


class _Run:
    """A later run of a call, from its arguments as they are now: what it lets go of after this is still needed here."""

    def __init__(self, call: RecordedCall) -> None:
        self.func, self.args, self.kwargs = call._func, call._args, call._kwargs

    def __call__(self) -> Any:
        return self.func(*(_computed(v) for v in self.args), **{n: _computed(v) for n, v in self.kwargs.items()})


def _computed(value: Any) -> Any:
    return value.make() if type(value) is Deferred else value
