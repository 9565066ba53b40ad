"""A large weight is used in blocks: the same relevance, whatever the rule."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import funcattr
from funcattr import rules
from funcattr.calls import linear_map

from ..contract import assert_equal

RULES = (
    rules.epsilon,
    rules.epsilon(bias="ignore"),
    rules.z_plus,
    rules.alpha_beta,
    rules.gamma,
    rules.gamma(bias="ignore"),
    rules.w_square,
    rules.flat,
    rules.e_rule(p=2),
    rules.b_rule,
    rules.z_box(low=-3.0, high=3.0),
    rules.winning_probability,
)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_change_nothing(rule: Any, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(5, 7, bias=bias).double()
    x, relevance = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 7).double()

    def pulled() -> torch.Tensor:
        return funcattr.vjp(layer, x, rules={"dense": rule})[1](relevance)[0]

    whole = pulled()
    cut: list[int] = []
    blocks = linear_map.LinearMap.blocks
    monkeypatch.setattr(linear_map, "_BLOCK", 10)
    monkeypatch.setattr(linear_map.LinearMap, "blocks", lambda self: (cut.append(len(found := blocks(self))), found)[1])
    assert_equal(pulled(), whole)
    if rule != rules.flat:  # not made of shares of the layer's own weight
        assert cut == [3]


@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "attnlrp", "cp_lrp"])
def test_a_grouped_product_is_one_matrix_for_each_group_of_rows(rules: str) -> None:
    """Experts in single precision: rows in order of their expert, an empty one among them."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(6, 4, generator=generator), torch.randn(3, 4, 8, generator=generator)
    offs = torch.tensor([2, 2, 6], dtype=torch.int32)
    each = weight[[0, 0, 2, 2, 2, 2]]
    grouped = funcattr.lrp(lambda x: F.grouped_mm(x, weight, offs=offs), x, 1, rules=rules)
    one_by_one = [
        funcattr.lrp(lambda x, w=w: x @ w, row[None], 1, rules=rules)[0] for row, w in zip(x, each, strict=True)
    ]
    torch.testing.assert_close(grouped, torch.stack(one_by_one))
    both = funcattr.gradient(lambda x: F.grouped_mm(x, weight, offs=offs).exp(), x, 1)
    torch.testing.assert_close(both, funcattr.gradient(lambda x: torch.einsum("ni,nio->no", x, each).exp(), x, 1))
    lift = funcattr.deep_lift(lambda x: F.grouped_mm(x, weight, offs=offs), x, 1)
    torch.testing.assert_close(lift.sum(1), F.grouped_mm(x, weight, offs=offs)[:, 1])


def test_a_compressed_sparse_matrix_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout a beta
        matrix = torch.eye(3).double().to_sparse_csr()
    x = torch.randn(2, 3).double()
    with pytest.raises(funcattr.UnsupportedOperationError, match=r"'matmul' in '': .* got torch.sparse_csr. Give the"):
        funcattr.lrp(lambda x: (matrix @ x.mT).mT, x, 0, rules="epsilon")
    spread = matrix.to_sparse_coo()
    found: Any = funcattr.lrp(lambda x: (spread @ x.mT).mT, x, 0, rules="epsilon")
    assert_equal(found, x * torch.eye(3)[0], tolerance=1e-5)
