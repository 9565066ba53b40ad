"""Slow references of methods that only run the model forward on perturbed inputs. They share no code with funcattr.

One example and one perturbation at a time, sums by numpy in double precision; Shapley values by enumeration, regression
by its optimality conditions. `reference(model, x, target, ...)`: an input [N, ...] or a tuple of them, and a class or
one for each example.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[..., Tensor]
Game = Callable[[Sequence[int]], float]  # from the features that are present to the score


def number(output: Tensor, target: Any, n: int = 0) -> float:
    """The explained number of a single example's output [1, K, ...], summed over space; n says which example it is."""
    if target is None:
        return output[0].sum().item()
    return output[0, target if isinstance(target, int) else int(target[n])].sum().item()


def tupled(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def filled(x: tuple[Tensor, ...], baseline: Any) -> tuple[Tensor, ...]:
    """A baseline for each input, of its shape."""
    given = baseline if isinstance(baseline, tuple) else (baseline,) * len(x)
    return tuple(torch.zeros_like(v) + torch.as_tensor(b, dtype=v.dtype) for v, b in zip(x, given, strict=True))


# --- RISE ------------------------------------------------------------------------------------------------------------


def rise_mask(grid: Tensor, shift: Sequence[int], size: Sequence[int]) -> Tensor:
    """One mask, by the steps of TorchRay: pad, interpolate, slice, shift, crop. [n, ..., n] -> [*size]"""
    cells, rank = grid.shape[0], grid.ndim
    up = [length + math.ceil(length / cells) for length in size]
    scale = [math.ceil(length / cells) for length in up]
    padded = F.pad(grid[None, None], (1, 1) * rank, mode="reflect")
    mode = ("linear", "bilinear", "trilinear")[rank - 1]
    mask = F.interpolate(padded, [c * (cells + 2) for c in scale], mode=mode, align_corners=False)[0, 0]
    for axis in range(rank):
        mask = mask.narrow(axis, scale[axis], up[axis]).narrow(axis, shift[axis], size[axis])
    return mask


def rise(
    model: Model, x: Tensor, target: Any, *, masks: Tensor, activation: str | None = "sigmoid", divisor: float = 1.0
) -> Tensor:
    """Mean of activation(f(x * m)) * m over the masks, one forward at a time; all classes for no target."""
    maps = []
    for n in range(len(x)):
        total: Any = 0
        for mask in masks:
            output = model(x[n : n + 1] * mask).double()
            if activation == "sigmoid":
                output = 1 / (1 + (-output).exp())
            elif activation == "softmax":
                output = output.exp() / output.exp().sum(1, keepdim=True)
            scores = output[0].tolist() if target is None else [number(output, target, n)]
            total = total + np.stack([score * mask.double().numpy() for score in scores])
        maps.append(total / len(masks) / divisor)
    return torch.from_numpy(np.stack(maps)).to(x)


# --- ablations -------------------------------------------------------------------------------------------------------


def occlusion(model: Model, x: Any, target: Any, *, window: Any, stride: Any = 1, baseline: Any = 0.0) -> Any:
    """For each window position a slice of one input is overwritten; the losses on a value are averaged."""
    inputs = tupled(x)
    covers, results = filled(inputs, baseline), []
    for which, value in enumerate(inputs):
        sizes = window[which] if isinstance(window[0], tuple) else window
        given = stride[which] if isinstance(stride, tuple) and isinstance(stride[0], tuple) else stride
        steps = given if isinstance(given, tuple) else (given,) * len(sizes)
        total, often = np.zeros(value.shape), np.zeros(value.shape)
        for n in range(len(value)):
            one = tuple(v[n : n + 1] for v in inputs)
            whole = number(model(*one), target, n)
            for place in slices(value.shape[value.ndim - len(sizes) :], sizes, steps):
                covered = [v.clone() for v in one]
                covered[which][(..., *place)] = covers[which][n : n + 1][(..., *place)]
                total[n][(..., *place)] += whole - number(model(*covered), target, n)
                often[n][(..., *place)] += 1
        mean = torch.from_numpy(total / often)
        results.append(mean.to(value) if value.is_floating_point() else mean)
    return tuple(results) if isinstance(x, tuple) else results[0]


def slices(size: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[tuple[slice, ...]]:
    """Where windows lie: each begins a stride after the last, until one reaches the end."""
    axes = []
    for length, wide, step in zip(size, window, stride, strict=True):
        starts = [0]
        while starts[-1] + wide < length:
            starts.append(starts[-1] + step)
        axes.append([slice(start, min(start + wide, length)) for start in starts])
    return list(itertools.product(*axes))


def game(model: Model, x: Any, target: Any, n: int, *, feature_mask: Any = None, baseline: Any = 0.0) -> Game:
    """The score of example n as a function of the features that are present."""
    inputs = tupled(x)
    masks, covers = masks_of(inputs, feature_mask), filled(inputs, baseline)

    def score(present: Sequence[int]) -> float:
        changed = []
        for value, mask, cover in zip(inputs, masks, covers, strict=True):
            mixed = cover[n : n + 1].clone()
            for feature in present:
                chosen = mask[n : n + 1] == feature
                mixed[chosen] = value[n : n + 1][chosen]
            changed.append(mixed)
        return number(model(*changed), target, n)

    return score


def masks_of(inputs: tuple[Tensor, ...], feature_mask: Any) -> tuple[Tensor, ...]:
    """The feature of each value, shaped as the inputs."""
    if feature_mask is not None:
        return tuple(mask.expand(v.shape) for mask, v in zip(tupled(feature_mask), inputs, strict=True))
    ends = np.cumsum([v[0].numel() for v in inputs])
    numbers = torch.arange(int(ends[-1])).tensor_split(torch.from_numpy(ends[:-1]))
    return tuple(ids.reshape(1, *v.shape[1:]).expand(v.shape) for ids, v in zip(numbers, inputs, strict=True))


def by_feature(solve: Callable[..., Any]) -> Callable[..., Any]:
    """A method that gives each feature of a game a number, and each value its feature's."""

    def method(model: Model, x: Any, target: Any, *, feature_mask: Any = None, baseline: Any = 0.0, **o: Any) -> Any:
        inputs = tupled(x)
        masks = masks_of(inputs, feature_mask)
        features = 1 + max(int(mask.max()) for mask in masks)
        results = [torch.zeros(v.shape, dtype=torch.float64) for v in inputs]
        for n in range(len(inputs[0])):
            played = game(model, x, target, n, feature_mask=feature_mask, baseline=baseline)
            for feature, value in enumerate(solve(played, features, **o)):
                for result, mask in zip(results, masks, strict=True):
                    result[n][mask[n] == feature] = float(value)
        results = [r.to(v.dtype) if v.is_floating_point() else r for r, v in zip(results, inputs, strict=True)]
        return tuple(results) if isinstance(x, tuple) else results[0]

    return method


@by_feature
def feature_ablation(score: Game, features: int) -> Any:
    everyone = range(features)
    return [score(everyone) - score([i for i in everyone if i != j]) for j in everyone]


# --- Shapley values --------------------------------------------------------------------------------------------------


@by_feature
def shapley_values(score: Game, features: int) -> Any:
    """sum_S |S|! (F - |S| - 1)! / F! (v(S + j) - v(S)) over all coalitions S without j."""
    values = np.zeros(features)
    for j in range(features):
        others = [i for i in range(features) if i != j]
        for size in range(features):
            weight = math.factorial(size) * math.factorial(features - size - 1) / math.factorial(features)
            for chosen in itertools.combinations(others, size):
                values[j] += weight * (score([*chosen, j]) - score(chosen))
    return values


@by_feature
def shapley_sampling(score: Game, features: int, permutations: Tensor) -> Any:
    """The mean over the orders of what each feature adds to those before it."""
    values = np.zeros(features)
    for order in permutations.tolist():
        for place, feature in enumerate(order):
            values[feature] += score(order[: place + 1]) - score(order[:place])
    return values / len(permutations)


@by_feature
def kernel_shap(score: Game, features: int, coalitions: Tensor, weights: Any = None) -> Any:
    """The constrained least squares by its Lagrange conditions: [Z'WZ 1; 1' 0] [a; l] = [Z'Wy; v(1) - v(0)]."""
    design, targets = scored(score, coalitions)
    empty = score([])
    weight = np.ones(len(design)) if weights is None else np.asarray(weights)
    system = np.ones((features + 1, features + 1))
    system[:features, :features] = design.T @ (weight[:, None] * design)
    system[features, features] = 0
    right = np.append(design.T @ (weight * (targets - empty)), score(range(features)) - empty)
    return np.linalg.solve(system, right)[:features]


def shapley_kernel(coalitions: Tensor) -> Any:
    """Equation 9 of Lundberg & Lee: (F - 1) / (C(F, |z|) |z| (F - |z|)). [S, F] -> [S]"""
    features = coalitions.shape[1]
    sizes = [int(s) for s in coalitions.sum(1)]
    return np.array([(features - 1) / (math.comb(features, s) * s * (features - s)) for s in sizes])


def all_coalitions(features: int, *, proper: bool = True) -> Tensor:
    """Every coalition, without the empty and the whole one if `proper`. [2^F - 2, F]"""
    rows = list(itertools.product([False, True], repeat=features))
    return torch.tensor(rows[1:-1] if proper else rows)


def scored(score: Game, coalitions: Tensor) -> tuple[Any, Any]:
    """Coalitions as numbers [S, F], and the score of each [S]."""
    rows = coalitions.bool().tolist()
    scores = [score([j for j, there in enumerate(row) if there]) for row in rows]
    return np.array(rows, dtype=float), np.array(scores)


# --- LIME ------------------------------------------------------------------------------------------------------------


def lime_weights(coalitions: Tensor, width: float) -> Any:
    """exp(-D^2 / (2 width^2)) of the cosine distance D between a coalition and everyone."""
    weights = []
    for row in coalitions.double().numpy():
        norm = math.sqrt(float(row @ row)) * math.sqrt(len(row))
        distance = 1 - float(row.sum()) / norm if norm > 0 else 1.0
        weights.append(math.exp(-(distance**2) / (2 * width**2)))
    return np.array(weights)


@by_feature
def lime(
    score: Game, features: int, coalitions: Tensor, kernel_width: float = 0.25, kind: str = "lasso", alpha: float = 0.01
) -> Any:
    """Centred weighted least squares: by the normal equations, or for the Lasso by coordinate descent."""
    design, targets = scored(score, coalitions)
    weight = lime_weights(coalitions, kernel_width)
    share = weight / weight.sum()
    z, y = design - share @ design, targets - share @ targets
    if kind != "lasso":
        penalty = alpha * np.eye(features) if kind == "ridge" else 0
        return np.linalg.solve(z.T @ (weight[:, None] * z) + penalty, z.T @ (weight * y))
    values = np.zeros(features)
    for _ in range(5000):
        before = values.copy()
        for j in range(features):
            rest = y - z @ values + z[:, j] * values[j]
            slope, curve = share @ (z[:, j] * rest), share @ z[:, j] ** 2
            values[j] = math.copysign(max(abs(slope) - alpha, 0), slope) / curve
        if np.abs(values - before).max() < 1e-14:
            return values
    raise AssertionError("coordinate descent did not end")
