"""Rules of numerical integration over [0, 1]: nodes and weights, whose weights sum to 1."""

from typing import Literal, get_args

import numpy as np
from torch import Tensor

from ..._torch import assume_constant_result
from ...sampling.loops import positive, wide

Quadrature = Literal["gausslegendre", "riemann_left", "riemann_middle", "riemann_right", "riemann_trapezoid"]


def nodes_and_weights(call: str, name: Quadrature, steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the rule called `name`. Two of [steps], on the device of `like`, to sum in; real."""
    if name not in get_args(Quadrature):
        raise ValueError(f"{call}(quadrature={name!r}): expected one of {', '.join(map(repr, get_args(Quadrature)))}.")
    least = 2 if name == "riemann_trapezoid" else 1
    if positive(call, "steps", steps) < least:
        raise ValueError(f"{call}(steps={steps}): expected at least {least} for {name!r}.")
    nodes, weights = (like.new_tensor(values, dtype=wide(like.dtype)).real for values in _rule(name, steps))
    return nodes, weights


@assume_constant_result
def _rule(name: str, steps: int) -> tuple[list[float], list[float]]:
    if name == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps)  # exact to degree 2 steps - 1
        return ((1 + nodes) / 2).tolist(), (weights / 2).tolist()
    if name == "riemann_trapezoid":
        ends = [0.5, *[1.0] * (steps - 2), 0.5]
        return np.linspace(0, 1, steps).tolist(), [w / (steps - 1) for w in ends]
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[name]
    return [(k + shift) / steps for k in range(steps)], [1 / steps] * steps
