"""Slow references, written from the papers' formulas on plain autograd. They share no code with funcattr.

A rectifier's backward is replaced by a `torch.autograd.Function`, and layers are read by hooks, which the package
itself never does; that makes these independent of how the package works.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Backward = Callable[[Tensor, Tensor], Tensor]


class _Rectify(torch.autograd.Function):
    """clamp(x, 0, upper), with a backward of our own: `backward(cotangent, where 0 < x < upper)`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, upper: float, backward: Backward) -> Tensor:
        ctx.inside, ctx.rule = (x > 0) & (x < upper), backward
        return x.clamp(0, upper)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return ctx.rule(grads[0], ctx.inside), None, None


class _Rectifiers(TorchFunctionMode):
    """Sends every spelling of relu to `_Rectify`."""

    def __init__(self, backward: Backward) -> None:
        super().__init__()
        self.backward = backward

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        upper = self._upper(name.rstrip("_").lstrip("_"), args, kwargs)
        if upper is None:
            return func(*args, **kwargs)
        in_place = name.endswith("_") or kwargs.get("inplace", False) or (name == "relu" and len(args) > 1 and args[1])
        out = _Rectify.apply(args[0], upper, self.backward)
        return args[0].copy_(out) if in_place else out

    @staticmethod
    def _upper(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
        def argument(position: int, key: str, default: Any) -> Any:
            return kwargs.get(key, args[position] if len(args) > position else default)

        top = float("inf")
        if name == "relu":
            return top
        if name == "relu6":
            return 6.0
        if name == "hardtanh" and argument(1, "min_val", -1.0) == 0:
            return argument(2, "max_val", 1.0)
        if name == "clamp" and argument(1, "min", None) == 0:
            return top if argument(2, "max", None) is None else argument(2, "max", None)
        if name == "clamp_min" and argument(1, "min", None) == 0:
            return top
        if name == "threshold" and argument(1, "threshold", None) == 0 and argument(2, "value", None) == 0:
            return top
        return None


def _plain(p: Tensor, inside: Tensor) -> Tensor:
    return p * inside


def _guided(p: Tensor, inside: Tensor) -> Tensor:
    return p * inside * (p > 0)


def _deconvnet(p: Tensor, inside: Tensor) -> Tensor:
    return p * (p > 0)


BACKWARDS: dict[str, Backward] = {"gradient": _plain, "guided_backprop": _guided, "deconvnet": _deconvnet}


def one_hot(output: Tensor, target: Any) -> Tensor:
    """Seed of a class, or of one class per example, summed over space."""
    seed = torch.zeros_like(output)
    classes = [target] * len(output) if isinstance(target, int) else [int(t) for t in target]
    for n, c in enumerate(classes):
        seed[n, c] = 1
    return seed


def pseudo_gradient(
    rule: str, model: nn.Module, x: Tensor, target: Any, layer: str | None = None, call: Any = None
) -> tuple[Tensor, Tensor]:
    """(root, cotangent) of a rule, at the input or at a layer's (first) output."""
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if caught:
            return None
        caught.append(output)
        return output.clone()  # so that what comes after cannot overwrite what was caught

    handle = model.get_submodule(layer).register_forward_hook(catch) if layer else None
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad(), _Rectifiers(BACKWARDS[rule]):
        output = (call or (lambda m, v: m(v)))(model, x.clone())
    if handle is not None:
        handle.remove()
    root = caught[0] if layer else x
    (cotangent,) = torch.autograd.grad(output, root, one_hot(output, target))
    return root.detach(), cotangent


def grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """max(0, sum_c h_c mean_u g_cu), with loops over examples and channels."""
    h, g = features.cpu().numpy(), gradient.cpu().numpy()
    maps = np.zeros((h.shape[0], 1, *h.shape[2:]))
    for n in range(h.shape[0]):
        for c in range(h.shape[1]):
            maps[n, 0] += h[n, c] * g[n, c].mean()
    return torch.from_numpy(np.maximum(maps, 0)).to(features)


def signed_grad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """sum_c h_c mean_u g_cu: the positive part of it less that of its opposite."""
    return grad_cam(features, gradient) - grad_cam(features, -gradient)


def _weighted(features: Tensor, gradient: Tensor, weight: Callable[[list[float], list[float]], float]) -> Tensor:
    """max(0, sum_c w(h_c, g_c) h_c), in Python's numbers, one channel at a time."""
    maps = torch.zeros_like(features[:, :1])
    for n in range(features.shape[0]):
        for h, g in zip(features[n], gradient[n], strict=True):
            maps[n, 0] += weight(h.flatten().tolist(), g.flatten().tolist()) * h
    return maps.clamp(min=0)


def grad_cam_plus_plus(features: Tensor, gradient: Tensor) -> Tensor:
    """As equation 19 has it, with g^2 and g^3."""

    def weight(h: list[float], g: list[float]) -> float:
        total = math.fsum(h)
        return math.fsum(v**2 / (2 * v**2 + total * v**3) * v for v in g if v > 1e-60)

    return _weighted(features, gradient, weight)


def xgrad_cam(features: Tensor, gradient: Tensor) -> Tensor:
    """With each position's share of its channel, where the channel does not cancel."""

    def weight(h: list[float], g: list[float]) -> float:
        total = math.fsum(h)
        if abs(total) <= 1e-13 * math.fsum(map(abs, h)):
            return 0.0
        return math.fsum(v / total * w for v, w in zip(h, g, strict=True))

    return _weighted(features, gradient, weight)


def principal(features: Tensor) -> Tensor:
    """By NumPy's singular vectors, the one nearest to ones; 0 where they are at right angles to it."""
    maps = np.zeros((len(features), 1, *features.shape[2:]))
    for n, h in enumerate(features.reshape(*features.shape[:2], -1).cpu().numpy()):
        vectors, values, _ = np.linalg.svd(h, full_matrices=False)
        first = vectors[:, values >= values[0] * (1 - 1e-14)]
        nearest = first @ first.sum(0)
        if np.linalg.norm(nearest) > 1e-12:
            maps[n, 0] = ((nearest / np.linalg.norm(nearest)) @ h).reshape(features.shape[2:])
    return torch.from_numpy(maps).to(features)


def linear_approx(features: Tensor, gradient: Tensor) -> Tensor:
    """sum_c h_c g_c, with loops over examples and channels."""
    h, g = features.cpu().numpy(), gradient.cpu().numpy()
    maps = np.zeros((h.shape[0], 1, *h.shape[2:]))
    for n in range(h.shape[0]):
        for c in range(h.shape[1]):
            maps[n, 0] += h[n, c] * g[n, c]
    return torch.from_numpy(maps).to(features)
