"""Slow, plain computations of the measures, one example, one step and one subset at a time, in numpy."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from funcattr.sampling import draws

Score = Callable[[Tensor], Tensor]
"""One example [1, ...] -> its number [1]."""


def curve(
    f: Score, x: Tensor, base: Tensor, ids: Tensor, a: Tensor, steps: int, highest: bool, inserts: bool
) -> list[float]:
    """The scores of one example. x, base, ids [...]; a is of the features, [F]."""
    order = sorted(range(len(a)), key=lambda i: (-a[i] if highest else a[i]).item())
    found = []
    for t in range(steps + 1):
        chosen = order[: int(np.floor(len(a) * t / steps + 0.5))]
        is_chosen = torch.tensor([[int(i) in chosen] for i in ids.flatten()]).reshape(ids.shape)
        copy = torch.where(is_chosen, x if inserts else base, base if inserts else x)
        found.append(f(copy[None]).item())
    return found


def sensitivity(f: Score, x: Tensor, base: Tensor, ids: Tensor, a: Tensor, n: int, samples: int, seed: int) -> float:
    sums, lost = [], []
    for place in draws.permutations(torch.arange(samples), len(a), seed=seed, stream=n):
        gone = [i for i in range(len(a)) if place[i] < n]
        is_gone = torch.tensor([int(i) in gone for i in ids.flatten()]).reshape(ids.shape)
        sums.append(a[gone].sum().item())
        lost.append((f(x[None]) - f(torch.where(is_gone, base, x)[None])).item())
    return float(np.corrcoef(sums, lost)[0, 1])


def infidelity(f: Score, x: Tensor, a: Tensor, moves: list[Tensor], scaled: bool) -> float:
    pairs = np.array([[(move * a).sum().item(), (f(x[None]) - f((x - move)[None])).item()] for move in moves])
    factor = (pairs[:, 0] * pairs[:, 1]).sum() / (pairs[:, 0] ** 2).sum() if scaled else 1.0
    return float(((factor * pairs[:, 0] - pairs[:, 1]) ** 2).mean())


def imputed(image: Tensor, removed: Tensor) -> np.ndarray:
    """One channel with its removed pixels as the means of their neighbours, by a dense system. Both [*space]"""
    values, gone = image.double().numpy().copy(), removed.numpy()
    places = {tuple(p): row for row, p in enumerate(np.argwhere(gone).tolist())}
    matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
    for place, row in places.items():
        for offset in np.ndindex(*[3] * values.ndim):
            step = np.array(offset) - 1
            other = tuple(int(p) for p in np.array(place) + step)
            if not step.any() or any(not 0 <= p < size for p, size in zip(other, values.shape, strict=True)):
                continue
            weight = (1 / 6 if np.abs(step).sum() == 1 else 1 / 12) if values.ndim == 2 else 1 / (step**2).sum()
            matrix[row, row] += weight
            if gone[other]:
                matrix[row, places[other]] -= weight
            else:
                right[row] += weight * values[other]
    values[gone] = np.linalg.solve(matrix, right)
    return values
