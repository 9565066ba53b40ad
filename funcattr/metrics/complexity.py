"""On how many features an attribution map is spread: the entropy of their shares."""

from typing import Any

import torch
from torch import Tensor

from .players import feature_sums


def complexity(attributions: Any, *, feature_mask: Any = None, features: int | None = None) -> Tensor:
    """The entropy of the features' shares of an attribution map, in bits: 0 if one has it all, log2 F if all are alike.

    H = -sum_i p_i log2 p_i,  p_i = |A_i| / sum_j |A_j|

    2^H is the number of features that a map with equal shares would have. It is about the map alone: a simple map may
    be wrong. As published it is in nats, which are H ln 2.

    Args:
        attributions, feature_mask, features: As in `sparseness`.

    Returns:
        The entropy, in bits. [N] Not a number for a map of zeros, or with a value that is none or infinite.

    Raises:
        TypeError, ValueError: As in `sparseness`.

    Example:
        >>> import torch, funcattr
        >>> funcattr.metrics.complexity(torch.tensor([[0.0, 0.0, -2.0, 0.0], [1.0, 1.0, -1.0, 1.0]]))
        tensor([0., 2.])

    References:
        Bhatt et al., 2020, arXiv:2005.00631.
    """
    magnitudes = feature_sums("complexity", attributions, feature_mask, features).abs()
    # Of the largest one: a sum of tiny numbers would be lost.
    magnitudes = magnitudes / magnitudes.amax(1, keepdim=True)
    shares = magnitudes / magnitudes.sum(1, keepdim=True)
    return (shares * torch.where(shares > 0, shares, 1).reciprocal().log2()).sum(1)
