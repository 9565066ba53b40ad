"""The results as text: a table for each network, how far measures agree, and whether published orders hold."""

from collections.abc import Sequence
from typing import Any

from ..text_tables import table
from .catalogue import CHANCE
from .judges import MEASURES
from .statistics import agreement, bootstrap, chance_of_more, mean
from .subject import Measure, Subject

ORDERS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "photos": (
        ("area_between", "random", "gradient"),
        ("area_between", "gradient", "smoothgrad"),
        ("area_between", "smoothgrad", "lrp_epsilon_plus"),
        *(
            (measure, other, "iba")
            for measure in ("tiles_8", "tiles_14", "sensitivity_n", "mass")
            for other in ("random", "gradient", "lrp_epsilon_plus", "occlusion", "grad_cam")
        ),
        ("randomization", "guided_backprop", "gradient"),
    ),
    "digits": (
        ("area_between", "random", "gradient"),
        ("area_between", "gradient", "smoothgrad"),
        ("area_between", "smoothgrad", "lrp_epsilon_plus"),
        ("randomization", "guided_backprop", "gradient"),
    ),
    "sentences": (
        ("area_between", "input_x_gradient", "integrated_gradients"),
        ("area_between", "integrated_gradients", "attnlrp"),
        ("area_between", "random", "attnlrp"),
    ),
}
"""(measure, worse, better), as published: Samek et al., 2017; Adebayo et al., 2018; Schulz et al., 2020; Achtibat et
al., 2024."""


def report(subject: Subject, known: dict[str, Any], machine: str) -> str:
    """The tables of one network.

    Args:
        subject: What was asked.
        known: What was found, as `Results.of` has it.
        machine: What the times were taken on.
    """
    measures = taken(known)
    parts = [f"{subject.title}\n{subject.asked} questions; {machine}", _scores(subject, known, measures)]
    best = bootstrap(known["ceiling"])
    parts.append(f"ABPC of the order that a greedy search finds: {_interval(best)}")
    parts.append("Kendall's tau between measures, over methods:\n\n" + _agreement(subject, known, measures))
    orders = [line for order in ORDERS[subject.name] if (line := _order(known, *order))]
    parts.append("Published orders:\n" + "\n".join(orders))
    warned = [f"{name} warns: {text}." for name, found in known["methods"].items() for text in found["warns"]]
    return "\n\n".join([*parts, *warned]) + "\n"


def taken(known: dict[str, Any]) -> tuple[Measure, ...]:
    """The measures that some method has numbers of."""
    methods = [found["measures"] for found in known["methods"].values()]
    return tuple(m for m in MEASURES if any(not isinstance(found[m.name], str) for found in methods))


def values_of(known: dict[str, Any], method: str, measure: Measure) -> list[float] | str:
    """A number for each question, or why there are none."""
    values = known["methods"][method]["measures"][measure.name]
    return values if isinstance(values, str) else [float("nan") if value is None else value for value in values]


def mean_of(known: dict[str, Any], method: str, measure: Measure) -> float:
    """The mean over the questions that have a value; not a number without any."""
    values = values_of(known, method, measure)
    return float("nan") if isinstance(values, str) else mean(values)


def in_order(subject: Subject, known: dict[str, Any]) -> list[str]:
    """The methods, the best by ABPC first."""
    by = next(m for m in MEASURES if m.name == "area_between")
    return sorted((m.name for m in subject.methods), key=lambda name: -_or_least(mean_of(known, name, by)))


def _or_least(value: float) -> float:
    return value if value == value else float("-inf")


def _scores(subject: Subject, known: dict[str, Any], measures: Sequence[Measure]) -> str:
    head = ("method", "passes", *(f"{m.name} {'' if m.better == 'neither' else _ARROWS[m.better]}" for m in measures))
    rows = []
    for name in in_order(subject, known):
        cells = [name, f"{known['methods'][name]['seconds'] / known['plain']:.1f}"]
        for measure in measures:
            values = values_of(known, name, measure)
            cells.append("" if isinstance(values, str) else _interval(bootstrap(values)))
        rows.append(cells)
    asks = "\n".join(f"  {m.name}: {m.asks}" for m in measures)
    return table(head, rows, right=frozenset(range(1, len(head)))) + (
        "\n\nMeans over questions with 95 % intervals of the bootstrap. Passes: time over that of a plain forward and "
        f"backward pass.\n{asks}"
    )


_ARROWS = {"high": "(high)", "low": "(low)"}


def _interval(found: Any) -> str:
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]" if found.mean == found.mean else "-"


def correlations(subject: Subject, known: dict[str, Any], measures: Sequence[Measure]) -> list[list[float]]:
    """Kendall's tau between measures, so turned that more is better in each. Maps by chance are left out."""
    names = [m.name for m in subject.methods if m.name != CHANCE]
    columns = [[measure.signed(mean_of(known, name, measure)) for name in names] for measure in measures]
    return [[agreement(a, b) for b in columns] for a in columns]


def _agreement(subject: Subject, known: dict[str, Any], measures: Sequence[Measure]) -> str:
    judging = [m for m in measures if m.better != "neither"]
    rows = correlations(subject, known, judging)
    cells = [
        (m.name, *("" if value != value else f"{value:.2f}" for value in row))
        for m, row in zip(judging, rows, strict=True)
    ]
    return table(("", *(m.name for m in judging)), cells, right=frozenset(range(1, len(judging) + 1)))


def _order(known: dict[str, Any], by: str, worse: str, better: str) -> str:
    """Whether one method is better than another, and how sure that is."""
    measure = next((m for m in MEASURES if m.name == by), None)
    if measure is None or not {worse, better} <= set(known["methods"]):
        return ""
    best, worst = (values_of(known, name, measure) for name in (better, worse))
    if isinstance(best, str) or isinstance(worst, str):
        return ""
    more, less = ([measure.signed(v) for v in found] for found in (best, worst))
    sure = chance_of_more(more, less)
    means = [mean(found) for found in (best, worst)]
    verdict = "holds" if sure >= 0.975 else "does not hold" if sure <= 0.5 else "holds, but not surely"
    return f"  {by}: {worse} ({means[1]:.2f}) behind {better} ({means[0]:.2f}): {verdict}, {sure:.0%} of the draws"
