"""Exact Shapley values: against the sum over coalitions, one by one."""

from typing import Any

import pytest
import torch

from funcattr.methods.perturbation.shapley_values import shapley_values
from funcattr.testing.seeding import uniform

from ... import perturbation_references as references
from ...contract import assert_equal
from .test_shapley_sampling import net

MASK = torch.tensor([[0, 1, 2, 0, 1, 3]])


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
@pytest.mark.parametrize("mask", [None, MASK])
def test_they_are_the_sum_over_coalitions(chunk_size: Any, mask: Any) -> None:
    options: Any = {"feature_mask": mask, "baseline": 0.3}
    actual = shapley_values(net(), uniform(2, 6), [0, 2], **options, chunk_size=chunk_size)
    assert_equal(actual, references.shapley_values(net(), uniform(2, 6), [0, 2], **options))


def test_one_feature_gets_all() -> None:
    x = uniform(2, 6)
    found = shapley_values(net(), x, 1, feature_mask=torch.zeros(1, 6, dtype=torch.long))
    assert_equal(found[:, 0], (net()(x) - net()(0 * x))[:, 1])


def test_too_many_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 20 features, got 21, whose 2\^21 coalitions"):
        shapley_values(lambda x: x.sum(1), uniform(2, 21))
