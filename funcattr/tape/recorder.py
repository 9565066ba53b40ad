"""The forward pass on record: which torch functions ran on values that depend on the root, and their adjoints."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._torch import HigherOrderOperator, current_level, pytree, set_grad_enabled_function, unwrapped
from ..calls.adjoints import is_differentiable, ordinary_adjoint
from ..calls.call import Origin, Positions, tracked_positions
from ..calls.declarations import gives_own
from ..calls.kinds import ELEMENTWISE, LINEAR, SHIFTS, is_linear_map, origin, retold
from ..calls.linear_map import linear
from ..calls.operations import (
    ACTIVATIONS,
    CONTAINS,
    CONVOLUTIONS,
    LIKE,
    REFUSED,
    Known,
    Operation,
    canonical,
    known,
    out_of_place,
    refine,
    writes,
)
from ..calls.recorded_call import RecordedCall
from ..errors import UnsupportedOperationError, warn
from ..model.sites import SiteMode
from ..rulebook.actions import GRADIENT, Action
from ..rulebook.rulebook import Match, Rulebook
from ..torch_state import can_look_at, is_plain_eager
from .aliases import Aliases
from .masks import Masks
from .pairing import Pairing
from .recompute import Recomputing
from .rewrites.functions import Part, join_functions
from .rewrites.resolve import check_required, resolve
from .rewrites.softmax import EXTREMA, MEMBERS, join_softmax
from .site_leaf import only_tensor
from .step import OutputSlot, Step, Values, pull_of
from .tracked import ByIdentity, Slots
from .unseen_operations import UnseenOperations


class Recorder(SiteMode):
    """Records the calls that depend on the root: the tracked inputs, or the value at one site.

    Sites named by `marks` become steps of their own, where the walk may look at the cotangent.
    """

    def __init__(
        self,
        rules: Rulebook,
        root: str | None,
        call: str,
        marks: tuple[str, ...] = (),
        keep: bool = False,
        pairing: Pairing | None = None,
    ) -> None:
        super().__init__((*marks, root) if root is not None else marks)
        self.rules, self.caller, self.root, self._keep, self._pairing = rules, call, root, keep, pairing
        self.roots: tuple[Tensor, ...] = ()
        self.root_slots: tuple[int, ...] = ()
        self.steps: list[Step] = []
        self.unlisted: list[str] = []
        self.operations: set[str] = set()
        self._decomposing: list[str] = []
        self.unreached: list[str] = []
        self._slots = Slots()
        self._linear_ran = False
        self._aliases = Aliases()
        self._masks = Masks(self._slots)
        self._parts: dict[int, Part] = {}
        self._maps = ByIdentity[bool]()
        self._root_of_a_map: str | None = None
        self._suspects: list[str] = []
        self._recomputing = Recomputing()
        self._outer_grad = torch.is_grad_enabled()
        self._model_grad = True
        self._level = current_level()
        self._watch = UnseenOperations(self._slots) if is_plain_eager() else None

    # --- running the model -----------------------------------------------------------------------------------

    def __enter__(self) -> "Recorder":
        super().__enter__()
        if self._watch is not None:
            self._watch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._watch is not None:
            self._watch.pause()
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if self._watch is None:
            return super().__torch_function__(func, types, args, kwargs)
        self._watch.pause()
        try:
            return super().__torch_function__(func, types, args, kwargs)
        finally:
            self._watch.start()

    # --- roots, sites and the output -------------------------------------------------------------------------

    def track(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Begin at `tensors`: fresh names of them, which the model is then given."""
        self.roots = tuple(t.view_as(t) for t in tensors)
        start = Origin(after_linear=self._linear_ran)
        self.root_slots = tuple(self._slots.new(t, start) for t in self.roots)
        return self.roots

    def visit(self, value: Any, name: str) -> Any:
        value = pytree.tree_map_only(Tensor, self._read, value)
        leaves, spec, place = only_tensor(value, self.caller, name)
        if name == self.root:
            before = leaves[place]
            self._root_of_a_map = name if before in self._maps else None
            (leaves[place],) = self.track((before,))
            self._aliases.add_views(before, [leaves[place]])
        else:
            leaves[place] = self._mark(leaves[place], name)
        return pytree.tree_unflatten(leaves, spec)

    def _mark(self, tensor: Tensor, name: str) -> Tensor:
        if tensor not in self._slots:
            self.unreached.append(name)
            return tensor
        marked = tensor.view_as(tensor)
        slot, origin = self._slots[tensor]
        out = OutputSlot(self._slots.new(marked, origin), tensor.shape, tensor.dtype, tensor.device)
        values = Values((tensor,), (marked,)) if self._keep else Values()
        self.steps.append(Step(lambda g: (g,), (slot,), (out,), path=name, mark=name, values=values))
        return marked

    def slot(self, tensor: Any) -> int | None:
        """The slot of a tracked tensor, None for a constant."""
        found = self._slots.get(tensor) if isinstance(tensor, Tensor) else None
        return None if found is None else found.number

    def finish(self, output: Any, strict: bool = True) -> Any:
        """The output with in-place writes resolved; raises what the forward pass has collected."""
        self._raise_unseen()
        output = pytree.tree_map_only(Tensor, self._read, output)
        slots = tuple(self.slot(leaf) for leaf in pytree.tree_leaves(output))
        is_baseline = self._pairing is not None and not self._pairing.closed
        if self._pairing is not None:
            self._pairing.end(slots)
        roots = dict(zip(self.root_slots, self.roots, strict=True))
        if self.rules.takes_functions and not is_baseline:
            join_softmax(self.steps, self.rules, roots, self._parts, set(slots), self.caller)
            join_functions(self.steps, self.rules, roots, self._parts, set(slots), self.caller)
        self._parts.clear()
        if self.rules.is_resolved_late:
            resolve(self.steps, roots, set(slots) - {None}, self.caller, self._root_of_a_map)
        if not strict:
            return output
        if self._suspects:
            warn(
                f"{self.caller}: {', '.join(dict.fromkeys(self._suspects))} may be a relu in another spelling, which "
                f"the {self.rules.name} rule does not meet: it keeps its ordinary adjoint. Write torch.relu there."
            )
        check_required(self.rules, self.steps, self.caller)
        if self.unlisted:
            calls = "\n  ".join(dict.fromkeys(self.unlisted))
            raise UnsupportedOperationError(
                f"{self.caller}(rules={self.rules.name!r}): no rule for\n  {calls}\n"
                "Give each one: rules | {'<operation>': rule}, GRADIENT for the ordinary adjoint, STOP for a constant."
            )
        return output

    # --- one torch function ----------------------------------------------------------------------------------

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is set_grad_enabled_function:
            self._model_grad = bool(args[0])
            return func(*args, **kwargs)
        told = known(func)
        if told.is_query:
            return self._query(func, told.name, args, kwargs)
        if self._aliases.written:
            if told.name == "__setitem__":
                self._aliases.refresh(*args)
            args, kwargs = self._read_all(args), self._read_all(kwargs)
        self._raise_unseen()
        positions = tracked_positions(args, kwargs, self._slots)
        if told.name in LIKE:
            positions = tuple([p for p in positions if p == (0,)])
        grad = torch.is_grad_enabled()
        if positions and not grad and self._model_grad:
            raise self._unseen("an autograd Function (its own backward would be ignored)")
        if current_level() != self._level:
            self._check_level(positions, args, kwargs)
        if grad == self._outer_grad:
            return self._run(func, told, args, kwargs, positions)
        with torch.set_grad_enabled(self._outer_grad):
            return self._run(func, told, args, kwargs, positions)

    def _query(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._aliases.written and name not in ("shape", "size", "dim", "dtype", "device", "__len__"):
            args, kwargs = self._read_all(args), self._read_all(kwargs)
        out = func(*args, **kwargs)
        self._masks.compared(name, args, out)
        # A detached tensor is a constant that shares memory, so a write into it must be noticed.
        return self._aliases.note(name, args, out) if name in ("detach", "data") else out

    def _run(
        self, func: Callable[..., Any], told: Known, args: tuple[Any, ...], kwargs: dict[str, Any], positions: Positions
    ) -> Any:
        name, operation = told.name, told.operation
        if positions and (name in REFUSED or isinstance(func, HigherOrderOperator)):
            raise self._unseen(name)
        target = writes(told, args, kwargs)
        if target is not None and not self._model_grad and self.slot(target) is not None:
            raise self._unseen(f"{name} writing in place into a tracked value under no_grad")
        constant = not positions or not self._model_grad
        if target is not None and (
            not constant or self.slot(target) is not None or self._aliases.is_known_view(target)
        ):
            func, args, kwargs = out_of_place(func, name, operation, args, kwargs)
            positions = tracked_positions(args, kwargs, self._slots)
        elif constant:
            self._linear_ran = self._linear_ran or operation.name in LINEAR
            out = func(*args, **kwargs)
            if self.root is not None and operation.name in LINEAR:
                self._note_map(operation.name, out)
            if self._masks.any:
                self._masks.carried(name, args, out)
            return self._aliases.note(name, args, out)
        if constant:
            out = func(*args, **kwargs)
        else:
            func = linear if func is F.linear else func
            out = self._record(self._told(func, operation, args, kwargs, positions))
        if target is not None:
            return self._rename(name, target, args, out)
        return self._aliases.note(name, args, out)

    def _note_map(self, op: str, out: Any) -> None:
        """Remember the result of a linear map before the root, if a batch norm could be folded into the map."""
        rank = CONVOLUTIONS[op][0] + 2 if op in CONVOLUTIONS else 2
        action = self.rules.action(Match(op, self.path, self.module, linear=True))
        if isinstance(out, Tensor) and out.ndim == rank and action.kind == "rule" and (op == "linear" or rank > 2):
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
        if self.rules.expects and refined.name != "relu" and self._may_rectify(operation.name, args, kwargs):
            self._suspects.append(f"{operation.name} in {self.path!r}")
        return RecordedCall(func, refined, args, kwargs, positions, self.path)

    def _may_rectify(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call may be a relu that cannot be told from its arguments."""
        if self._masks.any and self._masks.decide(args, kwargs):
            return True
        bounds = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v not in self._slots)
        return name in ("clamp", "clamp_min", "maximum", "max") and not all(map(can_look_at, bounds))

    def _record(self, call: RecordedCall) -> Any:
        operands = call.operands
        slots = [self._slots[t] for t in operands]
        inputs, call.origins = tuple([s.number for s in slots]), tuple([s.origin for s in slots])
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
            self.unlisted.append(f"{op} (which contains {inside}) in {call.path!r}")
        if action.kind == "unlisted":
            self.unlisted.append(f"{op} in {call.path!r}")
            return self._record_adjoint(call, inputs, action)
        if action.kind == "decompose":
            return self._decompose(call, action)
        if action.kind == "stop":
            self.steps.append(Step(_nothing, (), (), op, call.path, action))
            return call.run()
        if_last = self.rules.action(match._replace(last=True)) if linear else action
        # What a rule holds need not be held twice.
        reads = action.kind == "gradient" and op in SHIFTS and self.rules.functions_need_values
        hold = reads or op == "exp" or op in EXTREMA or self._pairing is not None
        part = Part.of(call, hold) if self._is_part(call) else None
        if action is if_last and action.kind == "gradient":
            out = self._record_adjoint(call, inputs, action)
        else:
            out = self._record_rule(call, inputs, action, if_last)
        if part is not None and len(self.steps[-1].outputs) == 1:
            self._parts[self.steps[-1].outputs[0].slot] = part
        return out

    def _is_part(self, call: RecordedCall) -> bool:
        """Whether a call may be part of an activation or a softmax that is written out."""
        if not self.rules.takes_functions:
            return False
        if call.op in ELEMENTWISE or call.op in EXTREMA:
            return True
        return call.op in MEMBERS and ("exp" in self.operations or call.origins[0].op in EXTREMA)

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

    def _record_adjoint(self, call: RecordedCall, inputs: tuple[int, ...], action: Action) -> Any:
        values = call.operands if self._keep else ()
        out, parts, pull = ordinary_adjoint(call)
        if parts:
            step = Step(pull, inputs, self._new_slots(call, parts), call.op, call.path, action, owned=gives_own(pull))
            self.steps.append(step._replace(values=Values(values, parts)) if self._keep else step)
        return out

    def _record_rule(self, call: RecordedCall, inputs: tuple[int, ...], action: Action, if_last: Action) -> Any:
        out = call.output = call.run()
        call.watch()
        if isinstance(out, Tensor) and (call.op in LINEAR or action.kind == "fold"):
            # A name of the model's own, so that the tape, which may hold the result, does not hold what the model then
            # lets that name stand for: where a relu writes over it, the relu's result.
            out = out.view_as(out)
        leaves = tuple([leaf for leaf in pytree.tree_leaves(out) if is_differentiable(leaf)])
        values = Values(call.operands, leaves) if self._keep else Values()
        outputs = self._new_slots(call, leaves)
        if not self._keep:
            self._recomputing.forget(call, inputs, outputs, action, self.steps[-1] if self.steps else None)
        later = action is not if_last
        if later or action.kind in ("fold", "join"):
            waits = if_last if later else None
            step = Step(_nothing, inputs, outputs, call.op, call.path, action, call, waits, values=values)
        else:
            pull, owned = pull_of(action, call, self.caller)
            step = Step(pull, inputs, outputs, call.op, call.path, action, call, values=values, owned=owned)
        self.steps.append(step)
        return out

    # --- bookkeeping -----------------------------------------------------------------------------------------

    def _new_slots(self, call: RecordedCall, outputs: tuple[Tensor, ...]) -> tuple[OutputSlot, ...]:
        new = self._slots.new
        return tuple([OutputSlot(new(t, origin(call, t)), t.shape, t.dtype, t.device) for t in outputs])

    def _rename(self, name: str, target: Tensor, args: tuple[Any, ...], out: Any) -> Any:
        """Let the written name stand for the new value; `x[i] = v` returns nothing, as the original."""
        value = pytree.tree_leaves(out)[0]
        self._aliases.write(target, value)
        return None if name == "__setitem__" else out

    def _read(self, tensor: Tensor) -> Tensor:
        return self._aliases.read(tensor, self.caller, self.path)

    def _read_all(self, values: Any) -> Any:
        return self._aliases.read_all(values, self.caller, self.path)

    def _check_level(self, positions: Positions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inner = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if positions or any(layer in self._slots for t in inner for layer in unwrapped(t)):
            raise self._unseen("a torch.func transform (vmap, grad, ...) inside the model")

    def _raise_unseen(self) -> None:
        if self._watch is not None and self._watch.unseen is not None:
            raise self._unseen(self._watch.unseen)

    def _unseen(self, what: str) -> UnsupportedOperationError:
        return UnsupportedOperationError(
            f"{self.caller}: in the module {self.path!r}, cannot see through {what}. "
            "Write that part in plain torch functions, or make its result a constant with detach()."
        )

    @property
    def activations(self) -> set[str]:
        """The nonlinearities that were met on the way from the root."""
        return self.operations & ACTIVATIONS


def _nothing(cotangent: Any) -> tuple[Any, ...]:
    return ()
