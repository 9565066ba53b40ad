"""The model with some edges only: cut as hooks cut them, in threads, copies and compiled code; and its faithfulness."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing import assert_equal

from . import hooked
from .families import FAMILIES
from .test_edges import found_in, linear


def cut_by_hooks(family: Any, model: nn.Module, found: Any, kept: set[tuple[str, str]]) -> Tensor:
    """The number where every sink sees, of the terms that are not kept, those of the other inputs."""
    x, other, kwargs = family.inputs()
    there = hooked.values(lambda: family.number(model, other, kwargs), model, family.sources)
    now: dict[str, Tensor] = {}

    def note(source: str) -> Any:
        def change(value: Tensor) -> Tensor:
            now[source] = value.clone()
            return value

        return change

    def cut(sink: str) -> Any:
        def change(value: Tensor) -> Tensor:
            for source in family.sources:
                if sink in family.terms[source] and (source, sink) not in kept:
                    value = value - now[source] + there[source]
            return value

        return change

    changes = {s: note(s) for s in family.sources} | {s: cut(s) for s in family.sinks}
    with torch.no_grad():
        return hooked.run(lambda: family.number(model, x, kwargs), model, changes)


@pytest.mark.parametrize("name", FAMILIES)
def test_pruned_models_equal_hooks_that_cut_edges(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    x, _, kwargs = family.inputs()
    found = found_in(family, model)
    every = int(found.coefficients.sum())
    ranked = found.strongest(every)
    assert len(set(ranked)) == every and all(sink in family.terms[source] for source, sink in ranked)
    totals = {pair: found.totals()[found.sources.index(pair[0]), found.sinks.index(pair[1])].abs() for pair in ranked}
    assert [*totals.values()] == sorted(totals.values(), reverse=True)
    for count in (0, 2, every - 1, every):
        kept = set(ranked[:count])
        assert_equal(
            family.number(found.prune(count), x, kwargs).detach(),
            cut_by_hooks(family, model, found, kept),
            tolerance=1e-6,
        )
        others = set(ranked) - kept
        without = family.number(found.prune(count, keep=False), x, kwargs).detach()
        assert_equal(without, cut_by_hooks(family, model, found, others), tolerance=1e-6)


def test_all_edges_give_the_model_and_none_the_other_inputs() -> None:
    model, x, other, sites = linear()
    found = funcattr.edges(model, x, 1, against=other, **sites)
    assert_equal(found.prune(10)(x), model(x))
    assert_equal(found.prune(0)(x), model(other))
    assert_equal(found.prune(0, keep=False)(x), model(x))
    assert_equal(found.prune(10, keep=False)(x), model(other))
    shares = found.faithfulness([0, 10])
    assert_equal(shares, torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double())
    assert_equal(found.prune(found.strongest(4))(x), found.prune(4)(x))
    one = [("blocks.0", "last@input")]
    without = found.faithfulness([one], keep=False)
    share = found.scores[1, 3].sum(1) / (model(x) - model(other))[:, 1]
    assert_equal(without[0], (1 - share).detach())
    some = found.faithfulness([3, 6])
    full, none = model(x)[:, 1], model(other)[:, 1]
    expected = torch.stack([(found.prune(k)(x)[:, 1] - none) / (full - none) for k in (3, 6)])
    assert_equal(some, expected.detach())
    assert_equal(found.faithfulness([3], keep=False)[0], ((found.prune(3, keep=False)(x)[:, 1] - none) / (full - none)))


def test_a_pruned_node_has_the_value_of_the_other_inputs() -> None:
    family = FAMILIES["gpt2"]
    model = family.model()
    x, other, kwargs = family.inputs()
    found = found_in(family, model, sinks=family.sources)
    first, second = found.strongest(2)
    there = hooked.values(lambda: family.number(model, other, kwargs), model, family.sources)
    changes = {site: (lambda v, site=site: there[site]) for site, _ in (first, second)}
    with torch.no_grad():
        expected = hooked.run(lambda: family.number(model, x, kwargs), model, changes)
    assert_equal(family.number(found.prune(2, keep=False), x, kwargs).detach(), expected)


def test_a_pruned_model_is_a_model() -> None:
    model, x, other, sites = linear()
    found = funcattr.edges(model, x, 1, against=other, **sites)
    pruned = found.prune(4)
    assert pruned.sites == funcattr.functionalize(model).sites
    expected = pruned(x)
    # Methods run copies of the examples; an edit, another pruning and other parameters go on top.
    slopes = funcattr.gradient(pruned, x, 1)
    assert_equal(funcattr.integrated_gradients(pruned, x, 1, baseline=x - 1, steps=3), slopes)
    twice = funcattr.edit(pruned, {"last@input": lambda h: 2 * h})
    bias: Any = model.last.bias
    assert_equal(twice(x) - 3 * bias, 2 * (expected - 3 * bias))
    parameters = {name: 2 * p for name, p in pruned.params.items()}
    assert not torch.allclose(pruned.bind(parameters)(x), expected)
    again = funcattr.edges(pruned, x, 1, against=other, **sites)
    assert_equal(again.prune(int((again.coefficients != 0).sum()))(x), expected)
    values = funcattr.read(pruned, "last@input")(x)[1]["last@input"]
    assert_equal(model.last(values).sum(1), expected)
    mapped = torch.vmap(lambda s: pruned(s * x))(torch.tensor([0.5, 1.0]).double())
    assert_equal(mapped[1], expected)
    assert_equal(mapped[0], pruned(0.5 * x))


def test_threads_do_not_see_each_others_values() -> None:
    model, x, other, sites = linear()
    pruned = funcattr.edges(model, x, 1, against=other, **sites).prune(4)
    inputs = [x * k for k in range(8)]
    expected = [pruned(v).detach() for v in inputs]
    found: dict[int, list[Tensor]] = {}

    def work(number: int) -> None:
        found[number] = [pruned(inputs[number]).detach() for _ in range(10)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, results in found.items():
        for result in results:
            assert_equal(result, expected[number])


def test_what_cannot_be_cut_is_named() -> None:
    model, x, other, sites = linear()
    found = funcattr.edges(model, x, 1, against=other, **sites)
    for count in (-1, 11):
        with pytest.raises(ValueError, match=rf"^Edges.strongest\(count={count}\): expected a number from 0 to 10"):
            found.prune(count)
    with pytest.raises(TypeError, match=r"^Edges.strongest\(count=...\): expected an int, got float"):
        found.strongest(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Edges.prune: \('blocks.2', 'readers.0@input'\) is no edge on a stream"):
        found.prune([("blocks.2", "readers.0@input")])
    behind = nn.Sequential(model.first, nn.LayerNorm(5).double(), nn.Flatten(), nn.Linear(15, 2).double())
    direct = funcattr.edges(behind, x, 1, sources="0", sinks="3@input", against=other, channel_dim=None)
    assert direct.coefficients.sum() == 0
    with pytest.raises(ValueError, match=r"^Edges.prune: '0' is no term of the sum at '3@input', but has a direct"):
        direct.prune(0)


def test_a_repr_is_short() -> None:
    model, x, other, sites = linear()
    text = repr(funcattr.edges(model, x, 1, against=other, **sites))
    assert text.startswith("Edges(4 sources, 4 sinks, 10 edges on streams") and len(text) < 100


def test_a_direct_effect_whose_positions_cancel_is_one() -> None:
    def model(x: Tensor) -> Tensor:
        a = funcattr.site(3 * x, "a")
        return funcattr.site(a.tanh(), "b").sum((1, 2))

    x = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)
    found = funcattr.edges(model, x, sources="a", sinks="b", against=0 * x)
    assert found.totals().item() == 0 and found.scores.abs().min() > 0
    with pytest.raises(ValueError, match="has a direct effect"):
        found.prune(0)
