"""A model in two parts at a site: the head computes the site's value, the tail runs from a value of it on.

The tail is the model's own forward, so that it can be any code. Its first call notes the torch functions that are
called before the site, and which of their results are read behind it. Later calls replay the head: each of its
functions returns its noted result and computes nothing. Results that were not read are not held; in their place are
stand-ins, which nothing can compute with.

Mostly nothing of the head is read behind the site. So the first call runs the head for the forms of its results alone
(`by_form`); if anything asks for a value all the same, it starts again and computes the head.

A call that does not go as the first one did runs the whole model; a replay is only the faster way. What counts are the
head's torch functions and their arguments: tensors by identity, everything else by equality.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ..._torch import (
    current_level,
    inside_derivative,
    pytree,
    set_grad_enabled_function,
    unwrapped,
    version,
    without_memory,
)
from ...calls.operations import draws_at_random, known, writes
from ...drawing import generators_in, own_draws
from ...model.access import Inputs, copied, values_at
from ...model.editing import Editor
from ...model.functional import FunctionalModel
from ...model.other_names import OtherNames
from ...model.sites import SiteMode
from ...tape.tracked import ByIdentity
from ...torch_state import is_plain_eager
from .by_form import ByForm, ValuesNeededError, form_of, memory_of_form

_PLAIN = (bool, int, float, complex, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)
_PLAIN_TYPES = frozenset([*_PLAIN, torch.memory_format])


def split(
    call: str, model: FunctionalModel, site: str, inputs: Inputs, copies: Inputs
) -> tuple[Any, Callable[[Tensor], Any]]:
    """The value at a site for a batch, and the tail for copies of its examples.

    A head that cannot be replayed runs at each call of the tail: one that draws at random, writes into tensors that are
    not its own, leaves torch, or has hooks, and everything inside transforms. That is slower, and the same.

    Args:
        call: First words of errors.
        inputs: Of the batch.
        copies: Of the copies, neighbours of each other.

    Returns:
        The value, and `tail(value for the copies) -> the model's output`; all as the model has them.

    Raises:
        UnknownSiteError: If the site does not exist or is not reached.
    """
    value = values_at(call, model, (site,), inputs)[site]
    whole = _Whole(call, model, site, copies)
    if not is_plain_eager() or torch.is_inference_mode_enabled() or model.training or model.has_hooks:
        return value, whole
    return value, _Tail(whole)


class _Whole:
    """The tail by way of the whole model, with the site's value replaced."""

    def __init__(self, call: str, model: FunctionalModel, site: str, inputs: Inputs) -> None:
        self.call, self.model, self.site, self.inputs = call, model, site, inputs

    def __call__(self, value: Tensor) -> Any:
        return self.under(Editor({self.site: lambda _: value.clone()}))  # a copy, which the tail may write into

    def under(self, mode: SiteMode) -> Any:
        """Run the model under a mode."""
        positional, keyword = copied(self.inputs)
        model = self.model.ready()
        if isinstance(mode, _Learner | _Replay):
            mode.begin(_tensors((positional, keyword, model.tensors())))
        with mode:
            output = model(*positional, **keyword)
        mode.require(self.call, (self.site,), self.model.sites)
        return mode.finished(output)


class _Tail:
    """The tail, whose first call learns how to replay the head."""

    def __init__(self, whole: _Whole) -> None:
        self._whole = whole
        self._head: _Head | None = None
        self._learns, self._is_by_form = True, False

    def __call__(self, value: Tensor) -> Any:
        if self._learns:
            self._learns = False
            learned = self._by_form(value)
            if learned is None:
                return self._learned(value)
            self._head, output = learned
            self._is_by_form = True
            return output
        if self._head is not None:
            try:
                return self._replayed(self._head, value)
            except (Exception, _DifferentCallsError):  # A stand-in may raise in other code. A real error comes again.
                self._head = None
            if self._is_by_form:
                return self._learned(value)
        return self._whole(value)

    def _learned(self, value: Tensor) -> Any:
        """Run the whole model, and learn how to replay the head."""
        self._is_by_form = False
        learner = _Learner(self._whole.call, self._whole.site, value)
        output = self._whole.under(learner)
        self._head = learner.head(output)
        return output

    def _by_form(self, value: Tensor) -> "tuple[_Head, Any] | None":
        """The head, learned by the forms of its results, and the output; None if that needs values, or draws."""
        whole = self._whole
        if generators_in([whole.model]):
            return None
        learner = _Learner(whole.call, whole.site, value, ByForm(value.device))
        before = _all_random_states()
        with own_draws(value.device, ()):
            try:
                output = whole.under(learner)
                head = learner.head(output)
            except (Exception, ValuesNeededError):  # A real error comes again.
                return None
            drew = _all_random_states() != before
        return None if head is None or drew else (head, output)

    def _replayed(self, head: "_Head", value: Tensor) -> Any:
        replay = _Replay(self._whole.site, value, head)
        output = self._whole.under(replay)
        replay.finish(output)
        return output


class _DifferentCallsError(BaseException):
    """The model calls what it did not call before, or reads what was not computed. No Exception, which it may catch."""


class _StandIn(Tensor):
    """The form of a result that is not held; whatever computes with it raises."""

    is_read = False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> NoReturn:
        for tensor in _tensors((args, kwargs)):
            if isinstance(tensor, _StandIn):
                tensor.is_read = True  # an exception may be lost on its way, in TorchScript's interpreter say
        raise _DifferentCallsError


class _Other:
    """A tensor that the head did not compute: one given to the model, by its place, or a constant, by identity."""

    def __init__(self, tensor: Tensor, places: ByIdentity[int]) -> None:
        self._place = places.get(tensor)
        self._constant = (tensor, version(_plain(tensor))) if self._place is None else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Other) or self._constant is None or other._constant is None:
            return isinstance(other, _Other) and self._place is not None and self._place == other._place
        return self._constant[0] is other._constant[0] and self._constant[1] == other._constant[1]


class _Form(NamedTuple):
    """What a result is like, but for its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class _Slot:
    """A tensor that a call of the head returns; one that several calls return has one slot.

    Attributes:
        number: Of the tensor among all of the head's.
        is_own: Whether its memory is the head's own, and not that of an input or a constant.
    """

    number: int
    is_own: bool


class _Call(NamedTuple):
    """A call of the head.

    Attributes:
        function: The torch function.
        given: The structure of its arguments, and their leaves: slots in place of the head's tensors, `_Other` in place
            of others.
        leaves, spec: Of its result, with slots in place of tensors.
    """

    function: Any
    given: tuple[Any, list[Any]]
    leaves: list[Any]
    spec: pytree.TreeSpec


class _Head(NamedTuple):
    """The calls of a head.

    Attributes:
        calls: In order.
        tensors: Of each slot: the real tensor where the tail reads it, a stand-in elsewhere.
        slots: Of these tensors.
        read: The real ones and their versions.
    """

    calls: list[_Call]
    tensors: list[Tensor]
    slots: ByIdentity[_Slot]
    read: list[tuple[Tensor, int]]


class _Learner(SiteMode):
    """A run of the whole model that notes the head's calls. It holds only the results that the tail reads.

    Args:
        caller: First words of errors.
        site: Where the head ends.
        value: What the tail gets there.
        by_form: Runs the head's functions, where their results need no values.
    """

    def __init__(self, caller: str, site: str, value: Tensor, by_form: ByForm | None = None) -> None:
        super().__init__((site,))
        self._caller, self._value, self._passed, self._by_form = caller, value, False, by_form
        self._others = OtherNames()
        self._level = current_level()
        # Inside of a derivative all results are wrapped, so that no code gets at their memory.
        self._replayable = inside_derivative()
        self._calls: list[_Call] = []
        self._slots = ByIdentity[_Slot]()
        self._forms: list[_Form] = []
        self._places = ByIdentity[int]()
        self._outside: list[tuple[Tensor, int]] = []
        self._read: dict[int, tuple[Tensor, int]] = {}
        self._random = _random_states()

    def begin(self, tensors: list[Tensor]) -> None:
        """Begin with the tensors that the model is given, and those that it has."""
        self._places = _places(tensors)
        self._outside = [(_plain(tensor), version(_plain(tensor))) for tensor in tensors]

    def visit(self, value: Any, name: str) -> Any:
        self._passed = True
        states = _random_states()
        self._replayable &= len(states) == len(self._random) and all(map(torch.equal, self._random, states))
        given = self._value.clone()
        if self._by_form is not None and (value.shape, value.dtype) != (given.shape, given.dtype):
            raise self._by_form.values_needed()
        self._others.replaced(value, given, name, self.left)
        return given

    def finished(self, output: Any) -> Any:
        return self._others.finished(self._caller, output)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is set_grad_enabled_function:
            return func(*args, **kwargs)
        if self._passed:
            if self._by_form is not None:
                self._by_form.require_values((args, kwargs))
            self._note_read((args, kwargs))
            result = func(*args, **kwargs)
            read = self._others.ran(func, args, kwargs, result, self.modules)
            self._others.refuse(self._caller, self.path, read)
            return result
        given = _given(args, kwargs, self._slots, self._places)
        self._replayable &= self._may_replay(func, args, kwargs)
        if self._by_form is None:
            result = func(*args, **kwargs)
        else:
            self._by_form.is_enough &= self._replayable
            result, (args, kwargs) = self._by_form.run(func, args, kwargs)
        self._others.ran(func, args, kwargs, result, self.modules)
        self._note_call(func, given, _tensors((args, kwargs)), result)
        return result

    def _may_replay(self, func: Any, args: Any, kwargs: Any) -> bool:
        return (
            current_level() == self._level
            and not draws_at_random(known(func), args, kwargs)
            and not any(isinstance(leaf, torch.Generator) for leaf in pytree.tree_leaves((args, kwargs)))
            and all(self._is_own(tensor) for tensor in _written(func, args, kwargs))
        )

    def _is_own(self, tensor: Tensor) -> bool:
        slot = self._slots.get(tensor)
        return slot is not None and slot.is_own

    def _note_call(self, func: Any, given: tuple[Any, list[Any]], operands: list[Tensor], result: Any) -> None:
        leaves, spec = _flat(result)
        for at, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[at] = self._slot(leaf, operands)
            self._replayable &= isinstance(leaf, Tensor) or type(leaf) in _PLAIN_TYPES
        self._calls.append(_Call(func, given, leaves, spec))

    def _slot(self, tensor: Tensor, operands: list[Tensor]) -> _Slot:
        is_strided = tensor.layout == torch.strided
        form = _Form(tensor.shape, tensor.stride() if is_strided else (), tensor.dtype, tensor.device)
        slot = self._slots.get(tensor)
        if slot is None:
            memory, others = _memory(tensor), {_memory(t) for t in operands if not self._is_own(t)}
            is_own = memory != 0 and others.isdisjoint((0, memory))
            slot = self._slots[tensor] = _Slot(len(self._forms), is_own)
            self._forms.append(form)
        self._replayable &= is_strided and self._forms[slot.number] == form  # else it is reshaped in place
        return slot

    def _note_read(self, tree: Any) -> None:
        for tensor in _tensors(tree):
            slot = self._slots.get(tensor)
            if slot is not None and slot.number not in self._read:
                plain = _plain(tensor)
                self._read[slot.number] = (plain, version(plain))

    def head(self, output: Any) -> _Head | None:
        """The head, None if it cannot be replayed."""
        if self._by_form is not None:
            self._by_form.require_values(output)
            self._replayable &= self._by_form.is_enough
        self._note_read(output)
        if not self._replayable or not _is_unwritten([*self._outside, *self._read.values()]):
            return None
        tensors = [
            self._read[number][0] if number in self._read else without_memory(_StandIn, *form)
            for number, form in enumerate(self._forms)
        ]
        slots = ByIdentity[_Slot]()
        for leaf in (leaf for call in self._calls for leaf in call.leaves):
            if isinstance(leaf, _Slot):
                slots[tensors[leaf.number]] = leaf
        return _Head(self._calls, tensors, slots, list(self._read.values()))


class _Replay(SiteMode):
    """A run in which the head's calls return their noted results."""

    def __init__(self, site: str, value: Tensor, head: _Head) -> None:
        super().__init__((site,))
        self._value, self._head, self._at, self._passed = value, head, 0, False
        self._is_different = not _is_unwritten(head.read)
        self._places = ByIdentity[int]()
        self._shared = {0, *(_memory(tensor) for tensor, _ in head.read)}

    def begin(self, tensors: list[Tensor]) -> None:
        """Begin with the tensors that the model is given, and those that it has."""
        self._places = _places(tensors)
        self._shared |= {_memory(tensor) for tensor in tensors}
        if self._is_different:
            raise _DifferentCallsError

    def visit(self, value: Any, name: str) -> Any:
        self._require(self._at == len(self._head.calls))
        self._passed = True
        return self._value.clone()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is set_grad_enabled_function:
            return func(*args, **kwargs)
        if self._passed:
            self._require(not _has_stand_ins((args, kwargs)))
            # Its views were noted in the first call, and would not show what is written in this one.
            self._require(all(_memory(tensor) not in self._shared for tensor in _written(func, args, kwargs)))
            return func(*args, **kwargs)
        self._require(self._at < len(self._head.calls))
        noted = self._head.calls[self._at]
        given = _given(args, kwargs, self._head.slots, self._places)
        self._require(func == noted.function and given == noted.given)
        self._at += 1
        leaves = [self._head.tensors[leaf.number] if isinstance(leaf, _Slot) else leaf for leaf in noted.leaves]
        return pytree.tree_unflatten(leaves, noted.spec)

    def finish(self, output: Any) -> None:
        """Raise unless the model went as before."""
        read = any(isinstance(tensor, _StandIn) and tensor.is_read for tensor in self._head.tensors)
        self._require(not self._is_different and not read and not _has_stand_ins(output))

    def _require(self, is_as_before: bool) -> None:
        if not is_as_before:
            self._is_different = True
            raise _DifferentCallsError


def _flat(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of a tree and its structure. Pytree makes a tuple of a torch.Size, which is one leaf here."""
    return pytree.tree_flatten(tree, is_leaf=lambda node: isinstance(node, torch.Size))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _places(tensors: list[Tensor]) -> ByIdentity[int]:
    """The place of each tensor that the model is given."""
    places = ByIdentity[int]()
    for at, tensor in enumerate(tensors):
        places[tensor] = at
    return places


def _given(
    args: tuple[Any, ...], kwargs: dict[str, Any], slots: ByIdentity[_Slot], places: ByIdentity[int]
) -> tuple[Any, list[Any]]:
    """The arguments of a call, as in `_Call.given`."""
    leaves, spec = _flat((args, kwargs))
    for at, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            slot = slots.get(leaf)
            leaves[at] = _Other(leaf, places) if slot is None else slot
    return spec, leaves


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The tensors that a call writes into."""
    target = writes(known(func), args, kwargs)
    return _tensors((target, kwargs.get("out")))


def _has_stand_ins(tree: Any) -> bool:
    return any(isinstance(t, _StandIn) for tensor in _tensors(tree) for t in (tensor, *unwrapped(tensor)))


def _is_unwritten(tensors: Iterable[tuple[Tensor, int]]) -> bool:
    """Whether nothing has written into tensors since they had these versions."""
    return all(version(tensor) == before for tensor, before in tensors)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor without what transforms wrap it in."""
    return [tensor, *unwrapped(tensor)][-1]


def _memory(tensor: Tensor) -> int:
    """What tells apart the memory of tensors that are alive; 0 if that is not known (of sparse tensors, say)."""
    form = form_of(tensor)
    if form is not None:
        return memory_of_form(form)
    try:
        return _plain(tensor).untyped_storage().data_ptr()
    except RuntimeError:
        return 0


def _random_states() -> list[Tensor]:
    """The states of the random number generators that a model draws from, of the CPU and of all GPUs in use."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [])]


def _all_random_states() -> list[Any]:
    """The states of torch's, NumPy's and Python's generators, to be compared."""
    legacy: Any = np.random.get_state()
    return [*(state.tolist() for state in _random_states()), random.getstate(), legacy[1].tolist(), legacy[2:]]
