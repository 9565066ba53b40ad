"""Rules of layer-wise relevance propagation for linear maps: linear, convolutions, products with a constant.

z = f(x, W) + b; x+ = max(x, 0), x- = min(x, 0), and W+, W-, b+, b- likewise; J_W^T is the adjoint of the map by x with
weights W; s(z) = z + eps sgn(z), sgn(0) = 1. A bias takes its share of the relevance: that part goes to no input.
"""

from typing import Any

import torch
from torch import Tensor

from ..calls.declarations import row_by_row
from ..calls.inplace import plus, times_plus, toward, where_above
from ..calls.linear_map import LinearMap
from .parametric import linear_rule, number
from .shares import Share, Term, total


def positive(value: Tensor | None) -> Tensor | None:
    """max(v, 0)"""
    return None if value is None else value.clamp(min=0)


def negative(value: Tensor | None) -> Tensor | None:
    """min(v, 0)"""
    return None if value is None else value.clamp(max=0)


def supporting(layer: LinearMap) -> tuple[Term, ...]:
    """Contributions above zero: x+ W+ and x- W-; only the first where data flow tells that x has no negative values."""
    above = layer.weight.clamp(min=0)
    if layer.is_nonnegative:
        return ((layer.x, above),)
    return (layer.x.clamp(min=0), above), (layer.x.clamp(max=0), layer.weight.clamp(max=0))


def opposing(layer: LinearMap) -> tuple[Term, ...]:
    """Contributions below zero: x+ W- and x- W+."""
    below = layer.weight.clamp(max=0)
    if layer.is_nonnegative:
        return ((layer.x, below),)
    return (layer.x.clamp(min=0), below), (layer.x.clamp(max=0), layer.weight.clamp(min=0))


def check_eps(name: str, eps: Any) -> None:
    """Raise unless the stabiliser is a number above zero."""
    if not isinstance(eps, int | float) or not eps > 0:
        raise ValueError(f"{name}(eps={eps!r}): expected a stabilizer above 0.")


def check_options(name: str, eps: Any, bias: Any) -> None:
    """Raise unless the stabiliser is above zero, and the bias absorbs relevance or is ignored."""
    check_eps(name, eps)
    if bias not in ("absorb", "ignore"):
        raise ValueError(f"{name}(bias={bias!r}): expected 'absorb' or 'ignore'.")


def absorbing(layer: LinearMap, bias: str) -> Tensor | None:
    """The bias that takes a share of the relevance; None if it is ignored."""
    return layer.bias if bias == "absorb" else None


@linear_rule(lambda eps, bias: check_options("epsilon", eps, bias))
@row_by_row
def epsilon(layer: LinearMap, *, eps: float = 1e-6, bias: str = "absorb") -> tuple[Share, ...]:
    """The epsilon rule: relevance in proportion to the contributions to z.

    R_x = x J_W^T[R / s(z)]

    Args:
        eps: Stabiliser, in units of z.
        bias: "absorb": z contains the bias, whose share is lost; "ignore": z without it, so all relevance goes on.

    References:
        Bach et al., 2015, doi:10.1371/journal.pone.0130140, equation 58.
    """
    if bias == "ignore" and layer.bias is not None:
        return (Share(((layer.x, layer.weight),), layer.z - layer.field(layer.bias), owned=True),)
    z, sign = (layer.z, 0) if layer.rectified is None else (layer.rectified, 1)
    return (Share(((layer.x, layer.weight),), z, layer.bias, sign=sign),)


@linear_rule(lambda eps, bias: check_options("z_plus", eps, bias), needs_output=False)
@row_by_row
def z_plus(layer: LinearMap, *, eps: float = 1e-6, bias: str = "absorb") -> tuple[Share, ...]:
    """The z+ rule: relevance along the contributions above zero only. The same as alpha_beta(alpha=1, beta=0).

    R_x = x+ J_{W+}^T[R / s(n)] + x- J_{W-}^T[R / s(n)],    n = x+ W+ + x- W- + b+

    Args:
        eps: Stabiliser, in units of z.
        bias: "absorb": n contains b+, whose share is lost; "ignore": n without it.

    References:
        Montavon et al., 2017, arXiv:1512.02479, the z+-rule; for inputs of both signs, Bach et al., 2015, equation 60.
    """
    terms, own = supporting(layer), positive(absorbing(layer, bias))
    return (Share(terms, bias=own, sign=1),)


def _check_alpha_beta(alpha: float, beta: float, eps: float, bias: str) -> dict[str, float]:
    check_options("alpha_beta", eps, bias)
    alpha, beta = number("alpha_beta", "alpha", alpha), number("alpha_beta", "beta", beta)
    if not (alpha >= 0 and beta >= 0 and abs(alpha - beta - 1) <= 1e-9):
        raise ValueError(
            f"alpha_beta(alpha={alpha!r}, beta={beta!r}): expected alpha - beta = 1 with both at least 0, or relevance "
            "is not conserved. The usual ones are (1, 0) and (2, 1)."
        )
    return {"alpha": alpha, "beta": beta}


@linear_rule(_check_alpha_beta, needs_output=False)
@row_by_row
def alpha_beta(
    layer: LinearMap, *, alpha: float = 2.0, beta: float = 1.0, eps: float = 1e-6, bias: str = "absorb"
) -> tuple[Share, ...]:
    """The alpha-beta rule: contributions above and below zero on their own.

    R_x = alpha (x+ J_{W+}^T + x- J_{W-}^T)[R / s(n)] - beta (x+ J_{W-}^T + x- J_{W+}^T)[R / s(n')],
    n = x+ W+ + x- W- + b+,    n' = x+ W- + x- W+ + b-

    Args:
        alpha, beta: Weights of the two parts, alpha - beta = 1.
        eps: Stabiliser, in units of z.
        bias: "absorb": n and n' contain b+ and b-, whose shares are lost; "ignore": n and n' without them.

    References:
        Bach et al., 2015, doi:10.1371/journal.pone.0130140, equation 60.
    """
    alpha, beta = number("alpha_beta", "alpha", alpha), number("alpha_beta", "beta", beta)
    terms, own = supporting(layer), positive(absorbing(layer, bias))
    above = Share(terms, bias=own, scale=float(alpha), sign=1)
    if beta == 0:
        return (above,)
    terms, own = opposing(layer), negative(absorbing(layer, bias))
    return above, Share(terms, bias=own, scale=-float(beta), sign=-1)


def _check_gamma(gamma: float, eps: float, bias: str) -> dict[str, float]:
    check_options("gamma", eps, bias)
    gamma = number("gamma", "gamma", gamma)
    if not gamma >= 0:
        raise ValueError(f"gamma(gamma={gamma!r}): expected gamma at least 0; 0 is the epsilon rule.")
    return {"gamma": gamma}


@linear_rule(_check_gamma)
@row_by_row
def gamma(layer: LinearMap, *, gamma: float = 0.25, eps: float = 1e-6, bias: str = "absorb") -> tuple[Share, ...]:
    """The generalised gamma rule: contributions of the sign of z count more.

    Where z > 0, R goes along x+ (W + gamma W+) + x- (W + gamma W-) + b + gamma b+; where z < 0, along
    x+ (W + gamma W-) + x- (W + gamma W+) + b + gamma b-. For x >= 0 and z > 0 it is the original gamma rule.

    Args:
        gamma: How much more; 0 is the epsilon rule, infinity the z+ rule (where z > 0).
        eps: Stabiliser, in units of z.
        bias: "absorb": the bias is a contribution, whose share is lost; "ignore": it is none. The sign is that of z
            with the bias either way, so that with "ignore" a denominator may be near 0.

    References:
        Montavon et al., 2019, doi:10.1007/978-3-030-28954-6_10, section 10.2.3; Andeol et al., 2021, arXiv:2105.00832.
    """
    gamma, weight, own = number("gamma", "gamma", gamma), layer.weight, absorbing(layer, bias)
    terms = supporting(layer)
    positive_weight = terms[0][1]
    above = torch.add(weight, positive_weight, alpha=gamma)
    below = torch.lerp(positive_weight, weight, 1 + gamma)  # W+ + (1 + gamma) W-
    first = tuple((x, w) for (x, _), w in zip(terms, (above, below), strict=False))
    helped = total(layer, terms, positive(own))
    if layer.is_rectified and own is layer.bias:  # no relevance arrives where z < 0
        rectified = layer.z.clamp(min=0) if layer.rectified is None else layer.rectified
        favoured = times_plus(helped, gamma, rectified)
        return (Share(first, favoured, _more(own, gamma, positive), sign=1, owned=True),)
    second = tuple((x, w) for (x, _), w in zip(terms, (below, above), strict=False))
    z = layer.z
    # Either part has the sign of z, so nothing cancels.
    whole = z if layer.bias is None or bias == "absorb" else z - layer.field(layer.bias)
    # Where z > 0, whole - helped, else helped; relu's adjoint masks in a quarter of the time that torch.where takes.
    surplus = torch.sub(whole, helped, alpha=2)
    against = plus(helped, where_above(surplus, z, own=True))
    favoured = toward(against, whole, 1 + gamma)
    return (
        Share(first, favoured, _more(own, gamma, positive), where=z, owned=True),
        Share(second, favoured, _more(own, gamma, negative), where=z, below=True, owned=True),
    )


def _more(bias: Tensor | None, gamma: float, part: Any) -> Tensor | None:
    return None if bias is None else bias + gamma * part(bias)
