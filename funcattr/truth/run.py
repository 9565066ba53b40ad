"""The comparison: every method asked, every measure taken, each result kept as soon as it is there."""

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from ..extras import MissingPackageError, needed
from ..show.pages import require_matplotlib
from .ceiling import ceiling
from .digits import digits
from .judges import MEASURES
from .names import SUBJECTS
from .photos import photos
from .picture import save_picture
from .remembered import remembered
from .report import report
from .results import Results
from .sentences import sentences
from .subject import Case, Subject, seconds_of

_MADE: dict[str, Callable[[], Subject]] = {"digits": digits, "sentences": sentences, "photos": photos}


def truth(out: Path, *, subjects: Sequence[str] = SUBJECTS, progress: bool = True) -> dict[str, Any]:
    """Ask every method, take every measure; print tables, write `truth.json` and a picture for each network.

    A run that is cut off goes on where it was. About a quarter of an hour on two cores.

    Args:
        out: The folder of `truth.json` and of the pictures.
        subjects: Which networks: of "digits", "sentences", "photos". Where the packages of one are missing, a line says
            so.
        progress: Whether to show a progress bar on stderr.

    Returns:
        What `truth.json` holds.

    Raises:
        ImportError: If matplotlib or SciPy is not installed; the extra "demo" has both.
    """
    needed("truth", "scipy.stats", ".[demo]")  # said now, and not after a quarter of an hour
    require_matplotlib("truth")
    made = []
    for name in subjects:
        try:
            made.append(_MADE[name]())
        except MissingPackageError as error:
            print(f"Without {name}. {error}\n")
    results = Results(out / "truth.json", tuple(made))
    with tqdm(total=sum(len(s.methods) for s in made), disable=not progress, unit="method", leave=False) as bar:
        for subject in made:
            _compare(subject, results, bar)
    for subject in made:
        print(report(subject, results.of(subject), results.found["machine"]))
        save_picture(out / f"{subject.name}.png", subject, results.of(subject))
        print(f"Picture: {out / f'{subject.name}.png'}\n")
    print(f"{results.found['seconds'] / 60:.1f} minutes in all.")
    return results.found


def _compare(subject: Subject, results: Results, bar: "tqdm[Any]") -> None:
    known = results.of(subject)
    network, methods = remembered(subject.model), known["methods"]
    if "ceiling" not in known:
        bar.set_description(f"{subject.name}: ceiling")
        plain = sum(seconds_of(subject.model, questions.x) for questions in subject.questions)
        known.update(plain=plain / subject.asked, ceiling=ceiling(subject, network))
        results.write()
    for method in subject.methods:
        bar.set_description(f"{subject.name}: {method.name}")
        if method.name not in methods:
            answers, seconds, told = [], 0.0, set[str]()
            for questions in subject.questions:
                start = time.perf_counter()
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    found = method.attribute(subject.model, questions.x, questions.target).detach()
                seconds += time.perf_counter() - start
                told |= {str(warning.message).partition(". ")[0] for warning in caught}
                places = method.reduce(found, questions.x)
                answers.append(Case(subject, questions, method, found, places, network))
            methods[method.name] = {
                "seconds": seconds / subject.asked,
                "warns": sorted(told),
                "measures": {measure.name: _judged(measure.judge, answers) for measure in MEASURES},
            }
            results.write()
        bar.update()


def _judged(judge: Callable[[Case], "Tensor | str"], answers: Sequence[Case]) -> list[float | None] | str:
    """A number for each question, None where it is not a number, or why there are none."""
    found: list[float | None] = []
    for case in answers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the method has been heard already
            judged = judge(case)
        if isinstance(judged, str):
            return judged
        found.extend(None if value != value else value for value in judged.double().tolist())
    return found
