"""Relevance rules of linear operations by loops over a dense matrix: what the package's rules are checked against.

z = W x + b with W [outputs, inputs], all of x, z and R flattened. Every rule returns messages [terms, outputs, inputs]:
what each output sends to each input. Their sum is the relevance, that of their absolute values the scale of rounding.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Bound = float | Array  # one for all inputs, or one for each


class Dense(NamedTuple):
    """A linear operation as a matrix."""

    matrix: Array  # [outputs, inputs]
    ones: Array  # the matrix of the same operation with every weight 1. [outputs, inputs]
    bias: Array  # [outputs]


def dense(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The matrix [outputs, inputs] and the bias [outputs] of an affine function, by unit vectors.

    Args:
        layer: An affine function of one float64 tensor.
        shape: Of that tensor.
    """
    bias = layer(torch.zeros(shape, dtype=torch.float64)).flatten()
    columns = []
    for i in range(int(np.prod(shape))):
        unit = torch.zeros(shape, dtype=torch.float64)
        unit.view(-1)[i] = 1
        columns.append(layer(unit).flatten() - bias)
    return torch.stack(columns, dim=1).numpy(), bias.numpy()


def per_input(bound: Any, shape: tuple[int, ...], channel: int) -> Bound:
    """A bound for each input, from a number or from one number for each channel."""
    if isinstance(bound, int | float):
        return float(bound)
    wide = [1] * len(shape)
    wide[channel] = len(bound)
    return np.broadcast_to(np.reshape(np.array(bound, dtype=np.float64), wide), shape).flatten()


def stabilised(z: float, eps: float) -> float:
    """s(z) = z + eps sgn(z), sgn(0) = +1"""
    return z + eps if z >= 0 else z - eps


def _plus(a: Array) -> Array:
    return np.where(a > 0, a, 0.0)


def _minus(a: Array) -> Array:
    return np.where(a < 0, a, 0.0)


def _agreeing(layer: Dense, x: Array) -> Array:
    """What excites: x+ W+ + x- W-. [outputs, inputs]"""
    return _plus(x) * _plus(layer.matrix) + _minus(x) * _minus(layer.matrix)


def _opposing(layer: Dense, x: Array) -> Array:
    """What inhibits: x+ W- + x- W+. [outputs, inputs]"""
    return _plus(x) * _minus(layer.matrix) + _minus(x) * _plus(layer.matrix)


def _shares(part: Array, z: Array, relevance: Array, eps: float) -> Array:
    """part_oi R_o / s(z_o). [outputs, inputs]"""
    rows = [p * (r / stabilised(s, eps)) for p, s, r in zip(part, z, relevance, strict=True)]
    return np.stack(rows)


def epsilon(
    layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-6, bias: Literal["absorb", "ignore"] = "absorb"
) -> Array:
    """x W^T R / s(z), z = W x + b"""
    part = layer.matrix * x
    z = part.sum(1) + (layer.bias if bias == "absorb" else 0)
    return _shares(part, z, relevance, eps)[None]


def norm(layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-6) -> Array:
    """x J^T R / s(z), z the output itself"""
    part = layer.matrix * x
    return _shares(part, part.sum(1) + layer.bias, relevance, eps)[None]


def z_plus(layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-6) -> Array:
    """(x+ W+ + x- W-) R / s(n), n = their sum + b+"""
    part = _agreeing(layer, x)
    return _shares(part, part.sum(1) + _plus(layer.bias), relevance, eps)[None]


def alpha_beta(
    layer: Dense, x: Array, relevance: Array, *, alpha: float = 2, beta: float = 1, eps: float = 1e-6
) -> Array:
    """alpha (x+ W+ + x- W-) R / s(n) - beta (x+ W- + x- W+) R / s(n')"""
    part = _opposing(layer, x)
    inhibition = _shares(part, part.sum(1) + _minus(layer.bias), relevance, eps)
    return np.stack([alpha * z_plus(layer, x, relevance, eps=eps)[0], -beta * inhibition])


def gamma(layer: Dense, x: Array, relevance: Array, *, gamma: float = 0.25, eps: float = 1e-6) -> Array:
    """Generalised gamma: the terms that agree with the sign of z count gamma times more; nothing where z = 0."""
    messages = np.zeros_like(layer.matrix)
    for o, (w, b, r) in enumerate(zip(layer.matrix, layer.bias, relevance, strict=True)):
        z = (w * x).sum() + b
        if z > 0:
            part = _plus(x) * (w + gamma * _plus(w)) + _minus(x) * (w + gamma * _minus(w))
            total = part.sum() + b + gamma * max(b, 0)
        elif z < 0:
            part = _plus(x) * (w + gamma * _minus(w)) + _minus(x) * (w + gamma * _plus(w))
            total = part.sum() + b + gamma * min(b, 0)
        else:
            continue
        messages[o] = part * (r / stabilised(total, eps))
    return messages[None]


def z_box(layer: Dense, x: Array, relevance: Array, *, low: Bound, high: Bound, eps: float = 1e-6) -> Array:
    """(x W - low W+ - high W-) R / s(the same, summed)"""
    parts = x * layer.matrix, -low * _plus(layer.matrix), -high * _minus(layer.matrix)
    z = (parts[0] + parts[1] + parts[2]).sum(1)
    return np.stack([_shares(part, z, relevance, eps) for part in parts])


def w_square(layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-6) -> Array:
    """W^2 R / s(sum W^2 + b^2)"""
    part = layer.matrix**2
    return _shares(part, part.sum(1) + layer.bias**2, relevance, eps)[None]


def flat(layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-6) -> Array:
    """W-square with W = 1 and no bias"""
    return _shares(layer.ones, layer.ones.sum(1), relevance, eps)[None]


def e_rule(layer: Dense, x: Array, relevance: Array, *, p: int = 1, eps: float = 1e-6) -> Array:
    """x^p W^p R / s(their sum), the bias left out; nothing where the sum is 0"""
    part = layer.matrix**p * x**p
    z = part.sum(1)
    return _shares(part, z, np.where(z == 0, 0, relevance), eps)[None]


def b_rule(layer: Dense, x: Array, relevance: Array, *, beta: float = 0.5, eps: float = 1e-6) -> Array:
    """Alpha-beta with alpha = 1 + beta and no bias; an output with one sign of contributions only sends R on whole.

    But for beta = 0, which sends nothing along negative contributions, and -1, nothing along positive ones. A weight w
    cancels against the denominator's, w z + eps: so it does with the stabiliser eps / |w|.
    """
    excitation, inhibition = _agreeing(layer, x), _opposing(layer, x)
    messages = np.zeros((2, *layer.matrix.shape))
    for o, (up, down, r) in enumerate(zip(excitation, inhibition, relevance, strict=True)):
        rare = not up.any() or not down.any()
        for message, part, weight in ((messages[0], up, 1 + beta), (messages[1], down, -beta)):
            if rare and weight:
                message[o] = part * (r / stabilised(part.sum(), eps / abs(weight)))
            else:
                message[o] = weight * part * (r / stabilised(part.sum(), eps))
    return messages


def winning_probability(layer: Dense, x: Array, relevance: Array, *, eps: float = 1e-20) -> Array:
    """Excitation backprop: x W+ R / s(z), z = W+ x; x as it is"""
    part = _plus(layer.matrix) * x
    return _shares(part, part.sum(1), relevance, eps)[None]


RULES: dict[str, Callable[..., Array]] = {
    rule.__name__: rule
    for rule in (epsilon, norm, z_plus, alpha_beta, gamma, z_box, w_square, flat, e_rule, b_rule, winning_probability)
}
