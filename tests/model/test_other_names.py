"""A module that writes in place changes what its caller holds: its sites are right by every name, or raise."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import AliasedWriteError
from funcattr.testing.seeding import settle, uniform

from ..sweeps import sweep

X = uniform(2, 3, 5, 5)


class Net(nn.Module):
    """A relu whose result is read by the name that it returns, by its caller's, or by both. [N, 3, 5, 5] -> [N, 4]"""

    def __init__(self, read: str, inplace: bool) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 6, 3), nn.ReLU(inplace=inplace), nn.Linear(6, 4)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x) * 2
        r = self.act(h)
        h = h if self.act.inplace else r
        return self.head({"its": lambda: r, "ours": lambda: h, "both": lambda: r + h * h}[self.read]().mean((2, 3)))


class Writer(nn.Module):
    """Writes what it is given, in other ways than a relu. [N, 6, 3, 3] -> the same"""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, h: Tensor) -> Tensor:
        if self.how == "returns nothing new":
            h.relu_().mul_(2)
            return h
        if self.how == "in part":
            h[:, :2] = h[:, :2] * 3
            return h
        if self.how == "inside":
            return self.inner(h)
        h += 1
        return h


class Around(Writer):
    """Lets a module of its own write."""

    def __init__(self) -> None:
        super().__init__("inside")
        self.inner = nn.ReLU(inplace=True)


def net(read: str, inplace: bool = True, act: Callable[[], nn.Module] | None = None) -> Net:
    model = settle(lambda: Net(read, inplace))
    if act is not None:
        model.act = act()
        model.act.inplace = inplace  # pyright: ignore[reportArgumentType]
    return model


def statistics(model: Any, x: Tensor) -> Any:
    return funcattr.bottleneck.feature_statistics(model, x.repeat(600, 1, 1, 1), layer="act")


METHODS: dict[str, Callable[[Any, Tensor], Any]] = {
    "gradient": lambda m, x: funcattr.gradient(m, x, 1, layer="act"),
    "lrp": lambda m, x: funcattr.lrp(m, x, 1, layer="act", rules="epsilon"),
    "guided": lambda m, x: funcattr.guided_backprop(m, x, 1, layer="act"),
    "deep_lift": lambda m, x: funcattr.deep_lift(m, x, 1, layer="act", baseline=0.1),
    "grad_cam": lambda m, x: funcattr.grad_cam(m, x, 1, layer="act"),
    "ablation_cam": lambda m, x: funcattr.ablation_cam(m, x, 1, layer="act"),
    "integrated_gradients": lambda m, x: funcattr.integrated_gradients(m, x, 1, layer="act", steps=3),
    "layer_conductance": lambda m, x: funcattr.layer_conductance(m, x, 1, layer="act", steps=3),
    "internal_influence": lambda m, x: funcattr.internal_influence(m, x, 1, layer="act", steps=3),
    "noise at the site": lambda m, x: funcattr.noise_tunnel(
        partial(funcattr.gradient, m, layer="act"), x, 1, noise_layer="act", samples=2
    ),
    "noise at the site, to the input": lambda m, x: funcattr.noise_tunnel(
        partial(funcattr.gradient, m), x, 1, noise_layer="act", samples=2
    ),
    "statistics": lambda m, x: statistics(m, x).mean,
    "iba": lambda m, x: funcattr.iba(m, x, 1, statistics=statistics(m, x), steps=2, samples=2),
    "read": lambda m, x: funcattr.read(m, "act")(x),
    "edit": lambda m, x: funcattr.edit(m, {"act": lambda v: v * 0.5 + 1})(x),
    "edit by a rule": lambda m, x: funcattr.lrp(
        funcattr.edit(m, {"act": lambda v: v * 0.5 + 1}), x, 1, rules="epsilon"
    ),
    "edit by a method": lambda m, x: funcattr.gradient(funcattr.edit(m, {"act": lambda v: v * 0.5 + 1}), x, 1),
    "mapped": lambda m, x: torch.vmap(lambda k: funcattr.gradient(m, x, k, layer="act"))(torch.arange(4)),
    "derived": lambda m, x: torch.func.grad(lambda x: funcattr.lrp(m, x, 1, layer="act").square().sum())(x),
    "compiled": lambda m, x: torch.compile(lambda x: funcattr.gradient(m, x, 1, layer="act"), backend="eager")(x),
}
CASES = [(name, read) for name in METHODS for read in ("its", "ours", "both")]


@pytest.mark.filterwarnings("ignore:.*the relevance that was seeded arrives:UserWarning")
@pytest.mark.parametrize(("name", "read"), sweep(CASES, quick=[f"{n}-{r}" for n, r in CASES]))
def test_a_method_gives_what_it_gives_on_the_same_function_without_the_write(name: str, read: str) -> None:
    expected = METHODS[name](net(read, inplace=False), X)
    try:
        found = METHODS[name](net(read), X)
    except AliasedWriteError:
        assert read != "its", "what the module returns is all that is read"
        return
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("how", ["returns nothing new", "in part", "inside", "adds"])
@pytest.mark.parametrize("read", ["ours", "both"])
def test_every_way_to_write(how: str, read: str) -> None:
    def made() -> Net:
        return net(read, act=Around if how == "inside" else lambda: Writer(how))

    h = (made().conv(X) * 2).detach()
    value = made().act(h.clone()).detach().requires_grad_()
    out = made().head((value if read == "ours" else value + value * value).mean((2, 3)))
    expected = torch.autograd.grad(out[:, 1].sum(), value)[0]
    for layer in ("act", "act.inner") if how == "inside" else ("act",):
        torch.testing.assert_close(funcattr.gradient(made(), X, 1, layer=layer), expected)
        on_record = funcattr.attribute(made(), X, 1, rules={"conv2d": funcattr.rules.GRADIENT}, layer=layer)
        torch.testing.assert_close(on_record.cotangent, expected)
        with pytest.raises(AliasedWriteError, match=f"the value of the site '{layer}' is read by another name"):
            funcattr.edit(made(), {layer: lambda v: v + 1})(X)
    with pytest.raises(AliasedWriteError, match="'act@input' is read by another name"):
        funcattr.edit(made(), {"act@input": lambda v: v + 1})(X)


def test_what_is_passed_on_unwritten_may_be_read_by_both_names() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.act = nn.Dropout(), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(x * 1)  # written before, by somebody else
            return (self.drop(h) + h * 3).sum(1)

    model, x = Skips().eval(), uniform(2, 3)
    h = x.relu()
    torch.testing.assert_close(funcattr.edit(model, {"drop": lambda v: v + 1})(x), (h * 4 + 1).sum(1))
    torch.testing.assert_close(funcattr.gradient(model, x, layer="drop"), torch.ones_like(x))
    torch.testing.assert_close(funcattr.edit(model, {"drop@input": lambda v: v + 1})(x), (h * 4 + 1).sum(1))


def test_an_edit_in_place_reaches_every_name() -> None:
    found = funcattr.edit(net("both"), {"act": lambda v: v.mul_(2)})(X)
    expected = funcattr.edit(net("both", inplace=False), {"act": lambda v: v * 2})(X)
    torch.testing.assert_close(found, expected)


def test_the_output_may_not_be_another_name() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            self.act(h)
            return h

    with pytest.raises(AliasedWriteError, match="the site 'act'"):
        funcattr.edit(Bare(), {"act": lambda v: v + 1})(X)
    torch.testing.assert_close(funcattr.edit(Bare(), {"act": lambda v: v})(X), (X * 2).relu())


def test_the_form_of_another_name_may_be_asked_for() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            return self.act(h).reshape(h.shape[0], -1)

    torch.testing.assert_close(funcattr.edit(Asks(), {"act": lambda v: v + 1})(X), (X * 2).relu().flatten(1) + 1)
