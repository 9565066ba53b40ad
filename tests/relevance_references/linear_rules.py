"""The rules of linear maps, as the table in lrp.md has them: z = x W + b."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .walk import pull

EPS = 1e-6


class LinearMap(NamedTuple):
    """An affine map of x: `apply` is linear in x and in the weight, the bias broadcasts over its result."""

    apply: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor
    bias: Tensor

    def back(self, x: Tensor, weight: Tensor, cotangent: Tensor) -> Tensor:
        """J_weight^T cotangent, shaped as x."""
        return pull(lambda t: self.apply(t, weight), (x,), cotangent)[0]


Rule = Callable[[LinearMap, Tensor, Tensor], Tensor]


def stabilised(z: Tensor, eps: float = EPS) -> Tensor:
    return z + eps * torch.where(z >= 0, 1.0, -1.0).to(z.dtype)


def _signs(t: Tensor) -> tuple[Tensor, Tensor]:
    return t.clamp(min=0), t.clamp(max=0)


def epsilon(linear: LinearMap, x: Tensor, relevance: Tensor, eps: float = EPS) -> Tensor:
    z = linear.apply(x, linear.weight) + linear.bias
    return x * linear.back(x, linear.weight, relevance / stabilised(z, eps))


def _halves(
    linear: LinearMap, x: Tensor, relevance: Tensor, weights: tuple[Tensor, Tensor], bias: Tensor | float
) -> Tensor:
    """x+ and x- through a weight each, over the sum of both and a bias."""
    (positive, negative), (v, w) = _signs(x), weights
    z = linear.apply(positive, v) + linear.apply(negative, w) + bias
    share = relevance / stabilised(z)
    return positive * linear.back(x, v, share) + negative * linear.back(x, w, share)


def alpha_beta(alpha: float, beta: float) -> Rule:
    def rule(linear: LinearMap, x: Tensor, relevance: Tensor) -> Tensor:
        (v, w), (b, c) = _signs(linear.weight), _signs(linear.bias)
        result = alpha * _halves(linear, x, relevance, (v, w), b)
        return result - beta * _halves(linear, x, relevance, (w, v), c) if beta else result

    return rule


z_plus = alpha_beta(1, 0)


def gamma(factor: float) -> Rule:
    def rule(linear: LinearMap, x: Tensor, relevance: Tensor) -> Tensor:
        (v, w), (b, c) = _signs(linear.weight), _signs(linear.bias)
        v, w = linear.weight + factor * v, linear.weight + factor * w
        b, c = linear.bias + factor * b, linear.bias + factor * c
        above = linear.apply(x, linear.weight) + linear.bias >= 0
        upper = _halves(linear, x, relevance * above, (v, w), b)
        return upper + _halves(linear, x, relevance * ~above, (w, v), c)

    return rule


def z_box(low: Any, high: Any) -> Rule:
    """Bounds are numbers, or one per channel of [N, C, ...]."""

    def rule(linear: LinearMap, x: Tensor, relevance: Tensor) -> Tensor:
        v, w = _signs(linear.weight)
        shape = (-1, *[1] * (x.dim() - 2))
        least, most = (
            torch.as_tensor(b, dtype=x.dtype, device=x.device).reshape(shape).expand_as(x) for b in (low, high)
        )
        share = relevance / stabilised(linear.apply(x, linear.weight) - linear.apply(least, v) - linear.apply(most, w))
        back = x * linear.back(x, linear.weight, share)
        return back - least * linear.back(x, v, share) - most * linear.back(x, w, share)

    return rule


def flat(linear: LinearMap, x: Tensor, relevance: Tensor) -> Tensor:
    ones = torch.ones_like(linear.weight)
    share = relevance / stabilised(linear.apply(torch.ones_like(x), ones))
    return linear.back(x, ones, share)


def winning_probability(linear: LinearMap, x: Tensor, relevance: Tensor) -> Tensor:
    positive = linear.weight.clamp(min=0)
    return x * linear.back(x, positive, relevance / stabilised(linear.apply(x, positive), 1e-20))
