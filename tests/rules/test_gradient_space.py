"""Rules that work on gradients: finite where a slope is not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr.testing.seeding import uniform

from ..contract import assert_equal

X, A, V = uniform(2, 4, 6), uniform(6, 6, seed=2), uniform(4, 3, seed=5)
DEAD = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]).double()


def _squares(x: Tensor) -> Tensor:
    """Sums of squares over pairs of channels, of which the first pair is dead."""
    return (x * DEAD).view(-1, 3, 2).square().sum(-1)


@pytest.mark.parametrize("book", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("root", [torch.sqrt, lambda z: z.pow(0.5), lambda z: z ** torch.tensor(0.5).double()])
def test_a_root_of_zero_has_no_relevance(root: Callable[[Tensor], Tensor], book: str) -> None:
    x = X[:, 0]
    found = funcattr.lrp(lambda x: root(_squares(x)) @ V[:3], x, 0, rules=book)
    living = funcattr.lrp(lambda x: root(x.view(-1, 2, 2).square().sum(-1)) @ V[1:3], x[:, 2:], 0, rules=book)
    assert not found[:, :2].any()
    assert living.any() and living.isfinite().all()
    assert_equal(found[:, 2:], living)


@pytest.mark.parametrize("book", ["attnlrp", "cp_lrp"])
def test_a_norm_of_zero_has_no_relevance(book: str) -> None:
    found = funcattr.lrp(lambda x: torch.cdist(x @ A, x @ A).mean(1) @ V, X, 0, rules=book)  # 0 from each to itself
    beside = torch.tensor([[j for j in range(4) if j != i] for i in range(4)])

    def of_others(x: Tensor) -> Tensor:
        h = x @ A
        return (h[:, :, None] - h[:, beside]).square().sum(-1).sqrt().sum(2) @ V / 4

    apart = funcattr.lrp(of_others, X, 0, rules=book)
    assert found.any() and found.isfinite().all()
    assert_equal(found, apart)
