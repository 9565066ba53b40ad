"""The demo: ask methods where things are, score the answers, draw some of them."""

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..show.pages import require_matplotlib
from .digit_tour import digit_tour
from .gallery import Column, save_gallery
from .photo_tour import photo_tour
from .scores import Score, centre_score, method_score, score_table
from .tour import Tour


def demo(out: Path, *, canvases: int = 100, photos: bool = True, progress: bool = True) -> dict[str, list[Score]]:
    """Ask about photographs and about digits: for each a table is printed and a picture saved.

    Args:
        out: The folder of the pictures, `photos.png` and `digits.png`.
        canvases: How many of the 300 packaged canvases of digits to use.
        photos: Whether to ask about photographs. They need the extra "demo"; without it a line says so.
        progress: Whether to show a progress bar on stderr.

    Returns:
        For each tour the baseline of always pointing at the centre, then one score per method.

    Raises:
        ValueError: If `canvases` < 1.
    """
    if canvases < 1:
        raise ValueError(f"demo(canvases=...): expected 1 or more, got {canvases}.")
    tours = [digit_tour(canvases)]
    if photos:
        try:
            tours.insert(0, photo_tour())
        except ImportError as error:
            print(f"No photographs: {error}\n")
    print(f"{sum(len(tour.rows) for tour in tours)} methods; about a minute on two cores.\n")
    seconds = {tour.name: _seconds_of_a_pass(tour) for tour in tours}
    total = sum(seconds[tour.name] * row.passes * len(tour.asked(row).targets) for tour in tours for row in tour.rows)
    form = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, bar_format=form, disable=not progress, leave=False) as bar:
        return {tour.name: _run(tour, out, bar, seconds[tour.name]) for tour in tours}


def _seconds_of_a_pass(tour: Tour) -> float:
    """Of one image, in a batch."""
    images = tour.questions.images[: tour.batch]
    with torch.no_grad():
        tour.model(images)
        start = time.perf_counter()
        tour.model(images)
    return (time.perf_counter() - start) / len(images)


def _run(tour: Tour, out: Path, bar: "tqdm[Any]", seconds: float) -> list[Score]:
    scores, columns = [centre_score(tour.questions)], []
    told = {}
    for row in tour.rows:
        bar.set_description(row.name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            score, maps = method_score(tour, row, lambda passes: bar.update(seconds * passes))
        if caught:
            told[row.name] = str(caught[0].message).partition(". ")[0]
        scores.append(score)
        columns.append(Column(row.name.replace("_", " "), f"{score.energy:.0%} in the box", maps))
    bar.clear()
    print(f"{tour.head}\n\n{score_table(scores)}\n\n{tour.notes}")
    for name, sentence in told.items():
        print(f"{name} warns: {sentence}.")
    print()
    try:
        require_matplotlib("demo")
    except ImportError as error:
        print(f"No picture. {error}\n")
        return scores
    out.mkdir(parents=True, exist_ok=True)
    save_gallery(out / f"{tour.name}.png", tour, columns)
    print(f"Picture: {out / f'{tour.name}.png'}\n")
    return scores
