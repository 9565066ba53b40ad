"""A list that the model changes after a call is, on record, what it was at the call."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.testing.seeding import settle, uniform


class Row(list[Any]):
    """A list by another name."""


class Dense(nn.Module):
    """Concatenates a list that grows. [N, 3] -> [N, 2]"""

    def __init__(self, grows: bool, kind: type[list[Any]] = list) -> None:
        super().__init__()
        self.kind = kind
        self.maps = nn.ModuleList([nn.Linear(3, 3), nn.Linear(6, 3), nn.Linear(9, 2)])
        self.grows = grows

    def forward(self, x: Tensor) -> Tensor:
        found = self.kind([x])
        for layer in self.maps[:-1]:
            value = torch.tanh(layer(torch.cat(found, 1)))
            found = found if self.grows else self.kind(found)
            found.append(value)
        return self.maps[-1](torch.cat(found, 1))


@pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives:UserWarning")
@pytest.mark.parametrize("kind", [list, Row])
@pytest.mark.parametrize("name", ["deep_lift", "deep_lift_reveal_cancel", "epsilon", "attnlrp"])
def test_a_list_that_grows(name: str, kind: Any) -> None:
    x, book = uniform(2, 3), rules.rulebook_of("test", name)
    options: dict[str, Any] = {"baseline": x * 0.1} if book.space == "multiplier" else {}
    models = [settle(lambda g=g: Dense(g, kind)) for g in (True, False)]
    found, expected = (funcattr.attribute(model, x, 1, rules=book, **options).cotangent for model in models)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "book", [{"sigmoid": rules.GRADIENT}, {"einsum": rules.uniform, "__getitem__": rules.GRADIENT}]
)
@pytest.mark.parametrize("kind", ["list", "nested", "sum of products"])
def test_a_list_whose_parts_are_replaced(kind: str, book: Any) -> None:
    def model(x: Tensor, replaces: bool) -> Tensor:
        index = [0, 2]
        y = x[(slice(None), index) if kind == "nested" else [0, 1]]
        factors = [y * 2, y.exp()]
        z = torch.einsum("ij,ij->ij", factors if kind == "sum of products" else tuple(factors))
        if replaces:
            index[0], factors[0] = 1, y * 0
        return z.sum(1, keepdim=True)

    x = uniform(2, 3)
    found, expected = (
        funcattr.attribute(lambda x, r=r: model(x, r), x, 0, rules=book).cotangent for r in (True, False)
    )
    torch.testing.assert_close(found, expected)
