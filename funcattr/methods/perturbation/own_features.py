"""Examples whose masks have different features: a regression for each set of features that examples have."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._torch import pytree
from ...attribution.question import Question
from .coalitions import FeatureGroups, coalition_scores


class Share(NamedTuple):
    """The examples that have the same features.

    Attributes:
        examples: Which they are. [n]
        features: The features that they have, in order. [k]
    """

    examples: Tensor
    features: Tensor


def shares_of(groups: FeatureGroups, features: int | None) -> list[Share]:
    """The examples of a batch by the features that they have; all features count where their number is given."""
    leaves = pytree.tree_leaves(groups.ids)
    examples, device = len(pytree.tree_leaves(groups.x)[0]), groups.device
    every = Share(torch.arange(examples, device=device), torch.arange(groups.features, device=device))
    if features is not None or all(len(ids) == 1 for ids in leaves):
        return [every]
    has = torch.zeros(examples, groups.features, dtype=torch.bool, device=device)
    for ids in leaves:
        where = ids.reshape(len(ids), -1).expand(examples, -1).to(device)
        has = has.scatter(1, where, torch.ones_like(where, dtype=torch.bool))
    kinds, which = has.unique(dim=0, return_inverse=True)
    if len(kinds) == 1:
        return [every]
    return [Share((which == n).nonzero().flatten(), kind.nonzero().flatten()) for n, kind in enumerate(kinds)]


def scores_of_shares(
    question: Question,
    groups: FeatureGroups,
    shares: list[Share],
    coalitions: list[Tensor],
    chunk_size: int | None,
    progress: bool,
) -> list[Tensor]:
    """The scores of each share's examples with its own coalitions. Of each [S, k] -> [n, S]"""
    if len(shares) == 1:
        (present,) = coalitions
        return [coalition_scores(question, groups, lambda index: present[index], len(present), chunk_size, progress)]
    most = max(map(len, coalitions))
    padded = []
    for share, present in zip(shares, coalitions, strict=True):
        # Features that an example has not, and coalitions beyond its own, are of nobody.
        places = torch.full((groups.features,), len(share.features), device=groups.device)
        places[share.features] = torch.arange(len(share.features), device=groups.device)
        padded.append(F.pad(present, (0, 1, 0, most - len(present)))[:, places])
    which = torch.cat([torch.full_like(share.examples, n) for n, share in enumerate(shares)])[_back(shares)]
    each = torch.stack(padded)
    scores = coalition_scores(question, groups, lambda index: each[:, index][which], most, chunk_size, progress)
    return [scores[share.examples, : len(own)] for share, own in zip(shares, coalitions, strict=True)]


def together(groups: FeatureGroups, shares: list[Share], values: list[Tensor]) -> Tensor:
    """The numbers of the features of all examples, 0 for features that an example has not. Each [n, k] -> [N, F]"""
    if len(shares) == 1:
        return values[0]
    rows = [
        found.new_zeros(len(found), groups.features).index_copy(1, share.features, found)
        for share, found in zip(shares, values, strict=True)
    ]
    return torch.cat(rows)[_back(shares)]


def _back(shares: list[Share]) -> Tensor:
    """Where each example is among those of the shares in turn. [N]"""
    return torch.cat([share.examples for share in shares]).argsort()
