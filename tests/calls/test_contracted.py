"""The dimension of an operand that a product sums over: where z-box finds the channels, in every spelling."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import rules
from funcattr.testing.seeding import uniform

from ..contract import assert_equal

W = uniform(5, 4, seed=2)
LOW, HIGH = (-1.0, -2.0, -3.0, -4.0), (1.0, 3.0, 2.0, 5.0)
LAST: Any = ([1], [1])
BOX = rules.epsilon_gamma_box(low=LOW, high=HIGH)

# Each [N, 4] -> [N, 5]
SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "x @ w": lambda x: x @ W.T,
    "w @ x": lambda x: (W @ x.T).T,
    "w @ x, others in front": lambda x: (W @ x.T[None])[0].T,
    "rmatmul": lambda x: W.T.__rmatmul__(x),
    "rmatmul of x": lambda x: x.T.__rmatmul__(W).T,
    "mm": lambda x: torch.mm(W, mat2=x.T).T,
    "bmm": lambda x: torch.bmm(W[None], x.T[None])[0].T,
    "a row by mv": lambda x: torch.stack([torch.mv(W, row) for row in x]),
    "addmm": lambda x: torch.addmm(torch.zeros(5, 1, dtype=x.dtype), W, x.T).T,
    "addmm from the left": lambda x: torch.addmm(torch.zeros(5, dtype=x.dtype), x, W.T),
    "F.linear of w": lambda x: F.linear(W, x).T,
    "inner": lambda x: torch.inner(W, x).T,
    "einsum": lambda x: torch.einsum("oi,ib->ob", W, x.T).T,
    "einsum without an arrow": lambda x: torch.einsum("oi, bi", W, x),
    "einsum with dots": lambda x: torch.einsum("i...,oi->...o", x.T, W),
    "einsum with dots in front": lambda x: torch.einsum("...i,oi->...o", x, W),
    "einsum of three": lambda x: torch.einsum("oi,ib,o->bo", W, x.T, torch.ones(5, dtype=x.dtype)),
    "tensordot": lambda x: torch.tensordot(x, W, dims=LAST),
    "tensordot of w": lambda x: torch.tensordot(W, x.T, 1).T,
    "tensordot by names": lambda x: torch.tensordot(b=x, a=W, dims=LAST).T,
    "vecdot": lambda x: torch.linalg.vecdot(x[:, None], W),
    "vecdot of the first": lambda x: torch.linalg.vecdot(x.T[:, :, None], W.T[:, None], dim=0),
}


def _relevance(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    head = uniform(5, 3, seed=3)
    return funcattr.lrp(lambda x: f(x).relu() @ head, x, 1, rules=BOX)


@pytest.mark.parametrize("examples", [3, 4])  # as many as channels are no channels
@pytest.mark.parametrize("name", SPELLINGS)
def test_bounds_are_those_of_the_dimension_that_is_summed_over(name: str, examples: int) -> None:
    x = uniform(examples, 4)
    assert_equal(SPELLINGS[name](x), F.linear(x, W))
    assert_equal(_relevance(SPELLINGS[name], x), _relevance(lambda x: F.linear(x, W), x))


def test_the_check_fails_on_bounds_in_another_order() -> None:
    x = uniform(4, 4)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal(_relevance(lambda x: F.linear(x.flip(1), W.flip(1)), x), _relevance(lambda x: F.linear(x, W), x))


NONE: dict[str, Any] = {
    "over two": lambda x: torch.tensordot(x.reshape(-1, 2, 2), W.T.reshape(2, 2, 5), dims=2),
    "einsum over two": lambda x: torch.einsum("bij,oij->bo", x.reshape(-1, 2, 2), W.reshape(5, 2, 2)),
    "einsum over none": lambda x: torch.einsum("bi,i->bi", x, W[0]),
    "a diagonal": lambda x: torch.einsum("bii,i->b", x[:, :, None].expand(-1, -1, 4), W[0])[:, None].expand(-1, 5),
    "cross": lambda x: torch.linalg.cross(x[:, :3], W[:1, :3]).repeat(1, 2)[:, :5],
}


@pytest.mark.parametrize("name", NONE)
def test_without_one_dimension_bounds_of_channels_are_refused(name: str) -> None:
    head = uniform(5, 3, seed=3)
    with pytest.raises(ValueError, match=r"^z_box: expected one bound for all values, got 4: "):
        funcattr.lrp(lambda x: NONE[name](x).relu() @ head[: NONE[name](x).shape[1]], uniform(2, 4), 1, rules=BOX)


WITH_AN_INDEX_OF_ITS_OWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x first": lambda x, w: torch.einsum("bi,ijo->bo", x, w),
    "x last": lambda x, w: torch.einsum("ijo,bi->bo", w, x),
    "with dots": lambda x, w: torch.einsum("...i,ijo->...o", x, w),
    "without an arrow": lambda x, w: torch.einsum("bi,ijjo", x, torch.diag_embed(w.movedim(1, -1)).movedim(1, -1)),
    "three factors": lambda x, w: torch.einsum("bi,ijo,j->bo", x, w, torch.ones(w.shape[1], dtype=w.dtype)),
}


@pytest.mark.parametrize("rule", ["z_plus", "alpha_beta", "gamma", "w_square", "flat", "epsilon"])
@pytest.mark.parametrize("name", WITH_AN_INDEX_OF_ITS_OWN)
def test_what_the_weight_alone_has_is_summed_before_signs_are_told(name: str, rule: str) -> None:
    x, w, book = uniform(3, 4), uniform(4, 2, 5, seed=8), {"linear_map": getattr(rules, rule)}
    r = uniform(3, 5, seed=9)
    f = WITH_AN_INDEX_OF_ITS_OWN[name]
    assert_equal(f(x, w), x @ w.sum(1))
    found, expected = (funcattr.vjp(g, x, rules=book)[1](r)[0] for g in (lambda x: f(x, w), lambda x: x @ w.sum(1)))
    assert_equal(found, expected)
