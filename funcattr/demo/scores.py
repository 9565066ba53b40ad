"""How well a method's maps point at what was asked for, and how long they took."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import maps
from ..metrics import energy_in_region, mass_in_region, pointing_game
from ..text_tables import table
from .tour import Questions, Row, Tour


class Score(NamedTuple):
    """The scores of one method; None where a column does not apply."""

    name: str
    asked: int
    """Of how many questions."""
    milliseconds: float | None
    """Per image, in a batch: the median over batches."""
    hit_rate: float
    """The share of questions whose map has its maximum in the box."""
    mass: float
    """The mean of `mass_in_region`."""
    energy: float
    """The mean of `energy_in_region`."""
    conservation_error: float | None
    """mean |sum of attributions - output| / mean |output|, the output being the target's"""


def method_score(tour: Tour, row: Row, advance: Callable[[int], Any]) -> tuple[Score, Tensor]:
    """Time one method and judge its answers, batch by batch; and its maps of the questions of the picture.

    It is told to `advance` by the forward passes that a batch has cost.
    """
    asked = tour.asked(row)
    times, answers, sums, outputs = [], [], [], []
    for images, targets in zip(asked.images.split(tour.batch), asked.targets.split(tour.batch), strict=True):
        start = time.perf_counter()
        attributions = row.attribute(tour.model, images, targets)
        times.append((time.perf_counter() - start) / len(targets) * 1000)

        answers.append(maps.resize(row.reduction(attributions), images).detach())
        sums.append(attributions.detach().flatten(1).sum(1))
        with torch.no_grad():
            outputs.append(tour.model(images).gather(1, targets[:, None])[:, 0])
        advance(row.passes * len(targets))

    found, output = torch.cat(answers), torch.cat(outputs)
    error = (torch.cat(sums) - output).abs().mean() / output.abs().mean()
    score = Score(
        row.name,
        len(asked.targets),
        median(times[1:] or times),  # the first batch warms up
        *judge(found, asked.boxes),
        error.item() if row.completeness else None,
    )
    return score, found[: tour.shown]


def centre_score(questions: Questions) -> Score:
    """The baseline that a method must beat: point at the centre of the image, whatever the question."""
    height, width = questions.images.shape[-2:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    nearness = 2 - rows**2 - columns**2
    judged = judge(nearness.expand(len(questions.targets), 1, -1, -1), questions.boxes)
    return Score("(the centre)", len(questions.targets), None, *judged, None)


def judge(answers: Tensor, boxes: Tensor) -> tuple[float, float, float]:
    """Hit rate, mean mass and mean energy in the box of maps [N, 1, H, W] against boxes [N, 4]."""
    measures = (pointing_game(answers, boxes).float(), mass_in_region(answers, boxes), energy_in_region(answers, boxes))
    hits, mass, energy = (measure.mean().item() for measure in measures)
    return hits, mass, energy


def score_table(scores: Sequence[Score]) -> str:
    """The scores as aligned text, a line each under a line of headings."""
    head = ("method", "asked", "ms / image", "hits", "mass in box", "energy in box", "conservation error")
    return table(head, map(_cells, scores), right=frozenset(range(1, len(head))))


def _cells(score: Score) -> tuple[str, ...]:
    milliseconds = "-" if score.milliseconds is None else f"{score.milliseconds:.2f}"
    error = "-" if score.conservation_error is None else f"{score.conservation_error:.1e}"
    shares = (f"{share:.1%}" for share in (score.hit_rate, score.mass, score.energy))
    return (score.name, str(score.asked), milliseconds, *shares, error)
