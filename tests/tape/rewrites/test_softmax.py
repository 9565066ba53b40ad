"""Every spelling of softmax gets the map of one by name, whatever comes after it; what is none keeps its own rules."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import funcattr
from funcattr import Rulebook, rules
from funcattr.errors import UnsupportedOperationError
from funcattr.rules import GRADIENT, STOP
from funcattr.testing.seeding import uniform

from ...contract import assert_equal

Function = Callable[[Tensor], Tensor]
X, Q, K, V = uniform(2, 4, 6), uniform(6, 6, seed=2), uniform(6, 6, seed=3), uniform(6, 3, seed=4)
SEEN = torch.ones(4, 4).double().tril()
BOOKS: dict[str, Any] = {
    "epsilon": "epsilon",
    "attnlrp": "attnlrp",
    "cp_lrp": "cp_lrp",
    "epsilon, and softmax is a constant": rules.epsilon_plus() | {"softmax": STOP},
    "gradient, and softmax is a constant": Rulebook({"softmax": STOP}),
    "halves, and softmax has its gradient": Rulebook(
        {"mul": lambda call, g: tuple(t / 2 for t in call.vjp(g)), "softmax": GRADIENT}
    ),
}
WITH_PLAIN_MULTIPLES = [name for name in BOOKS if "halves" not in name]


def model(soft: Function, after: Function = lambda p: p) -> Function:
    """Attention by weights that some function makes of the scores."""
    return lambda x: (after(soft((x @ Q) @ (x @ K).mT)) @ (x @ K)).mean(1) @ V


def attributed(function: Function, book: Any) -> Tensor:
    found: Any = funcattr.attribute(function, X, 0, rules=book).cotangent
    return found


def assert_alike(first: Function, second: Function, books: Any = tuple(BOOKS)) -> None:
    assert_equal(first(X), second(X))
    for book in books:
        maps = [attributed(function, BOOKS[book]) for function in (first, second)]
        assert maps[1].any()
        assert_equal(*maps, tolerance=1e-5)


def named(z: Tensor) -> Tensor:
    return z.softmax(-1)


def plain(z: Tensor) -> Tensor:
    e = z.exp()
    return e / e.sum(-1, keepdim=True)


def shifted(z: Tensor) -> Tensor:
    e = (z - z.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


# --- spellings -------------------------------------------------------------------------------------------------------


def _of(e: Tensor) -> Tensor:
    return e / e.sum(-1, keepdim=True)


def _in_place(z: Tensor) -> Tensor:
    e = z.exp()
    e *= 1 / e.sum(-1, keepdim=True)
    return e


def _by_logarithms(z: Tensor) -> Tensor:
    z = z - z.amax(-1, keepdim=True)
    return (z - z.exp().sum(-1, keepdim=True).log()).exp()


def _shifted_inside(z: Tensor) -> Tensor:
    highest = z.amax(-1, keepdim=True)
    return (z - (highest + (z - highest).exp().sum(-1, keepdim=True).log())).exp()


def _by_halves(e: Tensor, f: Tensor) -> Tensor:
    return torch.cat([half / (e + f).sum(-1, keepdim=True) for half in (e, f)], -1)


SPELLINGS: dict[str, Function] = {
    "two exp": lambda z: z.exp() / torch.exp(z).sum(-1, keepdim=True),
    "two shifts": lambda z: (
        (z - z.amax(-1, keepdim=True)).exp() / (z - z.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True)
    ),
    "two exp, in place": lambda z: z.exp().div_(z.exp().sum(-1, keepdim=True)),
    "times 1 / sum": lambda z: z.exp() * (1 / z.exp().sum(-1, keepdim=True)),
    "times 1 / sum, in steps": lambda z: (1 / z.exp().sum(-1))[..., None].expand(2, 4, 4) * z.exp(),
    "times 2 / sum, halved": lambda z: z.exp() * (0.5 * (2 / z.exp().sum(-1, keepdim=True))),
    "times the reciprocal": lambda z: z.exp() * z.exp().sum(-1, keepdim=True).reciprocal(),
    "times ** -1": lambda z: z.exp() * z.exp().sum(-1, keepdim=True) ** -1,
    "times, in place": _in_place,
    "multiples": lambda z: _of(0.5 * z.exp()),
    "negative": lambda z: -z.exp() / -z.exp().sum(-1, keepdim=True),
    "a mean": lambda z: z.exp() / z.exp().mean(-1, keepdim=True) / 4,
    "times, by keyword": lambda z: torch.mul(z.exp(), other=1 / z.exp().sum(-1, keepdim=True)),
    "over, by keyword": lambda z: torch.div(other=z.exp().sum(-1, keepdim=True), input=z.exp()),
    "times ** a tensor": lambda z: z.exp() * z.exp().sum(-1, keepdim=True) ** torch.tensor(-1.0).double(),
    "an average pool": lambda z: z.exp() / F.avg_pool1d(z.exp(), 4) / 4,
    "a norm": lambda z: z.exp() / z.exp().norm(1, dim=-1, keepdim=True),
    "a vector norm": lambda z: z.exp() / torch.linalg.vector_norm(z.exp(), ord=1, dim=-1, keepdim=True),
    "transposed": lambda z: (z.exp().mT / z.exp().sum(-1)[:, None]).mT,
    "by ones": lambda z: z.exp() / (z.exp() @ torch.ones(4, 1).double()),
    "by a sum of an einsum": lambda z: z.exp() / torch.einsum("bij->bi", z.exp())[..., None],
    "by an einsum with ones": lambda z: z.exp() / torch.einsum("bij,j->bi", z.exp(), torch.ones(4).double())[..., None],
    "added one by one": lambda z: z.exp() / sum(z.exp()[..., i : i + 1] for i in range(4)),
    "unbound, and added one by one": lambda z: z.exp() / sum(z.exp().unbind(-1), torch.zeros(()).double())[..., None],
    "split, and added": lambda z: z.exp() / sum(part.sum(-1, keepdim=True) for part in z.exp().split([1, 3], -1)),
    "halves": lambda z: _by_halves(*z.exp().chunk(2, -1)),
    "pieces over their sum": lambda z: torch.stack([t / sum(z.exp().unbind(-1)) for t in z.exp().unbind(-1)], -1),
    "in pieces": lambda z: torch.cat([z.exp()[..., :2] / z.exp().sum(-1, True), _of(z.exp())[..., 2:]], -1),
    "normalize": lambda z: F.normalize(z.exp(), p=1, dim=-1),
    "1 / exp(-z)": lambda z: _of(1 / (-z).exp()),
    "exp2": lambda z: _of(torch.exp2(z / math.log(2))),
    "pow(e, z)": lambda z: _of(torch.pow(math.e, z)),
    "a number to a shifted power": lambda z: _of(math.e ** (z - 0.3)),
    "log_softmax": lambda z: F.log_softmax(z, -1).exp(),
    "log_softmax, in steps": lambda z: torch.log_softmax(z, -1).mT.exp().mT,
    "logsumexp": lambda z: (z - z.logsumexp(-1, keepdim=True)).exp(),
    "logsumexp, in steps": lambda z: (z - z.logsumexp(-1)[..., None]).exp(),
    "log sum exp": lambda z: (z - z.exp().sum(-1, keepdim=True).log()).exp(),
    "log sum exp of what is shifted": _by_logarithms,
    "log sum exp, shifted inside": _shifted_inside,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_softmax_is_one(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_alike(model(SPELLINGS[name]), model(named))


MASKED: dict[str, Function] = {
    "times a mask": lambda z: _of(z.exp() * SEEN),
    "times a mask, by ones": lambda z: (z.exp() * SEEN) / (z.exp() * SEEN @ torch.ones(4, 1).double()),
    "filled": lambda z: _of(z.exp().masked_fill(SEEN == 0, 0)),
    "shifted, and times a mask": lambda z: _of((z - z.amax(-1, keepdim=True)).exp() * SEEN),
    "the sum alone": lambda z: z.exp() * SEEN / (z.exp() * SEEN).sum(-1, keepdim=True),
    "normalize": lambda z: F.normalize(z.exp() * SEEN, p=1, dim=-1),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_mask_on_exp_is_a_mask_on_the_scores(name: str) -> None:
    masked = model(lambda z: z.masked_fill(SEEN == 0, -math.inf).softmax(-1))
    assert_alike(model(MASKED[name]), masked, WITH_PLAIN_MULTIPLES)


# --- what comes after ------------------------------------------------------------------------------------------------

AFTER: dict[str, Function] = {
    "nothing": lambda p: p,
    "a multiple": lambda p: p * 0.5,
    "a mask": lambda p: p * SEEN,
    "a sum": lambda p: p + 1e-3,
    "a bound": lambda p: p.clamp(min=0.1),
    "its own sum": lambda p: p / (p.sum(-1, keepdim=True) + 0.1),
    "a sign": lambda p: -p,
    "a mean": lambda p: p - p.mean(-1, keepdim=True),
    "a view": lambda p: p.mT.mT[:, :, :4],
    "a cast and a dropout": lambda p: F.dropout(p.to(torch.float64), 0.5, False),
    "a power": lambda p: p**2,
}


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("soft", [plain, shifted, *(SPELLINGS[n] for n in ("two exp", "times 1 / sum", "log_softmax"))])
def test_what_comes_after_a_softmax_is_what_comes_after_one_by_name(soft: Function, after: str) -> None:
    assert_alike(model(soft, AFTER[after]), model(named, AFTER[after]))


@pytest.mark.parametrize("book", ["cp_lrp", "epsilon, and softmax is a constant"])
def test_a_softmax_that_is_a_constant_takes_no_relevance(book: str) -> None:
    function = model(shifted, lambda p: 0.5 * p)
    relevance: Any = funcattr.lrp(function, X, 0, rules=BOOKS[book], start="output")
    assert_equal(relevance.sum(), function(X)[:, 0].sum(), tolerance=1e-5)


def test_a_model_that_ends_with_a_constant_does_not_depend_on_its_input() -> None:
    for soft in (named, plain):
        with pytest.raises(funcattr.UntrackedPathError, match="does not depend on the input"):
            funcattr.cp_lrp(lambda x, soft=soft: soft(x @ V), X, 0)


def test_the_table_shows_a_softmax_and_what_it_is_made_of() -> None:
    for book, rule in (("cp_lrp", "stop"), ("attnlrp", "gradient"), ("epsilon", "softmax_written_out")):
        table = funcattr.rule_table(lambda x: (x * plain(x)) @ V, X, rules=book)
        assert [(line.operation, line.rule) for line in table][:3] == [
            ("exp", "in a softmax that is written out"),
            ("sum", "in a softmax that is written out"),
            ("softmax", rule),
        ]


def test_what_a_softmax_is_made_of_may_be_read_elsewhere() -> None:
    def other(e: Tensor) -> Tensor:
        return (e.sum(-1, keepdim=True).log() * x_k(X)).mean(1) @ V

    def x_k(x: Tensor) -> Tensor:
        return x @ K

    def both(soft: Callable[[Tensor, Tensor], Tensor]) -> Function:
        def function(x: Tensor) -> Tensor:
            z = (x @ Q) @ (x @ K).mT
            e = z.exp()
            return (soft(z, e) @ (x @ K)).mean(1) @ V + other(e)

        return function

    assert_alike(both(lambda z, e: _of(e)), both(lambda z, e: z.softmax(-1)))


# --- what is none ----------------------------------------------------------------------------------------------------


def is_softmax(function: Function, book: Any = "epsilon") -> bool:
    return "softmax" in [line.operation for line in funcattr.rule_table(lambda x: function(x) @ V, X, rules=book)]


def _inverse_written(z: Tensor) -> Tensor:
    inverse = 1 / z.exp().sum(-1, keepdim=True)
    inverse.mul_(torch.arange(1.0, 5.0).double()[:, None])
    return z.exp() * inverse


def _by_another_constant(z: Tensor) -> Tensor:
    scale = torch.ones(6).double()
    e = (z * scale).exp()
    scale.mul_(2)
    return e / (z * scale).exp().sum(-1, keepdim=True)


def _by_a_constant_written_before(z: Tensor) -> Tensor:
    scale = torch.ones(6).double()
    above = z * scale
    scale.mul_(2)
    below = z * scale
    return above.exp() / below.exp().sum(-1, keepdim=True)


def _dropped(z: Tensor) -> Tensor:
    y = z.exp()
    return F.dropout(y, 0.5).exp() / F.dropout(y, 0.5).exp().sum(-1, keepdim=True)


NONE: dict[str, Function] = {
    "an inverse that is written": _inverse_written,
    "another constant": _by_another_constant,
    "a constant written before": _by_a_constant_written_before,
    "another scale": lambda z: (2 * z).exp() / (3 * z).exp().sum(-1, keepdim=True),
    "another mask": _dropped,
    "one of them": lambda z: z.exp() / z.exp()[..., :1],
    "twice one of them": lambda z: z.exp() / (z.exp()[..., :1] + z.exp()[..., :1]),
    "a root": lambda z: z.exp() * z.exp().sum(-1, keepdim=True) ** -0.5,
    "weights": lambda z: z.exp() / (z.exp() @ uniform(6, 1).abs()),
    "a norm by number": lambda z: z.exp() / z.exp().norm(2, dim=-1, keepdim=True),
    "a norm": lambda z: F.normalize(z.exp(), dim=-1),
    "a sigmoid": lambda z: z.exp() / (1 + z.exp()),
    "a tanh": lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
    "a sigmoid of a difference": lambda z: (2 * z).exp() / ((2 * z).exp() + (z + 1).exp()),
    "a softplus over its sum": lambda z: (lambda h: h / h.sum(-1, keepdim=True))((1 + z.exp()).log()),
    "a log-sum-exp of others": lambda z: (z - (2 * z).exp().sum(-1, keepdim=True).log()).exp(),
    "an inverse that is meant as a constant": lambda z: z.exp() * (1 / z.exp().sum(-1, keepdim=True)).detach(),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_softmax_is_none(name: str) -> None:
    assert not is_softmax(NONE[name]) and is_softmax(plain)


NOT_NAMED = (
    *("one of them", "a norm", "a sigmoid", "a tanh", "a root"),
    *("a sigmoid of a difference", "a softplus over its sum"),
)


@pytest.mark.parametrize("name", NOT_NAMED)
def test_what_cannot_be_a_softmax_is_not_named(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        funcattr.lrp(lambda x: NONE[name](x) @ V, X, 0)


def _running(scores: Any, values: Any) -> Tensor:
    """As RWKV has it: sums that decay from place to place."""
    total, weights = torch.zeros(()).double(), torch.zeros(()).double()
    for z, v in zip(scores, values, strict=True):
        e = z.exp()
        total, weights = 0.9 * total + e * v, 0.9 * weights + e
    return (total / weights)[..., None] * torch.ones(6).double()


KEPT = (torch.arange(6) < 4).double()
SUSPECTS: dict[str, tuple[str, Function]] = {
    "a ceiling": ("div", lambda z: (lambda e: e / e.sum(-1, keepdim=True).clamp(max=1e-8))(z.exp())),
    "a floor of each": ("div", lambda z: (lambda e: e / e.clamp(min=5).sum(-1, keepdim=True))(z.exp())),
    "some of them": ("div", lambda z: (lambda e: e / e[..., :2].sum(-1, keepdim=True))(z.exp())),
    "some by a mask": ("div", lambda z: (lambda e: e / (e * KEPT).sum(-1, keepdim=True))(z.exp())),
    "differences": ("div", lambda z: (lambda e: e / (e * (2 * KEPT - 1)).sum(-1, keepdim=True))(z.exp())),
    "another scale": ("div", NONE["another scale"]),
    "weights": ("div", NONE["weights"]),
    "weights inverted": ("mul", lambda z: z.exp() * (1 / (z.exp() @ uniform(6, 6).abs()))),
    "divided later": ("div", lambda z: (z.exp() @ Q) / z.exp().sum(-1, keepdim=True)),
    "weighs values": ("div", lambda z: (z.exp() @ (z.mT @ Q[:4])) / z.exp().sum(-1, keepdim=True)),
    "divides values first": ("mul", lambda z: (z @ Q) / z.exp().sum(-1, keepdim=True) * z.exp()),
    "branches": ("div", lambda z: (lambda e, f: e / (e + f) * z)(z.exp(), (z @ K).exp())),
    "branches, divided later": ("div", lambda z: (lambda e, f: (e * z + f) / (e + f))(z.exp(), (z @ K).exp())),
    "a running sum": ("div", lambda z: _running(z.unbind(-1), (z @ K).unbind(-1))),
    "places one by one": ("div", lambda z: z.exp() / (z[..., :1].exp() + z[..., 1:2].exp())),
    "an einsum": ("einsum", lambda z: torch.einsum("nbi,nb->nbi", z.exp(), 1 / z.exp().sum(-1))),
    "a diagonal matrix": ("matmul", lambda z: torch.diag_embed(1 / z.exp().sum(-1)) @ z.exp()),
    "a constant shift": ("exp", lambda z: (z - (2 + (z - 2).exp().sum(-1, keepdim=True).log())).exp()),
    "logarithms": ("exp", NONE["a log-sum-exp of others"]),
}


@pytest.mark.parametrize("name", SUSPECTS)
def test_what_may_be_a_softmax_is_named(name: str) -> None:
    spelling, function = SUSPECTS[name]
    found = rf"^lrp: {spelling} in '' may be the end of a softmax in another spelling, which the \w+ rule"
    for book in ("epsilon", "cp_lrp"):
        with pytest.warns(UserWarning, match=found):
            funcattr.lrp(lambda x: function(x) @ V, X, 0, rules=book)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        funcattr.vjp(lambda x: function(x) @ V, X, rules={"relu": rules.guided})  # which has no rule for softmax


def test_a_softmax_that_draws_at_random_is_not_run_again() -> None:
    def dropped(z: Tensor) -> Tensor:
        e = F.dropout(z.exp(), 0.5)
        return e / e.sum(-1, keepdim=True)

    with pytest.warns(UserWarning, match="^lrp: div in '' may be the end of a softmax"):
        funcattr.lrp(lambda x: dropped(x) @ V, X, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a constant is one, whatever was drawn
        funcattr.cp_lrp(lambda x: (x * dropped(x)) @ V, X, 0)


def test_a_rule_of_ones_own_for_softmax_does_not_meet_what_is_written_out() -> None:
    own = rules.epsilon_plus() | {"softmax": lambda call, relevance: relevance * call.argument("dim")}
    with pytest.warns(UserWarning, match="^lrp: div in '' may be the end of a softmax in another spelling"):
        found = funcattr.lrp(model(plain), X, 0, rules=own)
    as_calls = model(lambda z: (lambda e: e / e.sum(-1, keepdim=True).detach())(z.exp()))
    assert_equal(found, funcattr.lrp(as_calls, X, 0, rules=own), tolerance=1e-5)


def test_a_row_for_every_call_is_for_those_of_a_softmax() -> None:
    seen: list[str] = []

    def note(call: rules.Call, g: Tensor) -> tuple[Tensor, ...]:
        seen.append(call.op)
        return call.vjp(g)

    funcattr.attribute(lambda x: plain(x) @ V, X, 0, rules=Rulebook({"*": note, "dropout": STOP}))
    assert seen == ["matmul", "div", "sum", "exp"]


def test_logsumexp_has_no_rule_where_it_is_read_elsewhere() -> None:
    def function(z: Tensor) -> Tensor:
        total = z.logsumexp(-1, keepdim=True)
        return (z - total).exp() @ V + total

    with pytest.raises(UnsupportedOperationError, match="no rule for\n  logsumexp in ''"):
        funcattr.lrp(function, X, 0)


POWERS: dict[str, Function] = {
    "exp": lambda x: x.exp(),
    "exp2": torch.exp2,
    "3 ** x": lambda x: 3**x,
    "exp(2 x)": lambda x: (2 * x).exp(),
    "exp(x / 2)": lambda x: torch.exp(x / 2),
    "exp(-x)": lambda x: (-x).exp(),
}


@pytest.mark.parametrize("shift", [1e-7, 0.5, 30.0])
@pytest.mark.parametrize("name", POWERS)
def test_a_shift_inside_of_any_exponential_takes_no_relevance(name: str, shift: float) -> None:
    x, power = X + shift, POWERS[name]
    factor = power(torch.tensor(-shift).double())
    without: Any = funcattr.lrp(lambda x: power(x) * factor @ V, x, 0, rules="epsilon")
    assert_equal(funcattr.lrp(lambda x: power(x - shift) @ V, x, 0, rules="epsilon"), without, tolerance=1e-5)
    turned: Any = funcattr.lrp(lambda x: power(-(shift - x)) @ V, x, 0, rules="epsilon")
    assert_equal(turned, without, tolerance=1e-5)


SHIFTED: dict[str, Function] = {
    "scaled": lambda z: _of((2 * (z - 0.7)).exp()),
    "scaled, by the maximum": lambda z: _of(((z - z.amax(-1, keepdim=True)) / 0.5).exp()),
    "turned": lambda z: _of((-2 * (0.7 - z)).exp()),
}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_inside_of_a_softmax_takes_no_relevance(name: str) -> None:
    assert_alike(model(SHIFTED[name]), model(lambda z: (2 * z).softmax(-1)), WITH_PLAIN_MULTIPLES)
