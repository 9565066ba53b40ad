"""Descriptions: equal values have one, other values another, and what nobody can tell is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import funcattr
from funcattr import bottleneck, paths, rules, scale
from funcattr.rules.composites import COMPOSITES
from funcattr.scale.description import described
from funcattr.scale.model_description import described_model

from .runs import images, network


def composite(name: str) -> Callable[[], Any]:
    bounds = {"low": torch.zeros(3), "high": torch.ones(3)} if name == "epsilon_gamma_box" else {}
    return lambda: COMPOSITES[name](**bounds)


def statistics(shift: float = 0.0) -> Any:
    return bottleneck.feature_statistics(network(), images(1000) + shift, layer="1")


def test_a_model_that_is_kept_elsewhere_is_refused(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    offloaded = accelerate.cpu_offload(network(), execution_device=torch.device("cpu"))
    for model in (offloaded, funcattr.functionalize(offloaded), scale.Own(offloaded, name="net", version="1")):
        with pytest.raises(TypeError, match=r"run\(model=...\): the model's tensors are spread over processes"):
            scale.run("gradient", model, images(3), tmp_path / "out", target=1)
    assert not list(tmp_path.iterdir())


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "number": (lambda: 1, lambda: 1.5),
    "flag": (lambda: True, lambda: 1.5),
    "not a number": (lambda: float("nan"), lambda: float("inf")),
    "list and tuple": (lambda: [1, 2], lambda: (1, 2)),
    "mapping": (lambda: {"a": [1]}, lambda: {"a": [2]}),
    "tensor": (lambda: torch.arange(3.0), lambda: torch.arange(3.0) + 1e-6),
    "dtype": (lambda: torch.zeros(3), lambda: torch.zeros(3, dtype=torch.float64)),
    "bfloat16": (lambda: torch.ones(3, dtype=torch.bfloat16), lambda: torch.zeros(3, dtype=torch.bfloat16)),
    "strides": (lambda: torch.arange(6.0).reshape(2, 3).t(), lambda: torch.arange(6.0).reshape(3, 2)),
    "one of several": (lambda: torch.arange(4.0)[2::2], lambda: torch.arange(4.0)[1::3]),
    "conjugate": (lambda: torch.tensor([1 + 2j]).conj(), lambda: torch.tensor([1 + 2j])),
    "negative": (lambda: torch.tensor([1 + 2j]).conj().imag, lambda: torch.tensor([1 + 2j]).imag),
    "array": (lambda: torch.arange(3).numpy(), lambda: torch.arange(4).numpy()),
    "partial": (lambda: partial(funcattr.lrp, rules="epsilon_plus"), lambda: partial(funcattr.lrp, rules="attnlrp")),
    "torch function": (lambda: F.softplus, lambda: torch.relu),
    "rulebook": (lambda: rules.epsilon_plus(eps=1e-6), lambda: rules.epsilon_plus(eps=1e-5)),
    "rule": (lambda: {"linear": rules.gamma(gamma=0.1)}, lambda: {"linear": rules.gamma(gamma=0.2)}),
    "row": (
        lambda: funcattr.Rulebook(rules.Entry("relu", rules.GRADIENT, path="a.*")),
        lambda: funcattr.Rulebook(rules.Entry("relu", rules.GRADIENT, path="b.*")),
    ),
    "distribution": (lambda: funcattr.distribution(torch.zeros(2, 3)), lambda: funcattr.distribution(torch.ones(2, 3))),
    "statistics": (statistics, lambda: statistics(0.1)),
    "path": (lambda: paths.blur(3.0), lambda: paths.blur(4.0)),
    "contrast": (lambda: funcattr.contrast(1, 2), lambda: funcattr.contrast(2, 1)),
    "span": (lambda: funcattr.span([1, 2], 3), lambda: funcattr.span([1, 2], 4)),
    "own": (lambda: scale.Own(lambda: 1, "f", "1"), lambda: scale.Own(lambda: 1, "f", "2")),
}
PAIRS |= {name: (composite(name), lambda: rules.epsilon_plus(eps=1e-3)) for name in COMPOSITES}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_values_have_one_description_and_others_another(name: str) -> None:
    make, other = PAIRS[name]
    # Both are alive at once, so that neither's memory is the other's.
    values = make(), make()
    first, second = (json.dumps(described(value, "x")) for value in values)
    assert first == second
    assert json.dumps(described(other(), "x")) != first


def own_rule(call: Any, cotangent: Any) -> Any:
    return cotangent


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        own_rule,
        partial(own_rule),
        {"relu": own_rule},
        [nn.ReLU()],
        object(),
        torch.Generator(),
        own_rule.__code__,
        np.array([{"a": 1}, None], dtype=object),
    ],
    ids=["lambda", "function", "partial", "rule", "module", "object", "generator", "code", "objects"],
)
def test_what_nobody_can_tell_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"run\(options=\.\.\.\).*scale\.Own\("):
        described(value, "run(options=...)")


# --- models ----------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("shift", torch.zeros(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor + self.get_buffer("shift")


def of(change: Callable[[Any], Any]) -> dict[str, Any]:
    model: Any = nn.Sequential(nn.Linear(3, 3), Scaled(), nn.Conv1d(3, 3, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
        change(model)
    return described_model(model)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weight": lambda m: m[0].weight[1, 2].add_(1e-6),
    "buffer": lambda m: m[1].shift.fill_(1.0),
    "dtype": lambda m: m.half(),
    "attribute": lambda m: setattr(m[1], "factor", 3.0),
    "padding": lambda m: setattr(m[2], "padding", (1,)),
    "mode": lambda m: m.eval(),
    "order": lambda m: m.append(m.pop(0)),
    "hook": lambda m: m[0].register_forward_hook(lambda *_: None),
    "class": lambda m: m.insert(1, nn.ReLU()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_model_that_computes_something_else_has_another_description(name: str) -> None:
    assert of(lambda m: None) == of(lambda m: None)
    assert of(CHANGES[name]) != of(lambda m: None)


def shifted(by: float) -> Callable[[float], float]:
    return lambda x: x + by


def a_module(number: float) -> nn.Module:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(number)
    return module


@dataclass
class Config:
    width: int


class Mode(Enum):
    MEAN, SUM = 1, 2


KEPT: dict[str, Callable[[], tuple[Any, Any]]] = {
    "tensor": lambda: (torch.zeros(3), torch.ones(3)),
    "array": lambda: (np.zeros(3), np.ones(3)),
    "function": lambda: (F.relu, torch.tanh),
    "functions by turns": lambda: ([F.relu, torch.tanh, F.relu], [F.relu, torch.tanh, torch.tanh]),
    "partial": lambda: (partial(F.leaky_relu, negative_slope=0.1), partial(F.leaky_relu, negative_slope=0.2)),
    "own function": lambda: (composite, shifted),
    "closure": lambda: (shifted(1.0), shifted(2.0)),
    "two in a line": lambda: (lambda x: x + 1, lambda x: x + 2),
    "method": lambda: (Scaled(1.0).forward, Scaled(2.0).forward),
    "list of tensors": lambda: ([torch.zeros(3)], [torch.ones(3)]),
    "modules in a list": lambda: ([a_module(1.0)], [a_module(2.0)]),
    "dataclass": lambda: (Config(1), Config(2)),
    "enumeration": lambda: (Mode.MEAN, Mode.SUM),
    "set": lambda: ({"a", "b"}, {"a", "c"}),
    "mapping": lambda: ({"a": F.relu}, {"a": F.gelu}),
    "complex": lambda: (1j, 2j),
}


@pytest.mark.parametrize("name", ["kept", "_kept"])
@pytest.mark.parametrize("kind", KEPT)
def test_what_a_module_keeps_in_attributes_is_part_of_its_description(kind: str, name: str) -> None:
    # A resumed run would take the shards of another model for its own.
    first, other = (of(lambda m, value=value: setattr(m[1], name, value)) for value in KEPT[kind]())
    assert first == of(lambda m: setattr(m[1], name, KEPT[kind]()[0]))
    assert first != other


def test_the_code_of_a_hook_is_part_of_the_description() -> None:
    first, other = (of(lambda m, by=by: m[0].register_forward_hook(lambda m, x, y, by=by: y * by)) for by in (2.0, 3.0))
    assert first != other


def test_descriptions_are_the_same_in_another_process() -> None:
    """Sets are gone through in another order there; a run is resumed in another process."""
    code = """
import torch
from funcattr.scale.model_description import described_model
module = torch.nn.Linear(2, 2)
with torch.no_grad():
    module.weight.fill_(1), module.bias.fill_(1)
module.words, module.functions = {"a", "b", "c", "d"}, {torch.relu, torch.tanh, torch.sin}
module.known = lambda word: word in {"e", "f", "g", "h"}
print(described_model(module))
"""
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_attributes_that_hold_themselves_or_the_model_are_described() -> None:
    def around(model: Any) -> None:
        model[1].owner, model[1].itself = [model], []
        model[1].itself.append(model[1].itself)

    assert of(around) == of(around)


def test_functional_models_are_described_by_their_bound_parameters_and_edits() -> None:
    model = network()
    fm = funcattr.functionalize(model)
    assert described_model(fm)["tensors"] == described_model(model)["tensors"]
    assert described_model(fm)["structure"] == described_model(model)["structure"]
    other: Any = network()
    other[1].forward = torch.tanh
    assert described_model(funcattr.functionalize(other))["structure"] == described_model(other)["structure"]
    assert described_model(other)["structure"] != described_model(model)["structure"]
    bound = fm.bind({"5.bias": torch.ones(4)})
    assert described_model(bound)["tensors"] != described_model(fm)["tensors"]
    with pytest.raises(TypeError, match=r"scale\.Own"):
        described_model(funcattr.edit(model, {"1": lambda value: value * 2}))


def test_the_code_of_a_class_is_part_of_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    before = described_model(Scaled())
    monkeypatch.setattr("inspect.getsource", lambda kind: "another")
    after = described_model(Scaled())
    assert {name for name in before if before[name] != after[name]} == {"code"}


def test_statistics_change_with_any_field() -> None:
    found = statistics()
    assert described(replace(found, layer="2"), "x") != described(found, "x")
