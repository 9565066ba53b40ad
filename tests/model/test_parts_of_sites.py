"""Parts of a site's value, and all positional arguments of a module, as sites."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle, uniform


class Named(NamedTuple):
    """Two tensors by name."""

    first: Tensor
    second: Tensor


class Pair(nn.Module):
    """Two arguments, and two values of some kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, a: Tensor, b: Tensor, flag: bool = True) -> Any:
        first, second = a * b, b.sin()
        return {
            "tuple": (first, second),
            "list": [first, second],
            "named": Named(first, second),
            "nested": (first, (a, second)),
        }[self.kind]


class Model(nn.Module):
    """f = sum(p q + a), p = a b, q = sin b, a = 2 x, b = x^2."""

    def __init__(self, kind: str = "tuple") -> None:
        super().__init__()
        self.pair = Pair(kind)

    def forward(self, x: Tensor) -> Tensor:
        found = self.pair(2 * x, x**2, True)
        p, q = found[0], found[1][1] if self.pair.kind == "nested" else found[1]
        return (p * q).sum(1)


X = uniform(3, 4)
A, B = 2 * X, X**2


@pytest.mark.parametrize(
    ("kind", "site", "expected"),
    [
        ("tuple", "pair:0", B.sin()),
        ("tuple", "pair:1", A * B),
        ("list", "pair:1", A * B),
        ("named", "pair:0", B.sin()),
        ("nested", "pair:1:1", A * B),
        ("tuple", "pair@args:0", B * B.sin()),
        ("tuple", "pair@args:1", A * B.sin() + A * B * B.cos()),
        ("tuple", "pair@input", B * B.sin()),
    ],
)
def test_the_gradient_at_a_part(kind: str, site: str, expected: Tensor) -> None:
    torch.testing.assert_close(funcattr.gradient(Model(kind), X, layer=site), expected)
    value = funcattr.attribute(Model(kind), X, layer=site, rules="guided").cotangent  # on record
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("method", [funcattr.integrated_gradients, funcattr.layer_conductance])
def test_methods_at_a_part_are_those_at_the_value_made_a_module(method: Any) -> None:
    class Whole(nn.Module):
        """The same model, with the second value made by a module of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            a, b = 2 * x, x**2
            return (a * b * self.second(b.sin())).sum(1)

    torch.testing.assert_close(method(Model(), X, layer="pair:1"), method(Whole(), X, layer="second"))


def test_read_and_edit_a_part() -> None:
    _, values = funcattr.read(Model(), "pair:1", "pair", "pair@args")(X)
    torch.testing.assert_close(values["pair:1"], B.sin())
    assert len(values["pair@args"]) == 3 and values["pair@args"][2] is True
    torch.testing.assert_close(funcattr.edit(Model(), {"pair:1": torch.ones_like})(X), (A * B).sum(1))
    named = funcattr.edit(Model("named"), {"pair:1": torch.ones_like, "pair:0": torch.zeros_like})
    assert isinstance(funcattr.read(named, "pair")(X)[1]["pair"], Named) and not named(X).any()


def test_a_part_of_a_recurrent_layer() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x)[0][:, -1])

    model: Any = settle(Tagger)
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    expected[:, -1] = model.out.weight[1].detach()
    torch.testing.assert_close(funcattr.gradient(model, uniform(2, 5, 4), 1, layer="lstm:0"), expected)


@pytest.mark.parametrize(("site", "got"), [("pair:2", "2 parts"), ("pair:0:0", "Tensor")])
def test_a_part_that_is_not_there(site: str, got: str) -> None:
    with pytest.raises(ValueError, match=rf"the site '{site}': expected a tuple or list with such a part, got {got}"):
        funcattr.gradient(Model(), X, layer=site)
    with pytest.raises(funcattr.UnknownSiteError, match="no such site 'pear:0'"):
        funcattr.gradient(Model(), X, layer="pear:0")


def test_parts_under_a_transform_and_in_compiled_code(fresh_dynamo: None) -> None:
    expected = funcattr.gradient(Model(), X, layer="pair:1")
    each = torch.vmap(lambda x: funcattr.gradient(Model(), x[None], layer="pair:1")[0])(X)
    torch.testing.assert_close(each, expected)
    fm = funcattr.functionalize(Model())
    fast = torch.compile(lambda x: funcattr.gradient(fm, x, layer="pair:1"), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(X), expected)
