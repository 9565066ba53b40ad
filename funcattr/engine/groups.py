"""Groups of operations that get the same rule, and what data flow tells of an operation's result.

A rulebook names a group where it would name an operation. "linear_map", "convolution" and "dense" mean calls with one
tracked factor (the weight is a constant); calls of the same operations with more tracked are a "contraction".
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .calls import Call, Origin
from .operations import ACTIVATIONS, VIEWS


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


_CONVOLUTIONS = _ops("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
_DENSE = _ops("linear addmm matmul einsum tensordot inner")
LINEAR: frozenset[str] = _CONVOLUTIONS | _DENSE
"""Operations that are linear maps of their tracked operand where the other factor is a constant."""
NORMALIZATIONS = _ops("batch_norm layer_norm group_norm instance_norm rms_norm")
_ONE_FACTOR: Mapping[str, frozenset[str]] = {"linear_map": LINEAR, "convolution": _CONVOLUTIONS, "dense": _DENSE}
_POOLS = _ops("max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d")

GROUPS: Mapping[str, frozenset[str]] = {
    **_ONE_FACTOR,
    "contraction": LINEAR,
    # Each output value depends on one value of the input.
    "activation": ACTIVATIONS
    | _ops("pow rpow square exp exp2 expm1 log log2 log10 log1p log_softmax sin cos tan asin acos atan sinh cosh")
    | _ops("asinh acosh atanh erf erfc sqrt abs neg clamp clamp_min clamp_max nan_to_num sinc"),
    "dropout": _ops("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"),
    # Linear in all tracked operands together.
    "summation": _ops("add sub rsub mean sum nanmean nansum cumsum index_add scatter_add interpolate upsample")
    | _ops("fold"),
    "average_pool": _ops(
        "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
    ),
    "max_pool": _POOLS | _ops("max min amax amin maximum minimum fmax fmin median nanmedian cummax cummin"),
    # Values are moved, copied or left out; the adjoint keeps the books.
    "selection": VIEWS - _ops("dropout")
    | _ops(
        "cat stack hstack vstack dstack pad clone expand repeat repeat_interleave tile roll flip fliplr flipud rot90"
    )
    | _ops(
        "where masked_fill masked_scatter masked_select index_select index_copy index_fill gather take take_along_dim"
    )
    | _ops(
        "scatter index_put put select_scatter slice_scatter diagonal_scatter topk sort msort kthvalue tril triu diag"
    )
    | _ops("diag_embed pixel_shuffle pixel_unshuffle channel_shuffle column_stack meshgrid copy __setitem__ fill zero")
    | _ops("unsafe_chunk unsafe_split swapaxes block_diag cartesian_prod combinations as_tensor requires_grad"),
    # Constants of the reverse pass: the scale of a normalisation written by hand.
    "statistic": _ops("rsqrt reciprocal rdiv var std var_mean std_mean norm linalg_norm linalg_vector_norm")
    | _ops("linalg_matrix_norm vector_norm matrix_norm frobenius_norm"),
}
"""Group name -> operations."""


def in_group(group: str, op: str, linear: bool) -> bool:
    """Whether a call of `op`, which is a linear map of its only tracked operand if `linear`, belongs to the group."""
    if op not in GROUPS[group]:
        return False
    return linear if group in _ONE_FACTOR else not linear if group == "contraction" else True


def is_linear_map(call: Call) -> bool:
    """Whether the call is linear in its only tracked operand: a factor, not the bias, nor a convolution's weight."""
    if call.op not in LINEAR or len(call.operands) != 1:
        return False
    if call.op in _CONVOLUTIONS:
        return call.operands[0] is call.argument("input")
    return call.operands[0] is not call.argument("input" if call.op == "addmm" else "bias")


_MOVING = GROUPS["selection"] | GROUPS["summation"]
_NOT_READING_RESULTS = (
    _MOVING
    | LINEAR
    | NORMALIZATIONS
    | GROUPS["max_pool"]
    | GROUPS["average_pool"]
    | _ops("mul div pow square sin cos sinh cosh asin acos atan erf neg abs log log1p log2 log10 clamp clamp_min")
)


def read_by_adjoint(call: Call, results: tuple[Tensor, ...]) -> list[Tensor]:
    """What the ordinary adjoint of a call may read: its arguments, or masks and indices of them, and its results."""
    given = call.held_arguments()
    if call.op in _MOVING:
        # x[:, i] takes the number out of a tensor i of one.
        given = [t for t in given if t.dtype == torch.bool or not (t.is_floating_point() or t.ndim == 0)]
    return given if call.op in _NOT_READING_RESULTS else [*given, *results]


GATES = _ops("sigmoid hardsigmoid")
"""What computes a gate, a factor between 0 and 1 that says how much of a signal passes; 1 - gate is one too."""
_NONNEGATIVE = _ops("relu sigmoid hardsigmoid softmax exp exp2 square abs")
_KEEPS_SIGN = (
    VIEWS
    | _POOLS
    | GROUPS["average_pool"]
    | _ops("dropout dropout1d dropout2d dropout3d mean sum amax amin relu pixel_shuffle pixel_unshuffle roll clone")
)
_LOOKED_THROUGH = GROUPS["selection"] | GROUPS["dropout"]


def origin(call: Call, result: Tensor) -> Origin:
    """What data flow says of a call's result."""
    op, origins = call.op, call.origins
    is_complement = op == "rsub" and origins[0].op in GATES
    source = origins[0].op if op in _LOOKED_THROUGH or is_complement else op
    nonnegative = not result.is_complex() and (op in _NONNEGATIVE or _keeps_sign(call))
    after_linear = is_linear_map(call) or any(o.after_linear for o in origins)
    return Origin(source, nonnegative, after_linear)


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
