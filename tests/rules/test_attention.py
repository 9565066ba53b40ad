"""Attention on record gives torch's own output, masked rows too, and maps that do not depend on the mask's dtype."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

Q = uniform(2, 2, 4, 6)
BOOKS = ("epsilon", "attnlrp", "cp_lrp", "deep_lift")
FLOAT = torch.zeros(4, 4).double()
FLOAT[2] = -math.inf
FLOAT[0, 1:] = -math.inf
MASKS: dict[str, Tensor] = {
    "float": FLOAT,
    "boolean": FLOAT == 0,
    "by example": torch.stack([FLOAT, FLOAT.roll(1, 0)])[:, None],
    "for all": torch.full((1, 4), -math.inf).double(),
    "of biases": uniform(4, 4, seed=9),
}


def maps(model: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The map of each rulebook."""
    return [
        funcattr.deep_lift(model, x, 1, baseline=0.1) if book == "deep_lift" else funcattr.lrp(model, x, 1, rules=book)
        for book in BOOKS
    ]


@pytest.mark.parametrize("name", MASKS)
def test_masked_rows_are_zero_as_in_torch(name: str) -> None:
    def model(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q + 1, attn_mask=MASKS[name]).flatten(1) + 0 * q.flatten(1)

    for book in BOOKS[:3]:
        assert_equal(funcattr.vjp(model, Q, rules=book)[0], model(Q))
    for found in maps(model, Q):
        assert found.isfinite().all()


def test_a_mask_of_minus_infinity_is_a_boolean_one() -> None:
    def model(q: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask).flatten(1)

    pairs = zip(*(maps(lambda q, m=m: model(q, m), Q) for m in (FLOAT, FLOAT == 0)), strict=True)
    for first, second in pairs:
        assert_equal(first, second)


class Attends(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **options)

    def forward(self, x: Tensor, **options: object) -> Tensor:
        return self.attention(x, x, x, **options)[0].flatten(1)


CAUSAL = torch.ones(4, 4, dtype=torch.bool).triu(1)
BLOCKED = CAUSAL.clone()
BLOCKED[1] = True
PADDING = torch.tensor([[False, False, True, True], [True, True, True, True]])


@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
@pytest.mark.parametrize(
    "given",
    [
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": True},
        {"attn_mask": CAUSAL, "need_weights": False},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False, "key_padding_mask": PADDING & CAUSAL[:2]},
        {"attn_mask": BLOCKED, "need_weights": False},
        {"key_padding_mask": PADDING, "need_weights": False},
    ],
    ids=lambda given: "-".join(k if v is True else "" for k, v in given.items() if not isinstance(v, Tensor)) or "mask",
)
def test_the_value_on_record_is_torchs_own(options: dict[str, bool], given: dict[str, object]) -> None:
    model, x = settle(lambda: Attends(**options)), uniform(2, 4, 6, seed=3)
    expected = model(x, **given)
    assert expected.isfinite().all()
    for book in ("epsilon", "attnlrp"):
        found = funcattr.attribute(model, x, 1, rules=book, kwargs=given)
        assert_equal(found.output.detach(), expected.detach())
        assert found.cotangent.isfinite().all()
