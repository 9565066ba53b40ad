"""Edges between sites: exact on linear networks, equal to hooks and to finite differences on unmodified models."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing import assert_equal

from ...sweeps import sweep
from . import hooked
from .families import FAMILIES, Family

each_family = pytest.mark.parametrize("name", FAMILIES)


def found_in(family: Family, model: Any, **options: Any) -> Any:
    x, other, kwargs = family.inputs()
    given = {"sources": family.sources, "sinks": family.sinks, "channel_dim": family.channel_dim, "kwargs": kwargs}
    return funcattr.edges(model, x, 1, against=other, **(given | options))


def expected_coefficients(family: Family) -> Tensor:
    rows = [[float(sink in family.terms[source]) for sink in family.sinks] for source in family.sources]
    return torch.tensor(rows, dtype=torch.float64)


@each_family
def test_scores_equal_hooks_on_unmodified_models(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model)
    assert torch.equal(found.coefficients, expected_coefficients(family))
    sites = (*family.sources, *family.sinks)
    here, there = (hooked.values(lambda v=v: family.number(model, v, kwargs), model, sites) for v in (x, other))
    g = hooked.cotangents(lambda: family.number(model, x, kwargs), model, family.sinks)
    for i, source in enumerate(family.sources):
        for j, sink in enumerate(family.sinks):
            if sink in family.terms[source]:
                product = (here[source] - there[source]) * g[sink]
                expected = product.flatten(1).sum(1) if family.channel_dim is None else product.sum(family.channel_dim)
                assert_equal(found.scores[i, j], expected, tolerance=1e-6)
    for j, sink in enumerate(family.sinks):
        rise = ((here[sink] - there[sink]) * g[sink]).flatten(1).sum(1)
        listed = found.scores[:, j].unsqueeze(-1).flatten(2).sum((0, 2))
        assert_equal(found.unexplained[j], rise - listed, tolerance=1e-6)


@pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.is_exact])
def test_scores_equal_finite_differences_of_their_definitions(name: str) -> None:
    family = FAMILIES[name]
    # In GPT-2 queries, keys and values are behind a norm: the effect on them is a direct one.
    more = ("transformer.h.0.attn.c_attn@input", "transformer.h.1.attn.c_attn@input") if name == "gpt2" else ()
    sinks = (*family.sinks, *more) if more else family.sinks
    family = family._replace(sinks=tuple(s for s in sinks if not (more and ".ln_1@" in s)))
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model)

    def call() -> Tensor:
        return family.number(model, x, kwargs)

    sites = (*family.sources, *family.sinks)
    here = hooked.values(call, model, sites)
    there = hooked.values(lambda: family.number(model, other, kwargs), model, sites)
    g = hooked.cotangents(call, model, family.sinks)
    scores = found.scores.unsqueeze(-1).flatten(3).sum(3)
    direct = 0
    for i, source in enumerate(family.sources):
        difference = here[source] - there[source]
        for j, sink in enumerate(family.sinks):
            if sink in family.terms[source]:
                expected = hooked.slope_of_sum(call, model, sink, difference)
            else:
                expected = hooked.slope_of_sink(call, model, source, sink, here, difference, g[sink])
                direct += bool(expected.abs().max() > 1e-6)
            assert_equal(scores[i, j], expected, tolerance=1e-6)
    assert direct >= (3 if more else 0)


class Linear(nn.Module):
    """A residual stream of linear blocks with biases: [N, T, 5] -> [N, T, 3]."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.readers = nn.ModuleList(nn.Identity() for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Linear(5, 5) for _ in range(blocks))
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for reader, block in zip(self.readers, self.blocks, strict=True):
            h = h + block(reader(h)) * 0.5
        return self.last(h).sum(1)


def linear() -> tuple[Any, Tensor, Tensor, dict[str, Any]]:
    model = Linear().double().eval()
    sites = {"sources": ["first", "blocks.*"], "sinks": ["readers.*@input", "last@input"]}
    return model, torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double(), sites


def test_edges_of_a_linear_network_are_the_effects_of_cutting_them() -> None:
    model, x, other, sites = linear()
    found = funcattr.edges(model, x, 1, against=other, **sites)
    assert found.sources == ("first", "blocks.0", "blocks.1", "blocks.2")
    assert found.coefficients.tolist() == [[1, 1, 1, 1], [0, 0.5, 0.5, 0.5], [0, 0, 0.5, 0.5], [0, 0, 0, 0.5]]
    here, there = (hooked.values(lambda v=v: model(v)[:, 1], model, found.sources) for v in (x, other))
    for i, source in enumerate(found.sources):
        for j, sink in enumerate(found.sinks):
            change = found.coefficients[i, j] * (there[source] - here[source])
            with torch.no_grad():
                cut = hooked.run(lambda: model(x)[:, 1], model, {sink: lambda v, change=change: v + change})
                assert_equal(found.scores[i, j].sum(1), model(x)[:, 1] - cut)
    assert found.unexplained.abs().max() < 1e-12
    into_the_last = found.scores[:, -1].sum((0, 2))
    assert_equal(into_the_last, (model(x) - model(other))[:, 1].detach())


def test_what_no_listed_source_gives_is_unexplained() -> None:
    model, x, other, sites = linear()
    every = funcattr.edges(model, x, 1, against=other, **sites)
    some = funcattr.edges(model, x, 1, against=other, **{**sites, "sources": ["first", "blocks.1"]})
    assert_equal(some.scores[:, -1], every.scores[[0, 2], -1])
    assert_equal(some.unexplained[-1], every.scores[[1, 3], -1].sum((0, 2)))


def test_nodes_are_the_diagonal_of_sites_with_themselves() -> None:
    family = FAMILIES["gpt2"]
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model, sinks=family.sources)
    assert torch.equal(found.coefficients, torch.eye(len(family.sources)).double())
    here, there = (
        hooked.values(lambda v=v: family.number(model, v, kwargs), model, family.sources) for v in (x, other)
    )
    g = hooked.cotangents(lambda: family.number(model, x, kwargs), model, family.sources)
    for i, site in enumerate(family.sources):
        assert_equal(found.scores[i, i], ((here[site] - there[site]) * g[site]).sum(-1))
    assert found.unexplained.abs().max() < 1e-12
    assert (found.scores.sum((2, 3)) * (1 - found.coefficients)).abs().max() == 0


@pytest.mark.parametrize("steps", [2, 5])
def test_steps_average_the_gradient_over_the_line_between_the_inputs(steps: int) -> None:
    family = FAMILIES["gpt2"]
    sinks = (*family.sinks, "transformer.h.1.mlp.c_fc@input")  # which is behind a norm
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model, sinks=sinks, steps=steps)
    (key,) = x
    at = [{key: other[key] + k / steps * (x[key] - other[key])} for k in range(1, steps + 1)]
    sites = (*family.sources, *sinks)
    here, there = (hooked.values(lambda v=v: family.number(model, v, kwargs), model, sites) for v in (x, other))
    gs = [hooked.cotangents(lambda v=v: family.number(model, v, kwargs), model, sinks) for v in at]
    for i, source in enumerate(family.sources):
        difference = here[source] - there[source]
        for j, sink in enumerate(family.sinks):
            if sink in family.terms[source]:
                g = sum(each[sink] for each in gs) / steps
                assert_equal(found.scores[i, j], (difference * g).sum(-1), tolerance=1e-8)
        slopes = []
        for point, each in zip(at, gs, strict=True):
            held = hooked.values(lambda point=point: family.number(model, point, kwargs), model, sites)
            slopes.append(
                hooked.slope_of_sink(
                    lambda point=point: family.number(model, point, kwargs),
                    model, source, sinks[-1], held, difference, each[sinks[-1]],
                )
            )  # fmt: skip
        assert_equal(found.scores[i, -1].sum(1), sum(slopes) / steps, tolerance=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("rules", ["attnlrp", "cp_lrp"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_rules_give_the_cotangents_of_their_own_pass(name: str, rules: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model, rules=rules)
    inputs = [x, other]
    # At the first source, on which all depends, the cotangent is that of the pass from there.
    here, there = (hooked.values(lambda v=v: family.number(model, v, kwargs), model, family.sources) for v in inputs)
    root = funcattr.attribute(model, x, 1, rules=rules, layer=family.sources[0], kwargs=kwargs)
    nodes = found_in(family, model, rules=rules, sources=family.sources[:1], sinks=family.sources[:1])
    first = family.sources[0]
    assert_equal(nodes.scores[0, 0], ((here[first] - there[first]) * root.cotangent).sum(-1), tolerance=1e-6)
    # What one sink gets does not depend on which others are listed.
    for j in (0, 3):
        alone = found_in(family, model, rules=rules, sinks=family.sinks[j], sources=family.sources[: 1 + j // 2])
        assert_equal(alone.scores[:, 0], found.scores[: 1 + j // 2, j], tolerance=1e-6)
    assert not torch.allclose(found.scores, found_in(family, model).scores, rtol=0.01)


def test_rules_see_what_depends_on_the_input_beside_the_sites() -> None:
    w = torch.randn(4, 4).double()

    def model(x: Tensor) -> Tensor:
        a, b = x @ w, funcattr.site(x @ w.T, "b")
        c = funcattr.site(b + 1, "c")
        product = funcattr.site(a * c, "product")
        return product.sum(1)

    x, other = torch.randn(2, 4).double(), torch.randn(2, 4).double()
    found = funcattr.edges(model, x, sources="b", sinks=["c"], against=other, rules="attnlrp")
    direct = funcattr.edges(model, x, sources="b", sinks=["product"], against=other, rules="attnlrp")
    expected = ((x - other) @ w.T * (x @ w) / 2).sum(1)  # half of a product's relevance for each factor
    assert_equal(found.scores[0, 0], expected)
    assert_equal(direct.scores[0, 0], expected)


# --- how it is called ----------------------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rules": {"rules": "attnlrp"},
    "direct": {"sinks": ("transformer.h.1.attn.c_attn@input", "transformer.ln_f@input")},
    "rules and direct": {"rules": "cp_lrp", "sinks": ("transformer.h.1.attn.c_attn@input", "transformer.ln_f@input")},
    "steps": {"steps": 3},
}


@pytest.mark.parametrize("kind", sweep(OPTIONS, quick={"direct"}))
@pytest.mark.filterwarnings("ignore:.*batching rule.*")
def test_vmap_over_prompts_and_compiled_code_equal_the_loop(kind: str, fresh_dynamo: None) -> None:
    options = OPTIONS[kind]
    family = FAMILIES["gpt2"]
    model = funcattr.functionalize(family.model())
    sites = {"sources": family.sources, "sinks": family.sinks, **options}
    (x, other) = (v["inputs_embeds"] for v in family.inputs()[:2])

    def scores(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        found = funcattr.edges(model, {"inputs_embeds": x}, 1, against={"inputs_embeds": other}, **sites)
        return found.scores, found.unexplained

    def of_one(x: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return scores(x[None], other[None])

    loop = [of_one(*pair) for pair in zip(x, other, strict=True)]
    expected = tuple(torch.cat(parts, dim) for parts, dim in zip(zip(*loop, strict=True), (2, 1), strict=True))
    assert_equal(scores(x, other), expected)
    mapped = torch.vmap(of_one)(x, other)
    assert_equal((mapped[0].squeeze(3).movedim(0, 2), mapped[1].squeeze(2).movedim(0, 1)), expected)
    assert_equal(torch.compile(scores, fullgraph=True, backend="aot_eager")(x, other), expected)


def test_scores_have_a_derivative() -> None:
    model, x, other, sites = linear()
    model = nn.Sequential(model, nn.Tanh())
    named: dict[str, Any] = {key: [f"0.{site}" for site in value] for key, value in sites.items()}

    def total(x: Tensor, other: Tensor) -> Tensor:
        return funcattr.edges(model, x, 1, against=other, **named).scores.square().sum()

    for argument in (0, 1):
        slopes: Any = torch.func.grad(total, argnums=argument)(x, other)
        direction, h = torch.randn_like(x), 1e-5
        up, down = ([x, other] for _ in range(2))
        up[argument], down[argument] = up[argument] + h * direction, down[argument] - h * direction
        assert_equal((slopes * direction).sum(), (total(*up) - total(*down)) / (2 * h), tolerance=1e-6)
        leaf = [x, other][argument].clone().requires_grad_()
        given = [x, other]
        given[argument] = leaf
        assert_equal(torch.autograd.grad(total(*given), leaf)[0], slopes)


def test_examples_may_lie_in_another_dimension() -> None:
    model, x, other, sites = linear()
    expected = funcattr.edges(model, x, 1, against=other, **sites)

    class Sequence(nn.Module):
        """[T, N, 4] -> [N, 3], by the same modules."""

        def __init__(self, of: Any) -> None:
            super().__init__()
            self.first, self.readers, self.blocks, self.last = of.first, of.readers, of.blocks, of.last

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            for reader, block in zip(self.readers, self.blocks, strict=True):
                h = h + block(reader(h)) * 0.5
            return self.last(h).sum(0)

    dims = {"x": 1, "layer": 1, "output": 0}
    moved = funcattr.edges(
        Sequence(model), x.transpose(0, 1), 1, against=other.transpose(0, 1), example_dims=dims, **sites
    )
    assert_equal(moved.scores, expected.scores)
    assert_equal(moved.unexplained, expected.unexplained)
    pruned = moved.faithfulness([0, 3, 10])
    assert_equal(pruned, expected.faithfulness([0, 3, 10]))


def test_a_plain_callable_has_the_sites_that_it_marks() -> None:
    w = torch.randn(4, 4).double()

    def model(x: Tensor) -> Tensor:
        a = funcattr.site(x @ w, "a")
        b = funcattr.site(a.tanh(), "b")
        return funcattr.site(a + b, "sum").exp()

    x, other = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    found = funcattr.edges(model, x, 2, sources=["a", "b"], sinks="sum", against=other)
    h = x @ w
    slope = (h + h.tanh()).exp()[:, 2]
    assert_equal(found.scores[0, 0], (h - other @ w)[:, 2] * slope)
    assert_equal(found.scores[1, 0], (h.tanh() - (other @ w).tanh())[:, 2] * slope)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("rules", [None, "cp_lrp"])
def test_modes_without_autograd_change_nothing(mode: Any, rules: str | None) -> None:
    family = FAMILIES["gpt2"]
    sinks = (*family.sinks, "transformer.h.1.attn.c_attn@input")
    model = family.model()
    expected = found_in(family, model, rules=rules, sinks=sinks)
    with mode():
        found = found_in(family, model, rules=rules, sinks=sinks)
    assert_equal(found.scores, expected.scores)
    assert torch.equal(found.coefficients, expected.coefficients)


def test_a_part_of_a_tuple_is_a_source() -> None:
    family = FAMILIES["llama"]
    parts = tuple(f"{site}:0" if site.endswith("self_attn") else site for site in family.sources)
    eager = family._replace(case="llama_eager", sources=parts)  # whose attention gives its weights too
    model = eager.model()
    with pytest.raises(ValueError, match=r"^edges: expected a site with one .*got 2 at '.*self_attn'. Name a part"):
        found_in(eager, model, sources=family.sources)
    found = found_in(eager, model)
    assert_equal(found.scores, found_in(family, family.model()).scores, tolerance=1e-5)
    x, _, kwargs = family.inputs()
    assert_equal(family.number(found.prune(15), x, kwargs), family.number(model, x, kwargs), tolerance=1e-6)


def test_bfloat16_sums_in_single_precision() -> None:
    model, x, other, sites = linear()
    expected = funcattr.edges(model, x, 1, against=other, **sites).scores
    low = funcattr.edges(model.bfloat16(), x.bfloat16(), 1, against=other.bfloat16(), **sites).scores
    assert low.dtype == torch.bfloat16
    assert (low.double() - expected).norm() < 0.02 * expected.norm()


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"sources": "blocks.7"},
            funcattr.UnknownSiteError,
            r"^edges\(sources=\.\.\.\): no such site 'blocks.7'. Clos",
        ),
        ({"sinks": "lost@input"}, funcattr.UnknownSiteError, r"^edges\(sinks=\.\.\.\): no such site 'lost@input'"),
        ({"sources": "block.*"}, funcattr.UnknownSiteError, r"^edges\(sources=\.\.\.\): no such site 'block\.\*'"),
        ({"sources": "*"}, funcattr.UnknownSiteError, r"the site 'readers' exists, but this call"),
        ({"sources": []}, ValueError, r"^edges\(sources=\[\]\): expected at least one site"),
        ({"sources": 3}, TypeError, r"^edges\(sources=\.\.\.\): expected a site or a list of sites"),
        ({"sources": [3]}, TypeError, r"^edges\(sources=\.\.\.\): expected the name of a site or a module"),
        (
            {"sinks": ["last@input", "last@input"]},
            ValueError,
            r"^edges\(sinks=\.\.\.\): the site 'last@input' is given twice",
        ),
        ({"sources": "blocks.2", "sinks": "readers.1@input"}, ValueError, r"'blocks.2' lies behind every sink"),
        ({"sources": ["first", "last"]}, ValueError, r"^edges\(sources=\.\.\.\): 'last' lies behind every sink"),
        (
            {"sources": "blocks.1", "sinks": ["readers.0@input", "last@input"]},
            ValueError,
            r"^edges\(sinks=\.\.\.\): 'readers.0@input' lies before every source",
        ),
        (
            {"against": torch.zeros(2, 4, 4).double()},
            ValueError,
            r"^edges\(against=\.\.\.\): expected inputs structured",
        ),
        (
            {"against": torch.zeros(1, 3, 4).double()},
            ValueError,
            r"shaped as x, \[2, 3, 4\] of torch.float64, got \[1, 3",
        ),
        ({"against": torch.zeros(2, 3, 4)}, ValueError, r"of torch.float64, got \[2, 3, 4\] of torch.float32"),
        ({"against": 0}, TypeError, r"^edges\(x=\.\.\.\)"),
        ({"rules": "epsilon"}, ValueError, r"^edges\(rules='epsilon'\): expected a rulebook in the space of gradients"),
        ({"rules": "deep_lift"}, ValueError, r"got one of multiplier"),
        ({"rules": "no"}, ValueError, r"^edges\(rules='no'\): no such rulebook"),
        ({"steps": 0}, ValueError, r"^edges\(steps=0\): expected at least 1"),
        ({"channel_dim": 3}, ValueError, r"^edges\(channel_dim=3\): the value at 'first' has shape \[2, 3, 5\]"),
        ({"channel_dim": 0}, ValueError, r"^edges\(channel_dim=0\)"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model, x, other, sites = linear()
    with pytest.raises(error, match=message):
        funcattr.edges(model, x, 1, **{**sites, "against": other, **options})


def test_token_ids_have_no_line_between_them() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)).double().eval()
    ids, other = torch.tensor([[1, 2]]), torch.tensor([[3, 4]])
    found = funcattr.edges(model, ids, (0, 1), sources="0", sinks="1@input", against=other)
    rise = (model(ids) - model(other))[:, 0, 1].detach()
    assert_equal(found.scores.sum((0, 1, 3)), rise)
    with pytest.raises(TypeError, match=r"^edges\(steps=...\): expected floating-point inputs, got torch.int64"):
        funcattr.edges(model, ids, (0, 1), sources="0", sinks="1@input", against=other, steps=2)


def test_complex_values_at_sites_and_on_the_line_are_refused() -> None:
    def model(x: Tensor) -> Tensor:
        h = funcattr.site(2 * x, "complex")
        return funcattr.site(3 * funcattr.site(h.abs(), "size"), "sum").sum(1, keepdim=True)

    x = torch.complex(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(TypeError, match=r"^edges: expected real values at .*complex64 at 'complex'\. Name sites where"):
        funcattr.edges(model, x, 0, sources="complex", sinks="sum", against=0 * x)
    found = funcattr.edges(model, x, 0, sources="size", sinks="sum", against=0 * x)
    assert_equal(found.scores.sum(), (model(x) - model(0 * x)).sum())
    with pytest.raises(
        TypeError, match=r"^edges\(steps=...\): expected real inputs, got torch.complex64\. Give steps=1"
    ):
        funcattr.edges(model, x, 0, sources="size", sinks="sum", against=0 * x, steps=2)


def test_shapes_that_depend_on_values_are_refused() -> None:
    def model(x: Tensor) -> Tensor:
        h = funcattr.site(x[:, : 2 if x.sum() > 0 else 3] * 2, "h")
        return funcattr.site(h + 1, "s").sum(1)

    x = torch.ones(1, 4)
    with pytest.raises(
        ValueError, match=r"^edges\(against=...\): expected one shape at 's' for both.*\[1, 2\].*\[1, 3\]"
    ):
        funcattr.edges(model, x, sources="h", sinks="s", against=-x)


def test_sources_of_different_positions_are_summed_or_refused() -> None:
    family = FAMILIES["resnet"]
    with pytest.raises(
        ValueError, match=r"^edges\(channel_dim=1\): expected sources with the same positions, got \[2, 8"
    ):
        found_in(family, family.model(), channel_dim=1)
    one = funcattr.edges(
        family.model(), family.inputs()[0], 1, sources="layer4.1.bn2", sinks="layer4.1.relu#1@input", channel_dim=1,
        against=family.inputs()[1],
    )  # fmt: skip
    assert one.scores.shape == (1, 1, 2, 1, 1)


def test_a_site_of_several_tensors_is_named() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True)).eval()
    x = torch.randn(2, 5, 3)

    with pytest.raises(ValueError, match=r"^edges: expected a site with one floating-point tensor, got 3 at '0'"):
        funcattr.edges(model, x, sources="0@input", sinks="0", against=0 * x, output=0)
