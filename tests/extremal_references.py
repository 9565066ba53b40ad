"""Extremal perturbation by its formulas: pixel by pixel, with torch's own sort, autograd and optimiser.

Slow and for small images; shares no code with the package. Parts that autograd goes through are float64 tensors.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

Reward = Callable[[Tensor, int], Tensor]


def kernel(distance: float) -> float:
    return math.exp(-2 * max(distance - 0.5, 0) ** 2)


def canvas_size(length: int, spacing: int, radius: float) -> int:
    padding, reach = 1 + math.ceil((radius + radius) / spacing), 1 + math.ceil(radius / spacing)
    middle = math.ceil(length / spacing) + 2 * padding - 2 * reach
    return spacing * middle - spacing + 1


def canvas_pixel(
    parameters: Tensor,
    row: int,
    column: int,
    spacing: int,
    radius: float,
    pooling: str = "softmax",
    clamp: bool = True,
) -> Tensor:
    """One pixel of the canvas: the smooth maximum of the weighted parameters around it, or their sum; zeros outside."""
    padding, reach = 1 + math.ceil((radius + radius) / spacing), 1 + math.ceil(radius / spacing)
    taps = range(2 * reach + 1)
    rows, columns = ([at // spacing + k - padding for k in taps] for at in (row, column))
    places = [(radius + spacing * i, radius + spacing * j) for i in rows for j in columns]
    weights = parameters.new_tensor([kernel(math.dist((row, column), place) / radius) for place in places])
    padded = torch.nn.functional.pad(parameters, (padding, padding, padding, padding))
    seen = padded[rows[0] + padding : rows[-1] + padding + 1, columns[0] + padding : columns[-1] + padding + 1]
    s = weights * seen.flatten()
    pixel = s.sum() if pooling == "sum" else (s * torch.softmax(20 * s, 0)).sum()
    return pixel.clamp(0, 1) if clamp else pixel


def canvas(parameters: Tensor, size: tuple[int, int], spacing: int, radius: float, **options: Any) -> Tensor:
    height, width = (canvas_size(length, spacing, radius) for length in size)
    pixels = [canvas_pixel(parameters, u, v, spacing, radius, **options) for u in range(height) for v in range(width)]
    return torch.stack(pixels).reshape(height, width)


def cropped(canvas: Tensor, size: tuple[int, int], radius: float) -> Tensor:
    margin = round(radius)
    return canvas[margin : margin + size[0], margin : margin + size[1]]


def area_loss(mask: Tensor, area: float) -> Tensor:
    ascending = mask.flatten().sort().values
    zeros = int(mask.numel() * (1 - area))
    ones = torch.cat([torch.zeros(zeros), torch.ones(mask.numel() - zeros)]).to(mask)
    return ((ascending - ones) ** 2).mean()


def area_loss_in_any_order(mask: Tensor, area: float) -> Tensor:
    """`area_loss`, with the mean of its gradients over all the orders that a sort may give equal pixels."""
    ascending, places = mask.flatten().sort()
    loss, pixels = area_loss(mask, area), mask.numel()
    ones = torch.arange(pixels) >= int(pixels * (1 - area))
    begins = [0, *(1 + (ascending.diff() > 1e-13).nonzero().flatten()).tolist(), pixels]
    slopes = torch.zeros_like(ascending)
    for first, end in pairwise(begins):
        mean = ascending[first:end].detach().mean() - ones[first:end].double().mean()
        slopes[places[first:end]] = 2 / pixels * mean
    return loss.detach() + ((mask - mask.detach()).flatten() * slopes).sum()


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """[H, W], zeros around."""
    width = math.ceil(4 * sigma)
    taps = np.array([math.exp(-((i / (math.sqrt(2) * sigma + 1.19e-7)) ** 2)) for i in range(-width, width + 1)])
    taps = taps / taps.sum()
    for axis in (0, 1):
        image = np.apply_along_axis(lambda line: np.convolve(line, taps)[width : width + len(line)], axis, image)
    return image


def pyramid(x: Tensor, perturbation: str, levels: int, max_blur: float) -> Tensor:
    """[C, H, W] -> [L, C, H, W]"""
    found = []
    for level in range(levels):
        strength = level / (levels - 1)
        if perturbation == "fade":
            found.append(strength * x)
        elif level == levels - 1:
            found.append(x)
        else:
            blurred = [gaussian_blur(channel.numpy(), (1 - strength) * max_blur) for channel in x]
            found.append(torch.from_numpy(np.stack(blurred)))
    return torch.stack(found)


def perturbed(pyramid: Tensor, mask: Tensor) -> Tensor:
    """[L, C, H, W], [H, W] -> [C, H, W], pixel by pixel."""
    top = len(pyramid) - 1
    columns = []
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            w = mask[row, column] * top
            k = math.floor(w.item())
            f = w - k
            at, after = pyramid[k, :, row, column], pyramid[min(k + 1, top), :, row, column]
            columns.append((1 - f) * at + f * after)
    return torch.stack(columns, 1).reshape(pyramid.shape[1:])


def simple(output: Tensor, target: int) -> Tensor:
    return output[0, target].mean()


def contrastive(output: Tensor, target: int) -> Tensor:
    others = [c for c in range(output.shape[1]) if c != target]
    return (output[0, target] - output[0, others].max(0).values).mean()


class Options:
    """The options of a search, by the names that the method has for them."""

    def __init__(self, **options: Any) -> None:
        self.variant, self.perturbation, self.levels, self.max_blur = "preserve", "blur", 8, 20.0
        self.spacing, self.radius, self.on, self.jitter = 7, 21, "canvas", True
        self.lr, self.momentum, self.dampening, self.penalty, self.growth = 0.01, 0.9, 0.9, 300.0, 1.0035
        self.reward: Reward = simple
        self.loss = area_loss
        for name, value in options.items():
            setattr(self, name, value)


def objective(
    model: Callable[[Tensor], Tensor], levels: Tensor, target: int, area: float, p: Tensor, t: int, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """The mask of the parameters p [h, w], its reward and its penalty, at step t."""
    size = (levels.shape[2], levels.shape[3])
    whole = canvas(p, size, options.spacing, options.radius)
    mask = cropped(whole, size, options.radius)

    def output(mask: Tensor) -> Tensor:
        shown = perturbed(levels, mask)
        return model((shown.flip(-1) if options.jitter and t % 2 == 0 else shown)[None])

    if options.variant == "preserve":
        reward = options.reward(output(mask), target)
    elif options.variant == "delete":
        reward = -options.reward(output(1 - mask), target)
    else:
        reward = options.reward(output(mask), target) - options.reward(output(1 - mask), target)
    measured = whole if options.on == "canvas" else mask
    return mask, reward, options.penalty * options.growth**t * options.loss(measured, area)


def search(
    model: Callable[[Tensor], Tensor], x: Tensor, target: int, area: float, steps: int, **changes: Any
) -> tuple[Tensor, list[float], list[float]]:
    """One image [C, H, W], one area: the last mask, and reward and penalty at each step. `torch.optim.SGD` goes up."""
    options = Options(**changes)
    levels = pyramid(x, options.perturbation, options.levels, options.max_blur)
    p = torch.ones([math.ceil(length / options.spacing) for length in x.shape[1:]], dtype=x.dtype, requires_grad=True)
    ascent = torch.optim.SGD([p], options.lr, options.momentum, options.dampening, maximize=True, foreach=False)
    mask, rewards, penalties = x, [], []
    for t in range(steps):
        mask, reward, penalty = objective(model, levels, target, area, p, t, options)
        ascent.zero_grad()
        (reward - penalty).backward()
        ascent.step()
        with torch.no_grad():
            p.clamp_(0, 1)
        rewards.append(reward.item())
        penalties.append(penalty.item())
    return mask.detach(), rewards, penalties


def energies(rewards: Sequence[float], penalties: Sequence[float]) -> np.ndarray:
    return np.array(rewards) - np.array(penalties)
