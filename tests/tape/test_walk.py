"""The reverse pass: which cotangents are written over, and that nobody can tell."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.calls.declarations import giving_own, writing_over
from funcattr.testing.comparison import assert_equal
from funcattr.testing.seeding import settle, uniform


def book_of_forms(met: list[str]) -> tuple[funcattr.Rulebook, Callable[..., Tensor]]:
    """A rule for relu that notes in which form it was asked."""

    def over(call: Any, own: Tensor) -> Tensor:
        met.append("over")
        return own.mul_(call.output > 0)

    @giving_own
    @writing_over(over)
    def rule(call: Any, p: Tensor) -> Tensor:
        met.append("kept")
        return p * (call.output > 0)

    return funcattr.Rulebook({"relu": rule}), rule


def maps() -> tuple[Tensor, Tensor]:
    return uniform(4, 4), uniform(4, 4) - 1


CASES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], list[str]]] = {
    # From the last call on: the caller holds what it gave.
    "a chain": (lambda x, a, b: F.linear(F.linear(x, a).relu(), b).relu(), ["kept", "over"]),
    "two readers": (lambda x, a, b: (h := F.linear(x, a).relu()) @ b + F.linear(h, a), ["over"]),
    "a sum": (lambda x, a, b: F.linear(F.linear(x, a).relu() + F.linear(x, b).relu(), b), ["kept", "kept"]),
    "a residual": (lambda x, a, b: F.linear((h := F.linear(x, a).relu()) + F.linear(h, b).relu(), a), ["kept", "over"]),
    "relus in a row": (lambda x, a, b: F.linear(F.linear(x, a).relu().relu(), b), ["over", "over"]),
    "through a view": (lambda x, a, b: F.linear(F.linear(x, a).relu().view(-1, 2), b[:2, :2]), ["kept"]),
    "one relu of one value twice": (lambda x, a, b: F.linear((h := F.linear(x, a)).relu() * h.relu(), b), ["kept"] * 2),
}


@pytest.mark.parametrize("name", CASES)
def test_only_what_nobody_else_holds_is_written_over(name: str) -> None:
    function, forms = CASES[name]
    (a, b), x, met = maps(), uniform(3, 4), list[str]()
    book, _ = book_of_forms(met)
    y, pull = funcattr.vjp(lambda x: function(x, a, b), x, rules=book)
    cotangent = uniform(*y.shape)
    kept = cotangent.clone()
    (found,) = pull(cotangent)
    assert met == forms
    assert torch.equal(cotangent, kept)
    plain: Any = torch.func.vjp(lambda x: function(x, a, b), x)
    assert_equal(y, plain[0])
    assert_equal(found, plain[1](cotangent)[0])
    assert torch.equal(pull(cotangent)[0], found)  # and again


def test_what_wraps_a_rule_has_no_form_that_writes_over() -> None:
    met = list[str]()
    _, rule = book_of_forms(met)

    @functools.wraps(rule)
    def doubled(call: Any, p: Tensor) -> Tensor:
        return 2 * rule(call, p)

    function, _ = CASES["a chain"]
    (a, b), x = maps(), uniform(3, 4)
    y, pull = funcattr.vjp(lambda x: function(x, a, b), x, rules=funcattr.Rulebook({"relu": doubled}))
    (found,) = pull(torch.ones_like(y))
    assert met == ["kept", "kept"]
    assert_equal(found, 4 * torch.func.vjp(lambda x: function(x, a, b), x)[1](torch.ones_like(y))[0])


class Block(nn.Module):
    """A residual block with batch norms, in which relus and norms are in a row, too. [N, 3, H, W] -> [N, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norms[0](self.first(x)))
        h = F.relu6(self.norms[1](self.second(h)) + h)
        h = self.norms[2](torch.relu(self.first(h).relu_()))
        return h.mean((2, 3))


@pytest.mark.parametrize("rule", [rules.guided, rules.deconvnet, rules.GRADIENT])
def test_rules_give_what_they_give_where_nothing_can_be_written_over(rule: Any) -> None:
    """Under vmap nothing is."""
    model, x = settle(Block), uniform(3, 3, 5, 5)
    book = funcattr.Rulebook({"relu": rule})

    def attribute(x: Tensor) -> Tensor:
        y, pull = funcattr.vjp(model, x, rules=book)
        return pull(torch.ones_like(y))[0]

    assert_equal(attribute(x), torch.vmap(lambda one: attribute(one[None])[0])(x))
