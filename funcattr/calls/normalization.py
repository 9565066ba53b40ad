"""A normalisation as a function of its input: y = w (x - mean) / sigma + b, and over which values its statistics go."""

import torch
from torch import Tensor

from .call import Call

TENSORS = ("running_mean", "running_var", "weight", "bias")
"""The arguments of a batch norm that are tensors, its input aside."""
EPS = 1e-5
"""What a batch norm adds to the variance, where nothing is said."""


class Normalization:
    """The normalisation that a call computes.

    Batch norm has the statistics of a channel over the batch and space; instance norm those of a channel of an example;
    group norm of several channels of an example; layer and RMS norm of the last dimensions. RMS norm does not centre:
    mean = 0. Batch and instance norm may have constant statistics instead.

    Attributes:
        x: The input.
        weight: w, shaped to broadcast against x, or None.
        scale: w / sigma where the statistics are constants, shaped to broadcast against x; else None.
        centres: Whether the mean is taken off.
        eps: What is added to the variance.
        dims: Dimensions of `grouped(x)` that the statistics go over.
    """

    def __init__(self, call: Call) -> None:
        self.x: Tensor = call.argument("input")
        self.centres = call.op != "rms_norm"
        eps = call.argument("eps", 1e-5 if self.centres else None)
        self.eps: float = torch.finfo(self.x.dtype).eps if eps is None else eps
        weight = call.argument("weight")
        self._by_channel = [-1, *[1] * (self.x.ndim - 2)]
        self.dims: tuple[int, ...]
        self._groups: int | None = None
        if call.op in ("layer_norm", "rms_norm"):
            self.dims = tuple(range(self.x.ndim - len(call.argument("normalized_shape")), self.x.ndim))
            self.weight = weight
        else:
            self.weight = None if weight is None else weight.reshape(self._by_channel)
            self._groups = {"group_norm": call.argument("num_groups"), "instance_norm": self.x.shape[1]}.get(call.op)
            self.dims = (0, *range(2, self.x.ndim)) if self._groups is None else (2,)
        found = scale_and_shift(call)
        self.scale = None if found is None else found[0].reshape(self._by_channel)

    def grouped(self, value: Tensor) -> Tensor:
        """A tensor of x's shape, as [N, groups, the rest] for group and instance norm, else as it is."""
        return value if self._groups is None else value.reshape(len(value), self._groups, -1)

    def weighted(self, value: Tensor) -> Tensor:
        """W times a tensor of x's shape."""
        return value if self.weight is None else value * self.weight


def has_constant_statistics(call: Call) -> bool:
    """Whether a normalisation takes its statistics from its arguments, so that it is an affine map."""
    if call.op not in ("batch_norm", "instance_norm"):
        return False
    by_batch = call.argument("training", False) if call.op == "batch_norm" else call.argument("use_input_stats", True)
    return not by_batch and call.argument("running_mean") is not None and call.argument("running_var") is not None


def scale_and_shift(call: Call) -> tuple[Tensor, Tensor] | None:
    """(s, t) of a normalisation y = s x + t by constant statistics, each [channels]; None for all others.

    s = w / sqrt(var + eps),  t = b - s mean
    """
    if not has_constant_statistics(call):
        return None
    dtype = call.forms[0][1] if call.tracks("input") else call.output.dtype  # the input's, which may be gone by now
    mean, variance, weight, bias = (call.argument(name) for name in TENSORS)
    scale, shift = affine(mean, variance, weight, bias, call.argument("eps", EPS))
    return scale.to(dtype), shift.to(dtype)


def affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """(s, t) of the batch norm y = s x + t by these statistics, each [channels]."""
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    return scale, -mean * scale if bias is None else bias - mean * scale
