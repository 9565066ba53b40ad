"""Rulebooks of DeepLIFT, which compare each call with the same call at a baseline."""

from typing import Literal

from ...calls.operations import MAX_POOLS, NORMALIZATIONS, RECURRENT
from ...rulebook.actions import GRADIENT, UNLISTED, decompose, fold, join
from ...rulebook.rulebook import Entry, Rulebook
from .. import attention, decompositions, distances, recurrent, statistics
from .norms import norm_slope
from .rescale import (
    bilinear,
    extremum,
    log_softmax_slope,
    logsumexp_slope,
    max_pool_slope,
    quotient_slope,
    rescale,
    softmax_slope,
    sqrt_slope,
    undropped,
)
from .reveal_cancel import linear_multiplier

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward", "glu")

DEEP_LIFT = (
    *(Entry(name, decompose(getattr(attention, name))) for name in _ATTENTION),
    *(Entry(name, decompose(getattr(recurrent, name))) for name in RECURRENT),
    *decompositions.ENTRIES,
    *distances.ENTRIES,
    *decompositions.NOT_LINEAR,
    *(Entry(name, decompose(getattr(statistics, name))) for name in ("var", "std", "norm", "normalize")),
    Entry("linalg_vector_norm", decompose(statistics.vector_norm)),
    Entry("local_response_norm", decompose(statistics.local_response_norm)),
    # What they select depends on the values, by a way that has no multiplier.
    *(Entry(name, UNLISTED) for name in ("topk", "sort", "msort", "kthvalue", "median", "nanmedian")),
    *(Entry(name, UNLISTED) for name in ("cummax", "cummin", "masked_select", "take", "nanmean", "nansum")),
    *(Entry(name, norm_slope) for name in NORMALIZATIONS),
    Entry("softmax", softmax_slope),
    Entry("log_softmax", log_softmax_slope),
    Entry("logsumexp", logsumexp_slope),
    *(Entry(name, max_pool_slope) for name in sorted(MAX_POOLS)),
    *(Entry(name, extremum) for name in ("max", "min", "amax", "amin", "maximum", "minimum", "fmax", "fmin")),
    Entry("sqrt", sqrt_slope),
    *(Entry(name, rescale) for name in ("activation", "rsqrt", "reciprocal", "rdiv")),
    Entry("mul", bilinear),
    Entry("div", quotient_slope),
    Entry("contraction", bilinear),
    *(Entry(name, GRADIENT) for name in ("linear_map", "summation", "average_pool", "selection")),
    Entry("dropout", undropped),
)
"""Every operation with its exact multiplier."""


def deep_lift() -> Rulebook:
    """DeepLIFT's Rescale rule, and what keeps summation to delta at products, softmax, pooling and normalisations.

    Shrikumar et al., 2017, arXiv:1704.02685; it needs a baseline: `deep_lift`, or `attribute(..., baseline=...)`.
    """
    return Rulebook(DEEP_LIFT, unlisted="raise", name="deep_lift", space="multiplier")


def deep_lift_reveal_cancel(*, at: Literal["linear_map", "dense", "convolution"] = "linear_map") -> Rulebook:
    """DeepLIFT's RevealCancel rule for linear maps with an activation after them, batch norm between them folded.

    Everything else, and an activation after anything else, is as in `deep_lift`.

    Args:
        at: Which linear maps: all, or "dense" ones only, as the paper does for convolutional nets.

    Raises:
        ValueError: If `at` is none of these.
    """
    if at not in ("linear_map", "dense", "convolution"):
        raise ValueError(f"deep_lift_reveal_cancel(at={at!r}): expected 'linear_map', 'dense' or 'convolution'.")
    revealed = {at: linear_multiplier, "activation": join(rescale)}
    revealed |= {name: fold(norm_slope) for name in ("batch_norm", "instance_norm")}
    # What is in the group of activations, but has a rule of its own.
    own = tuple(entry for entry in DEEP_LIFT if entry.op in ("glu", "log_softmax", "sqrt"))
    return Rulebook(DEEP_LIFT, unlisted="raise", name="deep_lift_reveal_cancel", space="multiplier") | revealed | own
