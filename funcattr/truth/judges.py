"""The measures of the comparison, each with the settings that it has there."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import masks, metrics
from .catalogue import CHANCE
from .subject import Case, Measure

SHARES = (0.05, 0.2, 0.5)
"""Of the features that sensitivity-n removes."""
MOST_PASSES = 60
"""How many passes a question may cost where a method is asked again."""
COMPARED = frozenset(
    {
        *(CHANCE, "gradient", "smoothgrad", "integrated_gradients", "guided_backprop", "grad_cam", "guided_grad_cam"),
        *("occlusion", "lrp_epsilon", "lrp_epsilon_plus", "iba"),
    }
)
"""What Schulz et al., 2020, arXiv:2001.00396, compare."""
_DRAWS = 30
_ROUNDING = 1e-3
"""What a sum in single precision may miss, as a share of the score."""
_POINTS = 3


def _asked(case: Case) -> tuple[Any, Tensor, Tensor]:
    questions = case.questions
    return case.remembered, questions.x, questions.target


def _deletion(case: Case) -> Tensor:
    q = case.questions
    options: dict[str, Any] = {"feature_mask": q.features, "steps": case.subject.steps}
    return metrics.deletion(*_asked(case), case.places, baseline=q.baseline, **options).area


def _insertion(case: Case) -> Tensor:
    q = case.questions
    options: dict[str, Any] = {"feature_mask": q.features, "steps": case.subject.steps}
    return metrics.insertion(*_asked(case), case.places, baseline=q.blurred, **options).area


def _area_between(case: Case) -> Tensor:
    q = case.questions
    options: dict[str, Any] = {"feature_mask": q.features, "steps": case.subject.steps}
    return metrics.area_between(*_asked(case), case.places, baseline=q.baseline, **options)


def _road(case: Case) -> "Tensor | str":
    q = case.questions
    if q.x.ndim != 4:
        return "pixels have neighbours to be filled from, words have not"
    options: dict[str, Any] = {"feature_mask": q.features, "steps": case.subject.filled}
    return metrics.area_between(*_asked(case), case.places, baseline=metrics.impute, **options)


def _single_deletion(case: Case) -> Tensor:
    q = case.questions
    return metrics.single_deletion(*_asked(case), case.places, baseline=q.baseline, feature_mask=q.coarse)


def _sensitivity_n(case: Case) -> Tensor:
    q = case.questions
    count = int(q.features.max()) + 1
    sizes = [max(1, min(count - 1, round(share * count))) for share in SHARES]
    options: dict[str, Any] = {"feature_mask": q.features, "baseline": q.baseline, "samples": _DRAWS}
    return metrics.sensitivity_n(*_asked(case), case.places, n=sizes, **options).mean(1)


def _infidelity(case: Case) -> "Tensor | str":
    q, found = case.questions, case.attributions
    if case.method.units == "none" or found.shape != q.x.shape:
        return "its numbers are in no unit of the input"
    if case.method.units == "share":
        away = q.x - q.baseline
        found = torch.where(away == 0, 0, found / torch.where(away == 0, 1, away))
    window = (1, q.x.shape[2]) if q.x.ndim == 3 else tuple(max(1, side // 8) for side in q.x.shape[2:])
    options: dict[str, Any] = {"window": window, "baseline": q.baseline, "samples": _DRAWS, "scaled": True}
    return metrics.infidelity(*_asked(case), found, **options)


def _max_sensitivity(case: Case) -> "Tensor | str":
    if (passes := case.method.passes * (_POINTS + 1)) > MOST_PASSES:
        return f"it would take {passes} passes a question"
    method = partial(case.method.attribute, case.subject.model)
    options: dict[str, Any] = {"radius": case.subject.radius, "samples": _POINTS, "chunk_size": 1}
    return metrics.max_sensitivity(method, case.questions.x, case.questions.target, **options).detach()


def _randomization(case: Case) -> "Tensor | str":
    if case.method.passes > MOST_PASSES and case.method.name not in COMPARED:
        return f"it would take {case.method.passes} passes a question once more"
    subject, q = case.subject, case.questions

    def method(model: Any, x: Tensor, target: Tensor) -> Tensor:
        return case.method.reduce(case.method.attribute(model, x, target).detach(), x)

    found = metrics.randomization(method, subject.model, q.x, q.target, steps=subject.layers, absolute=False)
    return found.similarity.abs().nanmean(1)


def _completeness(case: Case) -> "Tensor | str":
    if case.method.sums_to == "nothing":
        return "it promises no sum"
    q = case.questions
    total = case.attributions.flatten(1).sum(1)
    if case.method.sums_to == "rise":
        missed = metrics.completeness(*_asked(case), case.attributions, baseline=q.baseline)
    else:
        missed = total - case.remembered(q.x).gather(1, q.target[:, None])[:, 0]
    share = missed.abs() / (total - missed).abs()
    return torch.where(share < _ROUNDING, 0, share)


def _in_region(measure: Callable[[Tensor, Tensor], Tensor], case: Case) -> "Tensor | str":
    """A measure of maps and regions; tokens are a map of one row."""
    if case.questions.regions is None:
        return "where the answer is, is not known"
    places = case.places.mT if case.places.ndim == 3 else case.places
    return measure(places, case.questions.regions).to(torch.get_default_dtype())


def _tiles(case: Case, side: int) -> "Tensor | str":
    """The degradation of the IBA paper: (LeRF - MoRF) of the softmax, tiles to the mean colour, from 1 to 0."""
    if side not in case.subject.tiles:
        return "it is for photographs"
    if case.method.name not in COMPARED:
        return "not among the methods that the paper compares"
    q = case.questions
    options: dict[str, Any] = {"baseline": q.x.mean((2, 3), keepdim=True), "feature_mask": masks.patches(q.x, side)}
    options["steps"] = case.subject.steps
    last, first = (
        metrics.deletion(*_asked(case), case.places, first=order, **options) for order in ("lowest", "highest")
    )
    return (last.area - first.area) / (first.scores[:, 0] - first.scores[:, -1])


def _sparseness(case: Case) -> Tensor:
    return metrics.sparseness(case.places, feature_mask=case.questions.features)


def _complexity(case: Case) -> Tensor:
    return metrics.complexity(case.places, feature_mask=case.questions.features)


MEASURES: tuple[Measure, ...] = (
    Measure("points", "high", partial(_in_region, metrics.pointing_game), "is the highest place in the answer?"),
    Measure(
        "energy",
        "high",
        partial(_in_region, metrics.energy_in_region),
        "what share of what is positive lies in the answer?",
    ),
    Measure(
        "mass",
        "high",
        partial(_in_region, metrics.mass_in_region),
        "what share of as many highest places as the answer has lies in it?",
    ),
    Measure("deletion", "low", _deletion, "area under the softmax as the most important parts go first"),
    Measure("insertion", "high", _insertion, "area under the softmax as they come first"),
    Measure("area_between", "high", _area_between, "ABPC of the logit: least important first, less most important"),
    Measure("road", "high", _road, "the same, where what is removed is filled from its neighbours"),
    Measure("tiles_8", "high", partial(_tiles, side=8), "the bottleneck paper's degradation, tiles of 8 pixels"),
    Measure("tiles_14", "high", partial(_tiles, side=14), "the same, of 14"),
    Measure("single_deletion", "high", _single_deletion, "do parts go by what is lost without each alone?"),
    Measure("sensitivity_n", "high", _sensitivity_n, "do sums of attributions go with what is lost?"),
    Measure("infidelity", "low", _infidelity, "squared error of what attributions predict of a window's removal"),
    Measure("max_sensitivity", "low", _max_sensitivity, "change of the map when the input moves a little"),
    Measure("randomization", "low", _randomization, "is the map of a network with random layers alike?"),
    Measure("completeness", "low", _completeness, "what a promised sum misses, as a share of the score"),
    Measure("sparseness", "neither", _sparseness, "Gini index: 0 where all parts have alike, near 1 for one of many"),
    Measure("complexity", "neither", _complexity, "entropy of the shares, in bits"),
)
"""In the order of their columns."""
