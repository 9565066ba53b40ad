"""A forward pass on record, whatever is then done with it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import TorchDynamoException, pytree
from ..calls.adjoints import is_differentiable
from ..errors import FuncattrError, UnsupportedOperationError, UntrackedPathError
from ..rulebook.rulebook import Rulebook
from ..torch_state import is_plain_eager
from .pairing import Pairing
from .recorder import Recorder
from .step import Step
from .walk import walk


class Record(NamedTuple):
    """A forward pass on record.

    Attributes:
        output: The value of the function.
        roots: Where the reverse pass ends: the inputs, or the value at the site.
        pull: `pull(cotangent, release=False) -> cotangents of the roots`; `release` frees what it passes. Where there
            are steps, it takes the options of `walk` too.
        activations: Nonlinearities met, by canonical name; empty where torch's own derivative did the work.
        steps: The tape, in the order of the forward pass; empty there too.
        baseline: The roots of a pass at a baseline, where there was one.
    """

    output: Any
    roots: tuple[Tensor, ...]
    pull: Callable[..., tuple[Tensor, ...]]
    activations: frozenset[str] = frozenset()
    steps: list[Step] = []  # noqa: RUF012  (nobody adds to it: there is no tape)
    baseline: tuple[Tensor, ...] = ()


class Recording(NamedTuple):
    """How a pass is recorded.

    Attributes:
        call: First words of errors.
        rules: The rulebook.
        begins: Sites at which the tape begins; none: at the inputs.
        sites: Names that are known beside those met, for errors.
        marks: Sites that become steps of their own, where conditions hold.
        strict: Whether operations that the rulebook does not know raise.
        keep: Whether the values at every step are kept.
        pairing: The pass at a baseline, whose calls are paired with those of this one.
        final: Whether nobody asks for a derivative of the result.
        whole: The function for a pass without a tape, if it runs linear maps of strided tokens in one piece by itself.
    """

    call: str
    rules: Rulebook
    begins: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    strict: bool = True
    keep: bool = False
    pairing: Pairing | None = None
    final: bool = False
    whole: Callable[..., Any] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the pass is that of the plain gradient, which torch computes itself."""
        empty = not self.rules.entries and self.rules.unlisted == "gradient"
        return empty and not self.marks and self.strict and not self.keep and self.pairing is None


def record(fn: Callable[..., Any], primals: tuple[Tensor, ...], how: Recording) -> Record:
    """Run `fn(*primals)` once and keep what the reverse pass to the root needs."""
    call = how.call
    recorder = Recorder(how.rules, how.begins, call, how.marks, how.keep, how.pairing, how.final)
    # Constants of the call are copied, so that a model which writes into its input never reaches the user's tensor.
    inputs = tuple(p.clone() for p in primals) if how.begins else recorder.track(primals)
    try:
        with torch.enable_grad(), recorder:
            output = fn(*inputs)
    except Exception as error:
        if not isinstance(error, FuncattrError):
            recorder.raise_refusal()
        if not isinstance(error, RuntimeError):
            raise
        if isinstance(error, TorchDynamoException):
            raise UnsupportedOperationError(
                f"{call}: in the module {recorder.path!r}, cannot see through a part that compiles itself (torch.cond, "
                "flex_attention, torch.compile). Write it in plain torch functions: an if, a softmax by name."
            ) from error
        if isinstance(error, FuncattrError | torch.OutOfMemoryError) or not _runs(fn, primals):
            raise
        raise UnsupportedOperationError(
            f"{call}: in the module {recorder.path!r}, the model runs, but not on record: "
            f"{str(error).strip().splitlines()[0]}. Write that part in plain torch functions."
        ) from error
    for site in how.begins:
        recorder.require(f"{call}(layer={site!r})", (site,), how.sites)
    recorder.require(call, how.marks, how.sites)
    for name in recorder.unreached:
        raise UntrackedPathError(
            f"{call}: the site {name!r} does not depend on {place_of(how.begins)}. Name one that lies after it."
        )
    output = recorder.finish(output, how.strict)
    leaves, spec = pytree.tree_flatten(output)
    slots = [recorder.slot(leaf) for leaf in leaves]
    if all(slot is None for slot in slots):
        raise independent(call, how.begins, [s for s in recorder.steps if s.action.kind == "stop"])
    steps, begun = recorder.steps, [recorder.begun[site] for site in how.begins]
    root_slots = tuple([slot for slot, _ in begun]) if begun else recorder.root_slots
    for site, slot in zip(how.begins, root_slots, strict=False):
        if len(begun) > 1 and not _leads_to(steps, slot, slots):
            raise independent(call, (site,))
    between = {step.outputs[0].slot for step in steps if step.mark} & {*root_slots}

    def pull(cotangent: Any, release: bool = False, asked: bool = False, **options: Any) -> tuple[Tensor, ...]:
        given = matching_leaves(call, cotangent, leaves_meta, spec)
        options["asked"] = asked and how.rules.may_hold
        start = {s: g for s, g in zip(slots, given, strict=True) if s is not None}
        if not between:
            found = walk(steps, start, release, **options)
        else:
            passing: dict[int, Any] = {}

            def keep(step: Step, arrived: list[Any], _: tuple[Any, ...]) -> None:
                if step.mark and step.outputs[0].slot in between:
                    passing[step.outputs[0].slot] = arrived[0]

            found = {**walk(steps, start, release, observer=keep, **options), **passing}
        return tuple(
            found[slot] if slot in found else torch.zeros(shape, dtype=dtype, device=device)
            for slot, (shape, dtype, device) in zip(root_slots, roots_meta, strict=True)
        )

    leaves_meta = [meta(leaf) for leaf in leaves]
    roots = tuple([value for _, value in begun]) if begun else primals  # no copies, which are freed where nobody reads
    roots_meta = [meta(r) for r in roots]
    return Record(output, roots, pull, frozenset(recorder.activations), steps)


def _leads_to(steps: list[Step], slot: int, ends: list[int | None]) -> bool:
    """Whether some of the ends was computed from what a slot stands for."""
    reached = {slot}
    for step in steps:
        if not reached.isdisjoint(step.inputs):
            reached.update([out.slot for out in step.outputs])
    return not reached.isdisjoint(ends)


def _runs(fn: Callable[..., Any], primals: tuple[Tensor, ...]) -> bool:
    """Whether the function runs by itself, so that an error on record is not its own."""
    if not is_plain_eager():
        return False
    try:
        with torch.no_grad():
            fn(*(p.clone() for p in primals))
    except Exception:
        return False
    return True


def meta(value: Any) -> tuple[Any, Any, Any]:
    """Shape, dtype and device of a tensor, None for anything else."""
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else (None, None, None)


def matching_leaves(call: str, cotangent: Any, expected: list[Any], spec: pytree.TreeSpec) -> list[Any]:
    """The leaves of a cotangent, checked against the output's structure and `meta`."""
    leaves, given = pytree.tree_flatten(cotangent)
    shapes = [m[0] for m in expected]
    if given != spec or [getattr(g, "shape", None) for g in leaves] != shapes:
        got = [tuple(getattr(g, "shape", ())) for g in leaves]
        raise ValueError(
            f"{call}: expected a cotangent with the output's structure and shapes "
            f"{[tuple(s) if s is not None else None for s in shapes]}, got {got}."
        )
    return leaves


def check_primals(call: str, primals: tuple[Any, ...], begins: tuple[str, ...]) -> None:
    """Raise unless the inputs are tensors, and have derivatives if the reverse pass ends at them."""
    if not primals:
        raise ValueError(f"{call}: expected at least one input tensor.")
    for p in primals:
        if not isinstance(p, Tensor):
            raise TypeError(f"{call}: expected tensors as inputs, got {type(p).__name__}.")
        if not begins and not is_differentiable(p):
            raise TypeError(
                f"{call}: expected a floating-point input, got {p.dtype}. Integer inputs have no attribution: give "
                "layer= (the site of the embedding), or pass embeddings (inputs_embeds)."
            )


def place_of(begins: tuple[str, ...]) -> str:
    """Where a record begins, in words."""
    return f"the site {', '.join(map(repr, begins))}" if begins else "the input"


def independent(call: str, begins: tuple[str, ...] = (), stopped: Sequence[Step] = ()) -> UntrackedPathError:
    """The error for an output that does not depend on the root, of which the rulebook has `stopped` some calls."""
    calls = ", ".join(dict.fromkeys(f"{step.op} in {step.path!r}" for step in stopped))
    constants = f"The rulebook makes a constant of {calls}: rules | {{'<operation>': rule}} gives it a rule. "
    return UntrackedPathError(
        f"{call}: the output does not depend on {place_of(begins)} by any path that can be differentiated. "
        f"{constants if calls else ''}Look for detach(), no_grad(), integer conversions or scripted functions in the "
        "model."
    )
