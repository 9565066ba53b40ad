"""The ends of random lines: baselines that are drawn, and inputs with noise."""

from typing import Any, NamedTuple

from torch import Tensor

from .._torch import pytree
from ..attribution.question import Question
from ..batch import parted
from .baselines import Baseline, baseline_like, distribution
from .draws import integers
from .noise import Sigma, scaled_noise, spread_of


class SampledEnds(NamedTuple):
    """Where the lines of `expected_gradients` begin and end.

    Attributes:
        x: The inputs.
        start: The one baseline, structured and shaped as x; of no use where there are rows.
        rows: The distribution of which each sample draws a row, or None.
        spread: Standard deviations of the noise on x, or None for none.
        seed: Of the draws.
    """

    x: Any
    start: Any
    rows: distribution | None
    spread: list[Tensor] | None
    seed: int

    @staticmethod
    def of(question: Question, baseline: Baseline | distribution, sigma: Sigma, seed: int) -> "SampledEnds":
        """The ends for a method's arguments, checked."""
        x, call = question.x, question.call
        spread = None if isinstance(sigma, int | float) and sigma == 0 else spread_of(call, x, sigma, relative=False)
        if not isinstance(baseline, distribution):
            return SampledEnds(x, baseline_like(call, x, baseline), None, spread, seed)
        return SampledEnds(x, x, baseline.like(call, x), spread, seed)

    def first(self, index: Tensor) -> Any:
        """Starts of some samples, structured as x. [c] -> each [N or 1, c or 1, ...]"""
        if self.rows is None:
            return pytree.tree_map(lambda v: v.unsqueeze(1), self.start)
        return self.rows.samples(integers(index, self.rows.count, seed=self.seed, stream=-1))

    def last(self, index: Tensor) -> Any:
        """Ends of some samples, structured as x. [c] -> each [N, c or 1, ...]"""
        ends = pytree.tree_map(lambda v: v.unsqueeze(1), self.x)
        if self.spread is None:
            return ends
        e = scaled_noise(self.x, None, self.spread, index, self.seed)
        return pytree.tree_map(lambda end, e: end + parted(e, len(index)), ends, e)
