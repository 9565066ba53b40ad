"""Relevance is of the function, not of its spelling: the same net written in another way gets the same relevance.

Stabilisers stand at other places in another spelling, so those of the rulebooks here are tiny.
"""

from collections.abc import Callable
from copy import deepcopy
from math import sqrt
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import Entry
from funcattr.testing.networks import Network, networks, targets
from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal

EPS = 1e-20


def sharp(convolution: Any, dense: Any = None, first: Any = None) -> Rulebook:
    """A composite whose stabilisers are all tiny; `dense` is epsilon by default."""
    book = rules.composite("sharp", convolution=convolution, dense=dense or rules.epsilon(eps=EPS), first=first)
    affine = rules.affine(eps=EPS)
    return book | (
        Entry("summation", rules.norm(eps=EPS)),
        Entry("average_pool", rules.norm(eps=EPS)),
        Entry("contraction", rules.uniform(eps=EPS)),
        Entry("batch_norm", funcattr.rules.fold(affine)),
        *(Entry(name, affine) for name in ("layer_norm", "group_norm", "instance_norm", "rms_norm")),
    )


BOOKS: dict[str, Rulebook] = {
    "epsilon": sharp(rules.epsilon(eps=EPS)),
    "z_plus": sharp(rules.z_plus(eps=EPS)),
    "gamma": sharp(rules.gamma(eps=EPS), rules.gamma(eps=EPS), rules.w_square(eps=EPS)),
    "alpha_beta": sharp(rules.alpha_beta(eps=EPS), first=rules.flat(eps=EPS)),
    "attnlrp": rules.attnlrp(),
    "cp_lrp": rules.cp_lrp(),
}
books = st.sampled_from(list(BOOKS))
seeds = st.integers(0, 999)
few = settings(max_examples=max(6, settings().max_examples // 3))


def relevance(model: Callable[..., Any], x: Tensor, book: str | Rulebook, target: Any = 1) -> Tensor:
    chosen = BOOKS[book] if isinstance(book, str) else book
    found: Any = funcattr.lrp(model, x, target, rules=chosen, start="output")
    return found.detach()


def assert_same(spellings: list[Callable[..., Any]], x: Tensor, book: str, tolerance: float = 1e-7) -> None:
    """All spellings compute the same and get the same relevance."""
    value, expected = spellings[0](x), relevance(spellings[0], x, book)
    for other in spellings[1:]:
        assert_equal(other(x).detach(), value.detach())
        assert_equal(relevance(other, x, book), expected, tolerance=tolerance)


class Wired(nn.Module):
    """A forward pass over some modules."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.inside = nn.ModuleDict(modules)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.inside)


@given(st.integers(1, 4), seeds, books)
def test_a_shared_module_equals_copies(depth: int, seed: int, book: str) -> None:
    block: Any = settle(lambda: nn.Sequential(nn.Conv1d(3, 3, 3, padding=1), nn.BatchNorm1d(3), nn.ReLU()), seed=seed)
    head = settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), seed=seed)
    shared = nn.Sequential(*[block] * depth, head)
    copies = nn.Sequential(*(deepcopy(block) for _ in range(depth)), head)
    assert_same([shared, copies], uniform(2, 3, 4, seed=seed), book, 1e-9)


@given(seeds, st.sampled_from(["relu", "gelu", "silu", "tanh", "softplus", "elu"]), books)
def test_functions_equal_modules(seed: int, activation: str, book: str) -> None:
    kinds = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "softplus": nn.Softplus, "elu": nn.ELU}
    body = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), kinds[activation](), nn.MaxPool2d(2), nn.AvgPool2d(2)]
    model: Any = settle(lambda: nn.Sequential(*body, nn.Flatten(), nn.Linear(4, 3)), seed=seed)
    conv, norm, linear = model[0], model[1], model[6]

    def functional(x: Tensor) -> Tensor:
        x = F.conv2d(x, conv.weight, conv.bias, padding="same")
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        x = F.avg_pool2d(F.max_pool2d(getattr(F, activation)(x), 2), 2)
        return F.linear(x.reshape(len(x), -1), linear.weight, linear.bias)

    assert_same([model, functional], uniform(2, 2, 4, 4, seed=seed), book)


@given(networks(spatial=2, max_blocks=4), st.data(), books)
@few
def test_nested_equals_flat(net: Network, data: st.DataObject, book: str) -> None:
    blocks, head = net.model.blocks, net.model.head  # pyright: ignore[reportAttributeAccessIssue]
    modules: list[Any] = [*blocks, head]  # pyright: ignore[reportGeneralTypeIssues]
    cut = data.draw(st.integers(0, len(modules)))
    nested = nn.Sequential(nn.Sequential(nn.Sequential(*modules[:cut]), nn.Identity()), nn.Sequential(*modules[cut:]))
    target = data.draw(targets(net.output_shape))
    assert_equal(relevance(nested.eval(), net.x, book, target), relevance(net.model, net.x, book, target))


# Sums and products with a constant

SUMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "+": lambda a, b: a + b,
    "torch.add": torch.add,
    "+=": lambda a, b: a.clone().add_(b),
    "stack, sum": lambda a, b: torch.stack([a, b]).sum(0),
    "cat, view, sum": lambda a, b: torch.cat([a, b], 1).view(len(a), 2, -1).sum(1),
    "sum()": lambda a, b: sum([a, b]),
    "a - (-b)": lambda a, b: a - (-b),
    "2 * mean": lambda a, b: 2 * torch.stack([a, b], -1).mean(-1),
}


@given(seeds, books)
def test_every_way_to_add(seed: int, book: str) -> None:
    make = lambda: nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "head": nn.Linear(4, 3)})  # noqa: E731
    layers: Any = settle(make, seed=seed)
    spellings = [Wired(lambda x, a, b, head, f=f: head(F.relu(f(a(x), b(x)))), **layers).eval() for f in SUMS.values()]
    assert_same([*spellings], uniform(2, 3, seed=seed), book)


@given(seeds, st.sampled_from(["epsilon", "attnlrp", "cp_lrp"]))
def test_every_way_to_multiply_by_a_matrix(seed: int, book: str) -> None:
    w, b, x = uniform(3, 4, seed=seed), uniform(3, seed=seed + 1), uniform(2, 4, seed=seed + 2)
    rows = w.split(2, 1)
    assert_same(
        [
            lambda x: F.linear(x, w, b),
            lambda x: x @ w.T + b,
            lambda x: torch.addmm(b, x, w.T),
            lambda x: torch.einsum("nc,oc->no", x, w) + b,
            lambda x: F.conv1d(x[..., None], w[..., None], b)[..., 0],
            lambda x: sum((part @ row.T for part, row in zip(x.split(2, 1), rows, strict=True)), b),
            lambda x: torch.baddbmm(b, x[None], w.T[None])[0],
        ],
        x,
        book,
    )


# Attention


def explicit(x: Tensor, attn: Any, mask: Tensor | None = None) -> Tensor:
    """Self-attention, as in a textbook. [N, T, C] -> [N, T, C]"""
    heads, width = attn.num_heads, attn.head_dim
    weights, biases = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (heads, width)).transpose(1, 2) for w, b in zip(weights, biases, strict=True)
    )
    scores = q @ k.transpose(-1, -2) / sqrt(width)
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    return attn.out_proj((F.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))


def fused(x: Tensor, attn: Any, mask: Tensor | None = None) -> Tensor:
    """The same, by one projection and torch's function."""
    joint = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = (
        t.reshape(len(x), -1, attn.num_heads, attn.head_dim).permute(0, 2, 1, 3)
        for t in joint.split(attn.embed_dim, -1)
    )
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attn.out_proj(out.permute(0, 2, 1, 3).reshape(x.shape))


@given(seeds, books, st.booleans(), st.integers(1, 2))
def test_every_way_to_attend(seed: int, book: str, masked: bool, heads: int) -> None:
    parts = {"attn": nn.MultiheadAttention(4, heads, batch_first=True), "head": nn.Linear(4, 3)}
    layers: Any = settle(lambda: nn.ModuleDict(parts), seed=seed)
    mask = torch.ones(3, 3, dtype=torch.bool).tril() if masked else None
    blocked = None if mask is None else ~mask
    attend = [
        lambda x, attn: attn(x, x, x, attn_mask=blocked, need_weights=False)[0],
        lambda x, attn: attn(x, x, x, attn_mask=blocked)[0],
        lambda x, attn: explicit(x, attn, mask),
        lambda x, attn: fused(x, attn, mask),
    ]
    spellings = [Wired(lambda x, attn, head, f=f: head(f(x, attn) + x).mean(1), **layers).eval() for f in attend]
    assert_same([*spellings], uniform(2, 3, 4, seed=seed), book)


# Normalisations

RMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "F.rms_norm": lambda x, w: F.rms_norm(x, (4,), w, 1e-5),
    "rsqrt": lambda x, w: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
    "pow(-0.5)": lambda x, w: x * torch.pow((x * x).mean(-1, keepdim=True) + 1e-5, -0.5) * w,
    "** -0.5": lambda x, w: x * (x.square().mean(-1, True) + 1e-5) ** -0.5 * w,
    "/ sqrt": lambda x, w: w * x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-5),
    "* (1 / sqrt)": lambda x, w: (x * w) * (1 / (x.square().sum(-1, keepdim=True) / 4 + 1e-5).sqrt()),
    "div_": lambda x, w: x.clone().div_((x.square().mean(-1, keepdim=True) + 1e-5).sqrt_()).mul_(w),
    "in another dtype": lambda x, w: (x.to(torch.float64) * (x**2).mean(-1, keepdim=True).add(1e-5).rsqrt()).to(x) * w,
}
LAYER: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "F.layer_norm": lambda x, w, b: F.layer_norm(x, (4,), w, b, 1e-5),
    "var": lambda x, w, b: (x - x.mean(-1, True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5) * w + b,
    "rsqrt": lambda x, w, b: _centred(x) * torch.rsqrt(_centred(x).square().mean(-1, True) + 1e-5) * w + b,
    "group_norm": lambda x, w, b: F.group_norm(x.flatten(0, 1), 1, w, b, 1e-5).view_as(x),
}


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


@given(seeds, books, st.sampled_from(["rms", "layer"]))
def test_every_way_to_normalise(seed: int, book: str, kind: str) -> None:
    w, b = uniform(4, seed=seed + 1), uniform(4, seed=seed + 2)
    body: Any = settle(lambda: nn.ModuleDict({"a": nn.Linear(3, 4), "head": nn.Linear(4, 3)}), seed=seed)
    norms: list[Any] = [lambda x, f=f: f(x, w) for f in RMS.values()]
    norms = norms if kind == "rms" else [lambda x, f=f: f(x, w, b) for f in LAYER.values()]
    spellings = [Wired(lambda x, a, head, f=f: head(torch.tanh(f(a(x)))).mean(1), **body).eval() for f in norms]
    assert_same([*spellings], uniform(2, 2, 3, seed=seed), book)


# Recurrent cells


def lstm_by_hand(x: Tensor, rnn: Any) -> Tensor:
    h = c = x.new_zeros(len(x), rnn.hidden_size)
    w = torch.cat([rnn.weight_ih_l0, rnn.weight_hh_l0], 1)
    for step in x.unbind(1):
        i, f, g, o = F.linear(torch.cat([step, h], -1), w, rnn.bias_ih_l0 + rnn.bias_hh_l0).chunk(4, -1)
        c = c * f.sigmoid() + i.sigmoid() * g.tanh()
        h = F.tanh(c) * F.sigmoid(o)
    return h


def by_cells(x: Tensor, cell: nn.Module) -> Tensor:
    """Unrolled over `nn.LSTMCell` or `nn.GRUCell`."""
    state: Any = None
    for step in x.unbind(1):
        state = cell(step, state)
    return state[0] if isinstance(state, tuple) else state


def gru_by_hand(x: Tensor, rnn: Any) -> Tensor:
    h = x.new_zeros(len(x), rnn.hidden_size)
    for step in x.unbind(1):
        a, b = F.linear(step, rnn.weight_ih_l0, rnn.bias_ih_l0), F.linear(h, rnn.weight_hh_l0, rnn.bias_hh_l0)
        (r, z, n), (hr, hz, hn) = a.chunk(3, -1), b.chunk(3, -1)
        new = torch.tanh(n + torch.sigmoid(r + hr) * hn)
        h = torch.sigmoid(z + hz) * h + torch.sigmoid(-(z + hz)) * new
    return h


@given(seeds, st.sampled_from(["epsilon", "attnlrp"]), st.sampled_from(["lstm", "gru"]))
@few
def test_every_way_to_recur(seed: int, book: str, kind: str) -> None:
    make, make_cell, hand = {"lstm": (nn.LSTM, nn.LSTMCell, lstm_by_hand), "gru": (nn.GRU, nn.GRUCell, gru_by_hand)}[
        kind
    ]
    rnn = settle(lambda: make(3, 4, batch_first=True), seed=seed)
    cell = settle(lambda: make_cell(3, 4))
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    spellings = [
        Wired(lambda x, rnn: rnn(x)[0][:, -1], rnn=rnn),
        Wired(lambda x, rnn: rnn(x)[1][0].squeeze() if kind == "lstm" else rnn(x)[1].squeeze(), rnn=rnn),
        Wired(hand, rnn=rnn),
        Wired(by_cells, cell=cell),
    ]
    assert_same([spelling.eval() for spelling in spellings], uniform(2, 3, 3, seed=seed), book)


@given(networks(only_relu=True, bias=False), st.data())
def test_without_biases_epsilon_is_gradient_times_input(net: Network, data: st.DataObject) -> None:
    target = data.draw(targets(net.output_shape))
    expected: Any = funcattr.input_x_gradient(net.model, net.x, target)
    assert_equal(relevance(net.model, net.x, "epsilon", target), expected, tolerance=1e-7)
    assert_equal(relevance(net.model, net.x, "attnlrp", target), expected)


def test_the_stabilizer_is_what_keeps_epsilon_from_gradient_times_input() -> None:
    model = settle(lambda: nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)))
    x = uniform(2, 2, 4, 4)
    expected: Any = funcattr.input_x_gradient(model, x, 1)
    off = [
        (relevance(model, x, rules.epsilon_everywhere(eps=eps)) - expected).abs().max().item() for eps in (1e-6, 1e-9)
    ]
    assert off[0] / off[1] == pytest.approx(1000, rel=0.01)
