"""The features that attributions are about: what is removed or shown as one, and how much each one got."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.inputs import as_dict
from ..attribution.neighbours import ASKED, Change, Neighbours, in_places
from ..attribution.question import Question
from ..attribution.separate_copies import Batch, are_separate
from ..batch import has_dim, merged, moved
from ..methods.perturbation.coalitions import FeatureGroups, each_its_own, feature_groups, laid_groups, numbered
from ..sampling.baselines import Baseline, broadcasts, cast_like, distribution
from ..sampling.loops import wide
from ..torch_state import can_look_at, is_plain_eager

Imputation = Callable[[Tensor, Tensor], Tensor]
"""From copies of examples [M, ...], and which of their values are removed, to what stands for those."""

Filling = Baseline | Imputation
"""A baseline, or a function that computes it from what is kept; for several inputs a structure of both."""


class Players(NamedTuple):
    """The features of a batch of examples, and their attributions.

    Attributes:
        groups: The features, F of them.
        attributions: Of each feature, the sum over its values. [N, F]
        imputations: For each input the function that stands for its baseline, or None.
        call: First words of errors.
    """

    groups: FeatureGroups
    attributions: Tensor
    imputations: tuple[Imputation | None, ...]
    call: str

    def values_of(self, features: Tensor) -> Any:
        """Which values belong to one of some features. [c, F] -> as x, bool, each [1 or N, c, ...]"""

        def leaf(ids: Tensor) -> Tensor:
            return features.index_select(1, ids.reshape(-1)).reshape(-1, *ids.shape).transpose(0, 1)

        return pytree.tree_map(leaf, self.groups.ids)

    def without(self, removed: Any) -> Any:
        """Copies of each example without some of its values. As x, bool, each [1 or N, c, ...] -> as x, each [N c, ...]

        Raises:
            TypeError, ValueError: If what an imputation returns is no tensor, or none of the shape that it was given.
        """
        leaves, structure = pytree.tree_flatten(self.groups.x)
        starts, gone = pytree.tree_leaves(self.groups.baseline), pytree.tree_leaves(removed)
        each = zip(leaves, starts, gone, self.imputations, strict=True)
        return pytree.tree_unflatten([_without(self.call, *parts) for parts in each], structure)


def _without(call: str, x: Tensor, baseline: Tensor, removed: Tensor, imputation: Imputation | None) -> Tensor:
    x = x.unsqueeze(1)
    if imputation is None:
        return merged(torch.where(removed, baseline.unsqueeze(1), x))
    count = removed.shape[1]
    rows = merged(x.expand(-1, count, *x.shape[2:]))
    removed = merged(removed.expand(len(x), *removed.shape[1:]))
    return torch.where(removed, _imputed(call, imputation, rows, removed), rows)


def _imputed(call: str, imputation: Imputation, rows: Tensor, removed: Tensor) -> Tensor:
    found: Any = imputation(rows.clone(), removed.clone())  # it may write into its own
    if not isinstance(found, Tensor):
        raise TypeError(f"{call}(baseline=...): expected a function that returns a tensor, got {type(found).__name__}.")
    if found.ndim != rows.ndim or not broadcasts(found.shape, rows.shape):
        raise ValueError(
            f"{call}(baseline=...): expected a function that returns the shape that it is given, {list(rows.shape)}, "
            f"got {list(found.shape)}."
        )
    return cast_like(f"{call}(baseline=<function>)", found, rows)


def players(
    question: Question, attributions: Any, feature_mask: Any, baseline: Filling, features: int | None
) -> Players:
    """The features of a measure's arguments, and the sum of each one's attributions.

    Without a `feature_mask` each attribution is of a feature: one of a map [N, 1, H, W] is of a pixel, with all its
    channels.

    Raises:
        TypeError: If an attribution is no floating-point tensor.
        ValueError: If their structure or a shape does not fit the inputs or the mask, if pixels would be removed
            channel by channel, or if an imputation mixes examples.
    """
    call = question.call
    given = checked_attributions(question, attributions)
    if isinstance(baseline, distribution):
        raise TypeError(f"{call}(baseline=...): expected a number or tensors, got a distribution. Give a row of it.")
    start, imputations = _parted(baseline, len(pytree.tree_leaves(question.x)))
    groups, sums = _groups(question, given, feature_mask, start, features)
    found = Players(groups, sums, imputations, call)
    _check_imputations(question, found)
    return found


def unjudged(question: Question, feature_mask: Any, baseline: Filling, features: int | None) -> Players:
    """The features of a search, to which nothing is attributed; without a `feature_mask` those of images are pixels.

    Raises:
        TypeError, ValueError: As in `players`.
    """
    start, imputations = _parted(baseline, len(pytree.tree_leaves(question.x)))
    if feature_mask is None:
        ids = each_its_own(pytree.tree_map(lambda v: v[:, :1] if v.ndim > 3 else v, question.x))
        groups = laid_groups(question, ids, question.laid(start), features)
    else:
        groups = feature_groups(question, feature_mask, start, features)
    nothing = torch.zeros(question.examples, groups.features, device=groups.device)
    found = Players(groups, nothing, imputations, question.call)
    _check_imputations(question, found)
    return found


def _parted(baseline: Any, inputs: int) -> tuple[Baseline, tuple[Imputation | None, ...]]:
    """The baseline with 0 in place of each function, and the functions of the inputs."""
    if _is_imputation(baseline):
        return 0, (baseline,) * inputs
    if not isinstance(baseline, tuple | Mapping):
        return baseline, (None,) * inputs
    parts, structure = pytree.tree_flatten(as_dict(baseline))
    start = pytree.tree_unflatten([0 if _is_imputation(part) else part for part in parts], structure)
    # If they are not as many as the inputs, the baseline will be refused.
    functions = [part if _is_imputation(part) else None for part in parts]
    return start, tuple(functions)


def _is_imputation(part: Any) -> bool:
    return callable(part) and not isinstance(part, Tensor)


def _check_imputations(question: Question, given: Players) -> None:
    """Raise if an imputation fills an example by what lies beside it: then the result would depend on the chunks.

    Raises:
        ValueError: If so.
    """
    if not is_plain_eager() or (question.layout is not None and question.layout.has_one_example):
        return
    leaves, ids = pytree.tree_leaves(question.x), pytree.tree_leaves(given.groups.ids)
    for x, numbers, imputation in zip(leaves, ids, given.imputations, strict=True):
        if imputation is not None:
            _check_imputation(question, x.detach(), (numbers % 3 == 0).expand(len(x), *numbers.shape[1:]), imputation)


def _check_imputation(question: Question, x: Tensor, removed: Tensor, imputation: Imputation) -> None:
    def filled(x: Tensor, removed: Tensor) -> Tensor:
        return torch.where(removed, _imputed(question.call, imputation, x, removed), x)

    def alone(change: Change) -> Tensor:
        return filled(change(x), removed)

    def beside(neighbours: Neighbours) -> Tensor:
        return filled(neighbours.among(x), _among_others(removed, neighbours.times))

    are_separate(
        (imputation, x, removed),
        question.call,
        question.device,
        [Batch(question.examples, alone, beside, again=alone)],
        size=0.0,
        way_out=" It is the function baseline= that mixes them.",
    )


def _among_others(removed: Tensor, times: int) -> Tensor:
    """What is removed of the examples that are asked about, and of others the rest. [N, ...] -> [N * times, ...]"""
    return in_places([removed if place in ASKED else ~removed for place in range(times)])


def _groups(
    question: Question, given: Any, feature_mask: Any, baseline: Baseline, features: int | None
) -> tuple[FeatureGroups, Tensor]:
    """The features, and the sum of each one's attributions, which are structured as x. [N, F]"""
    call, leaves, parts = question.call, pytree.tree_leaves(question.x), pytree.tree_leaves(given)
    if feature_mask is not None:
        groups = feature_groups(question, feature_mask, baseline, features)
        return groups, _sums(call, groups.features, groups.ids, groups.doubt, parts)
    if any(value.ndim > 3 and part.shape[1] > 1 for part, value in zip(parts, leaves, strict=True)):
        raise ValueError(
            f"{call}(attributions=...): expected one number for each pixel, [N, 1, ...], for a pixel has all its "
            f"channels or none; got {[list(part.shape) for part in parts]}. Reduce them first, by funcattr.maps.sum "
            "for instance, or say feature_mask=."
        )
    count = sum(part[0].numel() for part in parts)
    if features not in (None, count):
        raise ValueError(f"{call}(features={features}): without a feature_mask there are {count}.")
    groups = laid_groups(question, each_its_own(given), question.laid(baseline), count)
    return groups, _each(parts)


def feature_sums(call: str, attributions: Any, feature_mask: Any, features: int | None) -> Tensor:
    """The sum of each feature's attributions, where nothing else is given than them. [N, F]

    Raises:
        TypeError: If an attribution is no floating-point tensor.
        ValueError: If their numbers of examples differ, or the mask does not fit.
    """
    given = as_dict(attributions)
    parts = pytree.tree_leaves(given)
    for part in parts or [given]:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            got = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"{call}(attributions=...): expected floating-point tensors, got {got}.")
    if any(part.ndim < 2 or len(part) != len(parts[0]) or part.numel() == 0 for part in parts):
        shapes = [list(part.shape) for part in parts]
        raise ValueError(f"{call}(attributions=...): expected shape [N, ...], with one N for all, got {shapes}.")
    if feature_mask is None:
        numbered(call, given, None, features)
        return _each(parts)
    count, ids, doubt = numbered(call, given, as_dict(feature_mask), features)
    return _sums(call, count, ids, doubt, parts)


def _each(parts: list[Tensor]) -> Tensor:
    """Attributions that are of a feature each. [N, F]"""
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1).to(_dtype(parts))


def _dtype(parts: list[Tensor]) -> torch.dtype:
    """To sum attributions in, whichever of several comes first."""
    return wide(reduce(torch.promote_types, (part.dtype for part in parts)))


def _sums(call: str, features: int, ids: Any, doubt: Tensor | None, parts: list[Tensor]) -> Tensor:
    """The sum of each feature's attributions, not a number for an example that lacks a feature of the others. [N, F]"""
    sums = parts[0].new_zeros(len(parts[0]), features, dtype=_dtype(parts))
    leaves = pytree.tree_leaves(ids)
    for part, numbers in zip(parts, leaves, strict=True):
        where = _narrowed(call, numbers, part).reshape(len(numbers), -1).expand(len(part), -1)
        sums = sums.scatter_add(1, where, part.reshape(len(part), -1).to(sums.dtype))
    return torch.where(_unknown(call, features, leaves, doubt), torch.nan, sums)


def _unknown(call: str, features: int, ids: list[Tensor], doubt: Tensor | None) -> Tensor:
    """Which examples lack a feature that others have: shares of features could not be compared then. [1 or N, 1]

    Raises:
        ValueError: If one does, where that can be looked at.
    """
    rows = max(map(len, ids))
    there = torch.zeros(rows, features, dtype=torch.bool, device=ids[0].device)
    for mask in ids:
        where = mask.reshape(len(mask), -1).expand(rows, -1)
        there = there.scatter(1, where, torch.ones_like(where, dtype=torch.bool))
    lacking = ~there.all(1)
    if can_look_at(lacking) and bool(lacking.any()):
        raise ValueError(
            f"{call}(feature_mask=...): expected the same features in each example, got examples that lack some. "
            "Number those of each from 0, or ask about the examples one by one."
        )
    return (lacking if doubt is None else lacking | doubt).unsqueeze(1)


def checked_attributions(question: Question, attributions: Any) -> Any:
    """The attributions with their examples in front, structured as x, on its device; each [N, ...], and broadcasts.

    Raises:
        TypeError: If one is no floating-point tensor.
        ValueError: If their structure or a shape does not fit the inputs.
    """
    given = as_dict(attributions)
    leaves, structure = pytree.tree_flatten(question.x)
    parts, found = pytree.tree_flatten(given)
    if found != structure:
        raise ValueError(
            f"{question.call}(attributions=...): expected {len(leaves)}, structured as x, got {len(parts)}."
        )
    if question.layout is not None:
        given = pytree.tree_map(_in_front, given, question.layout.x)
    for part, value in zip(pytree.tree_leaves(given), leaves, strict=True):
        _check(question.call, part, value)
    return pytree.tree_map(lambda part, value: part.to(value.device), given, question.x)


def _in_front(part: Any, dim: Any) -> Any:
    """An input's attributions with their examples in front; what has no such dimension is refused later."""
    return moved(part, dim) if isinstance(part, Tensor) and has_dim(part, dim) else part


def _check(call: str, part: Any, value: Tensor) -> None:
    if not isinstance(part, Tensor) or not part.is_floating_point():
        got = part.dtype if isinstance(part, Tensor) else type(part).__name__
        raise TypeError(f"{call}(attributions=...): expected floating-point tensors, got {got}.")
    if part.ndim != value.ndim or len(part) != len(value) or not broadcasts(part.shape, value.shape):
        raise ValueError(
            f"{call}(attributions=...): expected the input's shape {list(value.shape)}, or 1 in place of some of its "
            f"dimensions but the first, got {list(part.shape)}. funcattr.maps.resize(map, x) enlarges a layer's map."
        )


def _narrowed(call: str, ids: Tensor, part: Tensor) -> Tensor:
    """The features of attributions that stand for several values each, which have to be of one feature."""
    for dim, (size, wanted) in enumerate(zip(ids.shape[1:], part.shape[1:], strict=True), 1):
        if size != wanted:
            first = ids.narrow(dim, 0, 1)
            if can_look_at(ids) and not bool((ids == first).all()):
                raise ValueError(
                    f"{call}(feature_mask=...): expected one feature for all values that share an attribution, but "
                    f"along dimension {dim} the mask changes, and the attributions have 1 there."
                )
            ids = first
    return ids


def refuse_example_dims(call: str, options: dict[str, Any]) -> None:
    """Raise if a method is to be told where examples are: these measures count rows in dimension 0.

    Raises:
        TypeError: If so.
    """
    if options.get("example_dims", 0) != 0:
        raise TypeError(
            f"{call}(example_dims=...): expected examples in dimension 0 of x and of the attributions. Give a function "
            "that moves them there and back as the method."
        )


def by_rows(call: str, attributions: Any, examples: int) -> list[Tensor]:
    """The tensors that a method returned, which have a row for each example.

    Raises:
        ValueError: If one has not.
    """
    parts = pytree.tree_leaves(attributions)
    if not all(isinstance(part, Tensor) and part.shape[:1] == (examples,) for part in parts):
        got = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        raise ValueError(f"{call}(method=...): expected attributions with {examples} rows, got {got}.")
    return parts


def as_vectors(parts: list[Tensor]) -> Tensor:
    """All attributions of an example in one row. [N, values]"""
    return torch.cat([part.reshape(len(part), -1).to(wide(part.dtype)) for part in parts], 1)
