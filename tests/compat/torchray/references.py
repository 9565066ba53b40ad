"""TorchRay's numbers by their formulas, as autograd Functions and loops that share no code with the package.

A network is written against a namespace of operations: `PLAIN` for torch's own, or one whose backward pass is a
method's.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function


class Net(nn.Module):
    """Convolutions (strided, grouped), batch norm, max and average pooling, a residual sum, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Conv2d(4, 6, 3, stride=2)
        self.act = nn.ReLU()
        self.hidden = nn.Linear(6 * 2 * 2, 8)
        self.act2 = nn.ReLU()
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor, ops: Any = None, seen: dict[str, Tensor] | None = None) -> Tensor:
        if ops is None:
            ops, own = PLAIN, self
            h = F.relu(own.norm(own.first(x)))
            h = F.relu(own.second(h)) + h
            h = F.max_pool2d(h, 2)
            h = own.act(own.third(h))
            h = F.avg_pool2d(h, 2, stride=1)
            return own.last(own.act2(own.hidden(h.flatten(1))))
        seen = {} if seen is None else seen

        def mark(name: str, h: Tensor) -> Tensor:
            seen[name] = h
            return h

        h = ops.conv(x, self.first)
        h = ops.relu(ops.norm(h, self.norm))
        h = ops.relu(mark("second", ops.conv(h, self.second))) + h
        h = F.max_pool2d(h, 2)
        h = mark("act", ops.relu(mark("third", ops.conv(h, self.third))))
        h = ops.pool(h)
        h = mark("act2", ops.relu(ops.linear(h.flatten(1), self.hidden)))
        return ops.linear(h, self.last)


def _conv(x: Tensor, m: Any) -> Tensor:
    return F.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, stride=1)


def _norm(x: Tensor, m: Any) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps)


def _linear(x: Tensor, m: Any) -> Tensor:
    return F.linear(x, m.weight, m.bias)


class Guided(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, p: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return p * (x >= 0) * (p > 0)


class Deconvolved(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, p: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return p * (p > 0)


class Excited(Function):
    """`forward` is the plain map; p' = x VJP_g(p / (g(x) + 1e-20)) for the excitatory map g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plain: Any, excitatory: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.excitatory = excitatory
        return plain(x)

    @staticmethod
    def backward(ctx: Any, p: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            z = ctx.excitatory(x)
            (back,) = torch.autograd.grad(z, x, p / (z.detach() + 1e-20))
        return x.detach() * back, None, None


class Passed(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Any) -> Tensor:
        return _norm(x, m)

    @staticmethod
    def backward(ctx: Any, p: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return p, None


def _positive(m: Any, sign: float = 1.0) -> Any:
    weight = (sign * m.weight.detach()).clamp(min=0)
    if isinstance(m, nn.Linear):
        return lambda x: x @ weight.T
    return lambda x: F.conv2d(x, weight, None, m.stride, m.padding, m.dilation, m.groups)


def excitation(negated: Any = None) -> SimpleNamespace:
    """Operations of excitation backpropagation; `negated` is the module whose weights count as -W on the way back."""

    def mapped(plain: Any) -> Any:
        return lambda x, m: Excited.apply(x, lambda x: plain(x, m), _positive(m, -1.0 if m is negated else 1.0))

    return SimpleNamespace(
        relu=F.relu,
        conv=mapped(_conv),
        linear=mapped(_linear),
        pool=lambda x: Excited.apply(x, _pool, _pool),
        norm=Passed.apply,
    )


PLAIN = SimpleNamespace(relu=F.relu, conv=_conv, pool=_pool, norm=_norm, linear=_linear)
GUIDED = SimpleNamespace(**{**vars(PLAIN), "relu": Guided.apply})
DECONVNET = SimpleNamespace(**{**vars(PLAIN), "relu": Deconvolved.apply})


def one_hot(output: Tensor, target: Any) -> Tensor:
    seed = torch.zeros_like(output)
    for n in range(len(output)):
        seed[n, target if isinstance(target, int) else int(target[n])] = 1.0
    return seed


def pseudo_gradient(net: Net, x: Tensor, target: Any, layer: str, ops: Any) -> tuple[Tensor, Tensor]:
    """The activation at a layer ('' for the input) and its pseudo-gradient."""
    x = x.detach().clone().requires_grad_()
    seen: dict[str, Tensor] = {"": x}
    output = net(x, ops, seen)
    (gradient,) = torch.autograd.grad(output, seen[layer], one_hot(output, target))
    return seen[layer].detach(), gradient


def contrastive(net: Net, x: Tensor, target: Any, layer: str, contrast: str) -> Tensor:
    """The map of contrastive excitation backpropagation, in TorchRay's steps."""
    _, above = pseudo_gradient(net, x, target, contrast, excitation())
    _, dual = pseudo_gradient(net, x, target, contrast, excitation(negated=net.last))
    x = x.detach().clone().requires_grad_()
    seen: dict[str, Tensor] = {"": x}
    net(x, excitation(), seen)
    (p,) = torch.autograd.grad(seen[contrast], seen[layer], above - dual)
    return p.sum(1, keepdim=True).clamp(min=0)


# --- maps ------------------------------------------------------------------------------------------------------------


def largest(h: Tensor, p: Tensor) -> Tensor:
    return p.abs().max(1, keepdim=True).values


def total(h: Tensor, p: Tensor) -> Tensor:
    return p.sum(1, keepdim=True)


def cam(h: Tensor, p: Tensor) -> Tensor:
    return torch.einsum("nc,nchw->nhw", p.mean((2, 3)), h)[:, None].clamp(min=0)


def linear(h: Tensor, p: Tensor) -> Tensor:
    return torch.einsum("nchw,nchw->nhw", p, h)[:, None]


def resized(map: Tensor, size: Any, x: Tensor, mode: str) -> Tensor:
    """`size` as in TorchRay: False, True or (width, height)."""
    if size is False:
        return map
    height, width = (x.shape[2], x.shape[3]) if size is True else (size[1], size[0])
    corners = None if mode == "nearest" else False
    return F.interpolate(map, (height, width), mode=mode, align_corners=corners)


def gaussian(image: np.ndarray, sigma: float, mode: str, value: float = 0.0, more: int = 0) -> np.ndarray:
    """[H, W], padded by the filter's width and `more` pixels."""
    width = math.ceil(4 * sigma)
    taps = np.exp(-((np.arange(-width, width + 1) / (math.sqrt(2) * sigma + 1.19e-7)) ** 2))
    taps = taps / taps.sum()
    options: dict[str, Any] = {"constant_values": value} if mode == "constant" else {}
    options["mode"] = {"replicate": "edge", "reflect": "reflect", "constant": "constant", "circular": "wrap"}[mode]
    padded = np.pad(image, width + more, **options)
    for axis in (0, 1):
        padded = np.apply_along_axis(lambda line: np.convolve(line, taps, "valid"), axis, padded)
    return padded


def smoothed(maps: Tensor, sigma: float, mode: str, value: float = 0.0, more: int = 0) -> Tensor:
    if sigma == 0:
        return maps
    n, c = maps.shape[:2]
    images = [gaussian(maps[i, j].numpy(), sigma, mode, value, more) for i in range(n) for j in range(c)]
    return torch.from_numpy(np.stack(images)).reshape(n, c, *images[0].shape)
