"""Of which sources a value is a sum, told by the calls between them: no spelling and no write in place fools it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import funcattr
from funcattr.testing import assert_equal

from ...meters import metered
from ...sweeps import long

SIZE = 4
W = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).double()


class Way(NamedTuple):
    """How a stream `h` [N, 4, 4] leads from the sources a and b to the sink."""

    make: Callable[[Tensor, Tensor], Tensor]
    of_a: float  # coefficient of a, 0 if it is no term
    of_b: float


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    h = a * 1
    h += b
    return h


def _written_later(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    h.view(-1).mul_(2)
    return h


def _partly_written(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    h[:, 0] = 0
    return h


def _written_by_out(a: Tensor, b: Tensor) -> Tensor:
    h = torch.empty_like(a)
    torch.add(a, b, out=h)
    return h


def _overwritten(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    h.copy_(b)
    return h


def _filled(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    return h.masked_fill_(h > 0, 0.0)


def _by_data(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    h.data.mul_(2)
    return h


def _by_all_at_once(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    torch._foreach_mul_([h], 2.0)
    return h


def _module_in_place(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    nn.ReLU(inplace=True)(h)
    return h


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.mul_(2)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_dirty(inputs[0])

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return 2 * g


def _by_an_autograd_function(a: Tensor, b: Tensor) -> Tensor:
    h = a + b
    _Doubled.apply(h)
    return h


SUMS = {
    "sum": Way(lambda a, b: a + b, 1, 1),
    "method": Way(lambda a, b: a.add(b), 1, 1),
    "torch.add with a factor": Way(lambda a, b: torch.add(a, b, alpha=3), 1, 3),
    "difference": Way(lambda a, b: a - b, 1, -1),
    "difference with a factor": Way(lambda a, b: torch.sub(a, b, alpha=2), 1, -2),
    "rsub": Way(lambda a, b: torch.rsub(a, b, alpha=2), -2, 1),
    "number less": Way(lambda a, b: 2 - (a + b), -1, -1),
    "negative": Way(lambda a, b: -(a + 2 * b), -1, -2),
    "halves": Way(lambda a, b: a / 2 + b * 0.25, 0.5, 0.25),
    "twice": Way(lambda a, b: a + b + a, 2, 1),
    "cancelled": Way(lambda a, b: a + b - a, 0, 1),
    "itself and more": Way(lambda a, b: a + (a + b).tanh(), 1, 0),
    "python's sum": Way(lambda a, b: sum([a, b, 1.0]), 1, 1),  # type: ignore[arg-type, return-value]
    "constants": Way(lambda a, b: a + W + b - 3, 1, 1),
    "a cast there and back": Way(lambda a, b: a.float().double() + b.to(torch.float32).type_as(a), 1, 1),
    "copies": Way(lambda a, b: a.clone().contiguous() + b, 1, 1),
    "dropout that is off": Way(lambda a, b: F.dropout(a, 0.5, False) + F.dropout1d(b, training=False), 1, 1),
    "modules": Way(lambda a, b: nn.Identity()(a) + nn.Dropout(0.5).eval()(b), 1, 1),
    "checkpointed": Way(lambda a, b: checkpoint(lambda a, b: a + b, a, b, use_reentrant=False), 1, 1),
    "in place": Way(_in_place, 1, 1),
    "in place by name": Way(lambda a, b: (a * 1).add_(b, alpha=2).sub_(b), 1, 1),
    "out": Way(_written_by_out, 1, 1),
}  # fmt: skip
OTHERS = {
    "a rectified sum": Way(lambda a, b: (a + b).relu(), 0, 0),
    "transposed": Way(lambda a, b: a + b.transpose(1, 2), 1, 0),
    "turned": Way(lambda a, b: a + b.flip(1), 1, 0),
    "rolled": Way(lambda a, b: a + b.roll(1, 1), 1, 0),
    "sorted": Way(lambda a, b: a + b.sort(1).values, 1, 0),
    "times a matrix": Way(lambda a, b: a @ W + b, 0, 1),
    "times a mask": Way(lambda a, b: a * (b > 0) + b, 0, 1),
    "times each other": Way(lambda a, b: a * b + b, 0, 1),
    "times a tensor of one number": Way(lambda a, b: a * torch.tensor(2.0).double() + b, 0, 1),
    "broadcast": Way(lambda a, b: a + b[:, :1], 1, 0),
    "mean": Way(lambda a, b: a + b.mean(1, keepdim=True), 1, 0),
    "where": Way(lambda a, b: torch.where(b > 0, a, 0.0) + b, 0, 1),
    "rounded": Way(lambda a, b: torch.div(a, 1, rounding_mode="trunc") + b, 0, 1),
    "of a part": Way(lambda a, b: a + F.pad(b[:, 1:], (0, 0, 1, 0)), 1, 0),
    "dropout that is on": Way(lambda a, b: F.dropout(a, 0.5, True) + b, 0, 1),
    "written later": Way(_written_later, 0, 0),
    "partly written": Way(_partly_written, 0, 0),
    "overwritten": Way(_overwritten, 0, 0),
    "filled": Way(_filled, 0, 0),
    "by data": Way(_by_data, 0, 0),
    "all at once": Way(_by_all_at_once, 0, 0),
    "module in place": Way(_module_in_place, 0, 0),
    "autograd function": Way(_by_an_autograd_function, 0, 0),
    "mapped": Way(lambda a, b: torch.vmap(lambda a, b: a + b)(a, b), 0, 0),
}


def model_of(way: Way) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        a = funcattr.site((x @ W).view(-1, SIZE, SIZE), "a")
        b = funcattr.site((x @ W.T).tanh().view(-1, SIZE, SIZE), "b")
        return funcattr.site(way.make(a, b), "h").square().sum((1, 2))

    return model


X, OTHER = (torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)).double() for seed in (1, 2))


@pytest.mark.parametrize("name", [*SUMS, *OTHERS])
@pytest.mark.filterwarnings("ignore:The reduce argument")
def test_terms_and_their_coefficients(name: str) -> None:
    way = (SUMS | OTHERS)[name]
    found = funcattr.edges(model_of(way), X, sources=["a", "b"], sinks="h", against=OTHER)
    assert found.coefficients[:, 0].tolist() == [way.of_a, way.of_b]
    # Where a source has no other way to the sink than the sum, or is no term, its score is its effect on the target.
    # (The derivative of a write into `.data` is not what torch says.)
    if name in (
        "itself and more",
        "cancelled",
        "times each other",
        "dropout that is on",
        "by data",
        "a cast there and back",
    ):
        return
    for i, site in enumerate("ab"):
        here, there = (funcattr.read(model_of(way), site)(v)[1][site] for v in (X, OTHER))

        def after(t: float, site: str = site, here: Tensor = here, there: Tensor = there) -> Tensor:
            return funcattr.edit(model_of(way), {site: lambda v: here + t * (here - there)})(X)

        with torch.no_grad():
            assert_equal(found.scores[i, 0].sum(1), (after(1e-5) - after(-1e-5)) / 2e-5, tolerance=1e-6)


@pytest.mark.parametrize("name", ["sum", "in place", "in place by name", "partly written", "out"])
def test_writes_on_record_are_told_too(name: str) -> None:
    way = (SUMS | OTHERS)[name]
    rules = funcattr.Rulebook({"relu": funcattr.rules.guided})  # which changes nothing here
    found = funcattr.edges(model_of(way), X, sources=["a", "b"], sinks="h", against=OTHER, rules=rules)
    assert found.coefficients[:, 0].tolist() == [way.of_a, way.of_b]
    plain = funcattr.edges(model_of(way), X, sources=["a", "b"], sinks="h", against=OTHER)
    assert_equal(found.scores, plain.scores)


def test_the_terms_are_those_at_x_where_values_decide() -> None:
    def model(x: Tensor) -> Tensor:
        a = funcattr.site(x * 2, "a")
        return funcattr.site(a + 1 if x.sum() > 0 else a.tanh(), "h").square().sum(1)

    x = torch.ones(1, 3).double()
    for here, is_term in ((x, 1.0), (-x, 0.0)):
        found = funcattr.edges(model, here, sources="a", sinks="h", against=-here)
        assert found.coefficients.tolist() == [[is_term]]


def test_an_edge_passes_no_other_listed_site() -> None:
    def model(x: Tensor) -> Tensor:
        a = funcattr.site(x * 2, "a")
        b = funcattr.site(a + x, "b")
        return funcattr.site(b * 3, "c").square().sum(1)

    x, other = torch.randn(2, 3).double(), torch.randn(2, 3).double()

    def coefficients(sources: str, sinks: str) -> Any:
        found = funcattr.edges(model, x, sources=sources.split(), sinks=sinks.split(), against=other)
        assert found.scores[found.coefficients == 0].abs().sum() == 0
        return found.coefficients.tolist()

    assert coefficients("a", "c") == [[3]]
    assert coefficients("a b", "c") == [[0], [3]]
    assert coefficients("a", "b c") == [[1, 0]]
    assert coefficients("a b", "a b c") == [[1, 0, 0], [0, 1, 3]]


def test_one_tensor_under_two_names_is_told_apart() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same, self.head = nn.Identity(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            return self.head(h + self.same(h))

    model, x = Model().double(), torch.randn(2, 3).double()
    found = funcattr.edges(model, x, 1, sources="same", sinks="head@input", against=0 * x)
    assert found.coefficients.tolist() == [[1]]  # and not 2
    assert_equal(found.unexplained, found.scores.sum(0))


class Forgetful(nn.Module):
    """Reads its first layer's value, which a module has rectified in place, by its old name or by the new one."""

    def __init__(self, by_old_name: bool) -> None:
        super().__init__()
        self.first, self.relu, self.by_old_name = nn.Linear(3, 4), nn.ReLU(inplace=True), by_old_name

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        found = self.relu(h)
        return (h.view(-1, 4) if self.by_old_name else found).sum(1)


@pytest.mark.parametrize("rules", [None, "attnlrp"])
def test_a_write_into_what_a_sink_was_given_is_seen_or_refused(rules: str | None) -> None:
    x = torch.randn(5, 3).double()
    sites: dict[str, Any] = {"sources": "first", "sinks": "relu@input", "against": 0 * x, "rules": rules}
    model = Forgetful(by_old_name=False).double()
    found = funcattr.edges(model, x, **sites)
    h = model.first(x).detach()
    if rules is None:
        assert_equal(found.scores[0, 0], ((h - model.first.bias) * (h > 0)).sum(1).detach())
    with pytest.raises(funcattr.AliasedWriteError, match=r"^edges: in the module '', a value is read that another"):
        funcattr.edges(Forgetful(by_old_name=True).double(), x, **sites)


# --- what it costs ----------------------------------------------------------------------------------------------------


LOG: list[str] = []


class Stream(nn.Module):
    """A stream of 100 blocks: [N, T, 3] -> [N, 2]. It says when it is run, and when it is pulled back through."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 3), nn.Tanh()) for _ in range(100))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        LOG.append("forward")
        for block in self.blocks:
            x = x + block(x)
        if x.requires_grad:
            x.register_hook(lambda g: LOG.append("reverse"))
        return self.head(x.mean(1))


def test_ten_thousand_edges_take_two_forward_passes_and_one_reverse() -> None:
    LOG.clear()
    x, other = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    found = funcattr.edges(Stream().double().eval(), x, 1, sources="blocks.*", sinks="blocks.*.0@input", against=other)
    assert found.scores.shape == (100, 100, 2, 4)
    assert found.coefficients.sum() == 99 * 100 / 2
    assert LOG == ["forward", "forward", "reverse"]


def test_a_sink_behind_a_norm_takes_a_pass_of_its_own() -> None:
    LOG.clear()
    x, other = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    found = funcattr.edges(Stream().double().eval(), x, 1, sources="blocks.*", sinks="head@input", against=other)
    assert found.coefficients.abs().sum() == 0  # there the mean over tokens is between
    # The pass at x is pulled back to the sink, before the stream.
    assert LOG == ["forward", "forward", "forward", "reverse"]


@long
def test_ten_thousand_edges_cost_at_most_three_plain_passes() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=50, num_attention_heads=2
    )  # fmt: skip
    model = funcattr.functionalize(LlamaForCausalLM(config).eval())
    ids, other = torch.arange(5)[None], torch.arange(5, 10)[None]
    norms = ["model.layers.*.input_layernorm@input", "model.layers.*.post_attention_layernorm@input"]
    sites: dict[str, Any] = {"sources": ["model.layers.*.self_attn", "model.layers.*.mlp"], "sinks": norms}
    at = {"layer": "model.embed_tokens", "target": (-1, 3)}
    plain = metered(lambda: funcattr.gradient(model, ids, **at)).kernels
    every = metered(lambda: funcattr.edges(model, ids, (-1, 3), against=other, **sites))
    assert every.kernels <= 3 * plain
