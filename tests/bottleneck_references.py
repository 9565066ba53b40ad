"""The information bottleneck by its formulas, an image and a noise sample at a time; shares no code with the package.

Means and spreads by numpy, layers by forward hooks that replace the value, Adam by torch.optim, smoothing by a padded
convolution, the divergence by torch.distributions.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .sampling_references import from_layer, target_of


class Statistics(NamedTuple):
    """Of each element: mean, standard deviation and activity of a data set. Each [...]"""

    mean: Tensor
    std: Tensor
    active: Tensor


def welford(values: Tensor, threshold: float = 0.01) -> Statistics:
    """By the running formulas, one example after the other. [n, ...]"""
    mean = squares = np.zeros(values.shape[1:])
    for n, value in enumerate(values.double().numpy()):
        before = mean
        mean = before + (value - before) / (n + 1)
        squares = squares + (value - before) * (value - mean)
    active = (values != 0).double().mean(0) > threshold
    return Statistics(torch.tensor(mean), torch.tensor(np.sqrt(squares / (len(values) - 1))), active)


def rectified(values: Tensor) -> Statistics:
    """Mean 0, and the spread of what is not 0, element by element. [n, ...]"""
    flat = values.double().flatten(1).numpy()
    spread = [np.std(column[column != 0], ddof=1) if (column != 0).sum() > 1 else 0.0 for column in flat.T]
    std = torch.tensor(np.array(spread)).reshape(values.shape[1:])
    return Statistics(torch.zeros_like(std), std, torch.ones_like(std, dtype=torch.bool))


def kernel(sigma: float, dimensions: int) -> dict[tuple[int, ...], float]:
    """Of isotropic Gaussian smoothing: each offset's weight."""
    width = round(2 * sigma)
    offsets = itertools.product(range(-width, width + 1), repeat=dimensions)
    weights = {offset: math.exp(-sum(i**2 for i in offset) / (2 * sigma**2)) for offset in offsets}
    return {offset: weight / sum(weights.values()) for offset, weight in weights.items()}


def smoothed(channels: Tensor, sigma: float | None) -> Tensor:
    """Features [C, *spatial] with two spatial dimensions or more, reflected at the borders as often as needed."""
    if sigma is None or channels.ndim < 3:
        return channels
    width, sizes = round(2 * sigma), channels.shape[1:]
    reflected = [np.pad(np.arange(size), width, mode="reflect") for size in sizes]
    total = torch.zeros_like(channels)
    for offset, weight in kernel(sigma, len(sizes)).items():
        moved = channels
        for axis, (places, size, i) in enumerate(zip(reflected, sizes, offset, strict=True), start=1):
            moved = moved.index_select(axis, torch.tensor(places[width + i : width + i + size]))
        total = total + weight * moved
    return total


def divergence(value: Tensor, keep: Tensor, statistics: Statistics, min_std: float = 0.01) -> Tensor:
    """KL(N(mu_z, var_z) || N(0, 1)) of each active element, in nats."""
    mean = keep * (value - statistics.mean) / statistics.std.clamp(min=min_std)
    z = torch.distributions.Normal(mean, 1 - keep)
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return torch.distributions.kl_divergence(z, prior) * statistics.active


class Run(NamedTuple):
    """Of one image: the last step's capacity and alpha, and what each step had."""

    capacity: Tensor
    alpha: Tensor
    loss: list[float]
    information: list[float]
    gradient_norm: list[float]


def run(
    tail: Callable[[Tensor], Tensor],
    value: Tensor,
    loss: Callable[[Tensor], Tensor],
    statistics: Statistics,
    noise: Tensor,
    *,
    beta: float = 10.0,
    lr: float = 1.0,
    sigma: float | None = 1.0,
    min_std: float = 0.01,
    initial_alpha: float = 5.0,
    relu: bool = False,
) -> Run:
    """The optimisation for one image. `value` [...], `noise` [T, S, ...], `loss` of one copy's output [1, ...]."""
    alpha = torch.full_like(value, initial_alpha).requires_grad_()
    optimizer = torch.optim.Adam([alpha], lr=lr)
    std = statistics.std.clamp(min=min_std)
    capacity, before, losses, nats, norms = value, alpha, list[float](), list[float](), list[float]()
    for step in noise:
        keep = smoothed(torch.sigmoid(alpha), sigma)
        capacity, before = divergence(value, keep, statistics, min_std), alpha.detach().clone()
        total = capacity.new_zeros(())
        for e in step:
            z = (keep * value + (1 - keep) * (std * e + statistics.mean)) * statistics.active
            total = total + loss(tail((z.clamp(min=0) if relu else z)[None])).sum() / len(step)
        (alpha.grad,) = torch.autograd.grad(total + beta * capacity.mean(), alpha)
        losses.append(total.item())
        nats.append(capacity.mean().item())
        norms.append(alpha.grad.norm().item())
        optimizer.step()
    return Run(capacity.detach(), before, losses, nats, norms)


def cross_entropy(target: Any) -> Callable[[Tensor], Tensor]:
    """Of one copy's output [1, K, ...], averaged over space."""
    return lambda output: -torch.log_softmax(output, 1)[:, target].mean()


def iba(
    model: nn.Module, x: Tensor, target: Any, layer: str, *, statistics: Statistics, noise: Tensor, **options: Any
) -> list[Run]:
    """Image by image. `noise` [T, S, N or 1, ...]"""
    runs = []
    for n in range(len(x)):
        value, tail = from_layer(model, x[n : n + 1], layer)
        own = noise[:, :, min(n, noise.shape[2] - 1)]
        with torch.enable_grad():
            runs.append(run(tail, value[0], cross_entropy(target_of(target, n)), statistics, own, **options))
    return runs


def stacked(runs: Sequence[Run], name: str) -> Tensor:
    """A field of all images' runs. [N, ...]"""
    return torch.stack([torch.as_tensor(getattr(one, name), dtype=torch.float64) for one in runs])
