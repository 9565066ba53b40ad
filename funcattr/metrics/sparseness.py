"""On how few features an attribution map lies: its Gini index."""

from typing import Any

import torch
from torch import Tensor

from .players import feature_sums


def sparseness(attributions: Any, *, feature_mask: Any = None, features: int | None = None) -> Tensor:
    """The Gini index of the magnitudes of attributions: 0 if all are alike, 1 - 1 / F if one feature has it all.

    G = sum_k (2 k - F - 1) a_k / (F sum_k a_k),  a_1 <= ... <= a_F the sorted |A|

    It is about the map alone: a sparse map may be wrong. Maps of unlike size are of unlike F.

    Args:
        attributions: One map for each example, or a tuple or dict of parts of it. [N, ...]
        feature_mask: The feature of each value, integers from 0 that broadcast to the attributions; a feature of
            several values has their sum. By default each value is a feature.
        features: The number of features, where it cannot be read from the mask.

    Returns:
        The index, in 0..1. [N] Not a number for a map of zeros, or with a value that is none or infinite.

    Raises:
        TypeError: If an attribution is no floating-point tensor.
        ValueError: If the shapes do not fit each other.

    Example:
        >>> import torch, funcattr
        >>> funcattr.metrics.sparseness(torch.tensor([[0.0, 0.0, -2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
        tensor([0.7500, 0.0000])

    References:
        Chalasani et al., 2020, arXiv:1810.06583.
    """
    magnitudes = feature_sums("sparseness", attributions, feature_mask, features).abs()
    count = magnitudes.shape[1]
    # Of the largest one: squares and sums of tiny numbers would be lost.
    ordered = (magnitudes / magnitudes.amax(1, keepdim=True)).sort(1)[0]
    places = 2 * torch.arange(1, count + 1, device=ordered.device) - (count + 1)
    return (places * ordered).sum(1) / (count * ordered.sum(1))
