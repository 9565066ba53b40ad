"""Several sites in one call: the names that a list or a pattern means, and one reverse pass for gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x).tanh(), x


class Branches(nn.Module):
    """A relu that is used twice and in place, a sum of branches, a tuple, and a module that leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.lost = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 3), nn.Linear(4, 2)
        self.relu, self.pair = nn.ReLU(inplace=True), Pair()

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.a(x))
        self.lost(h)
        k = self.relu(self.b(h)) + h
        first, _ = self.pair(k)
        return self.c(torch.cat([k, first], 1))


SITES = ["a", "relu", "relu#1", "b@input", "pair:0", "b"]


def model(calls: list[int] | None = None) -> nn.Module:
    made: Any = settle(Branches)
    if calls is not None:
        forward = made.a.forward
        made.a.forward = lambda x: (calls.append(1), forward(x))[1]
    return made


METHODS: dict[str, Callable[..., Any]] = {
    "gradient": funcattr.gradient,
    "input_x_gradient": funcattr.input_x_gradient,
    "guided_backprop": funcattr.guided_backprop,
    "deconvnet": funcattr.deconvnet,
    "lrp": partial(funcattr.lrp, rules="epsilon"),
    "attnlrp": funcattr.attnlrp,
    "integrated_gradients": partial(funcattr.integrated_gradients, steps=4),
    "expected_gradients": partial(
        funcattr.expected_gradients, baseline=funcattr.distribution(uniform(3, 4, seed=5)), samples=4
    ),
    "layer_conductance": partial(funcattr.layer_conductance, steps=4),
    "internal_influence": partial(funcattr.internal_influence, steps=4),
    "conditional_relevance": partial(funcattr.conditional_relevance, conditions=[{"c": 1}], rules="epsilon"),
}


@pytest.mark.filterwarnings("ignore:.*the result is the plain gradient:UserWarning")  # behind the last relu
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_several_sites_are_the_calls_one_by_one(method: Callable[..., Any]) -> None:
    x = uniform(5, 4)
    found = method(model(), x, target=1, layer=SITES)
    assert list(found) == SITES
    for site in SITES:
        assert_equal(found[site], method(model(), x, target=1, layer=site), told=site)


MAPS = ("grad_cam", "hires_cam", "layer_cam", "xgrad_cam", "grad_cam_plus_plus", "linear_approx", "eigen_cam")


@pytest.mark.parametrize("name", [*MAPS, "eigen_grad_cam", "score_cam", "ablation_cam", "guided_grad_cam"])
def test_maps_of_several_layers(name: str) -> None:
    net = settle(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    )
    x, method = uniform(2, 2, 8, 8), getattr(funcattr, name)
    found = method(net, x, 1, layer=["1", "2"])
    assert list(found) == ["1", "2"]
    for site, value in found.items():
        assert_equal(value, method(net, x, 1, layer=site))


def test_excitation_and_deep_lift_at_several_sites() -> None:
    net, x = (
        settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))),
        uniform(2, 4),
    )
    each = (
        funcattr.excitation_backprop,
        funcattr.deep_lift,
        partial(funcattr.deep_lift, baseline=funcattr.distribution(uniform(3, 4, seed=7))),
    )
    for method in each:
        found = method(net, x, target=1, layer=["1", "3"])
        for site in ("1", "3"):
            assert_equal(found[site], method(net, x, target=1, layer=site))
    reports = funcattr.conservation(net, x, 1, rules="epsilon", layer=["1", "3"])
    assert reports["3"].reached == funcattr.conservation(net, x, 1, rules="epsilon", layer="3").reached


def test_the_gradient_runs_the_model_once() -> None:
    calls: list[int] = []
    counted, x, unwritten = model(calls), uniform(5, 4), ["relu", "relu#1", "b@input", "pair:0"]
    found = funcattr.gradient(counted, x, 1, layer=unwritten)
    funcattr.hires_cam(counted, x, 1, layer=unwritten, channel_dim=1)
    assert len(calls) == 2
    for site in unwritten:
        assert_equal(found[site], funcattr.gradient(model(), x, 1, layer=site), told=site)


class Products(nn.Module):
    """A product of two values, one of which is a site alone."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x)
        return self.one(h) * self.other(h)


def test_a_rule_sees_which_operands_depend_on_the_site() -> None:
    """A product halves what it gives to each of two operands that depend on the root, and gives all to a single one."""
    net, x = settle(Products), uniform(2, 4)
    found = funcattr.attnlrp(net, x, 1, layer=["before", "one"])
    for site in ("before", "one"):
        assert_equal(found[site], funcattr.attnlrp(net, x, 1, layer=site))
    assert_equal(found["one"].sum(1), net(x)[:, 1].detach())


@pytest.mark.parametrize("differentiated", [False, True])
def test_the_gradient_on_record_and_by_autograd(differentiated: bool) -> None:
    x = uniform(5, 4).requires_grad_(differentiated)
    found = funcattr.gradient(model(), x, 1, layer=SITES)
    for site in SITES:
        assert_equal(found[site].detach(), funcattr.gradient(model(), x.detach(), 1, layer=site))
    assert found["a"].requires_grad == differentiated


def test_derivatives_vmap_and_compile(fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(model()), uniform(3, 4)

    def size(x: Tensor, layer: Any) -> Tensor:
        found = funcattr.input_x_gradient(fm, x, 1, layer=layer)
        return sum((v.pow(2).sum() for v in found.values()), torch.zeros(()))

    one_by_one = sum(torch.func.grad(size)(x, [site]) for site in SITES)
    assert_equal(torch.func.grad(size)(x, SITES), one_by_one)
    whole = funcattr.gradient(fm, x, 1, layer=SITES)
    mapped = torch.vmap(lambda row: funcattr.gradient(fm, row[None], 1, layer=SITES))(x)
    compiled = torch.compile(lambda x: funcattr.gradient(fm, x, 1, layer=SITES), backend="eager", fullgraph=True)(x)
    for site in SITES:
        assert_equal(mapped[site][:, 0], whole[site])
        assert_equal(compiled[site], whole[site])


def test_examples_elsewhere_and_noise_around() -> None:
    x = uniform(5, 4)
    turned = funcattr.gradient(lambda x: funcattr.site(x.T, "t").tanh().sum(1), x.T, layer=["t"], example_dims=1)
    assert_equal(turned["t"], funcattr.gradient(lambda x: x.tanh().sum(1), x))
    tunnel = partial(funcattr.noise_tunnel, partial(funcattr.gradient, model()), x, 1, samples=3, sigma=0.1)
    assert_equal(tunnel(layer=["a", "b"])["b"], tunnel(layer="b"))


def test_patterns_are_names_of_modules() -> None:
    net: Any = settle(lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 3))))
    x = uniform(2, 4)
    assert list(funcattr.gradient(net, x, 1, layer=["*"])) == ["0", "1"]
    assert list(funcattr.gradient(net, x, 1, layer=["*.0"])) == ["0.0", "1.0"]
    assert list(funcattr.gradient(net, x, 1, layer=["0.*@input"])) == ["0.0@input", "0.1@input"]
    assert list(funcattr.gradient(net, x, 1, layer=["1.*", net[0]])) == ["1.0", "0"]
    assert list(funcattr.gradient(net, x, 1, layer=["0"])) == ["0"]
    assert list(funcattr.read(net, "*.0")(x)[1]) == ["0.0", "1.0"]
    halved = funcattr.edit(net, {"*.0": lambda h: h / 2})
    assert_equal(halved(x), net[1][0]((net[0][0](x) / 2).tanh()) / 2)


def test_a_name_with_a_star_is_a_name() -> None:
    net = nn.ModuleDict({"a*": nn.Linear(4, 4), "ab": nn.Linear(4, 3)}).double()
    net.forward = lambda x: net["ab"](net["a*"](x))  # type: ignore[method-assign]
    assert isinstance(funcattr.gradient(net, uniform(2, 4), 1, layer="a*"), Tensor)


def test_calls_of_a_reused_module_are_numbered_behind_its_name() -> None:
    net: Any = settle(Branches)
    x = uniform(2, 4)
    _, values = funcattr.read(net, "relu@input", "relu#1@input", "relu#1")(x)
    assert_equal(values["relu#1@input"].relu(), values["relu#1"])
    found = funcattr.gradient(net, x, 1, layer=["relu#1@input", "relu#1"])
    assert_equal(found["relu#1@input"], found["relu#1"] * (values["relu#1@input"] > 0))


def test_named_errors() -> None:
    net, x = model(), uniform(2, 4)
    with pytest.raises(funcattr.UnknownSiteError, match=r"^gradient\(layer=...\): no such site 'z\*'"):
        funcattr.gradient(net, x, 1, layer=["z*"])
    with pytest.raises(funcattr.UnknownSiteError, match=r"^gradient\(layer=...\): no such site '\*'. Closest: none"):
        funcattr.gradient(lambda x: x.sum(1), x, layer=["*"])
    with pytest.raises(ValueError, match=r"^gradient\(layer='\*'\): a pattern means several sites. Give it in a list"):
        funcattr.gradient(net, x, 1, layer="*")
    with pytest.raises(funcattr.UnknownSiteError, match=r"^gradient\(layer='z'\): no such site 'z'"):
        funcattr.gradient(net, x, 1, layer=["a", "z"])
    with pytest.raises(ValueError, match=r"^lrp\(layer=...\): the site 'a' is given twice"):
        funcattr.lrp(net, x, 1, layer=["a", "a"])
    with pytest.raises(ValueError, match=r"^gradient\(layer=\[\]\): expected at least one site"):
        funcattr.gradient(net, x, 1, layer=[])
    with pytest.raises(TypeError, match=r"^gradient\(layer=...\): expected the name of a site or a module"):
        funcattr.gradient(net, x, 1, layer=["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^verify\(layer=\['\*'\]\): expected one site"):
        funcattr.verify(net, x, 1, layer=["*"])  # type: ignore[arg-type]


@pytest.mark.parametrize("differentiated", [False, True])
def test_a_site_that_leads_nowhere_is_named(differentiated: bool) -> None:
    x = uniform(2, 4).requires_grad_(differentiated)
    with pytest.raises(funcattr.UntrackedPathError, match=r"does not depend on the site 'lost'"):
        funcattr.gradient(model(), x, 1, layer=["a", "lost"])


def test_an_edit_made_inside_compiled_code_is_refused(fresh_dynamo: None) -> None:
    fm, x = funcattr.functionalize(model()), uniform(2, 4)

    def inside(x: Tensor) -> Tensor:
        return funcattr.gradient(funcattr.edit(fm, {"a": lambda h: 2 * h}), x, 1)

    with pytest.raises(Exception, match="cannot take the edits of a model"):
        torch.compile(inside, backend="eager", fullgraph=True)(x)
    edited = funcattr.edit(fm, {"a": lambda h: 2 * h})
    outside = torch.compile(lambda x: funcattr.gradient(edited, x, 1), backend="eager", fullgraph=True)
    assert_equal(outside(x), inside(x))
