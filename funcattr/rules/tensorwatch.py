"""The two rules of tensorwatch's relevance propagation, whose bias takes no relevance."""

import math

import torch

from ..calls.linear_map import LinearMap
from .linear import check_eps, opposing, supporting
from .parametric import linear_rule
from .shares import Share, total


def _check_e_rule(p: int, eps: float) -> None:
    check_eps("e_rule", eps)
    if not isinstance(p, int) or p < 1:
        raise ValueError(f"e_rule(p={p!r}): expected a whole exponent of 1 or more.")


@linear_rule(_check_e_rule)
def e_rule(layer: LinearMap, *, p: int = 1, eps: float = 1e-6) -> tuple[Share, ...]:
    """The epsilon rule of powers: contributions (x W)^p, the bias left out of the denominator.

    R_x = x^p J_{W^p}^T[R / s(f(x^p, W^p))], and 0 where the denominator is 0

    Args:
        p: Whole exponent; 1 is the epsilon rule without bias.
        eps: Stabiliser, in units of z^p.

    References:
        tensorwatch, saliency/inverter_util.py, "e-rule".
    """
    terms = ((layer.x**p, layer.weight**p),)
    z = total(layer, terms)
    return (Share(terms, z, where=z.abs(), owned=True),)


def _check_b_rule(beta: float, eps: float) -> None:
    check_eps("b_rule", eps)
    if not math.isfinite(beta):
        raise ValueError(f"b_rule(beta={beta!r}): expected a finite number; alpha is 1 + beta.")


@linear_rule(_check_b_rule)
def b_rule(layer: LinearMap, *, beta: float = 0.5, eps: float = 1e-6) -> tuple[Share, ...]:
    """The alpha-beta rule without bias, alpha = 1 + beta, with a correction for rare units.

    R_x = (x+ J_{W+}^T + x- J_{W-}^T)[a R / s(n)] + (x+ J_{W-}^T + x- J_{W+}^T)[c R / s(n')],
    n = x+ W+ + x- W-,    n' = x+ W- + x- W+,    a = 1 + beta and c = -beta

    A unit is rare if n or n' is 0; all its relevance then follows the other one, a = c = 1, with eps / |1 + beta| and
    eps / |beta| in the denominators. With beta = 0 (-1) only what is above (below) zero counts, in rare units too.

    Args:
        beta: Weight of the contributions below zero; below 0 these gain relevance: with -0.5 both have half of it.
        eps: Stabiliser, in units of z.

    References:
        tensorwatch, saliency/inverter_util.py, "b-rule".
    """
    above, below = supporting(layer), opposing(layer)
    n, m = total(layer, above), total(layer, below)
    rare = (n == 0) | (m == 0)
    shares = []
    for terms, z, weight, sign in ((above, n, 1.0 + beta, 1), (below, m, -beta, -1)):
        # Two numbers would be rounded to single precision.
        scale = torch.where(rare, z.new_tensor(1.0 if weight else 0.0), weight)
        damping = torch.where(rare, z.new_tensor(1 / abs(weight) if weight else 1.0), 1.0)
        shares.append(Share(terms, z, scale=scale, sign=sign, damping=damping, owned=True))
    return tuple(shares)
