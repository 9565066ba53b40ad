"""Reading and editing the values at sites: alone, composed, under transforms, compiled and in threads."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import edit, functionalize, read, site
from funcattr.model.editing import Editor
from funcattr.model.sites import Reader

FULL = {"fullgraph": True, "backend": "aot_eager"}


class Net(nn.Module):
    """Two layers that share one relu, and a module that no call reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu, self.unused = nn.ReLU(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.relu(self.second(self.relu(self.first(x)))))


def values_of(net: Net, x: Tensor) -> dict[str, Tensor]:
    """The values at each site, computed step by step."""
    first = F.linear(x, net.first.weight, net.first.bias)
    second = F.linear(first.clamp(min=0), net.second.weight, net.second.bias)
    third = F.linear(second.clamp(min=0), net.third.weight, net.third.bias)
    return {"first": first, "relu": first.clamp(min=0), "second": second, "relu#1": second.clamp(min=0), "third": third}


def marked(x: Tensor) -> Tensor:
    """A plain callable with sites of its own, one name used twice."""
    h = site(x * 2, "h")
    return site(site(h + 1, "h") ** 2, "out").sum(1)


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3)


def test_read_returns_the_output_and_every_value(net: Net, x: Tensor) -> None:
    expected = values_of(net, x)
    y, values = read(net, *expected)(x)
    torch.testing.assert_close(y, expected["third"])
    assert list(values) == list(expected)
    torch.testing.assert_close(values, expected)


def test_read_of_nothing_is_the_call(net: Net, x: Tensor) -> None:
    y, values = read(net)(x)
    torch.testing.assert_close(y, net(x))
    assert values == {}


def test_read_passes_keywords_on() -> None:
    def scaled(x: Tensor, *, by: float) -> Tensor:
        return site(x * by, "scaled")

    assert torch.equal(read(scaled, "scaled")(torch.ones(2), by=3.0)[1]["scaled"], torch.full((2,), 3.0))


def test_a_value_read_is_a_copy_from_before_later_writes(x: Tensor) -> None:
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.ReLU(inplace=True), nn.Hardtanh(0, 0.1, inplace=True))
    linear = first(x)
    _, values = read(model, "0", "1", "2")(x)
    torch.testing.assert_close(values, {"0": linear, "1": linear.relu(), "2": linear.clamp(0, 0.1)})
    values["2"].zero_()
    torch.testing.assert_close(values["1"], linear.relu())


def test_read_of_a_structure_keeps_it(x: Tensor) -> None:
    lstm = nn.Sequential(nn.LSTM(3, 4))
    value = read(lstm, "0")(x)[1]["0"]
    torch.testing.assert_close(value, lstm[0](x))


def test_site_is_the_identity_outside(x: Tensor) -> None:
    assert site(x, "h") is x
    structure = {"a": (x, 1)}
    assert site(structure, "h") is structure
    torch.testing.assert_close(marked(x), ((2 * x + 1) ** 2).sum(1))
    torch.testing.assert_close(torch.func.vmap(lambda v: site(v, "v") + 1)(x), x + 1)


def test_a_callables_sites_are_read_and_numbered(x: Tensor) -> None:
    _, values = read(marked, "h", "h#1", "out")(x)
    torch.testing.assert_close(values, {"h": 2 * x, "h#1": 2 * x + 1, "out": (2 * x + 1) ** 2})


def test_a_site_inside_a_modules_forward_is_a_site_of_the_model(x: Tensor) -> None:
    class Marked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return marked(x)

    torch.testing.assert_close(read(nn.Sequential(Marked()), "h#1")(x)[1]["h#1"], 2 * x + 1)


def test_an_edited_value_goes_on(net: Net, x: Tensor) -> None:
    edited = edit(net, {"first": lambda h: h * 0 + 1})
    torch.testing.assert_close(edited(x), net.third(net.second(torch.ones(5, 4)).relu()))
    torch.testing.assert_close(net(x), values_of(net, x)["third"])


def test_an_edit_reaches_one_call_of_a_reused_module(net: Net, x: Tensor) -> None:
    expected = net.third(torch.zeros(5, 4))
    torch.testing.assert_close(edit(net, {"relu#1": torch.zeros_like})(x), expected)
    expected = net.third(net.second(torch.zeros(5, 4)).relu())
    torch.testing.assert_close(edit(net, {"relu": torch.zeros_like})(x), expected)


def test_several_edits_each_see_what_came_before(net: Net, x: Tensor) -> None:
    seen: list[Tensor] = []

    def look(h: Tensor) -> Tensor:
        seen.append(h)
        return h

    edit(net, {"first": lambda h: h + 1, "relu": look})(x)
    torch.testing.assert_close(seen, [(values_of(net, x)["first"] + 1).relu()])


def test_read_of_an_edited_model_sees_the_edit(net: Net, x: Tensor) -> None:
    _, values = read(edit(net, {"first": lambda h: h + 1}), "first", "relu")(x)
    torch.testing.assert_close(values["first"], values_of(net, x)["first"] + 1)
    torch.testing.assert_close(values["relu"], values["first"].relu())


def test_edits_of_edits_apply_from_the_inside_out(net: Net, x: Tensor) -> None:
    both = edit(edit(net, {"third": lambda h: h + 1}), {"third": lambda h: h * 10})
    torch.testing.assert_close(both(x), (net(x) + 1) * 10)


def test_an_edited_model_keeps_its_sites_and_its_mode() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    edited = edit(model, {"0": lambda h: h})
    assert edited.sites == functionalize(model).sites
    assert edited.training
    assert not edit(model.eval(), {"0": lambda h: h}).training


def test_a_gradient_flows_through_an_edit(net: Net, x: Tensor) -> None:
    def scored(scale: Tensor) -> Tensor:
        return edit(net, {"second": lambda h: h * scale})(x).sum()

    def by_hand(scale: Tensor) -> Tensor:
        h = values_of(net, x)
        return F.linear((h["second"] * scale).relu(), net.third.weight, net.third.bias).sum()

    scale = torch.rand(4)
    torch.testing.assert_close(torch.func.grad(scored)(scale), torch.func.grad(by_hand)(scale))
    forward = torch.func.jvp(scored, (scale,), (torch.ones(4),))[1]
    torch.testing.assert_close(forward, torch.func.grad(by_hand)(scale).sum())


def test_a_gradient_flows_through_a_read(net: Net, x: Tensor) -> None:
    found = torch.func.grad(lambda x: read(net, "second")(x)[1]["second"].pow(2).sum())(x)
    torch.testing.assert_close(found, torch.func.grad(lambda x: values_of(net, x)["second"].pow(2).sum())(x))


def test_methods_explain_an_edited_model(net: Net, x: Tensor) -> None:
    edited = edit(net, {"relu": lambda h: h * 2})
    expected = torch.func.grad(lambda x: net.third(net.second(net.first(x).relu() * 2).relu())[:, 1].sum())(x)
    torch.testing.assert_close(funcattr.gradient(edited, x, 1), expected)
    expected = torch.func.grad(lambda h: net.third(net.second(h).relu())[:, 1].sum())(net.first(x).relu() * 2)
    torch.testing.assert_close(funcattr.gradient(edited, x, 1, layer="relu"), expected)


def test_read_and_edit_under_vmap_are_a_loop(net: Net, x: Tensor) -> None:
    scales = torch.rand(3)

    def second(scale: Tensor, v: Tensor) -> Tensor:
        return read(edit(net, {"first": lambda h: h * scale}), "second")(v)[1]["second"]

    mapped = torch.func.vmap(torch.func.vmap(second, in_dims=(None, 0)), in_dims=(0, None))(scales, x)
    looped = torch.stack([torch.stack([second(s, v) for v in x]) for s in scales])
    torch.testing.assert_close(mapped, looped)


def test_vmap_of_grad_of_an_edit_is_a_loop(net: Net, x: Tensor) -> None:
    grad = torch.func.grad(lambda v, scale: edit(net, {"relu": lambda h: h * scale})(v).sum())
    mapped = torch.func.vmap(grad)(x, torch.arange(5.0))
    torch.testing.assert_close(mapped, torch.stack([grad(v, s) for v, s in zip(x, torch.arange(5.0))]))


Function = Callable[..., Any]


def slope(function: Function) -> Function:
    return torch.func.grad(lambda x: function(x).sum())


COMPILED: dict[str, Callable[[Net], Function]] = {
    "read": lambda net: read(net, "first", "relu#1"),
    "edit": lambda net: edit(net, {"relu#1": lambda h: h * 2}),
    "read of edit": lambda net: read(edit(net, {"first": lambda h: h + 1}), "relu"),
    "read of a callable": lambda net: read(marked, "h#1"),
    "edit of a callable": lambda net: edit(marked, {"h": lambda h: h * 3}),
    "site alone": lambda net: marked,
    "vmap of read": lambda net: torch.func.vmap(read(net, "second")),
    "grad of edit": lambda net: slope(edit(net, {"first": lambda h: h * 2})),
    "built inside": lambda net: lambda x: read(net, "second")(x),
}


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_without_a_break_equals_eager(name: str, net: Net, x: Tensor) -> None:
    net.requires_grad_(False)
    function = COMPILED[name](net)
    torch.testing.assert_close(torch.compile(function, **FULL)(x), function(x))


def test_threads_read_and_edit_one_model_as_in_series(net: Net) -> None:
    fm, inputs = functionalize(net), torch.randn(64, 5, 3)

    def work(i: int) -> dict[str, Tensor]:
        edited = edit(fm, {"relu": lambda h: h * i}) if i % 2 else fm
        return read(edited, "second", "relu#1")(inputs[i])[1]

    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(work, range(64)))
    torch.testing.assert_close(threaded, [work(i) for i in range(64)])


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (Net, "secnd", "no such site 'secnd'. Closest: 'second', 'unused'. List them with functionalize(model).sites."),
        (Net, "relu#2", "no such site 'relu#2'. Closest: 'relu#1', 'relu'."),
        (Net, "unused", "the site 'unused' exists, but this call of the model did not reach it."),
        (lambda: marked, "hh", "no such site 'hh'. Closest: 'h'"),
        (lambda: torch.sin, "h", "no such site 'h'. Closest: none, the model marks no site."),
        (lambda: edit(Net(), {"relu": lambda h: h}), "unused", "the site 'unused' exists, but this call"),
    ],
)
def test_a_wrong_site_says_which_there_are(model: Callable[[], Any], name: str, message: str) -> None:
    with pytest.raises(funcattr.UnknownSiteError, match=re.escape(f"read: {message}")):
        read(model(), name)(torch.ones(1, 3))
    with pytest.raises(funcattr.UnknownSiteError, match=re.escape(f"edit: {message}")):
        edit(model(), {name: lambda h: h})(torch.ones(1, 3))


def test_an_edit_that_is_no_function_is_refused_at_once(net: Net) -> None:
    with pytest.raises(TypeError, match=r"edit\(edits={'first': ...}\): expected a function of the value, got Tensor"):
        edit(net, {"first": torch.zeros(4)})  # pyright: ignore[reportArgumentType]


def test_a_site_is_a_name_or_a_module_of_the_model(net: Net, x: Tensor) -> None:
    assert list(read(net, net.first, "second")(x)[1]) == ["first", "second"]
    assert torch.equal(edit(net, {net.first: torch.zeros_like})(x), edit(net, {"first": torch.zeros_like})(x))
    with pytest.raises(
        TypeError, match=r"read\(sites=...\): expected the name of a site or a module of the model, got int"
    ):
        read(net, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"edit\(edits=<Linear>\): the module is not one of the model's"):
        edit(net, {torch.nn.Linear(3, 3): torch.zeros_like})


class Catches(nn.Module):
    """A module whose first part fails, which it takes for an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.fails, self.works = nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        try:
            return self.fails(x)
        except RuntimeError:
            return self.works(x)


def test_an_error_that_the_model_catches_leaves_no_module_behind() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Catches()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).exp()

    rows = funcattr.rule_table(Outer(), torch.randn(2, 2), rules="attnlrp")
    assert [(row.module, row.operation) for row in rows] == [("inner.works", "linear"), ("", "exp")]


def test_an_error_in_the_model_leaves_no_mode_behind(net: Net, x: Tensor) -> None:
    for mode in (Reader(("first",)), Editor({"first": lambda h: h})):
        with pytest.raises(RuntimeError, match="mat1 and mat2"), mode:
            functionalize(net)(x[:, :2])
    assert not torch.overrides._is_torch_function_mode_enabled()
    torch.testing.assert_close(read(net, "first")(x)[1]["first"], net.first(x))
