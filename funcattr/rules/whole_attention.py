"""Attention in one call, where the rules of its operations only scale their adjoints: memory is linear in the length.

With w the weights and s the scores, the fused kernel's own adjoint is that of w v, softmax(s) and q k^T in turn. A rule
that gives a factor of a product a part of the adjoint multiplies everything before that factor by a number: so do
AttnLRP (1/2 to each of two tracked factors) and CP-LRP (the weights are constants).
"""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._torch import current_level, func_vjp, inside_derivative, pytree, unwrapped, without_saved_hooks
from ..calls.adjoints import leaf_of, outside_inference_mode
from ..calls.call import Origin
from ..calls.declarations import is_row_by_row
from ..calls.inplace import plus, times
from ..calls.recorded_call import RecordedCall
from ..rulebook.actions import GRADIENT, STOP, Action
from ..torch_state import is_plain_eager, is_traced
from .gradient_space import halved, ungated
from .products import shares, ungated_shares

ActionOf = Callable[[str, bool], Action]
"""`(operation, whether it is a linear map of its only tracked operand) -> what the rulebook does with it`."""
_MANY, _SCORES, _QUERIES = 2**25, 2**22, 64
"""With how many scores rules go by blocks of queries; the scores in a block, and the fewest queries in one."""


Adjoint = Callable[[Tensor], tuple[Tensor, ...]]
"""Cotangent -> one for each operand that gets a part."""
Pull = Callable[[Tensor], tuple[Tensor | None, ...]]


def in_one_call(
    written: Callable[..., Tensor], call: RecordedCall, action_of: ActionOf, pull_apart: Callable[..., Any]
) -> tuple[Tensor, Pull | None] | None:
    """Run `scaled_dot_product_attention` as itself; None where it cannot, or where somebody may differentiate it.

    Args:
        written: The same in simpler operations, which transforms know.
        call: The call.
        action_of: What the rulebook does with each of these operations.
        pull_apart: Puts a function on record and pulls a cotangent back.

    Returns:
        Its output, and the pullback, None where nothing flows.
    """
    names = call.tracked_names()
    if call.argument("dropout_p", 0.0) != 0 or not {*names} <= {*_OPERANDS} or _is_differentiated(call):
        return None
    parts, way = scales(call, action_of), _way(call)
    device = call.operands[0].device.type
    # Blocks are run again in the reverse pass, which may be elsewhere.
    as_now = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    written = partial(_under_autocast, as_now, written)
    if way is None:
        return None
    if call.compared or parts is None:
        return _ruled_by_blocks(written, call, action_of, pull_apart)
    if not any(parts):
        return _output(call, written), None
    output, adjoint = way(call, parts, written)
    return output, Scaled(call, parts, adjoint, written, current_level())


def _under_autocast(
    state: tuple[str, torch.dtype, bool], written: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Any:
    with torch.autocast(*state):
        return written(*args, **kwargs)


_OPERANDS = ("query", "key", "value", "attn_mask")


def scales(call: RecordedCall, action_of: ActionOf) -> tuple[float, ...] | None:
    """The number for each tracked operand of attention; None where the rules do more than to scale."""
    names = call.tracked_names()
    origins = dict(zip(names, call.origins, strict=True))
    scored = [name for name in ("query", "key") if name in origins]
    weighted = bool(scored) or "attn_mask" in origins
    if not _passes(call, origins, scored, action_of):
        return None
    softmax = action_of("softmax", False) if weighted else STOP
    of_scores = _factors([origins[name] for name in scored], action_of)
    weights = [Origin("softmax")] if softmax == GRADIENT else []
    of_mixed = _factors([*weights, *(origins[name] for name in ("value",) if name in origins)], action_of)
    if softmax not in (GRADIENT, STOP) or of_scores is None or of_mixed is None:
        return None
    found = {"value": of_mixed[-1]} if "value" in origins else {}
    of_weights = of_mixed[0] if weights else 0.0
    found["attn_mask"] = of_weights
    found |= {name: of_weights * part for name, part in zip(scored, of_scores, strict=True)}
    return tuple([found[name] for name in names])


_HALVED, _UNGATED = Action("rule", halved), Action("rule", ungated)


def _factors(origins: list[Origin], action_of: ActionOf) -> list[float] | None:
    """The part of a matrix product's adjoint that each tracked factor gets."""
    if not origins:
        return []
    action = action_of("matmul", len(origins) == 1)
    if action == GRADIENT:
        return [1.0] * len(origins)
    return shares(origins) if action == _HALVED else ungated_shares(origins) if action == _UNGATED else None


def _passes(call: RecordedCall, origins: dict[str, Origin], scored: list[str], action_of: ActionOf) -> bool:
    """Whether the operations of attention beside its products and its softmax have their ordinary adjoint."""
    mask = call.argument("attn_mask")
    if "query" in origins and action_of("mul", False) not in (GRADIENT, _HALVED, _UNGATED):
        return False
    passed = ["mT"] if "key" in origins else []
    if call.argument("enable_gqa", False) and ("key" in origins or "value" in origins):
        passed.append("repeat_interleave")
    if mask is not None or (call.argument("is_causal", False) and scored):
        passed.append("masked_fill")
    if mask is not None and mask.dtype != torch.bool and (scored or "attn_mask" in origins):
        passed.append("add")
    return all(action_of(op, False) == GRADIENT for op in passed)


# --- any rules, a block of queries at a time --------------------------------------------------------------------------


def _ruled_by_blocks(
    written: Callable[..., Tensor], call: RecordedCall, action_of: ActionOf, pull_apart: Callable[..., Any]
) -> tuple[Tensor, Pull] | None:
    """Attention of many tokens whose rules all treat each query alone; None for others."""
    named, names = call.named(), call.tracked_names()
    few = named["query"].shape[-2] * _scores_of_a_query(named) < _MANY
    if few or "attn_mask" in names:  # what a mask gets is as large as all scores
        return None
    actions = [action_of(op, False) for op in _OPERATIONS] + [action_of("matmul", one) for one in _products(names)]
    if not all(a == GRADIENT or (a.function is not None and is_row_by_row(a.function)) for a in actions):
        return None
    return _output(call, written), ByBlocks(call, written, pull_apart)


_OPERATIONS = ("mul", "mT", "repeat_interleave", "add", "masked_fill", "softmax")
"""The operations of attention beside its products."""


def _products(names: tuple[str, ...]) -> list[bool]:
    """Of each product of attention that has a tracked factor, whether it has one only, and is linear in that."""
    scored = len({"query", "key"} & {*names})
    return [count == 1 for count in (scored, (scored > 0) + ("value" in names)) if count]


class ByBlocks(NamedTuple):
    """A decomposition that is recorded in the reverse pass, for a block of queries at a time."""

    call: RecordedCall
    written: Callable[..., Tensor]
    pull_apart: Callable[..., Any]

    def __repr__(self) -> str:
        return f"decompose({self.call.op}) by blocks"

    def __call__(self, g: Tensor) -> tuple[Tensor, ...]:
        """The pullback."""
        self.call.settled()  # raises if something was written
        named, before = self.call.named(), None if self.call.baseline is None else self.call.baseline.named()
        names = self.call.tracked_names()
        queries, totals = list[Tensor](), {name: torch.zeros_like(named[name]) for name in names if name != "query"}
        for rows in _blocks(named):
            operands, others = _split(_block(named, rows), names)
            at_baseline = None if before is None else _split(_block(before, rows), names)[0]
            run = partial(_with_operands, self.written, names, others)
            backs = self.pull_apart(run, operands, at_baseline, g[..., rows, :])
            for name, back in zip(names, backs, strict=True):
                if name == "query":
                    queries.append(back)
                else:
                    totals[name] = plus(totals[name], back)
        return tuple([torch.cat(queries, -2) if name == "query" else totals[name] for name in names])


def _split(block: dict[str, Any], names: tuple[str, ...]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    operands = tuple(block.pop(name) for name in names)
    return operands, block


def _with_operands(
    written: Callable[..., Tensor], names: tuple[str, ...], others: dict[str, Any], *operands: Tensor
) -> Tensor:
    return written(**dict(zip(names, operands, strict=True)), **others)


# --- running it -------------------------------------------------------------------------------------------------------


def _is_differentiated(call: RecordedCall) -> bool:
    """Whether somebody may differentiate what the call gives, and what its pullback gives."""
    if inside_derivative():
        return True
    layers = [layer for t in call.tensors() for layer in (t, *unwrapped(t))]
    return any(t.requires_grad or forward_ad.unpack_dual(t).tangent is not None for t in layers)


def _way(call: RecordedCall) -> Callable[..., tuple[Tensor, Adjoint]] | None:
    """The fastest way that knows the tensors of a call; None where the decomposition does better."""
    if is_plain_eager() and not torch.is_inference_mode_enabled():
        return _by_autograd
    if any(isinstance(n, torch.SymInt) for t in call.tensors() for n in t.shape):
        return None  # fused kernels fix the size of a batch, blocks the length
    return _by_func if is_traced() and current_level() is None else _by_blocks


def _by_autograd(call: RecordedCall, parts: tuple[float, ...], written: Any) -> tuple[Tensor, Adjoint]:
    args, kwargs = pytree.tree_map_only(Tensor, outside_inference_mode, (call.args, call.kwargs))
    operands = [leaf_of(t) if part else t for t, part in zip(call.operands, parts, strict=True)]
    leaves = [t for t, part in zip(operands, parts, strict=True) if part]
    with torch.enable_grad(), without_saved_hooks():
        out = call.with_arguments(args, kwargs, operands)
    return out.detach(), partial(torch.autograd.grad, out, leaves, retain_graph=True)


def _by_func(call: RecordedCall, parts: tuple[float, ...], written: Any) -> tuple[Tensor, Adjoint]:
    receiving = [part != 0 for part in parts]

    def run(*operands: Tensor) -> Tensor:
        given = iter(operands)
        return call(*(next(given) if r else t for r, t in zip(receiving, call.operands, strict=True)))

    found: Any = func_vjp(run, *(t for r, t in zip(receiving, call.operands, strict=True) if r))
    return found


def _by_blocks(call: RecordedCall, parts: tuple[float, ...], written: Any) -> tuple[Tensor, Adjoint]:
    return _mixed_by_blocks(call, written), partial(_adjoint_by_blocks, call, parts, written)


def _mixed_by_blocks(call: RecordedCall, written: Callable[..., Tensor]) -> Tensor:
    return torch.cat([written(**_block(call.named(), rows)) for rows in _blocks(call.named())], -2)


def _output(call: RecordedCall, written: Callable[..., Tensor]) -> Tensor:
    return call.run().detach() if current_level() is None else _mixed_by_blocks(call, written)


class Scaled(NamedTuple):
    """The ordinary adjoint of a call, times a number for each tracked operand."""

    call: RecordedCall
    parts: tuple[float, ...]
    adjoint: Adjoint
    written: Callable[..., Tensor]
    level: int | None

    def __repr__(self) -> str:
        each = zip(self.call.tracked_names(), self.parts, strict=True)
        return f"adjoint: {', '.join(f'{Fraction(part)} of {name}' for name, part in each)}"

    def __call__(self, g: Tensor) -> tuple[Tensor | None, ...]:
        """The pullback: by blocks in place of the adjoint, where somebody may differentiate it or maps it."""
        self.call.check_unwritten()
        adjoint = self.adjoint
        if current_level() != self.level or (g.requires_grad and torch.is_grad_enabled()):
            adjoint = partial(_adjoint_by_blocks, self.call, self.parts, self.written)
        found = iter(adjoint(g))
        return tuple([_times(next(found), part) if part else None for part in self.parts])


def _times(own: Tensor, part: float) -> Tensor:
    return own if part == 1 else times(own, part)


def _adjoint_by_blocks(call: RecordedCall, parts: tuple[float, ...], written: Any, g: Tensor) -> tuple[Tensor, ...]:
    """The adjoint by a block of queries at a time, whose weights are computed again."""
    named = call.named()
    names = [name for name, part in zip(call.tracked_names(), parts, strict=True) if part]

    def of(rows: slice) -> tuple[Tensor, ...]:
        def run(*operands: Tensor) -> Tensor:
            return written(**_block({**named, **dict(zip(names, operands, strict=True))}, rows))

        found: Any = func_vjp(run, *(named[name] for name in names))
        out, adjoint = found
        return adjoint(g[..., rows, :].to(out.dtype))

    first, *others = _blocks(named)
    total = of(first)
    for rows in others:
        total = tuple([a + b for a, b in zip(total, of(rows), strict=True)])
    return total


def _blocks(named: dict[str, Any]) -> list[slice]:
    """The queries, in blocks with few enough scores."""
    length = named["query"].shape[-2]
    size = max(_QUERIES, _SCORES // max(1, _scores_of_a_query(named)))
    return [slice(start, min(start + size, length)) for start in range(0, max(1, length), size)]


def _scores_of_a_query(named: dict[str, Any]) -> int:
    """The keys, times the heads and examples."""
    return named["key"].shape[-2] * math.prod(named["query"].shape[:-2])


def _block(named: dict[str, Any], rows: slice) -> dict[str, Any]:
    """The arguments of attention for some of its queries."""
    mask = named.get("attn_mask")
    block = {**named, "query": named["query"][..., rows, :], "first": rows.start}
    if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
        block["attn_mask"] = mask[..., rows, :]
    return block
