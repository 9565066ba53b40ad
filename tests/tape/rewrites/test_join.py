"""An activation joined to the linear map before it: where that is, and what the rules are then given."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import GRADIENT, Call, fold, join, takes_activation
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal

X, W = uniform(2, 3), uniform(3, 3, seed=3)


def together(linear: Call, activation: Call, g: Tensor) -> Tensor:
    """The plain gradient of both, times 10, so that it shows."""
    assert torch.equal(linear.output, activation.operands[0])
    return 10 * linear.vjp(activation.vjp(g)[0])[0]


@takes_activation(together)
def alone(call: Call, g: Tensor) -> tuple[Tensor, ...]:
    """A linear map without an activation after it: times 100."""
    return tuple(100 * part for part in call.vjp(g))


def halved(call: Call, g: Tensor) -> Tensor:
    """An activation without a linear map before it: half."""
    return call.vjp(g)[0] / 2


BOOK = Rulebook({"linear_map": alone, "activation": join(halved), "batch_norm": fold(lambda call, g: call.vjp(g))})


def scale(model: Any, book: Rulebook = BOOK, x: Tensor = X) -> float:
    """What the rules have multiplied the gradient by."""
    found, plain = (funcattr.attribute(model, x, (1,), rules=rules).cotangent for rules in (book, Rulebook()))
    factor = (found * plain).sum() / (plain * plain).sum()
    assert_equal(found, factor * plain)
    return round(factor.item(), 9)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda x: torch.tanh(x @ W), 10),
        (lambda x: F.linear(x, W).relu_(), 10),
        (lambda x: (x @ W).tanh() @ W, 1000),
        (lambda x: ((x @ W).tanh() @ W).sigmoid(), 100),
        (lambda x: torch.tanh(torch.tanh(x @ W)), 5),  # the second one comes after no linear map
        (lambda x: torch.tanh(x), 0.5),
        (lambda x: torch.tanh(x @ W + 1), 50),
        (lambda x: (x @ W).reshape(2, 3).clone().tanh(), 10),  # nothing is moved
        (lambda x: (x @ W).mT.tanh().mT, 50),
        (lambda x: (lambda z: z.tanh() + z.sigmoid())(x @ W), 10),  # one function of one value
        (lambda x: (lambda z: z * z.sigmoid() * z)(x @ W), 10),
        (lambda x: torch.tanh(x @ x.mT), 0.5),  # no linear map, but a product
    ],
)
def test_an_activation_joins_the_linear_map_right_before_it(model: Any, expected: float) -> None:
    assert scale(model) == expected


def test_a_value_that_is_read_twice_or_returned_is_not_joined() -> None:
    def read_twice(x: Tensor) -> Tensor:
        z = x @ W
        return z.tanh() + 0 * z.sum(1, keepdim=True)

    plain = funcattr.attribute(lambda x: torch.tanh(x @ W), X, (1,)).cotangent
    assert_equal(funcattr.attribute(read_twice, X, (1,), rules=BOOK).cotangent, 50 * plain)
    _, pull = funcattr.vjp(lambda x: (lambda z: (z.tanh(), z))(x @ W), X, rules=BOOK)
    one = F.one_hot(torch.tensor([1, 1]), 3).to(X)
    assert_equal(pull((one, torch.zeros_like(one)))[0], 50 * plain)


def test_two_activations_of_one_linear_map_are_not_joined() -> None:
    both = funcattr.attribute(lambda x: (lambda z: z.tanh() + z.sigmoid().mT.mT @ W)(x @ W), X, (1,), rules=BOOK)
    tanh = funcattr.attribute(lambda x: torch.tanh(x @ W), X, (1,)).cotangent
    sigmoid = funcattr.attribute(lambda x: torch.sigmoid(x @ W) @ W, X, (1,)).cotangent
    assert_equal(both.cotangent, 50 * tanh + 5000 * sigmoid)


def test_a_wider_result_is_not_joined() -> None:
    wide = torch.arange(1.0, 4.0).double().reshape(3, 1, 1)
    assert scale(lambda x: (x.exp() @ W).exp().pow(wide).sum(0)) == 0.5 * 10 * 0.5


def test_an_activation_that_widens_its_input_is_not_joined() -> None:
    """A power by a broadcast exponent."""
    model, x, x0 = settle(lambda: nn.Linear(3, 4)).double(), uniform(2, 3).abs() + 1, torch.full((2, 3), 0.5).double()
    wide = torch.arange(1.0, 4.0).double().reshape(3, 1, 1)

    def widened(x: Tensor) -> Tensor:
        return model(x).pow(wide).sum(0)

    found = funcattr.deep_lift(widened, x, 1, baseline=x0, rules="deep_lift_reveal_cancel")
    assert_equal(found.sum(1), widened(x)[:, 1] - widened(x0)[:, 1])


def test_a_batch_norm_between_them_is_folded_first() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)))
    seen: list[tuple[Tensor, Tensor]] = []

    def both(linear: Call, activation: Call, g: Tensor) -> Tensor:
        seen.append((linear.output, activation.operands[0]))
        return linear.vjp(activation.vjp(g)[0])[0]

    book = BOOK | {"linear_map": takes_activation(both)(lambda call, g: call.vjp(g))}
    assert scale(model, book) == 1
    assert_equal(seen[0][0], model[:2](X).detach())
    assert_equal(seen[0][0], seen[0][1])
    listed = [(row.operation, row.rule) for row in funcattr.rule_table(model, X, rules=book)]
    assert listed[:3] == [
        ("linear", "with tanh of 2"),
        ("batch_norm", "folded into '0'"),
        ("tanh", "folded into '0'"),
    ]


def test_a_rule_that_takes_no_activation_leaves_it_alone() -> None:
    assert scale(lambda x: torch.tanh(x @ W), BOOK | {"linear_map": lambda call, g: 100 * call.vjp(g)[0]}) == 50
    assert scale(lambda x: torch.tanh(x @ W), BOOK | {"linear_map": GRADIENT}) == 0.5
    assert scale(lambda x: torch.tanh(x @ W), BOOK | {"tanh": halved}) == 50


def test_partners_come_along() -> None:
    seen: list[tuple[Any, Any]] = []

    def both(linear: Call, activation: Call, g: Tensor) -> Tensor:
        seen.append((linear.baseline, activation.baseline))
        return linear.vjp(activation.vjp(g)[0])[0]

    book = BOOK | {"linear_map": takes_activation(both)(alone)}
    funcattr.attribute(lambda x: torch.tanh(x @ W), X, (1,), rules=book, baseline=X / 2)
    ((linear, activation),) = seen
    assert_equal(linear.operands[0], X / 2)
    assert_equal(activation.output, torch.tanh(X / 2 @ W))


def test_the_action_prints_and_wants_a_rule() -> None:
    assert repr(join(rules.rescale)) == "join(rescale)"
    not_a_rule: Any = "rescale"
    with pytest.raises(TypeError, match="expected a rule or an action"):
        Rulebook({"relu": join(not_a_rule)})


def test_an_activation_of_two_tracked_values_is_left_alone() -> None:
    book = BOOK | {"pow": join(lambda call, g: call.vjp(g))}
    assert funcattr.attribute(lambda x: (x @ W).exp() ** (x @ W), X, (1,), rules=book).cotangent.isfinite().all()


def test_a_batch_norm_before_the_linear_map_takes_its_partner_along() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Tanh()))
    seen: list[Any] = []

    def both(linear: Call, activation: Call, g: Tensor) -> Tensor:
        seen.append((linear.operands[0], linear.baseline))
        return linear.vjp(activation.vjp(g)[0])[0]

    book = BOOK | {"linear_map": takes_activation(both)(alone)}
    funcattr.attribute(model, X, 1, rules=book, baseline=X / 2)
    assert_equal(seen[0][0], X)
    assert_equal(seen[0][1].operands[0], X / 2)
