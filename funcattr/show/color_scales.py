"""The colours of maps: diverging around 0 for signed ones, sequential from 0 for others, full at a quantile.

Both scales are readable by the colour-blind, and in shades of grey. RdBu (ColorBrewer) goes from blue by white to red,
which no common kind of colour blindness takes for each other; red stands for evidence, as in most papers. Inferno grows
evenly in lightness, so that it needs no hue, and a lone bright pixel is seen on a dark photo.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

SIGNED, UNSIGNED = "RdBu_r", "inferno"
"""Names of matplotlib's colour maps."""

FOR, AGAINST, NEUTRAL = "#b2182b", "#2166ac", "#8c8c8c"
"""Evidence for and against, which are shades of the ends of RdBu, and neither."""

QUALITATIVE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c8c8c")
"""Colours of lines that stand for different things: those of Okabe and Ito, which the colour-blind tell apart."""


class Scale(NamedTuple):
    """Which number has which colour.

    Attributes:
        low, high: The numbers of the first and the last colour.
        signed: Whether 0 lies in the middle.
        says: How the ends were found, for the colour bar.
    """

    low: float
    high: float
    signed: bool
    says: str

    @property
    def cmap(self) -> str:
        """Name of the colour map."""
        return SIGNED if self.signed else UNSIGNED

    def norm(self) -> "Normalize":
        """Numbers to 0..1."""
        from matplotlib.colors import Normalize

        return Normalize(self.low, self.high)

    def strength(self, values: np.ndarray) -> np.ndarray:
        """How far numbers are from the colour of nothing, in 0..1; those below the first colour have that colour."""
        if self.signed:
            return (np.abs(values) / self.high).clip(0, 1)
        return ((values - self.low) / (self.high - self.low)).clip(0, 1)


def scale_of(
    call: str,
    name: str,
    values: Sequence[np.ndarray],
    *,
    signed: bool | None,
    quantile: float,
    limits: tuple[float, float] | None = None,
) -> Scale:
    """One scale for all these maps; as the arguments of `overlay`.

    Raises:
        ValueError: If the quantile or the limits are impossible, or maps with negative values are not to be signed.
    """
    negative = min(v.min() for v in values) < 0
    if limits is not None:
        return _given(call, limits, True if signed is None and negative else signed)
    signed = bool(negative) if signed is None else signed
    if negative and not signed:
        raise ValueError(
            f"{call}({name}=..., signed=False): expected no negative values, got {min(v.min() for v in values):.4g}. "
            "Draw magnitudes, funcattr.maps.abs_sum, or the part that is for the target, funcattr.maps.positive."
        )
    limit, says = full_color(call, values, quantile)
    return Scale(-limit if signed else 0.0, limit, signed, says)


def full_color(call: str, values: Iterable[np.ndarray], quantile: float) -> tuple[float, str]:
    """The magnitude that has full colour, above 0, and how it was found."""
    if not 0 < quantile <= 1:
        raise ValueError(f"{call}(quantile={quantile}): expected a share above 0 and up to 1.")
    magnitudes = np.abs(np.concatenate([v.ravel() for v in values]))
    if limit := float(np.quantile(magnitudes, quantile)):
        clipped = quantile < 1
        return limit, f"clipped at the {quantile:.4g} quantile of |value|" if clipped else "up to the largest |value|"
    if limit := float(magnitudes.max()):
        return limit, "up to the largest |value|"
    return 1.0, "all values are 0"


def _given(call: str, limits: tuple[float, float], signed: bool | None) -> Scale:
    try:
        low, high = (float(end) for end in limits)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{call}(limits={limits!r}): expected (low, high), two numbers.") from error
    if signed is None:
        signed = low < 0
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"{call}(limits={limits!r}): expected (low, high) with low < high.")
    if signed and low != -high:
        raise ValueError(f"{call}(limits={limits!r}): expected (-v, v) for a signed map, so that 0 has no colour.")
    return Scale(low, high, signed, "clipped at the given limits")
