"""The features that attributions are about: what is removed or shown as one, and how much each one got."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.inputs import as_dict
from ..attribution.question import Question
from ..batch import has_dim, moved
from ..methods.perturbation.coalitions import FeatureGroups, each_its_own, feature_groups, laid_groups
from ..sampling.baselines import Baseline, broadcasts, distribution
from ..sampling.loops import wide
from ..torch_state import can_look_at


class Players(NamedTuple):
    """The features of a batch of examples, and their attributions.

    Attributes:
        groups: The features, F of them.
        attributions: Of each feature, the sum over its values. [N, F]
    """

    groups: FeatureGroups
    attributions: Tensor


def players(
    question: Question, attributions: Any, feature_mask: Any, baseline: Baseline, features: int | None
) -> Players:
    """The features of a measure's arguments, and the sum of each one's attributions.

    Without a `feature_mask` each attribution is of a feature: one of a map [N, 1, H, W] is of a pixel, with all its
    channels.

    Raises:
        TypeError: If an attribution is no floating-point tensor.
        ValueError: If their structure or a shape does not fit the inputs or the mask, or if pixels would be removed
            channel by channel.
    """
    call, leaves = question.call, pytree.tree_leaves(question.x)
    given = checked_attributions(question, attributions)
    parts = pytree.tree_leaves(given)
    if isinstance(baseline, distribution):
        raise TypeError(f"{call}(baseline=...): expected a number or tensors, got a distribution. Give a row of it.")
    if feature_mask is not None:
        groups = feature_groups(question, feature_mask, baseline, features)
        return Players(groups, _known(call, groups, _sums(call, groups, parts)))
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
    return Players(groups, torch.cat([part.reshape(len(part), -1) for part in parts], 1).to(wide(parts[0].dtype)))


def _sums(call: str, groups: FeatureGroups, parts: list[Tensor]) -> Tensor:
    """The sum of each feature's attributions. [N, F]"""
    sums = parts[0].new_zeros(len(parts[0]), groups.features, dtype=wide(parts[0].dtype))
    for part, ids in zip(parts, pytree.tree_leaves(groups.ids), strict=True):
        where = _narrowed(call, ids, part).reshape(len(ids), -1).expand(len(part), -1)
        sums = sums.scatter_add(1, where, part.reshape(len(part), -1).to(sums.dtype))
    return sums


def _known(call: str, groups: FeatureGroups, sums: Tensor) -> Tensor:
    """The sums of features, not a number for an example that lacks a feature that others have. [N, F]

    Shares of features could not be compared then.

    Raises:
        ValueError: If one does, where that can be looked at.
    """
    ids = pytree.tree_leaves(groups.ids)
    rows = max(map(len, ids))
    there = torch.zeros(rows, groups.features, dtype=torch.bool, device=groups.device)
    for mask in ids:
        where = mask.reshape(len(mask), -1).expand(rows, -1)
        there = there.scatter(1, where, torch.ones_like(where, dtype=torch.bool))
    lacking = ~there.all(1)
    if can_look_at(lacking) and bool(lacking.any()):
        raise ValueError(
            f"{call}(feature_mask=...): expected the same features in each example, got examples that lack some. "
            "Number those of each from 0, or ask about the examples one by one."
        )
    unknown = lacking if groups.doubt is None else lacking | groups.doubt
    return torch.where(unknown.unsqueeze(1), torch.nan, sums)


def checked_attributions(question: Question, attributions: Any) -> Any:
    """The attributions with their examples in front, structured as x; each [N, ...], and broadcasts to it.

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
    return given


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
