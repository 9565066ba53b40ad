"""Where results come from: what data flow alone says of them, whatever their values."""

import math
from typing import Any

import torch
from torch import Tensor

from .._torch import memory_of, unwrapped
from ..torch_state import can_look_at
from .call import Call, Origin
from .kinds import FUNCTION, GATES, GROUPS, LINEAR, LOOKED_THROUGH, SHIFTS, is_linear_map
from .operations import ACTIVATIONS, DROPOUTS, MAX_POOLS, VIEWS, canonical
from .parts import Parts, carried, joined, overwritten
from .ranges import RANGES, Range


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


_NONNEGATIVE = _ops("relu sigmoid hardsigmoid softmax exp exp2 square abs")
_KEEPS_SIGN = (
    VIEWS
    | MAX_POOLS
    | GROUPS["average_pool"]
    | _ops("dropout dropout1d dropout2d dropout3d mean sum amax amin relu pixel_shuffle pixel_unshuffle roll clone")
)
_MAY_KEEP_SIGN = _KEEPS_SIGN | _ops("add mul matmul cat stack pad")
_SCALES = _ops("mul div neg")
_CLAMPS = _ops("relu clamp clamp_min clamp_max")
_POWERS = _ops("pow square sqrt")
_BY_ARGUMENTS = SHIFTS | _SCALES | _CLAMPS | _POWERS | _ops("exp sigmoid hardtanh")
"""Operations whose results have an origin that depends on their arguments."""
_SHIFTED = "shift"
"""Stands for a value that a constant was added to, in an `Origin`."""


def origin(call: Call, result: Tensor) -> Origin:
    """The origin of a call's result."""
    op, origins = call.op, call.origins
    source, values, parts = op, None, None
    if op in LOOKED_THROUGH:
        source, values, parts = origins[0].op, origins[0].range, origins[0].parts
        if parts is not None or len(origins) > 1:
            source, values, parts = _put_together(call, result)
    elif op in _BY_ARGUMENTS and len(origins) == 1:
        source, values = _source(call, op, origins[0])
    nonnegative = op in _NONNEGATIVE or (op in _MAY_KEEP_SIGN and _keeps_sign(call))
    after_linear = op in LINEAR and is_linear_map(call)
    for operand in origins:  # nearly every call comes by, so no generator
        after_linear = after_linear or operand.after_linear
    return Origin(source, nonnegative and not result.is_complex(), after_linear, values, parts)


def retold(call: Call) -> str:
    """The operation of a call, by where its operand comes from: 1 / (1 + exp(-x)) is a sigmoid, and no scale."""
    op = call.op
    if op not in ("rdiv", "reciprocal"):
        return op
    values = _range(call.origins[0])
    if values is None or values.shape != "exp":
        return op
    return "exp" if 0 in values.ends else "sigmoid" if values.has_one_sign else op


# --- gates and what becomes of them -----------------------------------------------------------------------------------


def _range(before: Origin) -> Range | None:
    return before.range or RANGES.get(before.op)


def _source(call: Call, op: str, before: Origin) -> tuple[str, Range | None]:
    """The operation that the result of a call with one tracked operand comes from, and its range."""
    if op == "exp":
        return "sigmoid" if before.op == "logsigmoid" else op, None
    if op == "hardtanh":
        return op, _bounds_of_hardtanh(call)
    values = _range(before)
    if op == "sigmoid":
        is_quotient = values is not None and values.shape == "exp" and canonical(call.spelling).name != op
        return op, values.dividing(_numerator(call)) if values is not None and is_quotient else None
    if op in _CLAMPS:
        is_plain = values is None and (op != "relu" or before.op != _SHIFTED)  # nearly always
        return (op, None) if is_plain else _clamped(call, op, before, values)
    if values is not None:
        values = values.raised(_power(call, op)) if op in _POWERS else _affine(call, op, values)
        return (values and values.op) or op, values
    if op in SHIFTS:
        return _SHIFTED if _by_a_number(call) else op, None
    if op == "neg" and before.op == "softplus":
        return "logsigmoid", None
    return before.op if op in _SCALES and before.op == _SHIFTED else op, None


def _clamped(call: Call, op: str, before: Origin, values: Range | None) -> tuple[str, Range | None]:
    """The origin of a clamp: its operand's where it changes nothing, a gate where it bounds a shifted value."""
    low, high = 0.0 if op == "relu" else call.argument("min"), upper_bound(call)
    if values is not None and not isinstance(low, Tensor) and values.within(low, high):
        return before.op, values
    if op == "relu" and before.op == _SHIFTED and high is not None:
        return "hardsigmoid", Range("hardtanh", 0.0, high)
    return op, None


def _bounds_of_hardtanh(call: Call) -> Range | None:
    """The range of a hardtanh, which its arguments tell."""
    if not call.spelling.startswith("hardtanh"):
        return None
    return Range("hardtanh", float(call.argument("min_val", -1.0)), float(call.argument("max_val", 1.0)))


def upper_bound(call: Call) -> float | None:
    """Where a clamp saturates: 6 for relu6, `max` of a clamp, `max_val` of a hardtanh; nan for a tensor."""
    spelling = call.spelling
    if spelling in ("relu", "relu_"):  # nearly always
        return None
    if spelling in ("relu6", "relu6_"):
        return 6.0
    for name, default in (("max", None), ("max_val", 1.0 if spelling.startswith("hardtanh") else None)):
        if (bound := call.argument(name, default)) is not None:
            return math.nan if isinstance(bound, Tensor) else float(bound)
    return None


def _affine(call: Call, op: str, values: Range) -> Range:
    """The range of a multiple of a function, or of its sum with a constant."""
    if op == "neg":
        return values.scaled(-1)
    is_first = call.begins_with("input")
    other = call.argument("other" if is_first else "input")
    if op in _SCALES:
        factor = _number(other)
        return values.scaled(factor if op == "mul" else 1 / factor if factor else math.nan)
    alpha = _number(call.argument("alpha", 1))
    of_input, of_other = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[op]
    own, its = (of_input, of_other) if is_first else (of_other, of_input)
    return values.scaled(own).shifted(its * _number(other))


def _power(call: Call, op: str) -> float:
    return {"square": 2.0, "sqrt": 0.5}.get(op) or _number(call.argument("exponent"))


def _numerator(call: Call) -> float:
    """What a call divides by its operand; nan where it is no number."""
    name = canonical(call.spelling).name
    if name in ("reciprocal", "pow"):
        return 1.0 if name == "reciprocal" else math.nan
    return _number(call.argument("other" if call.begins_with("input") else "input"))


def _number(value: Any) -> float:
    """A number, or that of a tensor which has it everywhere; nan for others, and where it cannot be looked at."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, Tensor):
        return math.nan
    inner = [value, *unwrapped(value)][-1]
    if not can_look_at(inner) or inner.is_complex() or inner.layout != torch.strided or not inner.numel():
        return math.nan
    first = inner.flatten()[0]
    return float(first) if bool((inner == first).all()) else math.nan


def _by_a_number(call: Call) -> bool:
    """Whether the other argument is the same everywhere, as in a function; a bias is not."""
    operand = call.operands[0]
    return all(not isinstance(v, Tensor) or v is operand or v.numel() == 1 for v in call.args)


# --- values of several origins ----------------------------------------------------------------------------------------


def _put_together(call: Call, result: Tensor) -> tuple[str, Range | None, Parts | None]:
    """The origin of values that were moved from several places; its parts where they have several origins.

    Where nothing tells the parts apart, what moved them stands for all: it is no gate, and no activation.
    """
    origins = [_of_values(o) for o in call.origins]
    first = origins[0]
    if first.parts is None and all(o == first for o in origins):
        return first.op, first.range, None
    parts = _parts(call, first, result)
    if parts is not None:
        origins = [part.origin for part in parts.seen_by(result)]
        if all(o == origins[0] for o in origins):
            return origins[0].op, origins[0].range, None
    ops = {o.op for o in origins}
    if ops <= GATES:
        return "sigmoid", _SEVERAL_GATES, parts
    return FUNCTION if ops <= _ACTIVE else ops.pop() if len(ops) == 1 else call.op, None, parts


_COPIES = DROPOUTS | _ops(
    "reshape reshape_as flatten unflatten ravel contiguous clone to type type_as float double half bfloat16 cpu cuda"
)
"""Operations that keep all values in their order, and may copy them."""
_SEVERAL_GATES = Range("", 0.0, math.nan)
_ACTIVE = ACTIVATIONS | {FUNCTION}


def _of_values(of: Origin) -> Origin:
    return Origin(of.op, range=of.range, parts=of.parts)


def _parts(call: Call, first: Origin, result: Tensor) -> Parts | None:
    """The parts of a result that was put together, or of a view of such."""
    if len(call.origins) == 1:
        (operand,) = call.operands
        if first.parts is None or memory_of(operand) == memory_of(result):
            return first.parts
        return carried(first.parts, operand, result) if call.op in _COPIES else None
    if call.op == "__setitem__":
        _, index, _ = call.args
        if not _is_basic(index):
            return None
        return overwritten(result, result[index], first.parts, first, _of_values(call.origins[1]))
    if call.op not in ("cat", "stack"):
        return None
    tensors, dim = call.argument("tensors"), call.argument("dim", 0)
    known = {id(t): o for t, o in zip(call.operands, call.origins, strict=True)}
    lengths = [1 if call.op == "stack" else t.shape[dim] if t.ndim == result.ndim else 0 for t in tensors]
    return joined(result, dim, lengths, [_of_values(known.get(id(t), Origin())) for t in tensors])


def _is_basic(index: Any) -> bool:
    """Whether an index makes a view."""
    keys = index if isinstance(index, tuple) else (index,)
    return all(type(key) in (int, slice, type(None), type(...)) for key in keys)


# --- signs ------------------------------------------------------------------------------------------------------------


def _keeps_sign(call: Call) -> bool:
    """Whether the result has no negative values because the operands have none."""
    op, origins, args = call.op, call.origins, call.args
    if not all(o.nonnegative for o in origins):
        return False
    if op in ("add", "mul", "matmul"):
        return len(origins) == len(args) == 2 and not call.kwargs  # no constant, no alpha
    if op in ("cat", "stack"):
        return len(origins) == len(call.argument("tensors"))
    if op == "pad":
        value = call.argument("value")
        return value is None or value >= 0
    if op in GROUPS["average_pool"]:
        return "divisor_override" not in call.kwargs and len(args) < 7
    return op in _KEEPS_SIGN
