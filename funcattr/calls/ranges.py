"""The ends of a gate's range: an affine function of a sigmoid is a gate where its values have one sign, or end at 0."""

import math
from collections.abc import Mapping
from typing import NamedTuple


class Range(NamedTuple):
    """The values that a function of one number, which rises or falls all the way, has at minus and plus infinity.

    Attributes:
        shape: The operation whose result it is where the ends are -1 and 1, such as `"tanh"` for a sigmoid.
        low, high: The values; nan where nobody can tell.
    """

    shape: str
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def scaled(self, by: float) -> "Range":
        """The range of a multiple. What is 0 stays so, by whatever it is multiplied."""
        return Range(self.shape, *(end and end * by for end in self.ends))

    def shifted(self, by: float) -> "Range":
        """The range of a sum with a constant."""
        return Range(self.shape, self.low + by, self.high + by)

    def raised(self, power: float) -> "Range | None":
        """The range of a power above 0; None where there may be values below 0."""
        if not (power > 0 and self.within(0, None)):
            return None
        return Range(self.shape if self.shape == "exp" else "", *(_power(end, power) for end in self.ends))

    def dividing(self, numerator: float) -> "Range":
        """The range of a constant over the function, whose range has no 0."""
        return Range(self.shape, *(0.0 if math.isinf(end) else numerator / end for end in self.ends))

    def within(self, low: float | None, high: float | None) -> bool:
        """Whether a clamp to these bounds changes nothing."""
        above = low is None or all(end >= low for end in self.ends)
        return above and (high is None or all(end <= high for end in self.ends))

    @property
    def has_one_sign(self) -> bool:
        """Whether no value is 0."""
        return self.low * self.high > 0

    @property
    def op(self) -> str | None:
        """The operation that a function of this range counts as: a sigmoid, that of its shape, or none."""
        # Multiples of exp have no other end, by whatever it is multiplied.
        is_bounded = self.shape != "exp" or all(map(math.isfinite, self.ends))
        if is_bounded and (_vanishes(self.low, beside=self.high) or _vanishes(self.high, beside=self.low)):
            return "sigmoid"
        if is_bounded and self.has_one_sign:  # it scales, and turns no sign: 1 + g
            return "sigmoid"
        opposite = abs(self.low + self.high) <= _ROUNDING and abs(abs(self.low) - 1) <= _ROUNDING
        return self.shape if opposite else None


_ROUNDING = 1e-6
"""How far from its value an end may come to be by rounding, as 1/3 - 1/3 in single precision."""


def _power(end: float, power: float) -> float:
    try:
        return end**power
    except OverflowError:
        return math.inf


def _vanishes(end: float, beside: float) -> bool:
    return not math.isinf(beside) and (end == 0 or abs(end) <= _ROUNDING * abs(beside))


RANGES: Mapping[str, Range] = {
    "sigmoid": Range("tanh", 0.0, 1.0),
    "hardsigmoid": Range("hardtanh", 0.0, 1.0),
    "tanh": Range("tanh", -1.0, 1.0),
    "ndtr": Range("erf", 0.0, 1.0),
    "erf": Range("erf", -1.0, 1.0),
    "exp": Range("exp", 0.0, math.inf),
}
"""The ranges of operations."""
