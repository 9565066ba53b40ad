"""A module that writes in place changes what its caller holds: its sites are right by every name, or raise."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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

    def __init__(self, read: str, inplace: bool, act: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.act = nn.ReLU(inplace=inplace) if act is None else act()
        self.read, self.inplace = read, inplace

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x) * 2
        r = self.act(h)
        h = h if self.inplace else r
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
        h += 1
        return h


class Around(nn.Module):
    """Lets a module of its own write."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU(inplace=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.inner(h)


def net(read: str, inplace: bool = True, act: Callable[[], nn.Module] | None = None) -> Any:
    return settle(lambda: Net(read, inplace, act))


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
    def made() -> Any:
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


# --- names that are told by memory, not by identity -------------------------------------------------------------------


class Of(nn.Module):
    """A module that is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class Parent(nn.Module):
    """Calls `act` on twice its input, and reads what it returns and what it was given. [N, 3] -> [N, 1]"""

    def __init__(self, act: nn.Module, read: Callable[[Tensor, Tensor], Tensor] = lambda r, h: r + h * h * 3) -> None:
        super().__init__()
        self.act, self.read = act, read

    def forward(self, x: Tensor) -> Tensor:
        h = x * 2
        return self.read(self.act(h), h).sum(1, keepdim=True)


def after(h: Tensor, value: Tensor) -> Tensor:
    """A value, once something has been done."""
    return value


WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "through a view": lambda h: after(h.view(-1).relu_(), h),
    "in part": lambda h: after(h[:, :2].mul_(3), h),
    "a flat one": lambda h: after(torch.relu_(h.flatten()), h),
    "without a derivative": lambda h: after(h.detach().relu_(), h),
    "the data": lambda h: after(h.data.relu_(), h),
    "gives a view": lambda h: h.relu_().view(h.shape),
    "gives another view": lambda h: h.relu_()[None][0],
    "twice": lambda h: h.relu_().mul_(2),
    "as an output": lambda h: torch.clamp(h, min=0, out=h),
}


@pytest.mark.parametrize("how", WRITES)
def test_a_write_through_any_name_counts_or_is_refused(how: str) -> None:
    x, act = uniform(2, 3), Of(WRITES[how])
    value = act((x * 2).clone()).detach()
    for method in (
        lambda: funcattr.gradient(Parent(act), x, 0, layer="act"),
        lambda: funcattr.attribute(Parent(act), x, 0, layer="act", rules={"sum": funcattr.rules.GRADIENT}).cotangent,
    ):
        try:
            torch.testing.assert_close(method(), 1 + 6 * value)
        except AliasedWriteError:
            assert how.startswith("gives")
    for edit in ({"act": lambda v: v * 0}, {"act@input": lambda v: v * 1}):
        edited = funcattr.edit(Parent(act), edit)
        for run in (edited, lambda x, e=edited: funcattr.lrp(e, x, 0, rules="epsilon")):
            with pytest.raises(AliasedWriteError):
                run(x)


def test_writes_by_modules_in_a_row() -> None:
    x = uniform(2, 3)
    row = nn.Sequential(nn.ReLU(inplace=True), nn.Hardtanh(-0.5, 0.5, inplace=True))
    edits: list[dict[str, Any]] = [
        *({site: lambda v: v * 1} for site in ("act", "act@input", "act.0", "act.0@input", "act.1", "act.1@input")),
        {"act@input": lambda v: v * 1, "act.0@input": lambda v: v * 1},
    ]
    for edit in edits:
        edited = funcattr.edit(Parent(row, lambda r, h: h), edit)
        for run in (edited, lambda x, e=edited: funcattr.lrp(e, x, 0, rules="epsilon")):
            with pytest.raises(AliasedWriteError):
                run(x)


def test_what_is_passed_on_edited_and_then_written_has_another_name() -> None:
    for act in (nn.Dropout().eval(), nn.Identity(), Of(lambda h: h.view(h.shape))):
        model = Parent(act, lambda r, h: after(r.relu_(), r) + h)
        with pytest.raises(AliasedWriteError):
            funcattr.edit(model, {"act": lambda v: v * 1})(uniform(2, 3))


def test_each_argument_has_its_own_other_name() -> None:
    class Two(nn.Module):
        def __init__(self, read: int) -> None:
            super().__init__()
            self.act, self.read = Of(lambda a, b: a.relu_() + b), read

        def forward(self, x: Tensor) -> Tensor:
            given = x * 2, x * 3
            return (self.act(*given) + given[self.read]).sum(1, keepdim=True)

    x = uniform(2, 3)
    both, second = (lambda v: (v[0] * 1, v[1] * 1)), (lambda v: (v[0], v[1] * 1))
    with pytest.raises(AliasedWriteError):
        funcattr.edit(Two(0), {"act@args": both})(x)
    torch.testing.assert_close(funcattr.edit(Two(1), {"act@args": both})(x), Two(1)(x))
    torch.testing.assert_close(funcattr.edit(Two(0), {"act@args": second})(x), Two(0)(x))


def test_a_refusal_that_the_model_catches_is_raised_at_its_end() -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            r = self.act(h)
            try:
                return (r + h).sum(1)
            except RuntimeError:
                return r.sum(1)

    with pytest.raises(AliasedWriteError):
        funcattr.edit(Catches(), {"act": lambda v: v + 1})(uniform(2, 3))


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Row(list[Tensor]):
    """A list by another name."""


@pytest.mark.parametrize("made", [lambda *v: v, lambda *v: list(v), Pair, lambda *v: Row(v)])
def test_a_written_name_is_read_in_any_container(made: Callable[..., Any]) -> None:
    def model(x: Tensor) -> Tensor:
        h = x * 2
        h.relu_()
        return torch.cat(made(h, x), 1).sum(1, keepdim=True)

    x = uniform(2, 3)
    found = funcattr.attribute(model, x, 0, rules={"relu": funcattr.rules.guided})
    torch.testing.assert_close(found.output, model(x))
    torch.testing.assert_close(found.cotangent, 1 + 2 * (x > 0).double())


def test_parts_that_share_no_value_are_not_other_names() -> None:
    x, act = uniform(2, 3), nn.ReLU(inplace=True)

    class Halves(nn.Module):
        def __init__(self, before: bool) -> None:
            super().__init__()
            self.act, self.before = act, before

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            rest = h[:, 2:] if self.before else None
            part = self.act(h[:, :2])
            return torch.cat([part, h[:, 2:] if rest is None else rest], 1).sum(1, keepdim=True)

    for before in (True, False):
        found = funcattr.edit(Halves(before), {"act": lambda v: v * 0 + x[:, :2] * 0.25})(x)
        torch.testing.assert_close(found, x[:, :2].sum(1, keepdim=True) * 0.25 + x[:, 2:].sum(1, keepdim=True) * 2)
        torch.testing.assert_close(funcattr.gradient(Halves(before), x, 0, layer="act"), torch.ones(2, 2).double())


FORMS: list[Callable[[Tensor, Tensor], Any]] = [
    *(lambda r, h, n=n: getattr(h, n) for n in ("shape", "dtype", "device", "is_leaf", "requires_grad", "_version")),
    *(lambda r, h, n=n: getattr(h, n)() for n in ("size", "stride", "is_contiguous", "get_device", "type")),
    lambda r, h: torch.zeros_like(h),
    lambda r, h: h.new_zeros(3),
    *(lambda r, h, n=n: getattr(r, n)(h) for n in ("expand_as", "view_as", "type_as", "reshape_as")),
    lambda r, h: h[0],
    lambda r, h: h.copy_(r.detach()),
    lambda r, h: h.zero_(),
]


@pytest.mark.parametrize("ask", FORMS)
def test_what_reads_no_value_of_another_name_may_be_asked(ask: Callable[[Tensor, Tensor], Any]) -> None:
    x = uniform(2, 3)
    model = Parent(nn.ReLU(inplace=True), lambda r, h: after(ask(r, h), r))
    torch.testing.assert_close(funcattr.edit(model, {"act": lambda v: v + 1})(x)[:, 0], ((x * 2).relu() + 1).sum(1))


def test_a_dropout_that_is_off_writes_nothing() -> None:
    x, model = uniform(2, 3), Parent(nn.Dropout(inplace=True), lambda r, h: r + 3 * h).eval()
    torch.testing.assert_close(funcattr.edit(model, {"act": lambda v: v * 0})(x)[:, 0], (x * 6).sum(1))
    torch.testing.assert_close(funcattr.gradient(model, x, 0, layer="act"), torch.ones_like(x))


def test_a_buffer_that_is_filled_anew_is_out_of_date_no_more() -> None:
    class Fills(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = nn.Buffer(torch.zeros(2, 3).double())

        def forward(self, x: Tensor) -> Tensor:
            self.kept.copy_(x)
            return self.kept

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fill = Fills()

        def forward(self, x: Tensor) -> Tensor:
            return self.fill(x) * 2 + self.fill(x + 1)

    x = uniform(2, 3)
    torch.testing.assert_close(funcattr.edit(Calls(), {"fill": lambda v: v * 0})(x), x + 1)
