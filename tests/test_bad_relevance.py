"""Bad input of the relevance methods and of rulebooks gets the documented error, which starts with the call."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, UnknownSiteError, UnsupportedOperationError, UntrackedPathError, rules
from funcattr.rules import STOP, Entry

X = torch.linspace(-1, 1, 2 * 2 * 5 * 5).reshape(2, 2, 5, 5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.Flatten()
        self.hidden = nn.Linear(36, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(self.pool(self.relu(self.conv(x)))).relu())


@pytest.fixture
def net() -> Net:
    return Net().eval()


def same(call: Any, relevance: Any) -> Any:
    return relevance


# Rulebooks by name, and the seed


@pytest.mark.parametrize("method", ["lrp", "conservation"])
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rules": "nonsense"}, ValueError, r"\(rules='nonsense'\): no such rulebook. Closest: 'epsilon', 'epsilon_p"),
        ({"rules": "epsilon_plsu"}, ValueError, r"no such rulebook. Closest: 'epsilon_plus', 'epsilon_plus_flat'"),
        ({"rules": "epsilon_gamma_box"}, ValueError, r"\(rules='epsilon_gamma_box'\): .* Pass rules.epsilon_gamma_box"),
        ({"rules": None}, TypeError, r"\(rules=...\): expected the name of a rulebook, .* got NoneType"),
        ({"rules": "guided"}, ValueError, r"\(rules='guided'\): these rules change a gradient, and share out no rel"),
        ({"rules": "deconvnet"}, ValueError, r"\(rules='deconvnet'\): these rules change a gradient"),
        ({"rules": "deep_lift"}, ValueError, r"\(rules='deep_lift'\): its rules compare with a baseline"),
        ({"rules": funcattr.rules.deep_lift_reveal_cancel()}, ValueError, r"cancel'\): its rules compare with a base"),
        ({"start": "two"}, ValueError, r"\(start=...\): expected 'output' or 'one', got 'two'"),
    ],
)
def test_of_lrp(method: str, options: Any, kind: type[Exception], message: str, net: Net) -> None:
    with pytest.raises(kind, match=f"^{method}.*{message}"):
        getattr(funcattr, method)(net, X, 1, **options)


def test_a_rulebook_of_another_kind(net: Net) -> None:
    with pytest.raises(
        TypeError, match=r"lrp\(rules=...\): expected the name of a rulebook, a Rulebook or a mapping .*, got int"
    ):
        funcattr.lrp(net, X, 1, rules=3, start="one")  # pyright: ignore[reportArgumentType]


class Unknown(nn.Module):
    """Two operations without a rule, in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.last = nn.Sequential(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        return torch.logcumsumexp(self.net(torch.cumprod(x, 1)) + torch.prod(self.last(x)), 1)


BY_METHOD: dict[str, Callable[..., Any]] = {
    "lrp": funcattr.lrp,
    "attnlrp": funcattr.attnlrp,
    "cp_lrp": funcattr.cp_lrp,
    "excitation_backprop": funcattr.excitation_backprop,
    "conservation": funcattr.conservation,
}


@pytest.mark.parametrize("method", BY_METHOD)
def test_all_operations_without_a_rule_are_listed(method: str) -> None:
    model = Unknown().eval()
    with pytest.raises(UnsupportedOperationError, match=rf"^{method}\(rules='.*'\): no rule for") as raised:
        BY_METHOD[method](model, X, 1)
    message = str(raised.value)
    assert all(f"\n  {operation} in" in message for operation in ("cumprod", "prod", "logcumsumexp"))
    assert "linear" not in message and "relu" not in message
    for action in ("rules | {'<operation>': rule}", "GRADIENT", "STOP"):
        assert action in message
    rows = dict.fromkeys(("cumprod", "prod", "logcumsumexp"), funcattr.rules.GRADIENT)
    assert (
        funcattr.lrp(model, X, 1, rules=rules.epsilon_plus() | rows, start="one").shape == X.shape
    )  # the way out works


def test_bounds_that_do_not_fit_the_channels(net: Net) -> None:
    with pytest.raises(ValueError, match="z_box: expected one bound, or one for each of 2 channels, got 3"):
        funcattr.lrp(net, X, 1, rules=rules.epsilon_gamma_box(low=[0, 0, 0], high=1), start="one")


# Excitation backpropagation


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"layer": "relu", "contrast_layer": "conv"},
            UntrackedPathError,
            "the site 'conv' does not depend on .*'relu'",
        ),
        (
            {"contrast_layer": "head"},
            ValueError,
            "the site 'head' comes after 'linear' in 'head', expected a site",
        ),
        ({"contrast_layer": "hiden"}, UnknownSiteError, "no such site 'hiden'. Closest: 'hidden'"),
        ({"layer": "cnv", "contrast_layer": "pool"}, UnknownSiteError, r"no such site 'cnv'. Closest: 'conv'"),
        ({"contrast_layer": "pool", "classifier_layer": "haed"}, ValueError, "no call matches 'linear_map haed'"),
        ({"contrast_layer": "pool", "classifier_layer": "relu"}, ValueError, "no call matches 'linear_map relu'"),
        (
            {"contrast_layer": "hidden", "classifier_layer": "hidden"},
            ValueError,
            "the site 'hidden' comes after 'line",
        ),
    ],
)
def test_of_contrastive_excitation_backprop(options: Any, kind: type[Exception], message: str, net: Net) -> None:
    with pytest.raises(kind, match=f"^contrastive_excitation_backprop.*{message}"):
        funcattr.contrastive_excitation_backprop(net, X, 1, **{"layer": "conv", **options})


def test_contrastive_excitation_backprop_needs_its_layers(net: Net) -> None:
    with pytest.raises(TypeError, match="'layer' and 'contrast_layer'"):
        funcattr.contrastive_excitation_backprop(net, X, 1)  # pyright: ignore[reportCallIssue]


# Conditions


@pytest.mark.parametrize(
    ("conditions", "kind", "message"),
    [
        ([], ValueError, r"expected one dict {site: channels} or more, all with the same sites, got sites \[\]"),
        ([{}], ValueError, r"expected one dict {site: channels} or more"),
        ({"conv": 1}, TypeError, r"expected a list of dicts {site: channels}"),
        ([{"conv": 1}, {"relu": 1}], ValueError, r"all with the same sites, got sites \[\['(conv|relu)'\], \['"),
        ([{"conv": -1}], ValueError, "expected channels of 0 or more at 'conv'"),
        ([{"conv": [0, -2]}], ValueError, "expected channels of 0 or more at 'conv'"),
        ([{"conv": 1.5}], ValueError, "expected channels of 0 or more at 'conv'"),
        ([{"conv": "all"}], ValueError, "expected channels of 0 or more at 'conv'"),
        ([{"conv": 1}, {"conv": torch.ones(4)}], ValueError, "expected channels of 0 or more at 'conv'"),
        ([{"conv": torch.ones(4)}, {"conv": torch.ones(2, 4)}], ValueError, "the masks at 'conv' differ in shape"),
        ([{"cnv": 1}], UnknownSiteError, "no such site 'cnv'. Closest: 'conv'"),
    ],
)
def test_of_conditional_relevance(conditions: Any, kind: type[Exception], message: str, net: Net) -> None:
    with pytest.raises(kind, match=f"^conditional_relevance.*{message}"):
        funcattr.conditional_relevance(net, X, 1, conditions, start="one")


def test_conditions_come_after_the_layer(net: Net) -> None:
    with pytest.raises(UntrackedPathError, match=r"^conditional_relevance: the site 'conv' does not depend on .*'relu"):
        funcattr.conditional_relevance(net, X, 1, [{"conv": 1}], layer="relu", start="one")


@pytest.mark.parametrize(
    ("batches", "options", "kind", "message"),
    [
        ([(X, 1)], {"by": "mean"}, ValueError, r"\(by='mean'\): expected 'sum' or 'max'"),
        ([(X, 1)], {"k": 0}, ValueError, r"\(k=0\): expected 1 or more"),
        ([(X, 1)], {"k": 1.5}, ValueError, r"\(k=1.5\): expected 1 or more"),
        ([(X, 1)], {"layer": "cnv"}, UnknownSiteError, r"\(layer='cnv'\): no such site 'cnv'. Closest: 'conv'"),
        ([(X, 1)], {"rules": "nonsense"}, ValueError, r"\(rules='nonsense'\): no such rulebook"),
        ([(X, 3)], {}, ValueError, r"\(target=3\): class out of range"),
        ([], {}, ValueError, r"\(batches=...\): expected one batch or more, got none"),
        ([X], {}, TypeError, r"\(batches=...\): expected pairs \(x, target\), got Tensor"),
        ([(X, 1, 1)], {}, TypeError, r"\(batches=...\): expected pairs \(x, target\), got tuple"),
    ],
)
def test_of_relevance_maximization(batches: Any, options: Any, kind: type[Exception], message: str, net: Net) -> None:
    with pytest.raises(kind, match=f"^relevance_maximization.*{message}"):
        funcattr.relevance_maximization(net, batches, **{"layer": "conv", **options}, start="one")


# Rulebooks


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (
            lambda: Rulebook(Entry("relu", same, position="middle")),  # type: ignore[arg-type]
            ValueError,
            r"^Entry\(position=...\): expected 'first', 'last' or None, got 'middle'",
        ),
        (
            lambda: Rulebook(Entry("linear", STOP, position="last")),
            ValueError,
            r"^Entry\(position='last'\): what is last is known after the pass, too late for stop",
        ),
        (
            lambda: Rulebook(Entry("linear", funcattr.rules.decompose(same), position="last")),
            ValueError,
            r"^Entry\(position='last'\): what is last .* too late for decompose\(same\)",
        ),
        (lambda: Rulebook({"reul": same}), ValueError, r"^Rulebook\({'reul': ...}\): no torch .* Closest: 'relu'"),
        (lambda: Rulebook({"convolutoin": same}), ValueError, r"no torch function has that .* Closest: 'convolution'"),
        (lambda: rules.epsilon_plus() | {"lineer": same}, ValueError, r"^Rulebook\({'lineer': ...}\): .*'linear'"),
        (lambda: rules.epsilon_plus() | 3, TypeError, r"expected a dict or a tuple of Entry, got int: 3"),  # type: ignore[operator]
        (lambda: Rulebook({"relu": same}, space="other"), ValueError, r"^Rulebook\(space=...\): .* got 'other'"),  # type: ignore[arg-type]
    ],
)
def test_of_rulebooks(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_a_required_row_that_nothing_matches(net: Net) -> None:
    book = rules.epsilon_plus() | Entry("lstm", same, required=True)
    with pytest.raises(ValueError, match=r"^lrp\(rules='epsilon_plus'\): no call matches 'lstm'"):
        funcattr.lrp(net, X, 1, rules=book, start="one")
