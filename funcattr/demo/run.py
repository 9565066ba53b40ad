"""The demo: ask every method of the catalogue where each digit is, score the answers, draw some of them."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import maps
from ..metrics import mass_in_box, pointing_game
from ..show.pages import require_matplotlib
from .catalogue import CATALOGUE, Row
from .digits import Canvases, DigitNet, load_canvases, load_model
from .gallery import Column, save_gallery

BATCH = 50
"""Questions asked at once."""
SHOWN = 6
"""Questions in the picture."""


class Questions(NamedTuple):
    """Where is this digit?"""

    images: Tensor
    """[N, 1, 64, 64]"""
    digits: Tensor
    """The digit asked for. [N]"""
    boxes: Tensor
    """The right answers: (top, left, bottom, right) in pixels. [N, 4]"""


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
    """The mean of `mass_in_box`."""
    conservation_error: float | None
    """mean |sum of attributions - logit| / mean |logit|"""


def demo(out: Path, *, canvases: int | None = None, progress: bool = True) -> list[Score]:
    """Score every method, print the table, save the picture.

    Args:
        out: The picture's file, with an extension that matplotlib knows.
        canvases: How many of the bundled canvases to use; None for all.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The baseline of always pointing at the centre, then one score per row of the catalogue.

    Raises:
        ValueError: If `canvases` < 1.
    """
    if canvases is not None and canvases < 1:
        raise ValueError(f"demo(canvases=...): expected 1 or more, got {canvases}.")
    model, data = load_model(), Canvases(*(field[:canvases] for field in load_canvases()))
    questions = all_questions(data)
    print(f"Where is the digit? {len(questions.digits)} questions on {len(data.images)} held-out canvases.\n")

    scores = [centre_score(questions)]
    asked = [spread(questions, row.asked) for row in CATALOGUE]
    batches = sum(-(-len(part.digits) // BATCH) for part in asked)
    with tqdm(total=batches, unit="batch", disable=not progress, leave=False) as bar:
        for row, part in zip(CATALOGUE, asked, strict=True):
            bar.set_description(row.name)
            scores.append(method_score(row, model, part, bar))

    print(table(scores))
    draw(out, model, shown_questions(data), scores[1:])
    return scores


def all_questions(data: Canvases) -> Questions:
    """One question for each digit of each canvas, canvas by canvas. N = the number of digits present."""
    canvas, digit = data.present.nonzero().unbind(1)
    return Questions(data.images[canvas], digit, data.boxes[canvas, digit])


def spread(questions: Questions, count: int | None) -> Questions:
    """`count` of the questions, at equal distances; all of them for None, or if there are no more."""
    total = len(questions.digits)
    if count is None or count >= total:
        return questions
    at = torch.arange(count) * total // count
    return Questions(*(field[at] for field in questions))


def shown_questions(data: Canvases) -> Questions:
    """The questions of the picture, canvas by canvas; canvases with a 7, and the first 7, come first."""
    canvases = data.present[:, 7].sort(descending=True, stable=True).indices
    questions = all_questions(Canvases(*(field[canvases] for field in data)))
    asked = questions.digits[:SHOWN]
    first = int((asked == 7).long().argmax())  # 0 where nothing shown is a 7
    order = [first, *(n for n in range(len(asked)) if n != first)]
    return Questions(*(field[order] for field in questions))


def answer(row: Row, attributions: Tensor, images: Tensor) -> Tensor:
    """The method's maps at the size of the images. [N, 1, 64, 64]"""
    return maps.resize(row.reduction(attributions), images).detach()


def method_score(row: Row, model: DigitNet, questions: Questions, bar: tqdm) -> Score:
    """Time one method and judge its answers, batch by batch."""
    times, answers, sums, logits = [], [], [], []
    for images, digits in zip(questions.images.split(BATCH), questions.digits.split(BATCH), strict=True):
        start = time.perf_counter()
        attributions = row.attribute(model, images, digits)
        times.append((time.perf_counter() - start) / len(digits) * 1000)

        answers.append(answer(row, attributions, images))
        sums.append(attributions.detach().flatten(1).sum(1))
        with torch.no_grad():
            logits.append(model(images).gather(1, digits[:, None])[:, 0])
        bar.update()

    hit_rate, mass = judge(torch.cat(answers), questions.boxes)
    logit = torch.cat(logits)
    error = (torch.cat(sums) - logit).abs().mean() / logit.abs().mean()
    return Score(
        name=row.name,
        asked=len(questions.digits),
        milliseconds=median(times[1:] or times),  # the first batch warms up
        hit_rate=hit_rate,
        mass=mass,
        conservation_error=error.item() if row.completeness else None,
    )


def centre_score(questions: Questions) -> Score:
    """The baseline that a method must beat: point at the centre of the image, whatever the question."""
    height, width = questions.images.shape[-2:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    nearness = -(rows**2 + columns**2)
    hit_rate, mass = judge(nearness.expand(len(questions.digits), 1, -1, -1), questions.boxes)
    return Score("(the centre)", len(questions.digits), None, hit_rate, mass, None)


def judge(answers: Tensor, boxes: Tensor) -> tuple[float, float]:
    """Hit rate and mean mass in the box of maps [N, 1, 64, 64] against boxes [N, 4]."""
    return pointing_game(answers, boxes).float().mean().item(), mass_in_box(answers, boxes).mean().item()


def table(scores: Sequence[Score]) -> str:
    """The scores as aligned text, a line each under a line of headings."""
    lines = [("method", "asked", "ms / image", "hits", "mass in box", "conservation error")]
    for score in scores:
        milliseconds = "-" if score.milliseconds is None else f"{score.milliseconds:.2f}"
        error = "-" if score.conservation_error is None else f"{score.conservation_error:.1e}"
        lines.append((score.name, str(score.asked), milliseconds, f"{score.hit_rate:.1%}", f"{score.mass:.1%}", error))

    first, *others = (max(len(line[column]) for line in lines) for column in range(len(lines[0])))
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in lines
    )


def draw(out: Path, model: DigitNet, questions: Questions, scores: Sequence[Score]) -> None:
    """Save the picture of these questions and all methods' answers, or say what is missing for it."""
    try:
        require_matplotlib("demo")
    except ImportError as error:
        print(f"\nNo picture. {error}")
        return

    columns = []
    for row, score in zip(CATALOGUE, scores, strict=True):
        answers = answer(row, row.attribute(model, questions.images, questions.digits), questions.images)
        hits = pointing_game(answers, questions.boxes)
        columns.append(Column(row.name.replace("_", " "), f"{score.hit_rate:.1%} hits", answers, hits))
    save_gallery(out, questions.images, questions.digits, questions.boxes, columns)
    print(f"\nPicture: {out}")
