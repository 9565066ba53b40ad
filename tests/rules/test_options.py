"""Options of rules: what is refused, and rules as values (equal, hashed, printed, pickled, copied)."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import funcattr
from funcattr import Rulebook, rules

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("alpha_beta", {"alpha": 3, "beta": 1}, r"alpha_beta\(alpha=3, beta=1\): expected alpha - beta = 1"),
    ("alpha_beta", {"alpha": 3}, r"alpha_beta\(alpha=3, beta=1(\.0)?\): expected alpha - beta = 1"),
    ("alpha_beta", {"beta": 2}, r"alpha_beta\(alpha=2(\.0)?, beta=2\): expected alpha - beta = 1"),
    ("alpha_beta", {"alpha": 0, "beta": -1}, r"alpha_beta\(alpha=0, beta=-1\)"),
    ("alpha_beta", {"alpha": -1, "beta": -2}, r"alpha_beta\(alpha=-1, beta=-2\)"),
    *(
        (name, {"eps": -1e-6}, rf"{name}\(.*eps=-1e-06")
        for name in "epsilon z_plus alpha_beta gamma w_square flat e_rule b_rule winning_probability norm".split()
    ),
    ("z_box", {"low": 0, "high": 1, "eps": -1.0}, r"z_box\(.*eps=-1"),
    ("gamma", {"gamma": -0.5}, r"gamma\(gamma=-0\.5"),
    ("z_box", {"low": 1, "high": 0}, r"z_box\(low=1(\.0)?, high=0(\.0)?\): expected low <= high"),
    ("z_box", {"low": (0, 2), "high": (1, 1)}, r"z_box\(low="),
    ("z_box", {}, r"z_box\("),
    ("z_box", {"low": -1}, r"z_box\("),
    ("z_box", {"high": 1}, r"z_box\("),
    ("z_box", {"low": (0, 1), "high": (1, 2, 3)}, r"z_box\(low="),
    ("e_rule", {"p": 0}, r"e_rule\(p=0"),
    ("e_rule", {"p": -2}, r"e_rule\(p=-2"),
    ("e_rule", {"p": 1.5}, r"e_rule\(p=1\.5"),
    ("b_rule", {"beta": float("nan")}, r"b_rule\(beta=nan"),
    *(
        (name, {"bias": "other"}, rf"{name}\(.*bias='other'")
        for name in ("epsilon", "z_plus", "alpha_beta", "gamma", "w_square")
    ),
    *(
        (name, {"eps": float("nan")}, rf"{name}\(.*eps=nan")
        for name in ("epsilon", "z_plus", "alpha_beta", "gamma", "w_square", "b_rule")
    ),
    ("gamma", {"gamma": float("nan")}, r"gamma\(gamma=nan"),
    ("alpha_beta", {"alpha": float("nan")}, r"alpha_beta\(alpha=nan"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_options_are_refused_where_the_rule_is_made(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        getattr(rules, name)(**options)


def test_z_box_without_bounds_is_refused_as_a_rule() -> None:
    x = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^z_box\("):
        funcattr.vjp(torch.nn.Linear(2, 2), x, rules=Rulebook({"linear": rules.z_box}))[1](x)


def test_z_box_refuses_bounds_for_another_number_of_channels() -> None:
    rule, x = rules.z_box(low=(-1, -1, -1), high=(1, 1, 1)), torch.ones(1, 2, 4)
    with pytest.raises(ValueError, match=r"^z_box.* 2 channels, got 3"):
        funcattr.vjp(torch.nn.Conv1d(2, 2, 1), x, rules={"conv1d": rule})[1](x)


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma", "flat"])
def test_an_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match="stabilizer"):
        getattr(rules, name)(stabilizer=1)


# name, options, other options, how it is printed
VALUES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("epsilon", {"eps": 0.1}, {"eps": 0.2}, "epsilon(eps=0.1)"),
    ("epsilon", {"bias": "ignore"}, {"bias": "absorb"}, "epsilon(bias='ignore')"),
    ("z_plus", {"eps": 0.1}, {"eps": 0.2}, "z_plus(eps=0.1)"),
    ("alpha_beta", {"alpha": 3, "beta": 2}, {"alpha": 1, "beta": 0}, "alpha_beta(alpha=3, beta=2)"),
    ("gamma", {"gamma": 0.5}, {"gamma": 1}, "gamma(gamma=0.5)"),
    ("z_box", {"low": -1, "high": 1}, {"low": -2, "high": 1}, "z_box(low=-1.0, high=1.0)"),
    (
        "z_box",
        {"low": (-1, -2), "high": (1, 2)},
        {"low": (-1, -1), "high": (1, 2)},
        "z_box(low=(-1.0, -2.0), high=(1.0, 2.0))",
    ),
    ("w_square", {"eps": 0.1}, {"eps": 0.2}, "w_square(eps=0.1)"),
    ("flat", {"eps": 0.1}, {"eps": 0.2}, "flat(eps=0.1)"),
    ("e_rule", {"p": 2}, {"p": 3}, "e_rule(p=2)"),
    ("b_rule", {"beta": 1}, {"beta": 2}, "b_rule(beta=1)"),
    ("winning_probability", {"eps": 0.1}, {"eps": 0.2}, "winning_probability(eps=0.1)"),
    ("norm", {"eps": 0.1}, {"eps": 0.2}, "norm(eps=0.1)"),
    ("beta_smooth", {"beta": 5}, {"beta": 6}, "beta_smooth(beta=5)"),
]
by_name = pytest.mark.parametrize(("name", "options", "other", "printed"), VALUES, ids=lambda value: str(value)[:40])


@by_name
def test_equal_options_make_equal_rules(
    name: str, options: dict[str, Any], other: dict[str, Any], printed: str
) -> None:
    make = getattr(rules, name)
    assert make(**options) == make(**options)
    assert hash(make(**options)) == hash(make(**options))
    assert make(**options) != make(**other)
    assert make(**options) != getattr(rules, "gamma" if name == "z_plus" else "z_plus")
    assert Rulebook({"linear": make(**options)}) == Rulebook({"linear": make(**options)})
    assert hash(Rulebook({"linear": make(**options)})) == hash(Rulebook({"linear": make(**options)}))
    assert Rulebook({"linear": make(**options)}) != Rulebook({"linear": make(**other)})


@by_name
def test_a_rule_is_printed_as_it_is_made(
    name: str, options: dict[str, Any], other: dict[str, Any], printed: str
) -> None:
    rule = getattr(rules, name)(**options)
    assert repr(rule) == printed
    assert eval(printed, dict(vars(rules))) == rule


@by_name
def test_a_rule_survives_pickling_and_copying(
    name: str, options: dict[str, Any], other: dict[str, Any], printed: str
) -> None:
    rule = getattr(rules, name)(**options)
    for again in (pickle.loads(pickle.dumps(rule)), copy.copy(rule), copy.deepcopy(rule)):
        assert again == rule
        assert repr(again) == printed
        assert hash(again) == hash(rule)
    bare = getattr(rules, name)
    assert pickle.loads(pickle.dumps(bare)) == bare == copy.deepcopy(bare)


def test_the_defaults_said_are_the_bare_rule() -> None:
    assert rules.epsilon(eps=1e-6, bias="absorb") == rules.epsilon == rules.epsilon()
    assert rules.alpha_beta(alpha=2, beta=1) == rules.alpha_beta
    assert rules.gamma(gamma=0.25) == rules.gamma
    assert rules.b_rule(beta=0.5) == rules.b_rule
    assert rules.e_rule(p=1) == rules.e_rule
    assert rules.winning_probability(eps=1e-20) == rules.winning_probability


def test_bounds_are_taken_from_numbers_lists_and_tensors() -> None:
    expected = rules.z_box(low=(-1.0, -2.0), high=(1.0, 2.0))
    assert rules.z_box(low=[-1, -2], high=[1, 2]) == expected
    assert rules.z_box(low=torch.tensor([-1.0, -2.0]), high=torch.tensor([1.0, 2.0])) == expected
    mixed, x = rules.z_box(low=-2, high=(1.0, 2.0)), torch.tensor([[0.5, -0.5]])
    full = rules.z_box(low=(-2, -2), high=(1, 2))
    layer = torch.nn.Linear(2, 2)
    first, second = (funcattr.vjp(layer, x, rules={"linear": r})[1](torch.ones(1, 2))[0] for r in (mixed, full))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", sorted(rules.COMPOSITES))
def test_the_eps_of_a_composite_is_that_of_all_its_rules(name: str) -> None:
    make: Any = rules.COMPOSITES[name]
    if "eps" not in (make.__kwdefaults__ or {}):
        return
    bounds = {"low": -1, "high": 1} if name == "epsilon_gamma_box" else {}
    for entry in make(eps=0.25, **bounds).entries:
        options = getattr(entry.action.function, "options", {})
        assert options.get("eps", 0.25) == 0.25, entry


def test_the_eps_of_a_composite_reaches_sums_norms_and_products() -> None:
    a, b = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[2.0, -0.5]]).double()
    book = rules.epsilon_plus(eps=0.5)
    both = funcattr.lrp(lambda a, b: a + b, (a, b), 0, rules=book, start="one")
    assert both[0].tolist() == [[pytest.approx(1 / 3.5), 0]]
    product = funcattr.lrp(lambda a, b: (a[:, None] @ b[..., None])[:, 0], (a, b), 0, rules=book, start="one")
    assert product[0].tolist() == [[pytest.approx(2 / 3), pytest.approx(-1 / 3)]]
    normed = funcattr.lrp(lambda a: torch.nn.functional.layer_norm(a, (2,), eps=0.0), a, 0, rules=book, start="one")
    assert normed.sum().item() == pytest.approx(1 / 1.5)


TAKEN_AS_NUMBERS: dict[str, Callable[[Tensor], Rulebook]] = {
    "alpha_beta": lambda v: rules.epsilon_plus() | {"linear": rules.alpha_beta(alpha=1 + v, beta=v)},
    "gamma": lambda v: rules.epsilon_plus() | {"linear": rules.gamma(gamma=v)},
    "z_box": lambda v: rules.epsilon_gamma_box(low=-3 * v, high=[3 * v, 3 * v]),
    "alpha_beta, applied": lambda v: (
        rules.epsilon_plus() | {"linear": lambda call, r: rules.alpha_beta(call, r, alpha=1 + v, beta=v)}
    ),
    "gamma, applied": lambda v: rules.epsilon_plus() | {"linear": lambda call, r: rules.gamma(call, r, gamma=v)},
    "epsilon, applied": lambda v: rules.epsilon_plus() | {"linear": lambda call, r: rules.epsilon(call, r, eps=v)},
}


@pytest.mark.parametrize("name", TAKEN_AS_NUMBERS)
def test_a_number_is_no_tensor_that_is_differentiated_or_mapped(name: str) -> None:
    """The derivative by it was zero in silence, or a part of it."""
    model, x, value = torch.nn.Linear(2, 2).double(), torch.ones(1, 2).double(), torch.tensor(0.5).double()

    def summed(v: Tensor) -> Tensor:
        return funcattr.lrp(model, x, 1, rules=TAKEN_AS_NUMBERS[name](v)).square().sum()

    refused = pytest.raises(
        TypeError, match=rf"^{name.partition(',')[0]}\(\w+=\.\.\.\): expected a number, got a tensor"
    )
    with refused:
        summed(value.clone().requires_grad_())
    with refused:
        torch.func.grad(summed)(value)
    with refused:
        torch.func.jvp(summed, (value,), (value,))
    with refused:
        torch.vmap(summed)(value[None])
    with refused, torch.autograd.forward_ad.dual_level():
        summed(torch.autograd.forward_ad.make_dual(value, value))
    torch.testing.assert_close(summed(value), summed(torch.tensor(0.5)))
