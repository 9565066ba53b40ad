"""Slow references of what is summed over samples: noise tunnels, integrals. They share no code with funcattr.

One example, sample or point at a time, gradients by `torch.autograd.grad`, layers by forward hooks, sums by numpy in
double precision. `reference(model, x, target, layer, ...)`: an input [N, ...], a class or one for each example, and the
name of a layer (None: the input).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Attribution = Callable[[Tensor, Any], Tensor]


def number(output: Tensor, target: Any) -> Tensor:
    """The explained number of a single example's output [1, K, ...], summed over space."""
    return output[0].sum() if target is None else output[0, target].sum()


def target_of(target: Any, n: int) -> Any:
    """The target of example n."""
    return target if target is None or isinstance(target, int) else int(target[n])


def from_layer(model: nn.Module, x: Tensor, layer: str | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A layer's (first) value at x, and the model as a function of it; of the input itself for None."""
    if layer is None:
        return x.detach(), model
    module, found = model.get_submodule(layer), list[Tensor]()
    with module.register_forward_hook(lambda _m, _x, out: found.append(out.clone())), torch.no_grad():
        model(x)

    def rest(value: Tensor) -> Tensor:
        given = [value]
        with module.register_forward_hook(lambda _m, _x, _out: given.pop() if given else None):
            return model(x)

    return found[0], rest


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, target: Any) -> Tensor:
    """The gradient of a single example's number. Shaped as x"""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(number(function(leaf.clone()), target), leaf)[0]


# --- noise tunnel ----------------------------------------------------------------------------------------------------


def noise_tunnel(
    method: Attribution, x: Tensor, target: Any, *, noise: Tensor, sigma: Any = 1.0, kind: str = "smoothgrad"
) -> Tensor:
    """Mean, mean square or variance of `method(x + sigma * e, target)` over the first dimension of the noise.

    Args:
        method: `(x, target) -> attributions`.
        noise: [S, N or 1, ...]
        sigma: A number, or what broadcasts to x.
    """
    spread = torch.as_tensor(sigma, dtype=x.dtype)
    results = np.stack([method(x + spread * e, target).double().numpy() for e in noise])
    return torch.from_numpy(statistic(results, kind)).to(x)


def statistic(values: np.ndarray, kind: str) -> np.ndarray:
    """Over the first dimension, by sums in double precision."""
    mean, squares = np.zeros(values.shape[1:]), np.zeros(values.shape[1:])
    for value in values:
        mean += value / len(values)
    for value in values:
        squares += (value - (mean if kind == "vargrad" else 0.0)) ** 2 / len(values)
    return mean if kind == "smoothgrad" else squares


def smoothed_gradient(
    model: nn.Module,
    x: Tensor,
    target: Any,
    layer: str | None = None,
    *,
    noise: Tensor,
    sigma: Any = 1.0,
    kind: str = "smoothgrad",
) -> Tensor:
    """The noise tunnel around the gradient, at the input or a layer."""

    def method(x: Tensor, target: Any) -> Tensor:
        rows = []
        for n in range(len(x)):
            value, rest = from_layer(model, x[n : n + 1], layer)
            rows.append(gradient(rest, value, target_of(target, n)))
        return torch.cat(rows)

    return noise_tunnel(method, x, target, noise=noise, sigma=sigma, kind=kind)


# --- rules of integration --------------------------------------------------------------------------------------------


def gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights on [0, 1], by the eigenvalues of the Jacobi matrix (Golub and Welsch, 1969)."""
    k = np.arange(1, steps)
    off = k / np.sqrt(4.0 * k * k - 1)
    nodes, vectors = np.linalg.eigh(np.diag(off, 1) + np.diag(off, -1))
    return ((nodes + 1) / 2).tolist(), (vectors[0] ** 2).tolist()


def riemann(kind: str, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of "left", "right", "middle" and "trapezoid" sums on [0, 1]."""
    if kind == "trapezoid":
        panel = 1 / (steps - 1)
        weights = [0.0] * steps
        for k in range(steps - 1):
            weights[k] += panel / 2
            weights[k + 1] += panel / 2
        return [k * panel for k in range(steps)], weights
    offset = {"left": 0.0, "middle": 0.5, "right": 1.0}[kind]
    return [(k + offset) / steps for k in range(steps)], [1 / steps] * steps


def rule(name: str, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights by the package's name of the rule."""
    return gauss_legendre(steps) if name == "gausslegendre" else riemann(name.removeprefix("riemann_"), steps)


# --- along lines -----------------------------------------------------------------------------------------------------


def baseline_of(baseline: Any, x: Tensor, n: int) -> Tensor:
    """The baseline of example n, from a number, [1, ...] or [N, ...]. [1, ...]"""
    whole = torch.as_tensor(baseline, dtype=x.dtype) + torch.zeros_like(x)
    return whole[n : n + 1]


def along(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    end: Tensor,
    target: Any,
    nodes: Sequence[float],
    weights: Sequence[float],
) -> Tensor:
    """sum_k w_k (end - start) grad f(start + a_k (end - start)), a point at a time."""
    total = torch.zeros_like(end)
    for a, w in zip(nodes, weights, strict=True):
        total = total + w * (end - start) * gradient(function, start + a * (end - start), target)
    return total


def integrated_gradients(
    model: nn.Module,
    x: Tensor,
    target: Any,
    layer: str | None = None,
    *,
    baseline: Any = 0.0,
    nodes: Sequence[float],
    weights: Sequence[float],
) -> Tensor:
    """Integrated gradients as the explicit sum over given nodes."""
    rows = []
    for n in range(len(x)):
        end, rest = from_layer(model, x[n : n + 1], layer)
        start = from_layer(model, baseline_of(baseline, x, n), layer)[0]
        rows.append(along(rest, start, end, target_of(target, n), nodes, weights))
    return torch.cat(rows)


def fine_integrated_gradients(
    model: nn.Module, x: Tensor, target: Any, layer: str | None = None, *, baseline: Any = 0.0, points: int = 2000
) -> Tensor:
    """Integrated gradients by the midpoint rule at so many points that none is missed."""
    nodes, weights = riemann("middle", points)
    return integrated_gradients(model, x, target, layer, baseline=baseline, nodes=nodes, weights=weights)


def expected_gradients(
    model: nn.Module,
    x: Tensor,
    target: Any,
    layer: str | None = None,
    *,
    baselines: Tensor,
    alphas: Sequence[float],
    noise: Tensor | None = None,
) -> Tensor:
    """mean_s (x_s - x'_s) grad f(x'_s + a_s (x_s - x'_s)), x_s = x + noise_s, over given draws.

    Args:
        baselines: x'_s. [S, ...]
        alphas: a_s. [S]
        noise: [S, ...]
    """
    rows = []
    for n in range(len(x)):
        total: Any = 0.0
        rest = from_layer(model, x[n : n + 1], layer)[1]
        for s, a in enumerate(alphas):
            noisy = x[n : n + 1] if noise is None else x[n : n + 1] + noise[s : s + 1]
            end = from_layer(model, noisy, layer)[0]
            start = from_layer(model, baselines[s : s + 1], layer)[0]
            total = total + along(rest, start, end, target_of(target, n), [float(a)], [1 / len(alphas)])
        rows.append(total)
    return torch.cat(rows)


# --- through a layer -------------------------------------------------------------------------------------------------


def conductance_by_jvp(
    model: nn.Module, x: Tensor, target: Any, layer: str, *, baseline: Any = 0.0, points: int = 2000
) -> Tensor:
    """int (dy/dh) (dh/dalpha) dalpha by the midpoint rule, dh/dalpha by `torch.autograd.functional.jvp`."""
    rows = []
    for n in range(len(x)):
        one, start = x[n : n + 1], baseline_of(baseline, x, n)
        total: Any = 0.0
        for k in range(points):
            point = start + (k + 0.5) / points * (one - start)
            h, rest = from_layer(model, point, layer)
            slope: Any = torch.autograd.functional.jvp(lambda v: value_at(model, v, layer), point, one - start)[1]
            total = total + gradient(rest, h, target_of(target, n)) * slope / points
        rows.append(total)
    return torch.cat(rows)


def value_at(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """A layer's (first) value, with its autograd graph."""
    found = list[Tensor]()
    with model.get_submodule(layer).register_forward_hook(lambda _m, _x, out: found.append(out.clone())):
        model(x)
    return found[0]


def conductance_by_sums(
    model: nn.Module, x: Tensor, target: Any, layer: str, *, baseline: Any = 0.0, steps: int = 50
) -> Tensor:
    """sum_k (g_k + g_k+1) / 2 (h_k+1 - h_k) over the `steps` intervals of the line."""
    rows = []
    for n in range(len(x)):
        one, start = x[n : n + 1], baseline_of(baseline, x, n)
        pairs = []
        for k in range(steps + 1):
            h, rest = from_layer(model, start + k / steps * (one - start), layer)
            pairs.append((h, gradient(rest, h, target_of(target, n))))
        total: Any = 0.0
        for (h, g), (later_h, later_g) in itertools.pairwise(pairs):
            total = total + (g + later_g) / 2 * (later_h - h)
        rows.append(total)
    return torch.cat(rows)


def internal_influence(
    model: nn.Module,
    x: Tensor,
    target: Any,
    layer: str,
    *,
    baseline: Any = 0.0,
    nodes: Sequence[float],
    weights: Sequence[float],
) -> Tensor:
    """sum_k w_k dy/dh at the points of the line."""
    rows = []
    for n in range(len(x)):
        one, start = x[n : n + 1], baseline_of(baseline, x, n)
        total: Any = 0.0
        for a, w in zip(nodes, weights, strict=True):
            h, rest = from_layer(model, start + a * (one - start), layer)
            total = total + w * gradient(rest, h, target_of(target, n))
        rows.append(total)
    return torch.cat(rows)
