"""The rule-driven reverse pass: `torch.func.vjp` with some adjoints replaced."""

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from .adjoints import is_differentiable
from .conditions import Conditions
from .errors import UntrackedPathError
from .functional import functionalize
from .levels import is_differentiated
from .linear_map import in_one_piece
from .owned import plus
from .pairing import Pairing
from .recorder import Recorder
from .rulebook import Rulebook, as_rulebook
from .stand_in import StandIn, leaf_of
from .steps import Step

Backward = Callable[..., tuple[Tensor, ...]]


class Record(NamedTuple):
    """A forward pass on record.

    Attributes:
        output: What the function returned.
        roots: Where the reverse pass ends: the inputs, or the value at the site.
        pull: `pull(cotangent, release=False) -> cotangents of the roots`; `release` frees what it passes. Where there
            are steps, it takes the options of `walk` too.
        activations: Nonlinearities met, by canonical name; empty where `torch.func.vjp` did the work.
        steps: The tape, in the order of the forward pass; empty there too.
        reference: The roots of a pass at a reference, where there was one.
    """

    output: Any
    roots: tuple[Tensor, ...]
    pull: Backward
    activations: frozenset[str]
    steps: list[Step]
    reference: tuple[Tensor, ...] = ()


def record(
    fn: Callable[..., Any],
    primals: tuple[Tensor, ...],
    rules: Rulebook,
    root: str | None = None,
    call: str = "vjp",
    sites: tuple[str, ...] = (),
    marks: tuple[str, ...] = (),
    strict: bool = True,
    keep: bool = False,
    pairing: Pairing | None = None,
    final: bool = False,
) -> Record:
    """Run `fn(*primals)` once and keep what the reverse pass to the root needs.

    `sites` are known beside those met; `marks` are sites where conditions hold; `strict` raises for operations that the
    rulebook does not know; `keep` keeps the values at every step; each call meets its partner of `pairing`; nobody asks
    for a derivative of what is `final`.
    """
    _check_primals(call, primals, root)
    if not rules.entries and rules.unlisted == "gradient" and not marks and strict and not keep and pairing is None:
        if root is None:
            return (_autograd_record if final else _plain_record)(fn, primals, call)
        found = _autograd_record_at(fn, primals, root, call, sites) if final else None
        if found is not None:
            return found
    recorder = Recorder(rules, root, call, marks, keep, pairing)
    # Constants of the call are copied, so that a model which writes into its input never reaches the user's tensor.
    inputs = recorder.track(primals) if root is None else tuple(p.clone() for p in primals)
    with torch.enable_grad(), recorder:
        output = fn(*inputs)
    if root is not None:
        recorder.require(f"{call}(layer={root!r})", (root,), sites)
    recorder.require(call, marks, sites)
    for name in recorder.unreached:
        raise _unreached(call, name, root)
    output = recorder.finish(output, strict)
    leaves, spec = pytree.tree_flatten(output)
    slots = [recorder.slot(leaf) for leaf in leaves]
    if all(slot is None for slot in slots):
        raise _independent(call, root)
    steps, root_slots = recorder.steps, recorder.root_slots

    def pull(cotangent: Any, release: bool = False, **options: Any) -> tuple[Tensor, ...]:
        seeds = _matching_leaves(call, cotangent, leaves_meta, spec)
        start = {s: g for s, g in zip(slots, seeds, strict=True) if s is not None}
        found = walk(steps, start, release, **options)
        return tuple(
            found[slot] if slot in found else torch.zeros(shape, dtype=dtype, device=device)
            for slot, (shape, dtype, device) in zip(root_slots, roots_meta, strict=True)
        )

    leaves_meta = [_meta(leaf) for leaf in leaves]
    roots_meta = [_meta(r) for r in recorder.roots]
    return Record(output, recorder.roots, pull, frozenset(recorder.activations), steps)


# After a graph break Dynamo compiles the functions of an eager call one by one; those of a recorder must be left alone.
record_eagerly: Any = torch.compiler.disable(record)


def walk(
    steps: list[Step],
    cotangents: dict[int, Any],
    release: bool,
    conditions: Conditions | None = None,
    observe: Callable[[Step, list[Any], tuple[Any, ...]], None] | None = None,
) -> dict[int, Any]:
    """Walk the recorded calls backwards from the cotangents of some slots; those that remain are the roots'.

    `conditions` hold at the marked sites; `observe(step, arrived, results)` is told of each step that is passed.
    """
    pending = steps if release else steps.copy()
    while pending:
        step = pending.pop()
        arrived = [cotangents.pop(out.slot, None) for out in step.outputs]
        if step.mark and conditions is not None:
            arrived = conditions.at(step.mark, arrived, cotangents)
        if len(arrived) == 1:
            if arrived[0] is None:
                continue
            results = step.pull(arrived[0])
        elif all(g is None for g in arrived):
            continue
        else:
            arrived = [out.zeros() if g is None else g for out, g in zip(step.outputs, arrived, strict=True)]
            results = step.pull(tuple(arrived))
        if observe is not None:
            observe(step, arrived, results)
        add = plus if step.owned and observe is None else operator.add
        for slot, g in zip(step.inputs, results, strict=True):
            if g is not None:
                cotangents[slot] = add(g, cotangents[slot]) if slot in cotangents else g
    return cotangents


def _autograd_record(fn: Callable[..., Any], primals: tuple[Tensor, ...], call: str) -> Record:
    """The same by autograd alone, which is faster (a third for attention), and whose result has no derivative."""
    inputs = [leaf_of(p) for p in primals]
    with torch.enable_grad():
        output = in_one_piece(fn)(*(x.clone() for x in inputs))
    return _pulled_by_autograd(call, output, inputs, primals, None)


def _autograd_record_at(
    fn: Callable[..., Any], primals: tuple[Tensor, ...], root: str, call: str, sites: tuple[str, ...]
) -> Record | None:
    """The same from a site on; None where the model writes into the site's value by another name."""
    stand_in = StandIn(root, call)
    with torch.enable_grad(), stand_in:
        output = in_one_piece(fn)(*(p.clone() for p in primals))
    stand_in.require(f"{call}(layer={root!r})", (root,), sites)
    if stand_in.is_written():
        return None
    return _pulled_by_autograd(call, output, [stand_in.leaf], (stand_in.value,), root)


def _pulled_by_autograd(
    call: str, output: Any, inputs: list[Tensor], roots: tuple[Tensor, ...], root: str | None
) -> Record:
    leaves, spec = pytree.tree_flatten(output)
    if not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        raise _independent(call, root)
    leaves_meta = [_meta(leaf) for leaf in leaves]

    def pull(cotangent: Any, release: bool = False, **options: Any) -> tuple[Tensor, ...]:
        seeds = _matching_leaves(call, cotangent, leaves_meta, spec)
        pairs = [(y, g) for y, g in zip(leaves, seeds, strict=True) if isinstance(y, Tensor) and y.requires_grad]
        outputs, given = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, inputs, given, retain_graph=not release, allow_unused=True)
        if all(g is None for g in found):  # it depends on some tensor of the model's alone
            raise _independent(call, root)
        return tuple(torch.zeros_like(p) if g is None else g for p, g in zip(roots, found, strict=True))

    return Record(pytree.tree_map_only(Tensor, torch.detach, output), roots, pull, frozenset(), [])


def _plain_record(fn: Callable[..., Any], primals: tuple[Tensor, ...], call: str) -> Record:
    """Without rules the reverse pass is `torch.func.vjp` itself."""
    run = in_one_piece(fn)

    def checked(*inputs: Tensor) -> Any:
        # Copies, so that a model which writes into its input reaches neither a leaf nor the user's tensor.
        output = run(*(x.clone() for x in inputs))
        # Dynamo cannot trace the question, and has no need: it is asked when the model runs eagerly.
        if not torch.compiler.is_dynamo_compiling() and not any(map(is_differentiated, pytree.tree_leaves(output))):
            raise _independent(call, None)
        return output

    found: Any = torch.func.vjp(checked, *primals)
    output, adjoint = found
    leaves, spec = pytree.tree_flatten(output)
    leaves_meta = [_meta(leaf) for leaf in leaves]

    def pull(cotangent: Any, release: bool = False, **options: Any) -> tuple[Tensor, ...]:
        _matching_leaves(call, cotangent, leaves_meta, spec)
        return adjoint(cotangent, retain_graph=not release)

    return Record(output, primals, pull, frozenset(), [])


def vjp(
    fn: Callable[..., Any], *primals: Tensor, rules: Rulebook | Mapping[Any, Any] | None = None
) -> tuple[Any, Callable[[Any], tuple[Tensor, ...]]]:
    """Run `fn` and return its output with a function that pulls cotangents back to the inputs, by `rules`.

    With no rules this is `torch.func.vjp`. A rule is `rule(call, cotangent) -> one cotangent per tracked operand`
    (see `Call`); operations without one keep their ordinary adjoint, unless the rulebook says `unlisted="raise"`.

    Args:
        fn: A pure function of tensors: a callable, or a module (which is functionalised).
        primals: Floating-point inputs. Any shapes.
        rules: A `Rulebook`, or a dict from operation (name or torch function) to rule. None: the plain adjoint.

    Returns:
        `(output, pullback)`; `pullback(cotangent of the output)` is a tuple with one cotangent for each primal, and
        may be called many times, also under `vmap`.

    Raises:
        UnsupportedOperationError: If `fn` does something that no rule covers, or that cannot be seen through.
        UntrackedPathError: If the output does not depend on the inputs.

    Example:
        >>> import torch, funcattr
        >>> y, pullback = funcattr.vjp(lambda x: torch.relu(x) * 3, torch.tensor([1.0, -1.0]))
        >>> pullback(torch.ones(2))
        (tensor([3., 0.]),)
    """
    book = as_rulebook(rules)
    fn = functionalize(fn) if isinstance(fn, nn.Module) else fn
    if torch.compiler.is_dynamo_compiling() and book.entries:
        raise NotImplementedError(
            "vjp(rules=...): torch.compile cannot trace a ruled pullback. Compile a call of a method, or of "
            "attribute(..., rules=...), or trace with make_fx."
        )
    run = record if torch.compiler.is_dynamo_compiling() else record_eagerly
    found = run(fn, primals, book)
    return found.output, lambda cotangent: found.pull(cotangent)


def _meta(value: Any) -> tuple[Any, Any, Any]:
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else (None, None, None)


def _matching_leaves(call: str, cotangent: Any, meta: list[Any], spec: pytree.TreeSpec) -> list[Any]:
    leaves, given = pytree.tree_flatten(cotangent)
    shapes = [m[0] for m in meta]
    if given != spec or [getattr(g, "shape", None) for g in leaves] != shapes:
        got = [tuple(getattr(g, "shape", ())) for g in leaves]
        raise ValueError(
            f"{call}: expected a cotangent with the output's structure and shapes "
            f"{[tuple(s) if s is not None else None for s in shapes]}, got {got}."
        )
    return leaves


def _check_primals(call: str, primals: tuple[Any, ...], root: str | None) -> None:
    if not primals:
        raise ValueError(f"{call}: expected at least one input tensor.")
    for p in primals:
        if not isinstance(p, Tensor):
            raise TypeError(f"{call}: expected tensors as inputs, got {type(p).__name__}.")
        if root is None and not is_differentiable(p):
            raise TypeError(
                f"{call}: expected a floating-point input, got {p.dtype}. Integer inputs have no attribution: give "
                "layer= (the site of the embedding), or pass embeddings (inputs_embeds)."
            )


def _unreached(call: str, name: str, root: str | None) -> UntrackedPathError:
    where = f"the site {root!r}" if root else "the input"
    return UntrackedPathError(f"{call}: the site {name!r} does not depend on {where}. Name one that lies after it.")


def _independent(call: str, root: str | None) -> UntrackedPathError:
    where = f"the site {root!r}" if root else "the input"
    return UntrackedPathError(
        f"{call}: the output does not depend on {where} by any path that can be differentiated. "
        "Look for detach(), no_grad(), integer conversions or scripted functions in the model."
    )
