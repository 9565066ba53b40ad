"""The blocks that drawn networks are made of: `Block(kind, **args)` is data, `build(block)` a module.

Every block maps [N, C, *S] to [N, C', *S']. Spellings differ on purpose: modules, functions, methods,
in place.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block:
    """A kind and its arguments; its repr is the expression that makes it."""

    def __init__(self, kind: str, /, **args: Any) -> None:
        self.kind = kind
        self.args = args

    def __repr__(self) -> str:
        args = "".join(f", {key}={value!r}" for key, value in self.args.items())
        return f"Block({self.kind!r}{args})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and (self.kind, self.args) == (other.kind, other.args)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # holds a dict


def build(block: Block) -> nn.Module:
    """Make the module of a block."""
    return _BUILD[block.kind](**block.args)


_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_FUNCTION = (F.conv1d, F.conv2d, F.conv3d)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORM = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_POOL = {
    "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "avg": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "adaptive_max": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "adaptive_avg": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
}
_POOL_FUNCTION = {
    "max": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "avg": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
    "adaptive_max": (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
    "adaptive_avg": (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
}


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _same(spatial: int, before: int, after: int | None = None) -> nn.Module:
    """Make a 3-wide convolution which keeps the size."""
    return _CONV[spatial - 1](before, after or before, 3, padding=1)


RELUS: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU()": nn.ReLU,
    "F.relu(x)": lambda: Apply(F.relu),
    "x.relu()": lambda: Apply(lambda x: x.relu()),
    "torch.relu(x)": lambda: Apply(torch.relu),
    "x.clamp(min=0)": lambda: Apply(lambda x: x.clamp(min=0)),
    "torch.clamp(x, 0)": lambda: Apply(lambda x: torch.clamp(x, 0)),
    "F.threshold(x, 0, 0)": lambda: Apply(lambda x: F.threshold(x, 0, 0)),
}
RELUS_IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU(inplace=True)": lambda: nn.ReLU(inplace=True),
    "F.relu(x, inplace=True)": lambda: Apply(lambda x: F.relu(x, inplace=True)),
    "torch.relu_(x)": lambda: Apply(torch.relu_),
    "x.relu_()": lambda: Apply(lambda x: x.relu_()),
    "x.clamp_(min=0)": lambda: Apply(lambda x: x.clamp_(min=0)),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "nn.ReLU6()": nn.ReLU6,
    "F.relu6(x)": lambda: Apply(F.relu6),
    "nn.GELU()": nn.GELU,
    "F.gelu(x, approximate='tanh')": lambda: Apply(lambda x: F.gelu(x, approximate="tanh")),
    "nn.SiLU()": nn.SiLU,
    "x * x.sigmoid()": lambda: Apply(lambda x: x * x.sigmoid()),
    "x.tanh()": lambda: Apply(lambda x: x.tanh()),
    "nn.LeakyReLU(0.1)": lambda: nn.LeakyReLU(0.1),
    "F.softplus(x)": lambda: Apply(F.softplus),
}


class Functional(nn.Module):
    """A convolution as a function, its weights held by this module."""

    def __init__(self, spatial: int, **args: Any) -> None:
        super().__init__()
        conv = _CONV[spatial - 1](**args)
        self.weight, self.bias = conv.weight, conv.bias
        self.function: Callable[..., Tensor] = _CONV_FUNCTION[spatial - 1]
        self.options = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias, *self.options)


def _conv(*, spatial: int, functional: bool, **args: Any) -> nn.Module:
    return Functional(spatial, **args) if functional else _CONV[spatial - 1](**args)


def _pool(*, spatial: int, kind: str, functional: bool, **args: Any) -> nn.Module:
    if functional:
        function = _POOL_FUNCTION[kind][spatial - 1]
        return Apply(lambda x: function(x, **args))
    return _POOL[kind][spatial - 1](**args)


def _norm(*, spatial: int, kind: str, channels: int, sizes: tuple[int, ...]) -> nn.Module:
    if kind == "batch":
        return _BATCH_NORM[spatial - 1](channels)
    if kind == "instance":
        return _INSTANCE_NORM[spatial - 1](channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(1 if channels % 2 else 2, channels)
    return nn.LayerNorm([channels, *sizes])


class Residual(nn.Module):
    """A convolution added to its own input."""

    def __init__(self, *, spatial: int, channels: int, how: str) -> None:
        super().__init__()
        self.conv = _same(spatial, channels)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        if self.how == "+=":
            out += x
            return out
        if self.how == "add_":
            return out.add_(x)
        return torch.add(out, x) if self.how == "torch.add" else x + out


class Concat(nn.Module):
    """Two branches, or a branch beside the input, joined along the channels."""

    def __init__(self, *, spatial: int, channels: int, after: int, keep: bool) -> None:
        super().__init__()
        self.left = _same(spatial, channels, after)
        self.right = nn.Identity() if keep else _CONV[spatial - 1](channels, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], dim=1)


class Reused(nn.Module):
    """One convolution and one relu, each called twice."""

    def __init__(self, *, spatial: int, channels: int, inplace: bool) -> None:
        super().__init__()
        self.conv = _same(spatial, channels)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(self.relu(self.conv(x))))


class Arithmetic(nn.Module):
    """Scale or shift by a number, in place or not."""

    def __init__(self, *, how: str, number: float) -> None:
        super().__init__()
        self.how, self.number = how, number

    def forward(self, x: Tensor) -> Tensor:
        if self.how in ("mul_", "add_"):
            return getattr(x, self.how)(self.number)
        if self.how == "*=":
            x *= self.number
            return x
        return x / self.number if self.how == "/" else x * self.number


class Gate(nn.Module):
    """Squeeze and excite: each channel times a gate in (0, 1)."""

    def __init__(self, *, channels: int, how: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 2)
        self.fc2 = nn.Linear(2, channels)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.flatten(2).mean(-1)))).sigmoid()
        gate = gate.reshape(*gate.shape, *(1 for _ in x.shape[2:]))
        return torch.mul(x, gate) if self.how == "torch.mul" else x * gate


class Attention(nn.Module):
    """Self-attention over the positions, by softmax and matrix products, or by the fused function."""

    def __init__(self, *, channels: int, fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)).squeeze(1)
        else:
            mixed = ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v
        return x + mixed.transpose(1, 2).reshape(x.shape)


class ChannelLinear(nn.Module):
    """A linear layer over the channels of each position."""

    def __init__(self, *, channels: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


ROUND_TRIPS: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(2).view(x.shape),
    "reshape": lambda x: x.reshape(x.shape[0], -1).reshape(x.shape),
    "permute": lambda x: x.movedim(1, -1).contiguous().permute(0, -1, *range(1, x.dim() - 1)),
    "transpose": lambda x: x.transpose(1, 2).transpose(2, 1),
    "unsqueeze": lambda x: x.unsqueeze(1).squeeze(1),
    "roll": lambda x: torch.roll(x, 1, dims=-1),
    "flip": lambda x: x.flip(-1),
    "split": lambda x: torch.cat(x.split(2, dim=1)[::-1], dim=1),
    "stack": lambda x: torch.stack(x.unbind(1)[::-1], dim=1),
    "pad": lambda x: F.pad(x, (1, 1))[..., 1:-1],
}
SLICES: dict[str, Callable[[Tensor], Tensor]] = {
    "[..., 1:]": lambda x: x[..., 1:],
    "[..., ::2]": lambda x: x[..., ::2],
    "narrow": lambda x: x.narrow(-1, 0, x.shape[-1] - 1),
}


class Head(nn.Module):
    """From a map to [N, classes]: flattened into one or two linear layers, or averaged."""

    def __init__(self, *, spatial: int, features: int, classes: int, how: str) -> None:
        super().__init__()
        self.how, self.spatial = how, spatial
        self.hidden = nn.Linear(features, 5) if how == "mlp" else nn.Identity()
        if how == "conv":
            self.out = _CONV[spatial - 1](features, classes, 1)
        else:
            self.out = nn.Linear(5 if how == "mlp" else features, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "conv":
            return self.out(x).flatten(2).mean(-1)
        x = x.mean(tuple(range(2, x.dim()))) if self.how == "mean" else torch.flatten(x, 1)
        return self.out(F.relu(self.hidden(x)) if self.how == "mlp" else x)


_BUILD: dict[str, Callable[..., nn.Module]] = {
    "conv": _conv,
    "relu": lambda how: (RELUS | RELUS_IN_PLACE)[how](),
    "activation": lambda how: ACTIVATIONS[how](),
    "pool": _pool,
    "norm": _norm,
    "residual": Residual,
    "concat": Concat,
    "reused": Reused,
    "arithmetic": Arithmetic,
    "gate": Gate,
    "attention": Attention,
    "linear": ChannelLinear,
    "round_trip": lambda how: Apply(ROUND_TRIPS[how]),
    "slice": lambda how: Apply(SLICES[how]),
    "nothing": lambda how: nn.Dropout(0.5) if how == "dropout" else nn.Identity(),
    "head": Head,
}
