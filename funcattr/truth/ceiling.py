"""The best orders that a search finds: how far the curves can go."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import metrics
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
            options: dict[str, Any] = {"first": first, "baseline": q.baseline}
            order = metrics.greedy_order(network, q.x, q.target, feature_mask=q.coarse, stages=STAGES, **options)
            options |= {"feature_mask": q.features, "steps": subject.steps, "activation": None}
            areas.append(metrics.deletion(network, q.x, q.target, order, **options).area)
        found.append(areas[0] - areas[1])
    return torch.cat(found).double().tolist()
