"""Features as the players of a game: groups of input values that are present, or at the baseline, together."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import has_dispatch_mode, pytree, unwrapped
from ...attribution.inputs import as_dict
from ...attribution.question import Question, own
from ...attribution.separate_copies import copies_of
from ...batch import merged, parted
from ...sampling.baselines import Baseline, baseline_like, broadcasts, distribution
from ...sampling.loops import chunk_for, loop, positive


class FeatureGroups(NamedTuple):
    """The features of a batch of examples.

    Attributes:
        features: The number of features, F.
        x: The inputs.
        baseline: What stands for an absent value; structured and shaped as x. Of no use where there are rows.
        ids: The feature, 0 .. F - 1, of each value; structured as x, each [1 or N, ...].
        doubt: Where masks cannot be looked at, which examples have a feature beyond F. [1 or N]
        rows: Background data: scores are means over its rows.
    """

    features: int
    x: Any
    baseline: Any
    ids: Any
    doubt: Tensor | None = None
    rows: distribution | None = None

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return pytree.tree_leaves(self.x)[0].device

    @property
    def passes(self) -> int:
        """How many forwards a coalition takes."""
        return 1 if self.rows is None else self.rows.count

    def copies(self, present: Tensor, row: Tensor) -> Any:
        """Each example with the features of each coalition, neighbours. [c, F] or [N, c, F] -> as x, each [N * c, ...]

        Args:
            present: The coalitions, of all examples or of each.
            row: The row of the background data that each has behind it. [c]
        """
        behind = each_copy(self.baseline) if self.rows is None else self.rows.samples(row)

        def leaf(x: Tensor, baseline: Tensor, ids: Tensor) -> Tensor:
            if present.ndim == 2:
                kept = present.index_select(1, ids.reshape(-1)).reshape(-1, *ids.shape).transpose(0, 1)
            else:
                index = ids.reshape(len(ids), 1, -1).expand(*present.shape[:2], -1)
                kept = present.gather(2, index).reshape(*present.shape[:2], *ids.shape[1:])
            return merged(torch.where(kept, x.unsqueeze(1), baseline))

        return pytree.tree_map(leaf, self.x, behind, self.ids)

    def spread(self, values: Tensor) -> Any:
        """A number for each feature, given to each value of its group. [N, F] -> as x, each [N, ...]

        Of the dtype of x, or of `values` where x is made of integers. Not a number in doubt.
        """
        found = self.spread_precisely(values)
        return pytree.tree_map(lambda x, v: v.to(x.dtype) if x.is_floating_point() else v, self.x, found)

    def spread_precisely(self, values: Tensor) -> Any:
        """As `spread`, in the dtype of `values` whatever that of x is."""
        if self.doubt is not None:
            values = torch.where(self.doubt.unsqueeze(1), torch.nan, values)

        def leaf(x: Tensor, ids: Tensor) -> Tensor:
            index = ids.reshape(len(ids), -1).expand(len(values), -1)
            return values.gather(1, index).reshape(x.shape)

        return pytree.tree_map(leaf, self.x, self.ids)


def each_copy(values: Any) -> Any:
    """Values of the batch as those of any number of coalitions. [N, ...] -> [N, 1, ...]"""
    return pytree.tree_map(lambda value: value.unsqueeze(1), values)


def feature_groups(
    question: Question, feature_mask: Any, baseline: Baseline | distribution, features: int | None
) -> FeatureGroups:
    """The `FeatureGroups` of a method's arguments.

    Args:
        question: What is asked.
        feature_mask: The feature of each value, integers from 0, structured as x and broadcast to it; None makes each
            value of an example a feature of its own.
        baseline: As the method was given it.
        features: The number of features, where it cannot be read from the mask.
    """
    if isinstance(feature_mask, Tensor) and not isinstance(question.x, Tensor):
        count = len(pytree.tree_leaves(question.x))
        raise ValueError(f"{question.call}(feature_mask=...): expected {count} masks structured as x, got 1.")
    masks = question.laid(as_dict(feature_mask))
    if isinstance(baseline, distribution):
        rows = baseline.like(question.call, question.x)
        return laid_groups(question, masks, 0, features)._replace(rows=rows)
    return laid_groups(question, masks, question.laid(baseline), features)


def laid_groups(question: Question, feature_mask: Any, baseline: Baseline, features: int | None) -> FeatureGroups:
    """The `FeatureGroups` of arguments that have their examples in front."""
    call, x = question.call, question.x
    full = baseline_like(call, x, baseline)
    count, ids, doubt = numbered(call, x, feature_mask, features)
    return FeatureGroups(count, x, full, ids, doubt)


def numbered(call: str, x: Any, feature_mask: Any, features: int | None) -> tuple[int, Any, Tensor | None]:
    """The number of features, the feature of each value, and the doubt about it, as in `FeatureGroups`.

    Args:
        call: First words of errors.
        x: What has the values; tensors with their examples in front.
        feature_mask, features: As in `feature_groups`.
    """
    leaves, structure = pytree.tree_flatten(x)
    if feature_mask is None:
        count = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
        if features not in (None, count):
            raise ValueError(f"{call}(features={features}): without a feature_mask each of the {count} values is one.")
        return count, each_its_own(x), None
    masks, given = pytree.tree_flatten(own(feature_mask))
    if given != structure:
        raise ValueError(f"{call}(feature_mask=...): expected {len(leaves)} masks structured as x, got {len(masks)}.")
    examples = len(leaves[0])
    ids = [_ids(call, value, mask, examples) for value, mask in zip(leaves, masks, strict=True)]
    if features is not None:
        positive(call, "features", features)
    if all(map(_may_be_read, masks)):
        count = _counted(call, masks, features)
        if features is None:
            ids, count = _without_gaps(ids, count)
        return count, pytree.tree_unflatten(ids, structure), None
    if features is None:
        raise ValueError(
            f"{call}(feature_mask=...): its values cannot be looked at in compiled code, or where it is mapped itself. "
            "Give the number of features: features=."
        )
    beyond = reduce(torch.logical_or, [((i < 0) | (i >= features)).reshape(len(i), -1).any(1) for i in ids])
    clamped = pytree.tree_unflatten([i.clamp(0, features - 1) for i in ids], structure)
    return features, clamped, beyond


def each_its_own(x: Any) -> Any:
    """Numbers for features of one value each, over all inputs. Structured as x, each [1, ...]"""
    leaves, structure = pytree.tree_flatten(x)
    ids, start = [], 0
    for value in leaves:
        size = math.prod(value.shape[1:])
        ids.append(torch.arange(start, start + size, device=value.device).reshape(1, *value.shape[1:]))
        start += size
    return pytree.tree_unflatten(ids, structure)


def _ids(call: str, x: Tensor, mask: Any, examples: int) -> Tensor:
    """A mask of one input, [1 or N, ...]."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"{call}(feature_mask=...): expected integer tensors, got {type(mask).__name__}.")
    if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        raise TypeError(f"{call}(feature_mask=...): expected integers, the feature of each value, got {mask.dtype}.")
    if not broadcasts(mask.shape, x.shape):
        raise ValueError(
            f"{call}(feature_mask=...): expected the input's shape {list(x.shape)} or one that broadcasts to it, "
            f"got {list(mask.shape)}."
        )
    rows = examples if mask.ndim == x.ndim and mask.shape[0] == examples else 1
    return mask.to(x.device, torch.long).expand(rows, *x.shape[1:])


def _may_be_read(mask: Tensor) -> bool:
    return not torch.compiler.is_compiling() and not unwrapped(mask) and not has_dispatch_mode()


def _counted(call: str, masks: list[Tensor], features: int | None) -> int:
    lowest, highest = min(int(mask.min()) for mask in masks), max(int(mask.max()) for mask in masks)
    if lowest < 0 or (features is not None and highest >= features):
        expected = "from 0" if features is None else f"from 0 to {features - 1}"
        raise ValueError(f"{call}(feature_mask=...): expected features {expected}, got {lowest} to {highest}.")
    return highest + 1 if features is None else features


def _without_gaps(ids: list[Tensor], count: int) -> tuple[list[Tensor], int]:
    """Features numbered from 0 in their order, without the numbers that no value has; and how many they are."""
    if count > sum(numbers.numel() for numbers in ids):  # labels may be any numbers: no table of all that lie between
        labels = torch.cat([numbers.reshape(-1).to(ids[0].device) for numbers in ids]).unique()
        return [torch.searchsorted(labels.to(numbers.device), numbers.contiguous()) for numbers in ids], len(labels)
    used = torch.zeros(count, dtype=torch.bool, device=ids[0].device)
    for numbers in ids:
        used[numbers.to(used.device)] = True
    if bool(used.all()):
        return ids, count
    places = used.cumsum(0) - 1
    return [places.to(numbers.device)[numbers] for numbers in ids], int(used.sum())


def precise(scores: Tensor) -> Tensor:
    """Scores in single precision at least: half precision is too coarse for their sums and differences."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def coalition_scores(
    question: Question,
    groups: FeatureGroups,
    coalitions: Callable[[Tensor], Tensor],
    count: int,
    chunk_size: int | None,
    progress: bool,
) -> Tensor:
    """The score of each example with each of many coalitions.

    Args:
        question: What is asked of the model.
        groups: The features of the batch.
        coalitions: From numbers of coalitions [c] to who is in them, [c, F], or for each example [N, c, F].
        count: The number of coalitions, S.
        chunk_size, progress: As the method was given them.

    Returns:
        As `precise` makes them; the mean over the rows of background data. [N, S]
    """
    passes = groups.passes
    chunk = chunk_for(question, chunk_size, count * passes)

    def body(done: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        copies = groups.copies(coalitions(index // passes), index % passes)
        found = parted(precise(copies_of(question, copies).scores()), len(index))
        return done + len(index), (found.transpose(0, 1).clone(),)

    # Nothing goes from chunk to chunk; but torch's scan has to carry something.
    done = torch.zeros((), dtype=torch.long, device=groups.device)
    _, (found,) = loop(question.call, body, done, count * passes, chunk, device=groups.device, progress=progress)
    return (found if passes == 1 else found.unflatten(0, (count, passes)).mean(1)).transpose(0, 1)


def empty_scores(question: Question, groups: FeatureGroups, chunk_size: int | None) -> Tensor:
    """The score of each example with none of its features, as `precise` makes it. [N, 1]"""
    if groups.rows is None:
        return precise(copies_of(question, groups.baseline).scores()).unsqueeze(1)

    def nobody(index: Tensor) -> Tensor:
        return torch.zeros(len(index), groups.features, dtype=torch.bool, device=index.device)

    return coalition_scores(question, groups, nobody, 1, chunk_size, False)


def checked_coalitions(call: str, coalitions: Any, groups: FeatureGroups) -> Tensor:
    """The coalitions given, as booleans on the inputs' device. [S, F]"""
    if not isinstance(coalitions, Tensor) or coalitions.is_floating_point() or coalitions.is_complex():
        got = coalitions.dtype if isinstance(coalitions, Tensor) else type(coalitions).__name__
        raise TypeError(f"{call}(coalitions=...): expected a boolean or integer tensor, got {got}.")
    if coalitions.ndim != 2 or coalitions.shape[1] != groups.features or len(coalitions) == 0:
        raise ValueError(
            f"{call}(coalitions=...): expected shape ['S', {groups.features}], which of the {groups.features} features "
            f"are present, got {list(coalitions.shape)}."
        )
    return own(coalitions.to(groups.device, torch.bool))
