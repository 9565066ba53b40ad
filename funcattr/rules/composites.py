"""Rulebooks: the published composites, and what every model needs beside them.

A composite names the rules of convolutions, dense layers and (some) the first linear map. The rest is one table for
each space, `RELEVANCE` and `GRADIENT_SPACE`, that covers attention, gates, normalisations, recurrent cells and
bookkeeping; an operation that is in none raises `UnsupportedOperationError`.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from ..calls.declarations import Rule
from ..calls.operations import NORMALIZATIONS, RECURRENT
from ..rulebook.actions import GRADIENT, STOP, decompose, fold
from ..rulebook.rulebook import Entry, Rulebook, Space
from . import attention, decompositions, distances, gradient_space, recurrent
from .decompositions import NOT_LINEAR
from .excitation import winning_probability
from .first_layer import flat, z_box
from .linear import alpha_beta, epsilon, gamma, z_plus
from .multipliers.rulebooks import deep_lift, deep_lift_reveal_cancel
from .normalization import affine, softmax_taylor
from .products import pass_through, product, quotient, uniform
from .relu import deconvnet, guided
from .sums import norm

_BOTH = (
    *(
        Entry(name, decompose(getattr(attention, name)))
        for name in ("scaled_dot_product_attention", "multi_head_attention_forward", "glu")
    ),
    *(Entry(name, decompose(getattr(recurrent, name))) for name in RECURRENT),
    *decompositions.ENTRIES,
    *distances.ENTRIES,
    *NOT_LINEAR,
    Entry("statistic", STOP),
    Entry("max_pool", GRADIENT),
    Entry("selection", GRADIENT),
)


def _relevance(eps: float) -> tuple[Entry, ...]:
    """The rows of a relevance rulebook beside its linear maps."""
    return (
        # Between two values they are a mean of both, by weights.
        *(Entry(name, norm(eps=eps)) for name in ("quantile", "nanquantile")),
        *_BOTH,
        Entry("activation", pass_through),
        Entry("dropout", pass_through),
        Entry("summation", norm(eps=eps)),
        Entry("average_pool", norm(eps=eps)),
        Entry("mul", product),
        Entry("div", quotient),
        Entry("contraction", uniform(eps=eps)),
        Entry("softmax", softmax_taylor),
        *(Entry(name, fold(affine(eps=eps))) for name in ("batch_norm", "instance_norm")),
        *(Entry(name, affine(eps=eps)) for name in ("layer_norm", "group_norm", "rms_norm")),
        *(Entry(name, pass_through) for name in ("normalize", "local_response_norm")),
    )


RELEVANCE = _relevance(1e-6)
"""What every relevance rulebook does beside its linear maps."""


def _gradient_space(products: Rule) -> tuple[Entry, ...]:
    """The rows of a gradient-space rulebook, by its rule for products."""
    return (
        *_BOTH,
        Entry("activation", gradient_space.ratio),
        Entry("local_response_norm", gradient_space.ratio),
        Entry("dropout", GRADIENT),
        Entry("summation", GRADIENT),
        Entry("average_pool", GRADIENT),
        Entry("mul", products),
        Entry("div", gradient_space.numerator),
        Entry("linear_map", GRADIENT),
        Entry("contraction", products),
        Entry("softmax", GRADIENT),
        *(Entry(name, gradient_space.frozen) for name in NORMALIZATIONS),
        Entry("normalize", gradient_space.frozen),
    )


GRADIENT_SPACE = _gradient_space(gradient_space.halved)
"""What every gradient-space rulebook of attention does."""


def composite(name: str, *, convolution: Any, dense: Any, first: Any = None, eps: float = 1e-6) -> Rulebook:
    """A relevance rulebook from the rules of its linear maps.

    Args:
        name: Shown when it is printed, and in errors.
        convolution: Rule of convolutions, transposed ones too.
        dense: Rule of linear layers and products with a constant matrix.
        first: Rule of the linear maps with no other between the input and them; None: as the others.
        eps: Stabiliser of the rules beside these, for sums, norms and products of tracked tensors.

    Returns:
        A `Rulebook` that raises for operations it does not know.

    Example:
        >>> from funcattr import rules
        >>> book = rules.composite("mine", convolution=rules.gamma(gamma=0.1), dense=rules.epsilon)
        >>> book == rules.composite("mine", convolution=rules.gamma(gamma=0.1), dense=rules.epsilon)
        True
    """
    rows = (
        *([] if first is None else [Entry("linear_map", first, position="first")]),
        Entry("convolution", convolution),
        Entry("dense", dense),
        *_relevance(eps),
    )
    return Rulebook(rows, unlisted="raise", name=name, space="relevance")


def epsilon_everywhere(*, eps: float = 1e-6) -> Rulebook:
    """The epsilon rule for every linear map (Bach et al., 2015)."""
    return composite("epsilon", convolution=epsilon(eps=eps), dense=epsilon(eps=eps), eps=eps)


def epsilon_plus(*, eps: float = 1e-6) -> Rulebook:
    """z+ for convolutions, epsilon for dense layers (Kohlbrenner et al., 2020, arXiv:1910.09840)."""
    return composite("epsilon_plus", convolution=z_plus(eps=eps), dense=epsilon(eps=eps), eps=eps)


def epsilon_plus_flat(*, eps: float = 1e-6) -> Rulebook:
    """`epsilon_plus` with the flat rule for the first linear map (Kohlbrenner et al., 2020, arXiv:1910.09840)."""
    rules = {"convolution": z_plus(eps=eps), "dense": epsilon(eps=eps), "first": flat(eps=eps)}
    return composite("epsilon_plus_flat", **rules, eps=eps)


def epsilon_alpha2_beta1(*, eps: float = 1e-6) -> Rulebook:
    """alpha-beta(2, 1) for convolutions, epsilon for dense layers (Kohlbrenner et al., 2020, arXiv:1910.09840)."""
    return composite("epsilon_alpha2_beta1", convolution=alpha_beta(eps=eps), dense=epsilon(eps=eps), eps=eps)


def epsilon_alpha2_beta1_flat(*, eps: float = 1e-6) -> Rulebook:
    """`epsilon_alpha2_beta1` with the flat rule for the first linear map."""
    rules = {"convolution": alpha_beta(eps=eps), "dense": epsilon(eps=eps), "first": flat(eps=eps)}
    return composite("epsilon_alpha2_beta1_flat", **rules, eps=eps)


def epsilon_gamma_box(*, low: Any = None, high: Any = None, gamma: float = 0.25, eps: float = 1e-6) -> Rulebook:
    """z-box for the first linear map, gamma for convolutions, epsilon for dense layers (Montavon et al., 2019).

    Args:
        low, high: Bounds of the input as the model gets it (after normalisation): numbers, or one per channel.
        gamma: Of the gamma rule.
        eps: Stabiliser of all rules.

    Raises:
        ValueError: Without bounds, or if low > high.
    """
    rules = {"convolution": _gamma(gamma=gamma, eps=eps), "dense": epsilon(eps=eps)}
    return composite("epsilon_gamma_box", **rules, first=z_box(low=low, high=high, eps=eps), eps=eps)


_gamma = gamma


def excitation_backprop(*, eps: float = 1e-20) -> Rulebook:
    """The marginal winning probability at every linear map (Zhang et al., 2016, arXiv:1608.00507)."""
    rule = winning_probability(eps=eps)
    return composite("excitation_backprop", convolution=rule, dense=rule, eps=eps) | {"batch_norm": pass_through}


def guided_backprop() -> Rulebook:
    """Guided backpropagation: `guided` at every relu, the ordinary adjoint elsewhere (Springenberg et al., 2015)."""
    return Rulebook({"relu": guided}, name="guided", expects=("relu",))


def deconvnet_backprop() -> Rulebook:
    """Deconvolution: `deconvnet` at every relu, the ordinary adjoint elsewhere (Zeiler and Fergus, 2014)."""
    return Rulebook({"relu": deconvnet}, name="deconvnet", expects=("relu",))


def attnlrp() -> Rulebook:
    """AttnLRP in gradient space: uniform rule for products, identity rule for activations (Achtibat et al., 2024)."""
    return Rulebook(GRADIENT_SPACE, unlisted="raise", name="attnlrp", space="gradient")


def cp_lrp() -> Rulebook:
    """CP-LRP in gradient space: attention weights and gates are constants (Ali et al., 2022, arXiv:2202.07304)."""
    rows = _gradient_space(gradient_space.ungated)
    return Rulebook(rows, unlisted="raise", name="cp_lrp", space="gradient") | {"softmax": STOP}


COMPOSITES = {
    "epsilon": epsilon_everywhere,
    "epsilon_plus": epsilon_plus,
    "epsilon_plus_flat": epsilon_plus_flat,
    "epsilon_alpha2_beta1": epsilon_alpha2_beta1,
    "epsilon_alpha2_beta1_flat": epsilon_alpha2_beta1_flat,
    "epsilon_gamma_box": epsilon_gamma_box,
    "excitation_backprop": excitation_backprop,
    "attnlrp": attnlrp,
    "cp_lrp": cp_lrp,
    "guided": guided_backprop,
    "deconvnet": deconvnet_backprop,
    "deep_lift": deep_lift,
    "deep_lift_reveal_cancel": deep_lift_reveal_cancel,
}
"""The rulebooks by name."""

Rules = str | Rulebook | Mapping[Any, Any]
"""A rulebook as options take it: its name in `COMPOSITES`, itself, or a mapping from operation to rule."""

PLAIN = Rulebook(name="gradient")
"""The rulebook of the plain gradient, which changes nothing."""

# Made once: compiled code cannot make a rulebook, and takes these as constants.
_MADE = {name: make() for name, make in COMPOSITES.items() if make is not epsilon_gamma_box}


def rulebook_of(
    caller: str,
    rules: Rules,
    *,
    unlisted: Literal["gradient", "raise"] = "gradient",
    space: Space = "gradient",
) -> Rulebook:
    """The rulebook that an option `rules=` stands for.

    Args:
        caller: First words of errors.
        rules: As the user gave it.
        unlisted, space: Of the rulebook that a mapping becomes.

    Raises:
        ValueError: If no rulebook has that name, or it needs bounds.
        TypeError: If it is of another kind.

    Example:
        >>> import funcattr
        >>> book = funcattr.rules.rulebook_of("my_method", "epsilon_plus")
        >>> book.name, book.space
        ('epsilon_plus', 'relevance')
    """
    if isinstance(rules, Rulebook):
        return rules
    if isinstance(rules, str):
        return _named(caller, rules)
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"{caller}(rules=...): expected the name of a rulebook, a Rulebook or a mapping from operation to rule, "
            f"got {type(rules).__name__}."
        )
    return Rulebook(rules, unlisted=unlisted, space=space)


def _named(caller: str, name: str) -> Rulebook:
    if name not in COMPOSITES:
        closest = difflib.get_close_matches(name, COMPOSITES, n=3) or list(COMPOSITES)
        raise ValueError(f"{caller}(rules={name!r}): no such rulebook. Closest: {', '.join(map(repr, closest))}.")
    if name not in _MADE:
        raise ValueError(f"{caller}(rules={name!r}): it needs bounds. Pass rules.{name}(low=..., high=...).")
    return _MADE[name]
