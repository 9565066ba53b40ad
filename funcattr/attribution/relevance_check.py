"""A warning where hardly any of the relevance that was seeded arrives, or a multiple of it."""

import torch
from torch import Tensor

from ..errors import LOOK, warn
from ..rules.parametric import Parametric
from ..tape.step import Step
from ..text_tables import table
from ..torch_state import is_plain_eager
from .forward import PassOptions
from .question import Question

LEAST, MOST = 0.01, 100.0
"""Shares of sum |R| at the output, between which the sum at the input is nothing to warn of."""

_LISTED = 5  # operations in the warning


class RelevanceCheck:
    """Compares sum |R| at both ends of one reverse pass.

    Only where it costs next to nothing: two sums of a plain eager pass on the CPU. On another device it would wait for
    it, and inside transforms there is no number to look at; `conservation` tells there.

    Args:
        question: What is asked.
        options: How the reverse pass goes.
        steps: The tape; it is read before the walk frees it.
        seeded: The relevance that the pass starts from.
    """

    def __init__(self, question: Question, options: PassOptions, steps: list[Step], seeded: Tensor) -> None:
        self.question, self.seeded = question, seeded
        # Conditions take relevance away on purpose, and gradients and multipliers are no amounts.
        shared_out = options.rules.space == "relevance" and options.conditions is None
        self.holds = shared_out and is_plain_eager() and seeded.device.type == "cpu"
        self.rows = _may_lose(steps) if self.holds else []

    def compare(self, arrived: tuple[Tensor, ...]) -> None:
        """Warn if the relevance that arrived is out of proportion to what was seeded."""
        if not self.holds:
            return
        start, end = _size(self.seeded), sum(_size(part) for part in arrived)
        # What passes at a site is a part of the whole, however small.
        too_little = end < LEAST * start and self.question.layer is None
        if too_little or end > MOST * start > 0:
            warn(self._message(start, end))

    def _message(self, start: float, end: float) -> str:
        share = f"{100 * end / start:.1g} % of" if end < start else f"{float(f'{end / start:.1g}'):,.0f} times"
        place = "the input" if self.question.layer is None else f"the site {self.question.layer!r}"
        lines = table(("module", "operation", "rule"), self.rows[:_LISTED])
        more = f"\n... and {len(self.rows) - _LISTED} more" if len(self.rows) > _LISTED else ""
        return (
            f"{self.question.call}: {share} the relevance that was seeded arrives at {place} (sum |R|). "
            "conservation(model, x, target, rules=..., start=...) with the same arguments lists call by call where "
            "relevance went or grew. Operations whose rule hands some of it to biases, stabilisers or dead units, "
            f"from the output on:\n{lines}{more}\n{LOOK}"
        )


def _may_lose(steps: list[Step]) -> list[tuple[str, str, str]]:
    """Rows as of the conservation report: the operations whose rule may hand relevance to none of their operands."""
    return [(s.path, s.op, repr(s.action)) for s in reversed(steps) if isinstance(s.action.function, Parametric)]


def _size(relevance: Tensor) -> float:
    """Sum |R|, in a dtype that the sum of a whole batch fits into."""
    dtype = torch.promote_types(relevance.dtype, torch.float32)
    return float(torch.linalg.vector_norm(relevance.detach(), 1, dtype=dtype))
