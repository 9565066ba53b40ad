"""Attention in one call equals its operations one by one, wherever it is used; a rule for one of them is met."""

import functools
import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr import AliasedWriteError, Rulebook, rules
from funcattr.rules import GRADIENT, STOP, Call, Entry, attention, whole_attention
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal
from ..graphs import calls_in
from ..meters import metered
from ..sweeps import long, sweep

attend: Any = F.scaled_dot_product_attention
BOOKS: dict[str, Rulebook] = {"attnlrp": rules.attnlrp(), "cp_lrp": rules.cp_lrp()}
each_book = pytest.mark.parametrize("name", BOOKS)


def apart(book: Rulebook) -> Rulebook:
    """The rulebook, with attention in its operations whatever they get."""

    def written_out(*args: Any, **kwargs: Any) -> Tensor:
        return attention.scaled_dot_product_attention(*args, **kwargs)

    return book | {"scaled_dot_product_attention": rules.decompose(written_out)}


BIAS = uniform(5, 7, seed=4)
BIAS[1, 3:] = -math.inf
DEAD = BIAS.clone()
DEAD[2] = -math.inf
HEADS, FEW = (2, 4), (2, 2)
CASES: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "plain": (HEADS, 6, {}),
    "causal": (HEADS, 6, {"is_causal": True}),
    "boolean mask": (HEADS, 6, {"attn_mask": DEAD == 0}),
    "boolean mask for all": (HEADS, 6, {"attn_mask": BIAS[1:2] == 0}),
    "bias": (HEADS, 6, {"attn_mask": BIAS}),
    "bias with a dead row": (HEADS, 6, {"attn_mask": DEAD}),
    "shared heads": (FEW, 6, {"enable_gqa": True}),
    "shared heads, causal": (FEW, 6, {"enable_gqa": True, "is_causal": True}),
    "scaled": (HEADS, 6, {"scale": 0.3}),
    "wide values": (HEADS, 9, {}),
    "no heads": ((2,), 6, {"is_causal": True}),
}
TRACKED = ["".join(t) for n in (1, 2, 3, 4) for t in itertools.combinations("qkvm", n)]


def case(which: str, tracked: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Attention as a function of some of its operands, and these."""
    lead, width, options = CASES[which]
    rows = lead if len(lead) < 2 else (*lead[:-1], 4)
    given = {"q": uniform(*rows, 5, 6), "k": uniform(*lead, 7, 6, seed=2), "v": uniform(*lead, 7, width, seed=3)}
    if "m" in tracked:
        given["m"] = BIAS

    def run(*tensors: Tensor) -> Tensor:
        t = {**given, **dict(zip(tracked, tensors, strict=True))}
        masked = {"attn_mask": t["m"]} if "m" in t else {}
        return F.scaled_dot_product_attention(t["q"], t["k"], t["v"], **{**options, **masked})

    return run, tuple(given[name] for name in tracked)


ALL = [
    (name, which, t)
    for name in BOOKS
    for which in CASES
    for t in TRACKED
    # Only a bias has a derivative, and what CP-LRP stops is a constant.
    if ("m" not in t or which == "bias") and ("v" in t or name == "attnlrp")
]
QUICK = [f"{name}-{which}-{t}" for name, which, t in ALL if t in ("qkv", "kv", "qkvm") or which == "plain"]


def operations(model: Any, x: Any, book: Rulebook) -> list[str]:
    return [line.operation for line in funcattr.rule_table(model, x, rules=book)]


@pytest.mark.parametrize(("name", "which", "tracked"), sweep(ALL, quick=QUICK))
def test_it_equals_its_operations(name: str, which: str, tracked: str) -> None:
    run, operands = case(which, tracked)
    book = BOOKS[name]
    y, pull = funcattr.vjp(run, *operands, rules=book)
    z, expected = funcattr.vjp(run, *operands, rules=apart(book))
    g = uniform(*y.shape, seed=8)
    assert_equal(y, z)
    assert_equal(y, run(*operands))
    assert operations(run, operands, book) == ["scaled_dot_product_attention"]
    for found, one in zip(pull(g), expected(g), strict=True):
        torch.testing.assert_close(found, one, rtol=1e-12, atol=1e-12)
    for found, one in zip(torch.vmap(pull)(torch.stack([g, 2 * g])), expected(g), strict=True):
        torch.testing.assert_close(found, torch.stack([one, 2 * one]), rtol=1e-12, atol=1e-12)


@each_book
@pytest.mark.parametrize("causal", [False, True])
def test_single_precision_keeps_five_digits_over_hundreds_of_tokens(name: str, causal: bool) -> None:
    """The fused kernel sums in another order than the operations do; both lie as near to double precision."""
    shape = (2, 4, 600, 32)
    q, k, v = (2 * uniform(*shape, seed=seed) for seed in (1, 2, 3))
    g = uniform(*shape, seed=4)

    def run(*operands: Tensor) -> Tensor:
        return attend(*operands, is_causal=causal)

    def pulled(book: Rulebook, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return funcattr.vjp(run, *(t.to(dtype) for t in (q, k, v)), rules=book)[1](g.to(dtype))

    exact = pulled(apart(BOOKS[name]), torch.float64)
    for book in (BOOKS[name], apart(BOOKS[name])):
        for found, one in zip(pulled(book, torch.float32), exact, strict=True):
            assert found.dtype == torch.float32
            assert (found.double() - one).abs().max() <= 1e-5 * one.abs().max()


PARTS = {
    "q": [1],
    "k": [1],
    "v": [1],
    "qk": [1 / 2, 1 / 2],
    "qv": [1 / 2, 1 / 2],
    "kv": [1 / 2, 1 / 2],
    "qkv": [1 / 4, 1 / 4, 1 / 2],
    "m": [1],
    "qm": [1, 1],
    "vm": [1 / 2, 1 / 2],
    "qkm": [1 / 2, 1 / 2, 1],
    "qkvm": [1 / 4, 1 / 4, 1 / 2, 1 / 2],
}
"""What of the ordinary adjoint AttnLRP gives each operand: half at each product of two that are tracked."""


@pytest.mark.parametrize("tracked", PARTS)
def test_attnlrp_is_autograd_times_powers_of_a_half(tracked: str) -> None:
    run, operands = case("bias", tracked)
    y, pull = funcattr.vjp(run, *operands, rules="attnlrp")
    leaves = [t.clone().requires_grad_() for t in operands]
    g = uniform(*y.shape, seed=8)
    plain = torch.autograd.grad(run(*leaves), leaves, g)
    for found, grad, part in zip(pull(g), plain, PARTS[tracked], strict=True):
        torch.testing.assert_close(found, part * grad, rtol=1e-12, atol=1e-12)


def test_cp_lrp_is_autograd_of_the_values() -> None:
    run, operands = case("causal", "qkv")
    y, pull = funcattr.vjp(run, *operands, rules="cp_lrp")
    v = operands[2].clone().requires_grad_()
    g = uniform(*y.shape, seed=8)
    (plain,) = torch.autograd.grad(run(*operands[:2], v), v, g)
    q, k, found = pull(g)
    torch.testing.assert_close(found, plain)
    assert not q.any() and not k.any()


@each_book
def test_one_tensor_that_is_used_three_times_is_three_operands(name: str) -> None:
    x = uniform(2, 3, 5, 4)
    y, pull = funcattr.vjp(lambda x: F.scaled_dot_product_attention(x, x, x), x, rules=BOOKS[name])
    leaves = [x.clone().requires_grad_() for _ in range(3)]
    g = uniform(*y.shape, seed=8)
    plain = torch.autograd.grad(attend(*leaves), leaves, g)
    parts = (1 / 4, 1 / 4, 1 / 2) if name == "attnlrp" else (0, 0, 1)
    torch.testing.assert_close(pull(g)[0], sum(p * t for p, t in zip(parts, plain, strict=True)))


@each_book
def test_constants_of_cp_lrp_are_constants(name: str) -> None:
    def run(q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, K, K) + q

    x = uniform(1, 2, 4, 3)
    g = uniform(1, 2, 4, 3, seed=8)
    (found,) = funcattr.vjp(run, x, rules=BOOKS[name])[1](g)
    (expected,) = funcattr.vjp(run, x, rules=apart(BOOKS[name]))[1](g)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, g) == (name == "cp_lrp")
    if name == "cp_lrp":
        with pytest.raises(funcattr.UntrackedPathError, match=r"^vjp: the output does not depend on the input"):
            funcattr.vjp(lambda q: F.scaled_dot_product_attention(q, K, K), x, rules=BOOKS[name])


K = uniform(1, 2, 4, 3, seed=2)


@pytest.mark.parametrize("gated", ["q", "k", "v", "qv", "qk", "kv", "qkv"])
@each_book
def test_a_gate_among_the_operands_leaves_all_to_the_other(gated: str, name: str) -> None:
    def run(*tensors: Tensor) -> Tensor:
        return attend(*(torch.sigmoid(2 * t) if n in gated else t for n, t in zip("qkv", tensors, strict=True)))

    _, operands = case("plain", "qkv")
    y, pull = funcattr.vjp(run, *operands, rules=BOOKS[name])
    expected = funcattr.vjp(run, *operands, rules=apart(BOOKS[name]))[1]
    g = uniform(*y.shape, seed=8)
    assert "softmax" not in operations(run, operands, BOOKS[name])
    for found, one in zip(pull(g), expected(g), strict=True):
        torch.testing.assert_close(found, one)


# --- nn.MultiheadAttention --------------------------------------------------------------------------------------------


class Attends(nn.Module):
    """Self-attention, or attention to a memory of its own."""

    def __init__(self, options: dict[str, Any], given: dict[str, Any]) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.given = {"need_weights": False, **given}
        self.batch_first = options.get("batch_first", False)
        kdim, vdim = options.get("kdim"), options.get("vdim")
        self.key = nn.Identity() if kdim is None else nn.Linear(8, kdim)
        self.value = nn.Identity() if vdim is None else nn.Linear(8, vdim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(x, self.key(x), self.value(x), **self.given)[0]
        return y if self.batch_first else y.transpose(0, 1)


FUTURE = torch.ones(5, 5, dtype=torch.bool).triu(1)
PADDING = torch.tensor([[False, False, False, True, True]] * 5)
MULTIHEAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "batch first": ({"batch_first": True}, {}),
    "a bias of keys": ({"add_bias_kv": True}, {}),
    "zeros added": ({"add_zero_attn": True}, {}),
    "keys and values of other widths": ({"kdim": 6, "vdim": 10}, {}),
    "no biases": ({"bias": False}, {}),
    "causal": ({}, {"attn_mask": FUTURE, "is_causal": True}),
    "masked": ({}, {"attn_mask": FUTURE}),
    "masked by heads": ({}, {"attn_mask": FUTURE.expand(10, 5, 5)}),
    "padded": ({"batch_first": True}, {"key_padding_mask": PADDING}),
    "padded and causal": ({"batch_first": True}, {"key_padding_mask": PADDING, "attn_mask": FUTURE, "is_causal": True}),
    "weights": ({}, {"need_weights": True}),
    "weights of heads": ({"add_bias_kv": True}, {"need_weights": True, "average_attn_weights": False}),
}


@each_book
@pytest.mark.parametrize("which", MULTIHEAD)
def test_multihead_attention_equals_its_operations(which: str, name: str) -> None:
    options, given = MULTIHEAD[which]
    model, x = settle(lambda: Attends(options, given)), uniform(5, 5, 8)
    found = funcattr.attribute(model, x, (0, 1), rules=BOOKS[name])
    expected = funcattr.attribute(model, x, (0, 1), rules=apart(BOOKS[name]))
    assert_equal(found.output.detach(), model(x).detach())
    torch.testing.assert_close(found.cotangent, expected.cotangent, rtol=1e-12, atol=1e-12)
    assert ("softmax" in operations(model, x, BOOKS[name])) == ("weights" in which)


@pytest.mark.parametrize("which", MULTIHEAD)
def test_multihead_attention_by_autograd(which: str) -> None:
    options, given = MULTIHEAD[which]
    model: Any = settle(lambda: Attends(options, given))
    x = uniform(5, 5, 8)
    more: dict[str, Any] = {"need_weights": False, **given}
    leaves = [x.clone().requires_grad_() for _ in range(3)]
    q, k, v = leaves
    y = model.attention(q, model.key(k), model.value(v), **more)[0]
    y = y if model.batch_first else y.transpose(0, 1)
    plain = torch.autograd.grad(y[:, 0, 1].sum(), leaves)
    expected = {"attnlrp": (1 / 4, 1 / 4, 1 / 2), "cp_lrp": (0, 0, 1)}
    for name, parts in expected.items():
        found = funcattr.attribute(model, x, (0, 1), rules=name).cotangent
        torch.testing.assert_close(found, sum(p * t for p, t in zip(parts, plain, strict=True)))


# --- a rule for one of its operations ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "tracked"), [("shared heads, causal", "qkv"), ("bias", "qkvm"), ("boolean mask", "qk"), ("plain", "v")]
)
def test_a_rule_of_its_operations_is_met(which: str, tracked: str) -> None:
    run, operands = case(which, tracked)
    inside = set(operations(run, operands, apart(BOOKS["attnlrp"]))) - {"scaled_dot_product_attention"}
    assert "matmul" in inside
    for op in inside:
        met: list[str] = []

        def rule(call: Call, g: Tensor, met: list[str] = met) -> Any:
            met.append(call.op)
            return call.vjp(g)

        y, pull = funcattr.vjp(run, *operands, rules=BOOKS["attnlrp"] | {op: rule})
        pull(torch.ones_like(y))
        assert met and set(met) == {op}


def _thrice(call: Call, g: Tensor) -> Any:
    return tuple(3 * t for t in call.vjp(g))


class Named(nn.Module):
    """Two attentions, of which one may get another rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.MultiheadAttention(4, 2), nn.MultiheadAttention(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x, x, x, need_weights=False)[0]
        return self.second(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    "row",
    [
        Entry("softmax", _thrice, path="second"),
        Entry("contraction", _thrice, path="second"),
        Entry("matmul", _thrice, module=nn.MultiheadAttention),
        Entry("linear_map", _thrice, position="last"),
        Entry("dense", _thrice, position="first"),
        Entry("matmul", _thrice, tracked="other"),
        Entry("softmax", STOP, path="first"),
    ],
    ids=lambda row: f"{row.op} {row.where}",
)
def test_a_row_with_conditions_holds_for_its_operations(row: Entry) -> None:
    model, x = settle(Named), uniform(4, 3, 4)
    book = BOOKS["attnlrp"] | row
    found = funcattr.attribute(model, x, (0, 1), rules=book).cotangent
    torch.testing.assert_close(found, funcattr.attribute(model, x, (0, 1), rules=apart(book)).cotangent)
    assert not torch.allclose(found, funcattr.attribute(model, x, (0, 1), rules="attnlrp").cotangent)


def test_a_required_row_is_met_inside_of_attention() -> None:
    book = BOOKS["attnlrp"] | Entry("softmax", _thrice, required=True)
    x = uniform(1, 2, 4, 3)
    y, pull = funcattr.vjp(lambda q: F.scaled_dot_product_attention(q, K, K), x, rules=book)
    plain = funcattr.vjp(lambda q: F.scaled_dot_product_attention(q, K, K), x)[1]
    torch.testing.assert_close(pull(y)[0], 3 * plain(y)[0])


def test_a_wrapped_decomposition_is_not_passed_over() -> None:
    @functools.wraps(attention.scaled_dot_product_attention)
    def doubled(*args: Any, **kwargs: Any) -> Tensor:
        return 2 * attention.scaled_dot_product_attention(*args, **kwargs)

    book = BOOKS["attnlrp"] | {"scaled_dot_product_attention": rules.decompose(doubled)}
    x = uniform(1, 2, 4, 3)
    y, _ = funcattr.vjp(lambda q: F.scaled_dot_product_attention(q, K, K), x, rules=book)
    torch.testing.assert_close(y, 2 * F.scaled_dot_product_attention(x, K, K))


def test_conservation_still_tells_softmax_apart() -> None:
    model, x = settle(Named), uniform(4, 3, 4)
    found = funcattr.conservation(model, x, (0, 1), rules="attnlrp")
    assert "softmax" in str(found)


# --- other rules, by blocks of queries --------------------------------------------------------------------------------

BLOCKED: dict[str, Rulebook] = {
    **{name: rules.rulebook_of("test", name) for name in ("epsilon", "epsilon_plus", "deep_lift")},
    "both spaces": rules.attnlrp() | {"softmax": rules.softmax_taylor},
}
MANY: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "bias": {"attn_mask": DEAD[:, :5]},
    "boolean": {"attn_mask": DEAD[:, :5] == 0},
    "shared heads": {"enable_gqa": True},
    "scaled": {"scale": 0.3},
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_attention, "_MANY", 0)
    monkeypatch.setattr(whole_attention, "_SCORES", 4)
    monkeypatch.setattr(whole_attention, "_QUERIES", 2)


LINEAR: dict[str, Any] = {
    **{rule.formula.__name__: rule for rule in (rules.epsilon, rules.z_plus, rules.alpha_beta, rules.gamma)},
    "w_square": rules.w_square,
    "winning_probability": rules.winning_probability(eps=1e-3),
    "gradient": GRADIENT,
}


class Mixes(nn.Module):
    """Self-attention with a gate for values. [N, 5, 8] -> [N, 8]"""

    def __init__(self, options: dict[str, Any], gated: bool = False) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.options, self.gated = options, gated

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(-3, -2) for t in self.qkv(x).chunk(3, -1))
        if self.options.get("enable_gqa", False):
            k, v = k[:, :1], v[:, :1]
        v = torch.sigmoid(v) if self.gated else v
        return self.out(F.scaled_dot_product_attention(q, k, v, **self.options).transpose(-3, -2).flatten(-2)).mean(-2)


def ruled(model: nn.Module, x: Tensor, book: Rulebook, target: Any = 1) -> Tensor:
    baseline = 0.1 * x + 0.2 if book.space == "multiplier" else None
    return funcattr.attribute(model, x, target, rules=book, baseline=baseline).cotangent


@pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives:UserWarning")  # values are random
@pytest.mark.parametrize("which", MANY)
@pytest.mark.parametrize("name", BLOCKED)
def test_blocks_of_queries_equal_the_whole(name: str, which: str, small_blocks: None) -> None:
    for gated in (False, True):
        model, x, book = settle(lambda g=gated: Mixes(MANY[which], g)), uniform(2, 5, 8), BLOCKED[name]
        expected = ruled(model, x, apart(book))
        torch.testing.assert_close(ruled(model, x, book), expected, rtol=1e-10, atol=1e-12)
        mapped = torch.vmap(lambda x, m=model, b=book: ruled(m, x[None], b)[0])(x)
        torch.testing.assert_close(mapped, expected, rtol=1e-10, atol=1e-12)
        if book.space != "multiplier":
            assert "softmax" not in operations(model, x, book)
            assert "softmax" in operations(model, x, book | {"softmax": lambda call, g: g})


class Crosses(nn.Module):
    """Attention of which some operands depend on x: the others are buffers. [N, 5, 8] -> [N, 8]"""

    def __init__(self, tracked: str, options: dict[str, Any]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(8, 8) for name in "qkv"})
        self.constants = nn.ParameterDict({name: nn.Parameter(torch.randn(2, 5, 4)) for name in "qkv"})
        self.tracked, self.options = tracked, options

    def operand(self, name: str, x: Tensor) -> Tensor:
        if name not in self.tracked:
            return self.constants[name].expand(len(x), -1, -1, -1)
        return self.maps[name](x).unflatten(-1, (2, -1)).transpose(-3, -2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.operand(name, x) for name in "qkv")
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(-3, -2).flatten(-2).mean(-2)


CROSSED = [(rule, t) for rule in LINEAR for t in ("q", "k", "v", "qk", "qv", "kv")]
QUICKLY = ("epsilon-kv", "epsilon-q", "gradient-v", "z_plus-k", "gamma-qk", "w_square-qv")


@pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives:UserWarning")  # values are random
@pytest.mark.parametrize(("rule", "tracked"), sweep(CROSSED, quick=QUICKLY))
def test_blocks_of_queries_of_one_sequence_over_another(rule: str, tracked: str, small_blocks: None) -> None:
    book = BLOCKED["epsilon"] | {"dense": LINEAR[rule]}
    for options in ({}, {"is_causal": True}, {"attn_mask": DEAD[:, :5]}):
        model, x = settle(lambda o=options: Crosses(tracked, o)), uniform(2, 5, 8)
        expected = ruled(model, x, apart(book))
        torch.testing.assert_close(ruled(model, x, book), expected, rtol=1e-9, atol=1e-11)
        assert expected.abs().sum() > 0
        assert "softmax" not in operations(model, x, book)


def test_a_linear_product_of_attention_may_be_the_first_map_or_take_its_activation_in(small_blocks: None) -> None:
    x, book = uniform(2, 5, 8), BLOCKED["epsilon"]
    for row in (Entry("matmul", rules.flat, position="first"), Entry("relu", rules.join(rules.pass_through))):
        assert "matmul" in operations(settle(lambda: Crosses("v", {})), x, book | row)
        assert "matmul" not in operations(settle(lambda: Mixes({})), x, book | row)


def test_blocks_of_queries_are_cast_as_the_whole_is(small_blocks: None) -> None:
    model, x = settle(lambda: Mixes({"is_causal": True})).float(), uniform(2, 5, 8).float()
    book = BLOCKED["epsilon"]
    with torch.autocast("cpu", torch.bfloat16):
        pulls = [funcattr.vjp(model, x, rules=b) for b in (book, apart(book))]
    assert [y.dtype for y, _ in pulls] == [torch.bfloat16, torch.bfloat16]
    found, expected = (pull(torch.ones_like(y))[0] for y, pull in pulls)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    full = funcattr.vjp(model, x, rules=book)[1](torch.ones(2, 8))[0]
    assert not torch.equal(found, full)


@pytest.mark.parametrize("name", ["epsilon", "attnlrp", "both spaces"])
def test_blocks_of_queries_are_cast_as_when_they_were_recorded(name: str, small_blocks: None) -> None:
    class Casts(Mixes):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x)

    book = {**BLOCKED, **BOOKS}[name]
    model, x = settle(lambda: Casts({"is_causal": True})).float(), uniform(2, 5, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        pulls = [funcattr.vjp(model, x, rules=b) for b in (book, apart(book))]
        assert [y.dtype for y, _ in pulls] == [torch.float32, torch.float32]
        found, expected = (torch.vmap(pull)(torch.ones(1, *y.shape))[0] for y, pull in pulls)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["epsilon", "both spaces"])
def test_blocks_of_queries_can_be_mapped_and_differentiated(name: str, small_blocks: None) -> None:
    model, x, book = settle(lambda: Mixes({"is_causal": True})), uniform(2, 5, 8), BLOCKED[name]

    def size(book: Rulebook) -> Callable[[Tensor], Tensor]:
        return lambda x: ruled(model, x, book).square().sum()

    torch.testing.assert_close(torch.func.grad(size(book))(x), torch.func.grad(size(apart(book)))(x))
    y, pull = funcattr.vjp(model, x, rules=book)
    expected = funcattr.vjp(model, x, rules=apart(book))[1]
    g = uniform(*y.shape, seed=8)
    for one in (pull, expected):
        torch.testing.assert_close(torch.vmap(one)(torch.stack([g, -g]))[0], torch.stack([*expected(g), *expected(-g)]))
    by_g = [torch.func.grad(lambda g, p=p: p(g)[0].square().sum())(g) for p in (pull, expected)]
    torch.testing.assert_close(*by_g)
    traced = make_fx(lambda x: ruled(model, x, book))(x)
    torch.testing.assert_close(traced(x + 1), ruled(model, x + 1, apart(book)))


def test_blocks_know_where_they_are(small_blocks: None) -> None:
    model, x = settle(lambda: nn.Sequential(Mixes({}))), uniform(2, 5, 8)
    book = BLOCKED["epsilon"] | Entry("matmul", rules.uniform(eps=1.0), path="0", module=Mixes)
    assert "softmax" not in operations(model, x, book)
    found, expected = (ruled(model, x, b) for b in (book, apart(book)))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, ruled(model, x, BLOCKED["epsilon"]))


# --- derivatives and transforms ---------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two blocks of causal attention. [N, T, 4] -> [N, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = (nn.ModuleList(nn.Linear(4, n) for _ in range(2)) for n in (12, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for qkv, out in zip(self.qkv, self.out, strict=True):
            q, k, v = (t.unflatten(-1, (2, -1)).transpose(-3, -2) for t in qkv(x).chunk(3, -1))
            x = x + out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(-3, -2).flatten(-2))
        return self.head(x.mean(-2))


FM = funcattr.functionalize(settle(Net))
X = uniform(3, 6, 4)


def relevance(book: Rulebook, x: Tensor, target: Any = 1) -> Tensor:
    return x * funcattr.attribute(FM, x, target, rules=book).cotangent


def along(book: Rulebook) -> Callable[[Tensor], Tensor]:
    direction = uniform(*X.shape, seed=5)
    return lambda t: relevance(book, X + t * direction).square().sum()


@each_book
def test_attributions_can_be_differentiated(name: str) -> None:
    here, there, zero = along(BOOKS[name]), along(apart(BOOKS[name])), torch.zeros(()).double()
    slope = torch.func.grad(there)(zero)
    if name == "attnlrp":
        step = 1e-5
        by_differences = (here(zero + step) - here(zero - step)) / (2 * step)
        torch.testing.assert_close(slope, by_differences, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(torch.func.grad(here)(zero), slope)
    torch.testing.assert_close(torch.func.jvp(here, (zero,), (zero + 1,))[1], slope)
    torch.testing.assert_close(*(torch.func.grad(torch.func.grad(f))(zero) for f in (here, there)))
    with forward_ad.dual_level():
        dual = here(forward_ad.make_dual(zero, zero + 1))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
    leaf = zero.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(here(leaf), leaf)[0], slope)


@each_book
def test_a_pullback_can_be_differentiated_by_its_cotangent(name: str) -> None:
    run, operands = case("shared heads, causal", "qkv")
    y, pull = funcattr.vjp(run, *operands, rules=BOOKS[name])
    expected = funcattr.vjp(run, *operands, rules=apart(BOOKS[name]))[1]

    def size(pull: Any) -> Callable[[Tensor], Tensor]:
        return lambda g: torch.stack([t.square().sum() for t in pull(g)]).sum()

    g = uniform(*y.shape, seed=8)
    wanted = torch.func.grad(size(expected))(g)
    torch.testing.assert_close(torch.func.grad(size(pull))(g), wanted)
    torch.testing.assert_close(torch.func.hessian(size(pull))(g), torch.func.hessian(size(expected))(g))
    leaf = g.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(size(pull)(leaf), leaf)[0], wanted)
    torch.testing.assert_close(pull(g), expected(g))  # and again, plainly


@each_book
def test_parameters_behind_attention_can_be_trained_on_it(name: str) -> None:
    head = FM.params["head.weight"].detach()

    def loss(book: Rulebook) -> Callable[[Tensor], Tensor]:
        return lambda w: funcattr.attribute(FM.bind({"head.weight": w}), X, 1, rules=book).cotangent.square().sum()

    leaf = head.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(BOOKS[name])(leaf), leaf)
    torch.testing.assert_close(found, torch.func.grad(loss(apart(BOOKS[name])))(head))


@each_book
def test_it_can_be_mapped_traced_and_run_in_threads(name: str) -> None:
    book, expected = BOOKS[name], relevance(apart(BOOKS[name]), X)
    torch.testing.assert_close(torch.vmap(lambda x: relevance(book, x[None])[0])(X), expected)
    by_class = torch.vmap(lambda t: relevance(book, X, t))(torch.arange(3))
    torch.testing.assert_close(by_class[1], expected)
    torch.testing.assert_close(make_fx(lambda x: relevance(book, x))(X)(X.clone()), expected)
    with torch.inference_mode():
        torch.testing.assert_close(relevance(book, X), expected)
    with torch.no_grad():
        torch.testing.assert_close(relevance(book, X), expected)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: relevance(book, X), range(16)):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", sweep(BOOKS, quick=("attnlrp",)))
def test_compiled_code_has_the_fused_adjoint(name: str, fresh_dynamo: None) -> None:
    book = BOOKS[name]
    calls = calls_in(lambda x: relevance(book, x), "attention")
    torch.testing.assert_close(calls.run(X), relevance(apart(book), X))
    assert {n.rpartition("aten.")[2] for n in calls.calls} == {
        "_scaled_dot_product_flash_attention_for_cpu.default",
        "_scaled_dot_product_flash_attention_for_cpu_backward.default",
    }


@long
def test_a_program_of_any_batch_is_exported() -> None:
    def explain(x: Tensor) -> Tensor:
        return relevance(BOOKS["attnlrp"], x)

    for dynamic in (False, True):
        program = funcattr.export(explain, X, dynamic_batch=dynamic)
        x = torch.cat([X, X]) if dynamic else X
        torch.testing.assert_close(program.module()(x), explain(x))


@each_book
def test_mapped_attention_runs_by_blocks(name: str, small_blocks: None) -> None:
    for which, tracked in [(w, t) for n, w, t in ALL if n == name and f"{n}-{w}-{t}" in QUICK]:
        run, operands = case(which, tracked)
        expected = funcattr.vjp(run, *operands, rules=apart(BOOKS[name]))

        def both(*operands: Tensor, run: Any = run) -> Any:
            y, pull = funcattr.vjp(run, *operands, rules=BOOKS[name])
            return y, pull(y)

        y, found = torch.vmap(both)(*(t[None] for t in operands))
        torch.testing.assert_close(y[0], expected[0])
        torch.testing.assert_close([t[0] for t in found], list(expected[1](expected[0])))


def test_mapped_attention_is_linear_in_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_attention, "_SCORES", 2**14)

    def peak(length: int) -> int:
        x = uniform(2, length, 4).float()
        fm = FM.bind({n: p.detach().float() for n, p in FM.params.items()})
        return metered(lambda: torch.vmap(lambda x: funcattr.attnlrp(fm, x[None], 1)[0])(x)).peak

    assert peak(1024) < 2.05 * peak(512)


def test_dropped_weights_are_dropped_alike() -> None:
    def run(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)

    x, found = uniform(1, 2, 6, 4), []
    for book in (BOOKS["attnlrp"], apart(BOOKS["attnlrp"])):
        torch.manual_seed(3)
        y, pull = funcattr.vjp(run, x, rules=book)
        found.append((y, *pull(y), *pull(y)))
    torch.testing.assert_close(*found)
    torch.manual_seed(3)
    torch.testing.assert_close(found[0][0], run(x))


def test_checkpoints_are_seen_through() -> None:
    def run(x: Tensor) -> Tensor:
        return checkpoint(lambda x: attend(x, x, x), x, use_reentrant=False) + x

    x = uniform(1, 2, 6, 4)
    y, pull = funcattr.vjp(run, x, rules="attnlrp")
    torch.testing.assert_close(pull(y), funcattr.vjp(lambda x: attend(x, x, x) + x, x, rules="attnlrp")[1](y))


def test_a_mapped_constant_is_one_too() -> None:
    x = uniform(3, 2, 4, 3)
    run = torch.vmap(lambda x: funcattr.vjp(lambda q: attend(q, K[0], K[0]) + q, x, rules="cp_lrp")[1](x)[0])
    torch.testing.assert_close(run(x), x)


def test_operands_that_are_written_later_are_noticed() -> None:
    k = K.clone()
    y, pull = funcattr.vjp(lambda q: F.scaled_dot_product_attention(q, k, k), K, rules="attnlrp")
    k.mul_(2)
    for run in (pull, torch.vmap(pull)):
        with pytest.raises(AliasedWriteError, match="was written in place between the call"):
            run(y if run is pull else y[None])


def test_half_precision_is_the_kernels_own() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = funcattr.attnlrp(FM.bind({n: p.detach().float() for n, p in FM.params.items()}), X.float(), 1)
    expected = funcattr.attnlrp(FM, X, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.1, atol=0.02)
