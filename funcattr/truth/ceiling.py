"""The best orders that a search finds: how far the curves can go."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import metrics
from .judges import STEPS
from .subject import Subject

STAGES = 6


def ceiling(subject: Subject, network: Callable[[Tensor], Tensor]) -> list[float]:
    """ABPC of the orders that a greedy search finds, one for each curve, for each question.

    Args:
        subject: What is asked.
        network: Its network.
    """
    found: list[Tensor] = []
    for q in subject.questions:
        areas = []
        for first in ("lowest", "highest"):
            options = {"first": first, "baseline": q.baseline, "feature_mask": q.features}
            order = metrics.greedy_order(network, q.x, q.target, stages=STAGES, **options)
            curve = metrics.deletion(network, q.x, q.target, order, steps=STEPS, activation=None, **options)
            areas.append(curve.area)
        found.append(areas[0] - areas[1])
    return torch.cat(found).double().tolist()
