"""Relevance that is known to be zero where its value is: what is known of it, and that it gives the same numbers."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.calls.declarations import taking_proportional
from funcattr.calls.proportional import Proportional, handed_on, multiplied, proportional, together
from funcattr.rules.composites import composite
from funcattr.tape.record import Record, Recording, record
from funcattr.testing.comparison import assert_equal
from funcattr.testing.seeding import settle, uniform

from ..zoo.classic import VGG, BasicBlock, ResNet

A, B, X, BIAS = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
"""Weights of two maps, inputs and biases, of which the first three rows and the first are used; of both signs."""
X, BIAS = X[:3], BIAS[0]
Case = tuple[Callable[[Tensor], Tensor], str]


def pooled(z: Tensor) -> Tensor:
    return F.max_pool2d(z.view(-1, 1, 2, 2), (1, 2)).flatten(1)


# From z, the result of the first map, to the output; and what is known of the relevance that arrives at z.
CASES: dict[str, Case] = {
    "relu": (lambda z: F.linear(z.relu(), B), "rectified"),
    "two readers": (lambda z: F.linear(h := z.relu(), B) + F.linear(h, A), "rectified"),
    "two relus": (lambda z: F.linear(z.relu(), B) + F.linear(z.clamp(min=0), A), "rectified"),
    "relus in a row": (lambda z: F.linear(z.relu().relu(), B), "rectified"),
    "relu6": (lambda z: F.linear(F.relu6(z), B), "rectified"),
    "hardtanh": (lambda z: F.linear(F.hardtanh(z, 0.0, 0.2), B), "rectified"),
    "clamp to a tensor": (lambda z: F.linear(z.clamp(z.new_zeros(4), z.new_ones(4)), B), "tensor"),
    "relu, view": (lambda z: F.linear(z.relu().view(-1, 2), B[:2, :2]), "rectified"),
    "relu, pool": (lambda z: F.linear(pooled(z.relu()), B[:2, :2]), "rectified"),
    "pool, relu": (lambda z: F.linear(pooled(z).relu(), B[:2, :2]), "rectified"),
    "relu, dropout": (lambda z: F.linear(F.dropout(z.relu(), training=False), B), "rectified"),
    "relu, alpha dropout": (lambda z: F.linear(F.alpha_dropout(z.relu(), 0.5, training=True), B), "tensor"),
    "relu, sum": (lambda z: F.linear(z.relu() + A[0], B), "rectified"),
    "residual": (lambda z: F.linear((h := z.relu()) + F.linear(h, A), B), "rectified"),
    "sum, relu": (lambda z: F.linear((z + z).relu(), B), "proportional"),
    "no relu": (lambda z: F.linear(z, B), "proportional"),
    "relu and none": (lambda z: F.linear(z.relu(), B) + F.linear(z, A), "proportional"),
    "none and relu": (lambda z: F.linear(z, B) + F.linear(z.relu(), A), "proportional"),
    "relu and gelu": (lambda z: F.linear(z.relu(), B) + F.linear(F.gelu(z), A), "tensor"),
    "gelu": (lambda z: F.linear(F.gelu(z), B), "tensor"),
    "leaky relu": (lambda z: F.linear(F.leaky_relu(z), B), "tensor"),
    "softplus": (lambda z: F.linear(F.softplus(z), B), "tensor"),
    "difference": (lambda z: F.linear(A[0] - z.relu(), B), "tensor"),
    "mean": (lambda z: F.linear(z.relu().mean(1, keepdim=True).expand(-1, 4), B), "rectified"),
    "relu, average": (lambda z: F.linear(F.avg_pool1d(z.relu(), 2), B[:2, :2]), "rectified"),
    "elu": (lambda z: F.linear(torch.ops.aten.elu(z, 0.0, 2.0, 1.0), B), "tensor"),
    "floor": (lambda z: F.linear(torch.clamp(z.new_ones(()), min=0 * z), B), "tensor"),
    "output": (lambda z: z, "tensor"),
}
RULES: dict[str, Any] = {
    "epsilon": rules.epsilon,
    "epsilon 0.5": rules.epsilon(eps=0.5),
    "epsilon, bias ignored": rules.epsilon(bias="ignore"),
    "gamma": rules.gamma,
    "gamma, bias ignored": rules.gamma(gamma=2.0, bias="ignore"),
    "gamma 0": rules.gamma(gamma=0),
    "z_plus": rules.z_plus,
    "alpha_beta": rules.alpha_beta,
    "winning_probability": rules.winning_probability,
    "flat": rules.flat,
}


def recorded(function: Callable[..., Any], x: Tensor, book: Rulebook) -> Record:
    return record(function, (x,), Recording("f", book))


def told(found: Record, graph: bool = False, **options: Any) -> Tensor:
    """The relevance, by rules that may know more of it than its numbers; without a `graph` they write over it."""
    with torch.set_grad_enabled(graph):
        return found.pull(torch.ones_like(found.output), **options)[0]


def untold(found: Record, graph: bool = False) -> Tensor:
    """The relevance where somebody looks at it on the way, so that rules know its numbers only."""
    return told(found, graph, observer=lambda step, arrived, given: None)


def noting(met: list[str]) -> Any:
    """The epsilon rule, which notes what it knows."""

    def form(call: Any, relevance: Any) -> Any:
        kinds = {False: "proportional", True: "rectified"}
        met.append(kinds[relevance.rectified] if isinstance(relevance, Proportional) else "tensor")
        return rules.epsilon(call, multiplied(relevance))

    @taking_proportional(form)
    def rule(call: Any, relevance: Tensor) -> Any:
        return rules.epsilon(call, relevance)

    return rule


# --- what is known ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_is_known_of_the_relevance_that_arrives(name: str) -> None:
    function, known = CASES[name]
    met = list[str]()
    book = composite("noting", convolution=rules.epsilon, dense=rules.epsilon, first=noting(met))
    found = recorded(lambda x: function(F.linear(x, A)), X, book)
    untold(found)
    assert met == []
    told(found)
    assert met == [known]


def test_what_another_rule_gives_to_zeros_is_not_thought_to_be_zero() -> None:
    """The flat rule hands relevance to dead units, and so may a rule of one's own; nobody knows what is left of it."""
    for other in (rules.flat, lambda call, r: torch.ones(call.forms[0][0], dtype=r.dtype)):
        met = list[str]()
        book = composite("noting", convolution=rules.epsilon, dense=other, first=noting(met))
        told(recorded(lambda x: F.linear(F.linear(x, A).relu(), B), X, book))
        assert met == ["tensor"]


def test_what_wraps_a_rule_knows_numbers_only() -> None:
    met = list[str]()
    rule = noting(met)

    @functools.wraps(rule)
    def doubled(call: Any, relevance: Tensor) -> Any:
        return 2 * rule(call, relevance)

    def function(x: Tensor) -> Tensor:
        return F.linear(F.linear(x, A).relu(), B)

    found = told(recorded(function, X, composite("d", convolution=rules.epsilon, dense=rules.epsilon, first=doubled)))
    once = told(recorded(function, X, composite("n", convolution=rules.epsilon, dense=rules.epsilon, first=rule)))
    assert met == ["rectified"]
    assert_equal(found, 2 * once)


class Tripled(rules.Parametric):
    """A rule that gives three times the relevance."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        found = super().__call__(*given, **options)
        return 3 * found if given else found


def test_a_class_of_ones_own_gives_what_it_gives() -> None:
    tripled = Tripled(rules.gamma.formula, rules.gamma.options)
    found = told(recorded(lambda x: F.linear(x, A), X, composite("t", convolution=tripled, dense=tripled)))
    once = told(recorded(lambda x: F.linear(x, A), X, composite("o", convolution=rules.gamma, dense=rules.gamma)))
    assert_equal(found, 3 * once)


def test_options_that_a_wrapper_binds_hold() -> None:
    bound = functools.partial(rules.gamma, gamma=20.0)
    functools.update_wrapper(bound, rules.gamma)
    known = rules.gamma(gamma=20.0)

    def relevance(rule: Any) -> Tensor:
        book = composite("b", convolution=rule, dense=rule)
        return told(recorded(lambda x: F.linear(F.linear(x, A).relu(), B), X, book))

    assert_equal(relevance(bound), relevance(known))


@rules.linear_rule()
def in_double_precision(layer: Any, *, eps: float = 1e-6) -> tuple[rules.Share, ...]:
    """As epsilon, in other numbers than the model's."""
    layer.x, layer.weight = layer.x.double(), layer.weight.double()
    return (rules.Share(((layer.x, layer.weight),)),)


@rules.linear_rule()
def shifted(layer: Any, *, eps: float = 1e-6) -> tuple[rules.Share, ...]:
    """In proportion to x + 1, so that zeros have relevance."""
    layer.x = layer.x + 1
    return (rules.Share(((layer.x, layer.weight),)),)


@pytest.mark.parametrize("rule", [in_double_precision, shifted])
@pytest.mark.parametrize("below", [rules.epsilon, rules.gamma(gamma=3.0)])
def test_a_split_may_put_other_operands_in_the_map(rule: Any, below: Any) -> None:
    book = composite("own", convolution=rules.epsilon, dense=below) | {"linear": rule}
    a, b = A.float(), B.float()
    for function in (lambda x: F.linear(h := (x @ a).relu(), b) + h @ b, lambda x: F.linear((x @ a).relu(), b)):
        found = recorded(function, X.float(), book)
        assert_equal(told(found), untold(found), tolerance=1e-5)


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CASES)
def test_what_is_known_changes_no_number(name: str, rule: str) -> None:
    function, _ = CASES[name]
    book = composite("all", convolution=RULES[rule], dense=RULES[rule])
    found = recorded(lambda x: function(F.linear(F.linear(x, B, BIAS).relu(), A, -BIAS)), X, book)
    assert_equal(told(found), untold(found))
    assert_equal(told(found), untold(found))  # and again


@pytest.mark.parametrize("upper", [rules.flat, rules.epsilon])
@pytest.mark.parametrize("rule", RULES)
def test_a_mixture_of_rules_gives_the_same(rule: str, upper: Any) -> None:
    """What one reader of a relu hands on is zero at dead units, and what the other hands on may be not."""
    book = composite("two", convolution=RULES[rule], dense=RULES[rule]) | {"matmul": upper}
    for function in (
        lambda x: F.linear(h := F.linear(x, A).relu(), B) + h @ A,
        lambda x: (z := F.linear(x, A)).relu() @ B + z @ A,
    ):
        found = recorded(function, X, book)
        assert_equal(told(found), untold(found))


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "vgg": (lambda: VGG((4, "M", 5, 6, "M", 6, 6)), 16),
    "vgg_bn": (lambda: VGG((4, "M", 5, 6, "M", 6, 6), norm=True), 16),
    "resnet": (lambda: ResNet(BasicBlock, (1, 1, 1, 2), width=4, classes=3), 32),
}

FOLDED = [(net, fold) for net in NETS for fold in (False, True) if (net, fold) != ("vgg", True)]  # it has no batch norm


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "box", "excitation_backprop"])
@pytest.mark.parametrize(("net", "fold"), FOLDED)
def test_a_net_gives_the_same(net: str, fold: bool, book: str) -> None:
    """With images that are black in part, so that some values are zero to the last bit."""
    build, size = NETS[net]
    x = uniform(2, 3, size, size) - 0.5
    x[:, :, : size // 2] = 0
    model = funcattr.functionalize(settle(build), fold=fold)
    rulebook = rules.epsilon_gamma_box(low=-0.5, high=0.5) if book == "box" else rules.COMPOSITES[book]()
    found = recorded(model, x, rulebook)
    assert_equal(told(found), untold(found))


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(RULES)),
    st.lists(st.sampled_from([-1.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 1.0]), min_size=12, max_size=12),
    st.lists(st.sampled_from([-1.0, -1e-6, 0.0, 1e-6, 0.5]), min_size=4, max_size=4),
)
def test_values_at_zero_and_at_the_stabilizer_give_the_same(
    rule: str, values: list[float], biases: list[float]
) -> None:
    """Where z is -eps, z + eps would be 0."""
    x, bias = (torch.tensor(v, dtype=torch.float64) for v in (values, biases))
    book = composite("all", convolution=RULES[rule], dense=RULES[rule])
    found = recorded(lambda x: F.linear(F.linear(x, torch.eye(4).double(), bias).relu(), B), x.view(3, 4), book)
    assert torch.isfinite(told(found)).all()
    assert_equal(told(found), untold(found))


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "gamma, bias ignored"])
def test_the_derivative_of_the_relevance_is_the_same(rule: str) -> None:
    book = composite("all", convolution=RULES[rule], dense=RULES[rule])

    def derivative(pulled: Callable[..., Tensor]) -> Tensor:
        def relevance(x: Tensor) -> Tensor:
            return pulled(recorded(lambda x: F.linear(F.linear(x, A).relu(), B), x, book), graph=True).pow(2).sum()

        return torch.func.grad(relevance)(X)

    assert_equal(derivative(told), derivative(untold))


def test_under_vmap_it_is_the_same() -> None:
    model, x = settle(NETS["resnet"][0]), uniform(2, 3, 32, 32)
    book = rules.epsilon_gamma_box(low=0.0, high=1.0)
    one = functools.partial(funcattr.lrp, model, target=1, rules=book, start="one")
    assert_equal(torch.vmap(lambda x: one(x[None])[0])(x), one(x))


# --- its parts -------------------------------------------------------------------------------------------------------


def test_a_product_is_one_tensor_and_nothing_is_held_after_it() -> None:
    x, g = uniform(3), uniform(3)
    for owned in (False, True):
        told = proportional(x, g.clone(), owned=owned)
        assert isinstance(told, Proportional)
        assert told.gives_own
        assert_equal(told.product(), x * g)
        with pytest.raises(AttributeError):
            told.product()
    assert proportional(x, g, owned=False).product() is not g  # type: ignore[union-attr]
    assert isinstance(proportional(x, g[:1]), Tensor)
    assert isinstance(proportional(x, g.float()), Tensor)
    assert isinstance(proportional(x + 0j, g + 0j), Tensor)


@pytest.mark.parametrize("first", ["rectified", "proportional", "multiplied"])
@pytest.mark.parametrize("second", ["rectified", "proportional", "multiplied"])
@pytest.mark.parametrize("owned", [(True, False), (False, True), (False, False)])
def test_two_relevances_of_one_value_add_up(first: str, second: str, owned: tuple[bool, bool]) -> None:
    value, given = uniform(5) - 0.5, [uniform(5), uniform(5)]

    def made(kind: str, g: Tensor, owned: bool) -> Proportional:
        if kind == "multiplied":
            return Proportional(g, owned=owned)
        return Proportional(
            g, value.relu() if kind == "rectified" else value, rectified=kind == "rectified", owned=owned
        )

    copies = [g.clone() for g in given]
    parts = [made(kind, g, own) for kind, g, own in zip((first, second), copies, owned, strict=True)]
    expected = [made(kind, g, False).product() for kind, g in zip((first, second), given, strict=True)]
    both = together(*parts)
    assert both.rectified == (first == second == "rectified")
    assert_equal(both.product(), sum(expected))
    for copy, g, own in zip(copies, given, owned, strict=True):
        assert own or torch.equal(copy, g)


def test_a_sum_of_factors_that_half_precision_cannot_hold_is_none() -> None:
    """x g + x g' is finite where g + g' is not."""
    x, g = torch.tensor([0.0, 1e-3]).half(), torch.tensor([4e4, 4e4]).half()
    both = together(Proportional(g.clone(), x), Proportional(g, x)).product()
    assert_equal(both, torch.tensor([0.0, 80.0]).half(), tolerance=1e-2)


def test_what_is_handed_on_is_own_where_the_product_or_the_way_makes_it_so() -> None:
    x, g = uniform(4), uniform(4)
    assert handed_on(Proportional(g, x), lambda r: r.view(2, 2)).owned
    assert handed_on(Proportional(g), torch.clone, owned=True).owned
    kept = handed_on(Proportional(g, rectified=True), lambda r: r.view(2, 2))
    assert kept.rectified
    assert not kept.owned
