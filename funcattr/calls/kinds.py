"""Groups of operations that get the same rule.

A rulebook names a group where it would name an operation. "linear_map", "convolution" and "dense" mean calls with one
tracked factor (the weight is a constant); calls of the same operations with more tracked are a "contraction".
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .call import Call
from .operations import ACTIVATIONS, AVERAGE_POOLS, CONVOLUTIONS, DROPOUTS, MAX_POOLS, NORMALIZATIONS, VIEWS
from .recorded_call import RecordedCall


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


FOURIER = "fft fft2 fftn hfft hfft2 hfftn rfft rfft2 rfftn ifft ifft2 ifftn ihfft ihfft2 ihfftn irfft irfft2 irfftn"
COPIES = (
    "expand diagonal alias as_strided narrow view permute squeeze transpose t unbind unsqueeze unfold split "
    "split_with_sizes detach select slice"
)
_CONVOLUTIONS = frozenset(CONVOLUTIONS)
_DENSE = _ops("linear addmm grouped_mm matmul rmatmul einsum tensordot inner cross linalg_cross vdot linalg_vecdot")
LINEAR: frozenset[str] = _CONVOLUTIONS | _DENSE
"""Operations that are linear maps of their tracked operand where the other factor is a constant."""
_ONE_FACTOR: Mapping[str, frozenset[str]] = {"linear_map": LINEAR, "convolution": _CONVOLUTIONS, "dense": _DENSE}

GROUPS: Mapping[str, frozenset[str]] = {
    **_ONE_FACTOR,
    "contraction": LINEAR,
    # Each output value depends on one value of the input.
    "activation": ACTIVATIONS
    | _ops("pow rpow square exp exp2 expm1 log log2 log10 log1p log_softmax sin cos tan asin acos atan sinh cosh")
    | _ops("asinh acosh atanh erf erfc sqrt abs neg clamp clamp_min clamp_max nan_to_num sinc function")
    | _ops("erfinv erfcx ndtr ndtri log_ndtr logit entr i0 i0e i1 i1e lgamma digamma polygamma mvlgamma angle")
    | _ops("deg2rad rad2deg frac fmod remainder floor ceil round trunc copysign ldexp xlogy xlog1py atan2")
    | _ops("logaddexp logaddexp2 nextafter positive"),
    "dropout": DROPOUTS,
    # Linear in all tracked operands together.
    "summation": _ops("add sub rsub mean sum nanmean nansum cumsum index_add scatter_add scatter_mean interpolate")
    | _ops("upsample fold sum_to_size trace diff trapz trapezoid cumulative_trapezoid einsum_of_one segment_reduce")
    | _ops("grid_sample _upsample_bilinear2d_aa nll_loss cholesky_solve lu_solve native_dropout_backward")
    | _ops("_softmax_backward_data _unsafe_masked_index_put_accumulate linalg_solve_triangular linalg_solve")
    | _ops("conj conj_physical stft istft " + " ".join(f"fft_{f}" for f in FOURIER.split())),
    "average_pool": AVERAGE_POOLS,
    "max_pool": MAX_POOLS
    | _ops("max min amax amin maximum minimum fmax fmin median nanmedian cummax cummin aminmax mode quantile")
    | _ops("nanquantile fractional_max_pool2d fractional_max_pool3d"),
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
    | _ops("unsafe_chunk unsafe_split swapaxes block_diag cartesian_prod combinations as_tensor requires_grad")
    | _ops("resolve_conj resolve_neg constant_pad_nd diagflat linalg_diagonal adjoint slice lu_unpack")
    | _ops("max_unpool1d max_unpool2d max_unpool3d max_pool2d_with_indices_backward complex")
    | _ops("cfloat cdouble chalf fft_fftshift fft_ifftshift _unsafe_masked_index _chunk_cat")
    | _ops(" ".join(f"{f}_copy" for f in COPIES.split())),
    # Constants of the reverse pass: the scale of a normalisation written by hand.
    "statistic": _ops("rsqrt reciprocal rdiv var std var_mean std_mean norm linalg_norm linalg_vector_norm")
    | _ops("linalg_matrix_norm vector_norm matrix_norm frobenius_norm"),
}
"""Group name -> operations."""


FUNCTION = "function"
"""The operation of several elementwise calls that are one function of one value, such as gelu written out."""
ELEMENTWISE = (
    GROUPS["activation"] - _ops("log_softmax glu rrelu")
    | _ops("add sub rsub mul div maximum minimum max min where masked_fill rdiv reciprocal rsqrt")
    | _ops("to type type_as float double half bfloat16 clone contiguous")
)
"""Operations each of whose values depends on one value of each operand, of those that are no linear map or norm."""


_BIAS = {"addmm": "input"}
"""What a linear map calls its bias, where it is another name."""


def in_group(group: str, op: str, linear: bool) -> bool:
    """Whether a call of `op`, which is a linear map of its only tracked operand if `linear`, belongs to the group."""
    if op not in GROUPS[group]:
        return False
    return linear if group in _ONE_FACTOR else not linear if group == "contraction" else True


def is_linear_map(call: Call) -> bool:
    """Whether the call is linear in its only tracked operand: a factor, not the bias, nor a convolution's weight."""
    op = call.op
    if op not in LINEAR or not call.has_one_operand:
        return False
    return call.begins_with("input") if op in _CONVOLUTIONS else not call.begins_with(_BIAS.get(op, "bias"))


def softmax_dims(call: Call) -> Any:
    """The dimensions that a softmax, log-softmax or logsumexp goes over, as torch chooses where none are given."""
    x, dims = call.argument("input"), call.argument("dim")
    return dims if dims is not None else 0 if x.ndim in (0, 1, 3) else 1


_MOVING = GROUPS["selection"] | GROUPS["summation"]
_NOT_READING_RESULTS = (
    _MOVING
    | LINEAR
    | frozenset(NORMALIZATIONS)
    | GROUPS["max_pool"]
    | GROUPS["average_pool"]
    | _ops("mul div pow square sin cos sinh cosh asin acos atan erf neg abs log log1p log2 log10 clamp clamp_min")
)


def read_by_adjoint(call: RecordedCall, results: tuple[Tensor, ...]) -> list[Tensor]:
    """The tensors that a call's ordinary adjoint may read: arguments, or masks and indices of them, and results."""
    given = call.saved_arguments()
    if call.op in _MOVING:
        # x[:, i] takes the number out of a tensor i of one.
        given = [t for t in given if t.dtype == torch.bool or not (t.is_floating_point() or t.ndim == 0)]
    return given if call.op in _NOT_READING_RESULTS else [*given, *results]


GATES = _ops("sigmoid hardsigmoid ndtr")
"""Operations that compute a gate, a factor between 0 and 1 by which a signal passes.

So are their multiples and sums with constants that have one sign or are 0 at an end (2 g, 1 - g, 1 + g), and a
rectifier that is bounded on both sides, of a shifted value: relu6(z + 3) / 6 is the hard sigmoid.
"""
LOOKED_THROUGH = GROUPS["selection"] | GROUPS["dropout"]
"""Operations whose results have the origin of what they move."""
SHIFTS = _ops("add sub rsub")
