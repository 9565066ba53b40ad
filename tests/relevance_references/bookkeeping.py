"""What both spaces do alike: operations left to autograd, and those that only ever have one meaning."""

from collections.abc import Callable

import torch
from torch import Tensor

from .attention import attention, multi_head_attention
from .recurrent import gru, lstm
from .walk import Call, Handler, Walk, origin, rewired

# Linear with entries 0 and 1: the ordinary adjoint hands every number to where it came from.
BOOKKEEPING = (
    "view reshape flatten unflatten ravel squeeze unsqueeze transpose permute movedim swapaxes t T mT expand expand_as "
    "broadcast_to repeat repeat_interleave contiguous clone to type type_as float double cat stack hstack vstack pad "
    "roll flip chunk split tensor_split unbind narrow select index_select gather take_along_dim diagonal unfold tril "
    "triu __getitem__ __setitem__ copy zero fill masked_fill where masked_select scatter index_put index_copy "
    "sort topk max min amax amin maximum minimum max_pool1d max_pool2d max_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d dropout dropout1d dropout2d dropout3d requires_grad"
).split()
# A number to a number each, whatever the derivative.
ELEMENTWISE = (
    "relu relu6 hardtanh threshold clamp clamp_min clamp_max leaky_relu elu celu selu silu mish hardswish hardsigmoid "
    "gelu sigmoid tanh softplus logsigmoid prelu softsign abs neg exp log log1p expm1 sqrt square pow rpow erf sin cos"
).split()
ACTIVATIONS = frozenset(ELEMENTWISE[: ELEMENTWISE.index("softsign") + 1]) - {"clamp", "clamp_min", "clamp_max"}
GATES = frozenset(["sigmoid", "hardsigmoid"])
CONSTANTS = ["rsqrt", "reciprocal", "rdiv", "var", "std", "norm", "vector_norm", "linalg_vector_norm"]
SUMS = (
    "add sub rsub sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate cumsum index_add"
).split()
CONVOLUTIONS = ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
DENSE = ["linear", "addmm", "matmul", "einsum"]


def stop(walk: Walk, call: Call) -> Tensor:
    return call.value()


def decomposed() -> dict[str, Handler | None]:
    return {
        "scaled_dot_product_attention": attention,
        "multi_head_attention_forward": multi_head_attention,
        "lstm": lstm,
        "gru": gru,
    }


def one_operand(call: Call) -> Tensor:
    assert len(call.operands) == 1, call.name
    return call.operands[0]


def is_falling_power(call: Call) -> bool:
    """A constant over (a power of) x: a constant factor, in both spaces."""
    exponent = call.argument(1, "exponent")
    return call.name == "pow" and not isinstance(exponent, Tensor) and exponent < 0


def gate_of(factors: tuple[Tensor, ...], kinds: tuple[frozenset[str], ...]) -> int | None:
    """Which one of two factors is a gate: the one that came out of the first kinds that tell them apart."""
    for gates in kinds if len(factors) == 2 else ():
        found = [i for i, factor in enumerate(factors) if (node := origin(factor)) and node.kind in gates]
        if len(found) == 1:
            return found[0]
    return None


def product(call: Call, kinds: tuple[frozenset[str], ...], adjoint: Callable[[Tensor], tuple[Tensor, ...]]) -> Tensor:
    """A product of tracked factors: each takes half of what `adjoint` gives it; or all, if the other is a gate."""
    gate = gate_of(call.operands, kinds)

    def backward(back: Tensor) -> tuple[Tensor | None, ...]:
        parts = adjoint(back)
        if gate is None:
            return tuple(part / 2 for part in parts)
        return tuple(None if i == gate else part for i, part in enumerate(parts))

    return rewired("product", call.value(), call.operands, backward)


def frozen_statistics(call: Call) -> Callable[[Tensor], Tensor]:
    """A layer, group, instance or rms norm at its operand, as an affine map of x: the scale is that at the operand."""
    x = one_operand(call).detach()
    mean_of, scale = _statistics(call, x)

    def affine(t: Tensor) -> Tensor:
        normalised = (t - mean_of(t)) * scale
        weight, bias = _affine(call, x)
        return normalised * weight + bias

    return affine


def _statistics(call: Call, x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    if call.name == "rms_norm":
        axes = tuple(range(-len(call.argument(1, "normalized_shape")), 0))
        eps = call.argument(3, "eps")
        eps = torch.finfo(x.dtype).eps if eps is None else eps
        return lambda t: torch.zeros_like(t), (x.square().mean(axes, keepdim=True) + eps).rsqrt()
    if call.name == "layer_norm":
        axes = tuple(range(-len(call.argument(1, "normalized_shape")), 0))
        variance = x.var(axes, correction=0, keepdim=True)
        return lambda t: t.mean(axes, keepdim=True), (variance + call.argument(4, "eps", 1e-5)).rsqrt()
    groups = call.argument(1, "num_groups") if call.name == "group_norm" else x.shape[1]
    eps = call.argument(4 if call.name == "group_norm" else 7, "eps", 1e-5)

    def grouped(t: Tensor, statistic: Callable[[Tensor], Tensor]) -> Tensor:
        parts = t.reshape(len(t), groups, -1)
        return statistic(parts).expand_as(parts).reshape_as(t)

    scale = grouped(x, lambda p: (p.var(-1, correction=0, keepdim=True) + eps).rsqrt())
    return lambda t: grouped(t, lambda p: p.mean(-1, keepdim=True)), scale


def _affine(call: Call, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
    places = {"layer_norm": (2, 3), "rms_norm": (2, 9), "group_norm": (2, 3), "instance_norm": (3, 4)}[call.name]
    if call.name == "instance_norm":
        assert call.argument(5, "use_input_stats", True)
    found = [call.argument(place, name) for place, name in zip(places, ("weight", "bias"))]
    channelwise = call.name in ("group_norm", "instance_norm")
    shape = (-1, *[1] * (x.dim() - 2)) if channelwise else None
    weight, bias = (t.reshape(shape) if t is not None and shape else t for t in found)
    return 1.0 if weight is None else weight, 0.0 if bias is None else bias
