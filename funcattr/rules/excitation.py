"""Excitation backpropagation's rule for linear maps."""

from ..calls.declarations import row_by_row
from ..calls.linear_map import LinearMap
from .linear import check_eps
from .parametric import linear_rule
from .shares import Share


@linear_rule(lambda eps, negated: check_eps("winning_probability", eps), needs_output=False)
@row_by_row
def winning_probability(layer: LinearMap, *, eps: float = 1e-20, negated: bool = False) -> tuple[Share, ...]:
    """The marginal winning probability: relevance along excitatory weights, without the bias.

    P_x = x J_{W+}^T[P / s(f(x, W+))]; x is taken as it is, meant to be at least 0

    Args:
        eps: Stabiliser, in units of z.
        negated: Take (-W)+ in place of W+, for the dual net of contrastive excitation backpropagation.

    References:
        Zhang et al., 2016, arXiv:1608.00507, equation 7.
    """
    weight = (-layer.weight if negated else layer.weight).clamp(min=0)
    terms = ((layer.x, weight),)
    return (Share(terms, sign=int(layer.is_nonnegative)),)
