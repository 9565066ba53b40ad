"""Feature ablation against its formula; masks and baselines are in `test_coalitions.py`."""

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from funcattr.methods.perturbation.feature_ablation import feature_ablation
from funcattr.testing.seeding import settle, uniform

from ... import perturbation_references as references
from ...contract import assert_equal

few = settings(max_examples=20)


@given(st.data())
@few
def test_equals_the_formula(data: st.DataObject) -> None:
    examples, features = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    rows = data.draw(st.sampled_from([1, examples]))
    ids = data.draw(st.lists(st.integers(0, features - 1), min_size=rows * 6, max_size=rows * 6))
    mask = data.draw(st.sampled_from([None, torch.tensor(ids).reshape(rows, 2, 3)]))
    options: Any = {"feature_mask": mask, "baseline": data.draw(st.sampled_from([0.0, uniform(1, 2, 1, seed=9)]))}
    model = settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)))
    x, target = uniform(examples, 2, 3), data.draw(st.sampled_from([2, [0, 2, 1][:examples]]))
    actual = feature_ablation(model, x, target, **options, chunk_size=data.draw(st.sampled_from([None, 1, 4])))
    assert_equal(actual, references.feature_ablation(model, x, target, **options))


def test_by_hand() -> None:
    x = torch.tensor([[2.0, 3.0, 5.0]])
    product = feature_ablation(lambda x: x.prod(1), x, baseline=1.0)
    assert product.tolist() == [[30 - 15, 30 - 10, 30 - 6]]
    grouped = feature_ablation(lambda x: x.prod(1), x, baseline=1.0, feature_mask=torch.tensor([[1, 0, 1]]))
    assert grouped.tolist() == [[30 - 3, 30 - 10, 30 - 3]]


def test_numbers_of_an_additive_score_sum_to_its_rise() -> None:
    x, weights = uniform(2, 6), uniform(6, seed=2)
    a = feature_ablation(lambda x: x.tanh() @ weights, x, baseline=0.3)
    assert_equal(a.sum(1), (x.tanh() - math.tanh(0.3)) @ weights)
