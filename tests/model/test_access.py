"""Values at sites: what runs for them, and the inputs of modules."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.model.access import values_at
from funcattr.testing.seeding import settle, uniform

from ..contract import assert_equal


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the tail runs")


def test_only_what_comes_before_the_last_site_runs() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), Fails()).double()
    x = uniform(2, 4)
    values = values_at("test", funcattr.functionalize(model), ("2", "0"), ((x,), {}))
    h = model[0](x)
    torch.testing.assert_close(values["0"], h)
    torch.testing.assert_close(values["2"], model[2](F.relu(h)))


def test_an_unknown_site_is_named() -> None:
    with pytest.raises(funcattr.UnknownSiteError, match=r"test: no such site 'c'. Closest: "):
        values_at("test", funcattr.functionalize(Keyword().double()), ("a", "c"), ((uniform(2, 4),), {}))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(input=self.a(self.a(x)).relu())


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(by=x.sigmoid(), x=x)


class Gate(nn.Module):
    def forward(self, x: Tensor, by: Tensor) -> Tensor:
        return x * by


def test_the_input_is_the_first_parameter_of_forward() -> None:
    x = uniform(2, 4)
    assert torch.equal(funcattr.read(Gated(), "gate@input")(x)[1]["gate@input"], x)


def test_inputs_of_modules_are_sites() -> None:
    model: Any = settle(Keyword)
    x = uniform(2, 4)
    _, values = funcattr.read(model, "b@input", "a@input", "a#1@input", "a")(x)
    assert torch.equal(values["a@input"], x)
    assert torch.equal(values["a#1@input"], values["a"])
    torch.testing.assert_close(model.b(values["b@input"]), model(x), rtol=1e-12, atol=1e-12)
    edited = funcattr.edit(model, {"b@input": torch.zeros_like})
    torch.testing.assert_close(edited(x), model.b.bias.expand(2, 3), rtol=1e-12, atol=1e-12)


def test_inputs_of_modules_are_layers(fresh_dynamo: None) -> None:
    model: Any = settle(Keyword)
    x = uniform(2, 4)
    at_input = funcattr.gradient(model, x, 1, layer="b@input")
    assert torch.allclose(at_input, model.b.weight[1].expand(2, 4))
    fm = funcattr.functionalize(model)
    compiled = torch.compile(
        lambda x: funcattr.gradient(fm, x, 1, layer="b@input"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(x), at_input)
    with pytest.raises(funcattr.UnknownSiteError, match="no such site 'c@input'"):
        funcattr.gradient(model, x, 1, layer="c@input")


def test_a_site_is_given_once_by_its_name_or_as_the_module() -> None:
    model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^edit\(edits=...\): the site '0' is given twice"):
        funcattr.edit(model, {"0": lambda h: h * 0, model[0]: lambda h: h})
    with pytest.raises(ValueError, match=r"^conditional_relevance\(conditions=...\): the site '0' is given twice"):
        funcattr.conditional_relevance(model, x, 0, [{model[0]: [1], "0": [0]}], rules="epsilon")
    both = {"0": lambda h: h * 0 + 5, model[1]: lambda h: h + 1}
    assert_equal(funcattr.edit(model, both)(x), torch.full((1, 3), 6.0))
