"""Adam as a pure function."""

from typing import NamedTuple

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam(NamedTuple):
    """What is optimised, and the running means of its gradient and of its square. All of one shape."""

    value: Tensor
    mean: Tensor
    square: Tensor


def adam(state: Adam, gradient: Tensor, t: Tensor, lr: float) -> Adam:
    """One step, element by element.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  x = x - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + epsilon)

    Args:
        state: Before the step.
        gradient: At its value.
        t: The number of the step, from 1. []
        lr: Learning rate.

    References:
        Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.
    """
    t = t.to(gradient.dtype)  # a power of a float by an integer tensor is in single precision
    mean = BETAS[0] * state.mean + (1 - BETAS[0]) * gradient
    square = BETAS[1] * state.square + (1 - BETAS[1]) * gradient**2
    # The root of a zero has no derivative; where no gradient ever was, there is no step either.
    none = square == 0
    root = torch.where(none, 1.0, square / (1 - BETAS[1] ** t)).sqrt()
    step = torch.where(none, 0.0, mean / (1 - BETAS[0] ** t) / (root + EPSILON))
    return Adam(state.value - lr * step, mean, square)
