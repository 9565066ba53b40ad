"""What a tape lets go of is made again with the same value, and what is written over belongs to nobody else.

That a rule which declares that it does not read its call's output does not read it, tests/test_cost.py counts.
"""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.calls.declarations import operands_only
from funcattr.calls.inplace import over, plus, times, where_above, where_below
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal

OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "times": (times, torch.mul),
    "plus": (plus, torch.add),
    "over": (lambda own, other: over(other, own), lambda own, other: other / own),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_result_takes_the_place_of_what_is_owned_only_where_nobody_can_tell(name: str) -> None:
    owning, plain = OPERATIONS[name]
    other = uniform(2, 3)
    with torch.no_grad():
        own = uniform(2, 3, seed=3)
        expected = plain(own, other)
        found = owning(own, other)
        assert_equal(found, expected, tolerance=1e-12)
        assert torch.equal(own, found)
    for case in ("gradients on", "another shape", "another dtype", "vmap"):
        own, before = uniform(2, 3, seed=3), uniform(2, 3, seed=3)
        given = {"another shape": other[:1], "another dtype": other.float()}.get(case, other)
        with torch.set_grad_enabled(case == "gradients on"):
            found = torch.vmap(lambda g, own=own: owning(own, g))(given[None]) if case == "vmap" else owning(own, given)
        assert torch.equal(own, before)
        assert_equal(found.reshape(2, 3), plain(before, given), tolerance=1e-12)


@pytest.mark.parametrize("case", ["owned", "of others", "gradients on", "a wider control"])
@pytest.mark.parametrize("keeping", [where_above, where_below])
def test_values_are_dropped_in_place_only_where_nobody_can_tell(
    keeping: Callable[[Tensor, Tensor, bool], Tensor], case: str
) -> None:
    values, before = uniform(1, 5), uniform(1, 5)
    control = uniform(2 if case == "a wider control" else 1, 5, seed=2)
    control[:, 0], control[:, 1] = 0.0, torch.inf
    kept = control > 0 if keeping is where_above else control < 0
    with torch.set_grad_enabled(case == "gradients on"):
        found = keeping(values, control, case != "of others")
    assert torch.equal(found, torch.where(kept, before, 0))
    assert torch.equal(values, found if case == "owned" else before)


def stack() -> nn.Module:
    """Each kind of neighbour: a batch norm to fold, relus between linear maps, one relu with two readers."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
            self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.out = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.norm(self.conv(x)))
            h = F.relu(self.left(h) + self.right(h), inplace=True)
            return self.out(h.mean((2, 3)))

    return settle(Stack)


def wholly(book: funcattr.Rulebook) -> funcattr.Rulebook:
    """The same rules as plain functions, which declare nothing: their calls keep everything."""

    def declared_nowhere(rule: Any) -> Any:
        return lambda call, relevance: rule(call, relevance)

    rows = [
        e._replace(action=declared_nowhere(e.action.function)) if e.action.kind == "rule" else e for e in book.entries
    ]
    return funcattr.Rulebook(tuple(rows), unlisted="raise", space="relevance")


@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "excitation_backprop"])
def test_relevance_is_the_same_where_calls_keep_everything(name: str) -> None:
    model, x = stack(), uniform(2, 3, 6, 6)
    book = rules.COMPOSITES[name]()
    for run in (torch.no_grad, torch.enable_grad):
        with run():
            assert_equal(
                funcattr.lrp(model, x, 1, rules=book, start="one"),
                funcattr.lrp(model, x, 1, rules=wholly(book), start="one"),
            )


def test_a_pullback_may_be_called_again_and_gives_the_same() -> None:
    model, x = stack(), uniform(2, 3, 6, 6)
    y, pull = funcattr.vjp(model, x, rules=rules.epsilon_plus())
    seed = torch.ones_like(y)
    with torch.no_grad():
        first = pull(seed)[0].clone()
        assert torch.equal(pull(seed)[0], first)
    assert_equal(pull(seed)[0], first)
    assert_equal(torch.vmap(pull)(seed[None])[0][0], first)
    assert torch.equal(seed, torch.ones_like(y))


def test_a_rule_that_asks_for_what_was_let_go_gets_it() -> None:
    seen: list[Tensor] = []

    def look(call: Any, cotangent: Tensor) -> Tensor:
        seen.append(call.output)
        return rules.z_plus(call, cotangent)

    operands_only(look)
    x = uniform(2, 3)
    layer = settle(lambda: nn.Linear(3, 4))
    y, pull = funcattr.vjp(layer, x, rules={"linear": look})
    pull(torch.ones_like(y))
    assert_equal(seen[0], y, tolerance=1e-12)


def test_a_batch_norm_reads_its_own_operand_and_not_what_the_map_before_it_gives() -> None:
    modules = (nn.BatchNorm1d(4), nn.Linear(3, 4), nn.Linear(3, 4))
    norm, layer, other = (settle(lambda m=m: m, seed=seed) for seed, m in enumerate(modules))
    x, r = uniform(2, 3), uniform(2, 4, seed=2)

    def model(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, z = layer(x), other(x)
        return norm(y), y, z

    def pulled(function: Any, x: Tensor, *r: Tensor) -> Tensor:
        y, pull = funcattr.vjp(function, x, rules=rules.epsilon_everywhere())
        return pull(r if isinstance(y, tuple) else r[0])[0]

    nothing = torch.zeros_like(r)
    assert_equal(pulled(model, x, r, nothing, nothing), pulled(layer, x, pulled(norm, layer(x).detach(), r)))


@pytest.mark.parametrize("norm", [False, True])
def test_a_relu_that_writes_over_its_input_is_let_go_before_the_pass_is_over(norm: bool) -> None:
    """The tape holds z, and z's name stands for relu(z) once that is written over it: they must not hold each other."""
    w, one = uniform(2, 2, 3, 3), torch.ones(2, dtype=torch.float64)
    dead: list[bool] = []

    def model(x: Tensor) -> Tensor:
        h = F.conv2d(x, w, padding=1)
        h = F.relu(F.batch_norm(h, one, one) if norm else h, inplace=True)
        y = F.conv2d(h, w)
        watched = weakref.ref(h)
        del h
        dead.append(watched() is None)
        return y.sum((2, 3))

    x = uniform(1, 2, 5, 5)
    found = funcattr.lrp(model, x, 0, rules="epsilon", start="one")
    assert dead == [True]
    with torch.enable_grad():  # where nothing is written over
        again = funcattr.lrp(model, x.clone().requires_grad_(), 0, rules="epsilon", start="one")
    assert_equal(found, again.detach())
