"""The forward pass on record: which torch functions ran on values that depend on the root, and their adjoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import (
    current_level,
    pytree,
    set_grad_enabled_function,
    unwrapped,
    versions,
    without_subclass_function,
)
from ..calls.adjoints import NoDerivativeError, is_differentiable, ordinary_adjoint
from ..calls.call import Call, Origin, Positions, plain_tensors, replace, tracked_positions
from ..calls.declarations import declared, form_that_writes_over, in_one, proportional_form
from ..calls.dense_mask import with_dense_mask
from ..calls.kinds import ELEMENTWISE, LINEAR, SHIFTS, is_linear_map
from ..calls.linear_map import linear
from ..calls.memories import Memories
from ..calls.normalization import has_constant_statistics
from ..calls.operations import (
    ACTIVATIONS,
    CONTAINS,
    CONVOLUTIONS,
    LIKE,
    READS,
    REFUSED,
    Known,
    Operation,
    canonical,
    known,
    out_of_place,
    refine,
    tensors_among,
    writes,
)
from ..calls.origins import origin, retold
from ..calls.recorded_call import RecordedCall
from ..copies import is_fixed
from ..errors import LOOK, AliasedWriteError, UnsupportedOperationError, warn
from ..model.other_names import OtherNames
from ..model.sites import SiteMode
from ..rulebook.actions import GRADIENT, STOP, UNLISTED, Action
from ..rulebook.rulebook import Match, Rulebook
from ..torch_state import is_plain_eager
from .aliases import Aliases, OutOfDateError, overlaps_itself, reads_while_written
from .followed import followed, has_own_functions
from .masks import Masks
from .pairing import Pairing
from .pull_apart import pull_apart
from .recompute import Recomputing
from .rewrites.functions import Function, Part, join_functions
from .rewrites.resolve import check_required, resolve
from .rewrites.softmax import HOLDING, Softmax, Softmaxes
from .site_leaf import only_tensor
from .step import NO_VALUES, OutputSlot, Pull, Step, Values, pull_of
from .tracked import ByIdentity, Slots
from .unclear_relus import BOUNDS, may_rectify, written_relus
from .unseen_operations import UnseenOperations

_CONTAINERS = (list, tuple, dict)


class Recorder(SiteMode):
    """Records the calls that depend on the root: the tracked inputs, or the values at some sites.

    Sites named by `marks` become steps of their own, where the walk may look at the cotangent.
    """

    saves = True

    def __init__(
        self,
        rules: Rulebook,
        begins: tuple[str, ...],
        call: str,
        marks: tuple[str, ...] = (),
        keep: bool = False,
        pairing: Pairing | None = None,
        final: bool = False,
    ) -> None:
        super().__init__((*marks, *begins))
        self.rules, self.caller, self.begins, self._keep, self._pairing = rules, call, begins, keep, pairing
        self.begun: dict[str, tuple[int, Tensor]] = {}
        self.roots: tuple[Tensor, ...] = ()
        self.root_slots: tuple[int, ...] = ()
        self.steps: list[Step] = []
        self.unlisted: list[tuple[int, str]] = []  # each with the place of its step
        self.operations: set[str] = set()
        self._decomposing: list[str] = []
        self.unreached: list[str] = []
        self._memories = Memories()
        self._followed = followed() if is_plain_eager() else None
        self._own_functions: dict[tuple[type, ...], bool] = {}
        self._slots = Slots(self._memories, self._followed or Tensor)
        self._linear_ran = False
        self._aliases = Aliases(self._memories)
        self._others = OtherNames()
        self._refusal: UnsupportedOperationError | None = None
        self._masks = Masks(self._slots)
        self._softmaxes = Softmaxes(rules)
        self._maps = ByIdentity[bool]()
        self._root_of_a_map: str | None = None
        self._suspects: list[str] = []
        self._recomputing = Recomputing()
        self._outer_grad = torch.is_grad_enabled()
        self._model_grad = True
        self._hidden_grad: bool | None = None
        self._outer_inference = torch.is_inference_mode_enabled()
        self._level = current_level()
        self._watch = UnseenOperations(self._slots) if is_plain_eager() else None
        self._final = final and self._watch is not None

    # --- running the model -----------------------------------------------------------------------------------

    def __enter__(self) -> "Recorder":
        super().__enter__()
        if self._followed is not None:
            self._followed.refusals.append(self._unseen)
        if self._watch is not None:
            self._watch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._watch is not None:
            self._watch.pause()
        if self._followed is not None:
            self._followed.refusals.pop()
            if not self._decomposing:
                self._slots.let_go()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._watch is None:
            return super().__torch_function__(func, types, args, kwargs)
        self._watch.pause()
        try:
            own = self._own_functions.get(types)
            if own is None:
                own = self._own_functions[types] = has_own_functions(types)
            if own:
                return self._among_other_classes(func, types, args, kwargs)
            with without_subclass_function():
                return super().__torch_function__(func, types, args, kwargs)
        finally:
            self._watch.start()

    def _among_other_classes(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """A call with tensors of a class that has functions of its own, which find plain tensors beside theirs."""
        lent: list[Any] = [t for t in _tensors((args, kwargs)) if type(t) is self._followed]
        for tensor in lent:
            tensor.__class__ = Tensor
        try:
            return super().__torch_function__(func, types, args, kwargs)
        finally:
            for tensor in lent:
                tensor.__class__ = self._followed

    # --- roots, sites and the output -------------------------------------------------------------------------

    @property
    def folds_alike(self) -> bool:
        return self.rules.folds_alike

    def track(self, tensors: tuple[Tensor, ...], origins: tuple[Origin, ...] = ()) -> tuple[Tensor, ...]:
        """Begin at `tensors`: copies of them, which the model is then given.

        With memory of their own: whatever shares it depends on them, and what shares memory with `tensors` does not.
        """
        roots = tuple(t.clone() for t in tensors)
        origins = origins or (Origin(after_linear=self._linear_ran),) * len(tensors)
        self.roots += roots
        self.root_slots += tuple([self._slots.new(t, o) for t, o in zip(roots, origins, strict=True)])
        return roots

    def visit(self, value: Any, name: str) -> Any:
        value = pytree.tree_map_only(Tensor, self._read, value)
        leaves, spec, place = only_tensor(value, self.caller, name)
        before = leaves[place]
        if name not in self.begins or before in self._slots:
            leaves[place] = self._mark(before, name)
            if self.left is not None and self._others.is_written(before, self.left):
                self._aliases.follow(before, leaves[place])
        else:
            self._root_of_a_map = name if before in self._maps else None
            (leaves[place],) = self.track((before,))
            if self.left is not None and self._others.is_written(before, self.left):
                self._aliases.follow(before, leaves[place])
            else:
                self._memories.pair(before, leaves[place])
        if name in self.begins:
            slot = self.slot(leaves[place])
            assert slot is not None
            self.begun[name] = slot, leaves[place]
        return pytree.tree_unflatten(leaves, spec)

    def _mark(self, tensor: Tensor, name: str) -> Tensor:
        if tensor not in self._slots:
            self.unreached.append(name)
            return tensor
        marked = tensor.view_as(tensor)
        slot, origin = self._slots[tensor]
        out = OutputSlot(self._slots.new(marked, origin), tensor.shape, tensor.dtype, tensor.device)
        values = Values((tensor,), (marked,)) if self._keep else NO_VALUES
        self.steps.append(Step(lambda g: (g,), (slot,), (out,), path=name, mark=name, values=values))
        return marked

    def slot(self, tensor: Any) -> int | None:
        """The slot of a tracked tensor, None for a constant."""
        if not isinstance(tensor, Tensor) or tensor not in self._slots:
            return None
        found = self._slots.get(tensor)
        if found is None:
            raise self._unseen("what made a tensor that shares memory with a tracked value")
        return found.number

    def finish(self, output: Any, strict: bool = True) -> Any:
        """The output with in-place writes resolved; raises what the forward pass has collected."""
        self._raise_unseen()
        output = pytree.tree_map_only(Tensor, self._read, output)
        slots = tuple(self.slot(leaf) for leaf in pytree.tree_leaves(output))
        is_baseline = self._pairing is not None and not self._pairing.closed
        if self._pairing is not None:
            self._pairing.end(slots)
        roots = dict(zip(self.root_slots, self.roots, strict=True))
        if self.rules.takes_softmax and not is_baseline:
            self._softmaxes.settle(self.steps, roots, set(slots))
        if self.rules.takes_functions and not is_baseline:
            join_functions(self.steps, self.rules, roots, self._softmaxes.parts, set(slots), self.caller)
        self._softmaxes.forget()
        if self.rules.is_resolved_late:
            resolve(self.steps, roots, set(slots) - {None}, self.caller, self._root_of_a_map)
        if not strict:
            return output
        suspects = [*self._suspects, *written_relus(self.steps)] if self.rules.expects else []
        if suspects:
            warn(
                f"{self.caller}: {', '.join(dict.fromkeys(suspects))} may be a relu in another spelling, which "
                f"the {self.rules.name} rule does not meet: it keeps its ordinary adjoint. Write torch.relu there."
            )
        if self._softmaxes.suspects:
            warn(
                f"{self.caller}: {', '.join(dict.fromkeys(self._softmaxes.suspects))} may be the end of a softmax in "
                f"another spelling, which the {self.rules.name} rule for softmax does not meet: each call of it keeps "
                "its own. Write torch.softmax there."
            )
        check_required(self.rules, self.steps, self.caller)
        replaced = {i for i, step in enumerate(self.steps) if self._softmaxes.replaced(step)}
        unlisted = [told for i, told in self.unlisted if i not in replaced]
        if unlisted:
            calls = "\n  ".join(dict.fromkeys(unlisted))
            raise UnsupportedOperationError(
                f"{self.caller}(rules={self.rules.name!r}): no rule for\n  {calls}\n"
                "Give each one: rules | {'<operation>': rule}, GRADIENT for the ordinary adjoint, STOP for a constant."
            )
        return output

    # --- one torch function ----------------------------------------------------------------------------------

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        grad = torch.is_grad_enabled()
        if func is set_grad_enabled_function:
            return self._set_grad(func, args, kwargs, grad)
        hidden = (self._hidden_grad is not None or (not grad and self._model_grad)) and self._is_hidden(grad)
        told = known(func)
        if told.is_query:
            return self._query(func, told.name, args, kwargs, hidden)
        self._raise_unseen()
        tensors = plain_tensors(args, kwargs)
        if tensors is None or told.name == "__setitem__":
            if self._aliases.written:
                args, kwargs = self._read_arguments(told.name, args, kwargs)
            positions = tracked_positions(args, kwargs, self._slots)
            if positions:
                args, kwargs = _own(args), _own(kwargs)
        else:  # nearly always
            if self._aliases.written:
                args, kwargs, tensors = self._read_tensors(args, kwargs, tensors)
            slots = self._slots
            positions = tuple([(key,) for key, tensor in tensors if tensor in slots])
        if told.name in LIKE:
            positions = tuple([p for p in positions if p == (0,)])
        if positions and hidden:
            raise self._hidden()
        if current_level() != self._level:
            self._check_level(positions, args, kwargs)
        frozen = not self._model_grad or (not grad and self._in_inference_mode())
        if grad == self._outer_grad:
            return self._run(func, told, args, kwargs, positions, frozen)
        with torch.set_grad_enabled(self._outer_grad):
            return self._run(func, told, args, kwargs, positions, frozen)

    def _read_tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[tuple[Any, Tensor]]) -> Any:
        """The arguments after the writes so far, of a call whose tensors are `tensors`."""
        read = [(key, self._read(tensor)) for key, tensor in tensors]
        if all(now is before for (_, now), (_, before) in zip(read, tensors, strict=True)):  # nearly always
            return args, kwargs, tensors
        return *replace(args, kwargs, tuple([(key,) for key, _ in read]), tuple([now for _, now in read])), read

    def _read_arguments(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name != "__setitem__":
            return self._read_all(args), self._read_all(kwargs) if kwargs else kwargs
        target, *given = args
        index, value = self._read_all(given)
        try:
            return (self._aliases.read_around(target, index), index, value), kwargs
        except OutOfDateError:
            raise self._out_of_date() from None

    def _query(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: bool
    ) -> Any:
        if self._aliases.written:
            if name in ("shape", "size", "dim", "dtype", "device", "__len__"):
                args = tuple([self._aliases.current(v) if isinstance(v, Tensor) else v for v in args])
            else:
                args, kwargs = self._read_all(args), self._read_all(kwargs)
        out = func(*args, **kwargs)
        if hidden and (isinstance(out, Tensor) or name in READS) and tracked_positions(args, kwargs, self._slots):
            raise self._hidden()
        self._masks.compared(name, _operands(args, kwargs), out)
        if self._pairing is not None:
            self._pairing.made(name, out)
        if name in ("detach", "data"):
            self._slots.note_constant(out)
        return out

    # --- autograd on and off -----------------------------------------------------------------------------------

    def _set_grad(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], grad: bool) -> Any:
        if self._is_hidden(grad):
            self._hidden_grad = bool(args[0])
        else:
            self._model_grad = bool(args[0])
        return func(*args, **kwargs)

    def _is_hidden(self, grad: bool) -> bool:
        """Whether autograd is switched by something that no mode sees, as it is inside of an autograd Function.

        What is switched there holds until that is left, which shows in autograd being on again.
        """
        if self._hidden_grad is not None and (self._hidden_grad or not grad):
            return True
        self._hidden_grad = None
        return not grad and self._model_grad and not self._in_inference_mode()

    def _in_inference_mode(self) -> bool:
        """Whether the model has entered inference mode, which makes constants as no_grad does."""
        return torch.is_inference_mode_enabled() and not self._outer_inference

    def _run(
        self,
        func: Callable[..., Any],
        told: Known,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Positions,
        frozen: bool,
    ) -> Any:
        if positions and told.is_opaque:
            raise self._unseen(f"{told.name}, which is scripted or runs a graph of its own")
        if positions and told.name in REFUSED:
            raise self._unseen(told.name)
        if positions and told.name == "requires_grad_":
            return args[0]  # it has a derivative as it is
        targets = writes(told, args, kwargs)
        constant = frozen or not positions
        if targets and (not constant or any(self._memories.of(t) is not None for t in targets)):
            return self._run_out_of_place(func, told, args, kwargs, targets, frozen)
        if constant:
            self._linear_ran = self._linear_ran or told.operation.name in LINEAR
            out = func(*args, **kwargs)
            if self.asked:
                self._others.ran(func, args, kwargs, out, self.modules)
            if self.begins and told.operation.name in LINEAR:
                self._note_map(told.operation.name, out)
            elif self.begins and told.operation.name == "batch_norm":
                self._note_folded(Call(func, told.operation, args, kwargs, (), self.path), out)
            if self._masks.follows or positions:
                self._masks.carried(told.name, _operands(args, kwargs), out)
            if not frozen:
                self._softmaxes.carry(func, told.operation, args, kwargs, out)
            if self._pairing is not None:
                self._pairing.made(told.name, out)
            return self._constant(told.name, out, args, kwargs)
        return self._recorded(func, told.operation, args, kwargs, positions)

    def _run_out_of_place(
        self,
        func: Callable[..., Any],
        told: Known,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        targets: list[Tensor],
        frozen: bool,
    ) -> Any:
        """Run a call without its in-place effect, and let the written names stand for what it gives."""
        if frozen and any(t in self._slots for t in targets):
            raise self._unseen(f"{told.name} writing in place into a tracked value under no_grad")
        if told.name == "detach_":
            detached = targets[0].detach()
            self._slots.note_constant(detached)
            self._aliases.write(targets[0], detached)
            return detached
        self._check_overlap(told.name, targets, args, kwargs)
        plan = out_of_place(func, told, args, kwargs)
        operation = Operation(told.name) if plan.on_copies else told.operation
        out = self._again(plan.func, operation, plan.args, plan.kwargs, frozen)
        values = plan.values(out)
        if self.asked:
            self._others.ran(func, args, kwargs, values, self.modules)
        if len(values) != len(targets):
            raise self._unseen(f"{told.name} writing in place into {len(targets)} tensors at once")
        if plan.into:
            values = [self._fitted(*pair, plan.args, frozen) for pair in zip(targets, values, strict=True)]
        for target, value in zip(targets, values, strict=True):
            self._aliases.write(target, value)
        if told.name == "__setitem__":
            return None
        return values[0] if plan.into and isinstance(out, Tensor) else plan.result(out)

    def _fitted(self, target: Tensor, value: Tensor, args: tuple[Any, ...], frozen: bool) -> Tensor:
        """The value that `out=target` gets: of its dtype, in memory of its own."""
        if value.dtype != target.dtype:
            value = self._again(Tensor.to, Operation("to"), (value, target.dtype), {}, frozen)
        memory = self._memories.about(value)
        if any(self._memories.of(t) is memory for t in _tensors(args)):
            value = self._again(torch.clone, Operation("clone"), (value,), {}, frozen)
        return value

    def _again(
        self,
        func: Callable[..., Any],
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frozen: bool,
    ) -> Any:
        if frozen:
            return func(*args, **kwargs)
        positions = tracked_positions(args, kwargs, self._slots)
        return self._recorded(func, operation, args, kwargs, positions) if positions else func(*args, **kwargs)

    def _constant(self, name: str, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of a call that makes constants; those that share memory with tracked values are noted."""
        for tensor in _tensors(out):
            if not self._slots.note_constant(tensor):
                continue
            memory = self._memories.of(tensor)
            if not any(self._memories.of(t) is memory for t in _tensors((args, kwargs))):
                raise self._unseen(f"{name}, which makes a tensor in the memory of a tracked one")
        return out

    def _recorded(
        self,
        func: Callable[..., Any],
        operation: Operation,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        positions: Positions,
    ) -> Any:
        if operation.name == "scaled_dot_product_attention":
            args, kwargs = with_dense_mask(operation, args, kwargs)
        if operation.name in LINEAR and torch.is_autocast_enabled(self.roots[0].device.type):
            args, kwargs, positions = self._cast(args, kwargs)
        func = linear if func is F.linear else func
        call = self._told(func, operation, args, kwargs, positions)
        if self._followed is None or self._outer_inference:
            return self._noted(self._record(call))
        operands = call.operands
        before = versions(operands)
        out = self._record(call)
        if versions(operands) != before:
            raise self._unseen(f"{call.spelling}, which writes into an operand though neither name nor schema says so")
        return out if type(out) is self._followed else self._noted(out)

    def _noted(self, out: Any) -> Any:
        """The result of a recorded call; constants in it, such as the integers that a tensor's bytes are, are noted."""
        for tensor in _tensors(out):
            self._slots.note_constant(tensor)
        return out

    def _cast(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], Positions]:
        """The arguments of a linear map as autocast casts them inside, so that its rule finds factors of one dtype."""
        dtype = torch.get_autocast_dtype(self.roots[0].device.type)

        def cast(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
                return tensor
            return self._again(Tensor.to, Operation("to"), (tensor, dtype), {}, frozen=False)

        args, kwargs = pytree.tree_map_only(Tensor, cast, (args, kwargs))
        return args, kwargs, tracked_positions(args, kwargs, self._slots)

    def _note_map(self, op: str, out: Any) -> None:
        """Remember the result of a linear map before the root, if a batch norm could be folded into the map."""
        rank = CONVOLUTIONS[op][0] + 2 if op in CONVOLUTIONS else 2
        action = self.rules.action(Match(op, self.path, self.module, linear=True))
        if isinstance(out, Tensor) and out.ndim == rank and action.kind == "rule" and (op == "linear" or rank > 2):
            self._maps[out] = True

    def _note_folded(self, norm: Call, out: Any) -> None:
        """Remember the result of a batch norm before the root that would be folded into the map before it."""
        is_folded = self.rules.action(Match(norm.op, norm.path, self.module)).kind == "fold"
        if is_folded and norm.argument("input") in self._maps and has_constant_statistics(norm):
            self._maps[out] = True

    def _told(
        self, func: Callable[..., Any], operation: Operation, args: Any, kwargs: dict[str, Any], positions: Positions
    ) -> RecordedCall:
        """The call for what it is, by its arguments and by the masks among them."""
        if self._masks.any:
            rectified = self._masks.rectifies(operation, args, kwargs, positions)
            if rectified is not None:
                return RecordedCall(F.relu, canonical("relu"), (rectified,), {}, ((0,),), self.path)
        refined = refine(operation, args, kwargs, positions)
        unclear = self.rules.expects and (self._masks.any or operation.name in BOUNDS) and refined.name != "relu"
        if unclear and may_rectify(self._masks, self._slots, operation, args, kwargs):
            self._suspects.append(f"{operation.name} in {self.path!r}")
        return RecordedCall(func, refined, args, kwargs, positions, self.path)

    def _record(self, call: RecordedCall) -> Any:
        found = self._slots.of(call.operands)
        if found is None:
            raise self._unseen(
                f"what made an argument of {call.spelling}: it shares memory with a tracked value, and was made where "
                "nobody looked (as_subclass, nn.Parameter, a C++ extension, another thread)"
            )
        inputs, call.origins = found
        op = retold(call)
        if op != call.op:
            call.retell(op)
        self.operations.add(op)
        if self._pairing is not None:
            self._pairing.meet(call, inputs)
        linear = op in LINEAR and is_linear_map(call)
        tracked = call.tracked_names() if op in self.rules.asks_what_is_tracked else ()
        is_first = linear and not call.origins[0].after_linear
        match = Match(op, call.path, self.module, linear, is_first, tracked=tracked)
        action = self.rules.action(match)
        inside = CONTAINS.get(op)
        if inside is not None and action is GRADIENT and self.rules.action(Match(inside, call.path)) is not GRADIENT:
            self.unlisted.append((len(self.steps), f"{op} (which contains {inside}) in {call.path!r}"))
        if self.rules.takes_softmax:
            softmax = self._softmaxes.ended_by(call, inputs, self.module)
            stops = softmax is not None and softmax.action.kind == "stop"
            function = None if softmax is None or stops else self._softmaxes.function(softmax, call, self.steps)
            if softmax is not None and (function is not None or stops):
                return self._record_softmax(call, softmax, function)
        if action.kind == "decompose":
            whole = self._in_one(call, action)
            return self._decompose(call, action) if whole is None else self._record_in_one(call, inputs, *whole)
        if action.kind == "stop":
            self.steps.append(Step(_nothing, (), (), op, call.path, action))
            out = call.run()  # not detached: for a derivative of the result it is no constant
            self._softmaxes.note_constant(call, inputs, out)
            return out
        if_last = self.rules.action(match._replace(last=True)) if linear and self.rules.asks_what_is_last else action
        # What a rule holds need not be held twice.
        reads = action.kind == "gradient" and op in SHIFTS and self.rules.shifts_need_values
        hold = reads or op in HOLDING or self._pairing is not None
        decides = self._masks.any and self._masks.decide(call.args, call.kwargs)
        part = Part.of(call, hold, decides) if self._is_part(call, inputs) else None
        place = len(self.steps)
        if action.kind == "unlisted" or (action is if_last and action.kind == "gradient"):
            out = self._record_adjoint(call, inputs, action)
        else:
            out = self._record_rule(call, inputs, action, if_last)
        if len(self.steps) == place:  # it gives nothing that has a derivative
            return out
        if action.kind == "unlisted":
            self.unlisted.append((place, f"{op} in {call.path!r}"))
        if part is not None:
            self._softmaxes.note(call, part, self.steps[place], place)
        return out

    def _is_part(self, call: RecordedCall, inputs: tuple[int, ...]) -> bool:
        """Whether a call may be part of an activation or a softmax that is written out."""
        return self.rules.takes_softmax and (call.op in ELEMENTWISE or self._softmaxes.takes(call, inputs))

    def _record_softmax(self, call: RecordedCall, softmax: Softmax, function: Function | None) -> Any:
        """Run the last call of a softmax that is written out, and do with it what is done with one by name."""
        self.operations.add("softmax")
        self._softmaxes.met(softmax)
        out = call.run()
        if function is None:
            self.steps.append(Step(_nothing, (), (), "softmax", call.path, softmax.action))
            return out
        made = function.call(call.path, "softmax")
        after_linear = any(o.after_linear for o in call.origins)
        slot = self._slots.new(out, Origin("softmax", after_linear=after_linear))
        outputs = (OutputSlot(slot, out.shape, out.dtype, out.device),)
        values = Values((function.operand,), (out,)) if self._keep else NO_VALUES
        step = Step(_nothing, (softmax.source,), outputs, "softmax", call.path, values=values)
        self.steps.append(step.ruled(softmax.action, made, self.caller))
        return out

    def _decompose(self, call: RecordedCall, action: Action) -> Any:
        if call.op in self._decomposing:
            raise ValueError(
                f"{self.caller}(rules=...): decompose(...) for {call.op!r} calls {call.op} itself, without end. "
                "Write it in other torch functions."
            )
        assert action.function is not None
        self.steps.append(Step(_nothing, (), (), call.op, call.path, action))
        self._decomposing.append(call.op)
        # The model's own calls come with gradients on, whatever surrounds the method; so do these.
        with torch.enable_grad(), self:
            out = action.function(*call.args, **call.kwargs)
        self._decomposing.pop()
        return out

    def _in_one(self, call: RecordedCall, action: Action) -> tuple[Tensor, Pull | None] | None:
        """The output and the pullback of a call that is run in place of its decomposition; None if that is needed."""
        assert action.function is not None
        whole = in_one(action.function)
        if whole is None or self._keep or self.rules.must_be_met:
            return None

        def action_of(op: str, linear: bool) -> Action:
            # Products that are linear may be the first or the last map, or take an activation in.
            tells_more = op in self.rules.asks_what_is_tracked or (linear and self.rules.looks_around)
            return UNLISTED if tells_more else self.rules.action(Match(op, call.path, self.module, linear))

        # No reference to the recorder, as in `pull_of`.
        recorder = partial(Recorder, self.rules, (), self.caller)
        return whole(call, action_of, partial(pull_apart, recorder, self.caller, call, self.module))

    def _record_in_one(self, call: RecordedCall, inputs: tuple[int, ...], out: Tensor, pull: Pull | None) -> Tensor:
        call.watch()
        if pull is None:
            self.steps.append(Step(_nothing, (), (), call.op, call.path, STOP))
        else:
            slots = self._new_slots(call, (out,))
            self.steps.append(Step(pull, inputs, slots, call.op, call.path, Action("rule", pull), owned=True))
        return out

    def _record_adjoint(self, call: RecordedCall, inputs: tuple[int, ...], action: Action) -> Any:
        values = call.operands if self._keep else ()
        try:
            out, parts, pull = ordinary_adjoint(call, self._final)
        except NoDerivativeError as error:
            raise self._unseen(f"{call.spelling}, which torch cannot differentiate: {error}") from error
        if parts:
            slots, own, over = self._new_slots(call, parts), declared(pull).gives_own, form_that_writes_over(pull)
            given = {"owned": own, "over": over, "in_proportion": proportional_form(pull)}
            step = Step(pull, inputs, slots, call.op, call.path, action, **given)
            self.steps.append(step._replace(values=Values(values, parts)) if self._keep else step)
        return out

    def _record_rule(self, call: RecordedCall, inputs: tuple[int, ...], action: Action, if_last: Action) -> Any:
        out = call.output = call.run()
        if isinstance(out, Tensor) and (call.op in LINEAR or action.kind == "fold"):
            # A name of the model's own, so that the tape, which may hold the result, does not hold what the model then
            # lets that name stand for: where a relu writes over it, the relu's result.
            out = out.view_as(out)
        parts = (out,) if isinstance(out, Tensor) else pytree.tree_leaves(out)
        leaves = tuple([leaf for leaf in parts if is_differentiable(leaf)])
        values = Values(call.operands, leaves) if self._keep else NO_VALUES
        outputs = self._new_slots(call, leaves)
        if not self._keep:
            self._recomputing.forget(call, inputs, outputs, action, self.steps[-1] if self.steps else None)
        later = action is not if_last
        if later or action.kind in ("fold", "join"):
            waits = if_last if later else None
            step = Step(_nothing, inputs, outputs, call.op, call.path, action, call, waits, values=values)
        else:
            pull, own, over, in_proportion = pull_of(action, call, self.caller)
            given = {"values": values, "owned": own, "over": over, "in_proportion": in_proportion}
            step = Step(pull, inputs, outputs, call.op, call.path, action, call, **given)
        call.watch()
        call.drop_gathered()
        self.steps.append(step)
        return out

    # --- bookkeeping -----------------------------------------------------------------------------------------

    def _new_slots(self, call: RecordedCall, outputs: tuple[Tensor, ...]) -> tuple[OutputSlot, ...]:
        new = self._slots.new
        if len(outputs) == 1:  # nearly always
            (t,) = outputs
            return (OutputSlot(new(t, origin(call, t)), t.shape, t.dtype, t.device),)
        return tuple([OutputSlot(new(t, origin(call, t)), t.shape, t.dtype, t.device) for t in outputs])

    def _read(self, tensor: Tensor) -> Tensor:
        try:
            return self._aliases.read(tensor)
        except OutOfDateError:
            raise self._out_of_date() from None

    def _read_all(self, values: Any) -> Any:
        try:
            return self._aliases.read_all(values)
        except OutOfDateError:
            raise self._out_of_date() from None

    def _out_of_date(self) -> AliasedWriteError:
        return AliasedWriteError(
            f"{self.caller}: in the module {self.path!r}, a tensor is read that shares memory with one written in "
            "place through another view. Write out of place there (y = y + 1, not y += 1), or clone() the view."
        )

    def _check_overlap(self, name: str, targets: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise where a write runs over what it reads, so that out of place it gives something else."""
        for target in targets:
            if overlaps_itself(target):
                raise self._overlapping(name, "of which several values lie in one place (expand, unfold, as_strided)")
            if name == "__setitem__":
                over = isinstance(args[2], Tensor) and reads_while_written(target, args[2], args[1])
            else:
                # A scatter by a mask writes other values of its source than it has read.
                moves = name == "masked_scatter_"
                given = (*(args[1:] if moves else args), *kwargs.values())
                others = [t for t in tensors_among(given) if moves or t is not target]
                over = any(reads_while_written(target, t, moves=moves) for t in others)
            if over:
                raise self._overlapping(name, "that overlaps with what it reads (x[1:] += x[:-1], x /= x[:, :1])")

    def _overlapping(self, name: str, what: str) -> AliasedWriteError:
        return AliasedWriteError(
            f"{self.caller}: in the module {self.path!r}, {name} writes in place into a tensor {what}: the result "
            "depends on the order in which torch writes. clone() it first."
        )

    def _check_level(self, positions: Positions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if positions or any(layer in self._slots for t in inner for layer in unwrapped(t)):
            raise self._unseen("a torch.func transform (vmap, grad, ...) inside the model")

    def raise_refusal(self) -> None:
        """Raise the refusal that the model has caught, or that was raised in another thread of it."""
        if self._refusal is not None:
            raise self._refusal

    def _raise_unseen(self) -> None:
        self.raise_refusal()
        if self._watch is not None and self._watch.unseen is not None:
            raise self._unseen(self._watch.unseen)

    def _hidden(self) -> UnsupportedOperationError:
        return self._unseen(
            "an autograd Function (its own backward would be ignored), or reentrant checkpointing, which is one "
            "(use_reentrant=False can be seen through)"
        )

    def _unseen(self, what: str) -> UnsupportedOperationError:
        self._refusal = UnsupportedOperationError(
            f"{self.caller}: in the module {self.path!r}, cannot see through {what}. "
            f"Write that part in plain torch functions, or make its result a constant with detach(). {LOOK}"
        )
        return self._refusal

    @property
    def activations(self) -> set[str]:
        """The nonlinearities that were met on the way from the root."""
        return self.operations & ACTIVATIONS


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in the arguments or the result of a call."""
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _operands(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call, `input` first, but for where its result goes."""
    if not kwargs:
        return args
    names = sorted(kwargs.keys() - {"out"}, key=lambda name: name != "input")
    return (*args, *[kwargs[name] for name in names])


def _own(value: Any) -> Any:
    """A value whose lists and dicts are the tape's own, for the model may change them after the call."""
    if isinstance(value, Tensor) or is_fixed(value):
        return value
    if isinstance(value, list):
        return [_own(v) for v in value]
    if isinstance(value, dict):
        return {name: _own(v) for name, v in value.items()}
    if isinstance(value, tuple):
        own, kind = [_own(v) for v in value], type(value)
        return kind(*own) if hasattr(kind, "_fields") else tuple(own)
    return value


def _nothing(cotangent: Any) -> tuple[Any, ...]:
    return ()
