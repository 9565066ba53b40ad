"""What a rulebook says that it will do with a model: every call, also those that it has no rule for."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import GRADIENT
from funcattr.testing.seeding import settle, uniform

from ..zoo import CASES, Case, case


def rows(book: Rulebook, model: Any, x: Any, **options: Any) -> list[tuple[str, ...]]:
    return [tuple(line) for line in funcattr.rule_table(model, x, **options, rules=book)]


def small() -> Any:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)]
    return settle(lambda: nn.Sequential(*layers))


def test_rows_are_the_calls_in_order() -> None:
    conv, norm, *rest = rows(rules.epsilon_plus_flat(), small(), uniform(2, 3, 4, 4))
    assert conv == ("0", "conv2d", "[2, 4, 2, 2]", "flat")
    assert (*norm[:2], norm[3]) == ("1", "batch_norm", "folded into '0'")  # not on the tape, so it may have no shape
    assert rest == [
        ("2", "relu", "[2, 4, 2, 2]", "pass_through"),
        ("3", "flatten", "[2, 16]", "gradient"),
        ("4", "linear", "[2, 2]", "epsilon"),
    ]


def test_it_prints_as_a_table() -> None:
    lines = repr(funcattr.rule_table(small(), uniform(2, 3, 4, 4), rules=rules.epsilon_plus())).splitlines()
    assert lines[0].split() == ["module", "operation", "shape", "rule"]
    assert lines[1].split() == ["0", "conv2d", "[2,", "4,", "2,", "2]", "z_plus"]
    starts = [lines[0].index(name) for name in ("operation", "shape", "rule")]
    assert all(line[start - 1] == " " for line in lines for start in starts)
    assert all(line[start] != " " for line in lines for start in (starts[0], starts[2]))
    assert all(line == line.rstrip() for line in lines)


def test_options_of_a_rule_show() -> None:
    book = rules.composite("mine", convolution=rules.gamma(gamma=0.1), dense=rules.epsilon(eps=0.5, bias="ignore"))
    shown = [row[3] for row in rows(book, small(), uniform(2, 3, 4, 4))]
    assert (shown[0], shown[-1]) == ("gamma(gamma=0.1)", "epsilon(eps=0.5, bias='ignore')")


def test_calls_without_a_rule_show_where_the_pass_would_raise() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.corrcoef(torch.cumprod(x.relu(), 1))

    book, x = rules.epsilon_everywhere(), torch.rand(4, 2)
    assert [(row[1], row[3]) for row in rows(book, model, x)] == [
        ("relu", "pass_through"),
        ("cumprod", "NO RULE"),
        ("corrcoef", "NO RULE"),
    ]
    with pytest.raises(funcattr.UnsupportedOperationError, match=r"no rule for\n  cumprod .*\n  corrcoef") as error:
        funcattr.lrp(model, x, 0, rules=book, start="one")
    assert "relu" not in str(error.value)
    covered = book | {"cumprod": rules.pass_through, "corrcoef": GRADIENT}
    assert [row[3] for row in rows(covered, model, x)] == ["pass_through", "pass_through", "gradient"]


def test_stopped_and_decomposed_calls_show() -> None:
    def model(x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True))
        return F.glu(x * scale)

    shown = [(row[1], row[3]) for row in rows(rules.epsilon_everywhere(), model, torch.rand(2, 4))]
    # what a stop leaves without relevance is listed too: the calls are those that depend on the root
    assert shown == [
        ("square", "pass_through"),
        ("mean", "norm"),
        ("rsqrt", "stop"),
        ("mul", "product"),
        ("glu", "decompose(glu)"),
        ("chunk", "gradient"),
        ("sigmoid", "pass_through"),
        ("mul", "product"),
    ]


def test_what_decomposes_without_gradients_enabled_is_seen_too() -> None:
    model: Any = lambda x: F.scaled_dot_product_attention(x, x, x).flatten(1)  # noqa: E731
    x = torch.rand(1, 2, 3, 4)
    expected: Any = funcattr.lrp(model, x, 0, rules="epsilon", start="one")
    operations = [row[1] for row in rows(rules.epsilon_everywhere(), model, x)]
    assert operations[0] == "scaled_dot_product_attention"
    assert [op for op in operations if op in ("matmul", "softmax")] == ["matmul", "softmax", "matmul"]
    with torch.no_grad():
        torch.testing.assert_close(funcattr.lrp(model, x, 0, rules="epsilon", start="one"), expected)
        assert [row[1] for row in rows(rules.epsilon_everywhere(), model, x)] == operations


def test_a_batch_norm_that_stands_alone_shows_its_rule() -> None:
    model = settle(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    shown = [row[3] for row in rows(rules.epsilon_plus(), model, uniform(2, 3))]
    assert shown == ["pass_through", "affine", "pass_through", "folded into '4'", "epsilon"]


def test_calls_on_constants_are_left_out_and_in_place_calls_show_once() -> None:
    def model(x: Tensor) -> Tensor:
        y = torch.ones(3).cumsum(0)
        x = x * y
        x += 1
        x[:, 0] = 0
        return x.relu_()

    shown = [row[1] for row in rows(rules.epsilon_everywhere(), model, torch.rand(2, 3))]
    assert shown == ["mul", "add", "__setitem__", "relu"]


def test_the_root_the_output_and_further_inputs_are_chosen_as_in_the_methods() -> None:
    model, x = small(), uniform(2, 3, 4, 4)
    assert [row[0] for row in rows(rules.epsilon_plus(), model, x, layer="2")] == ["3", "4"]
    with pytest.raises(funcattr.UnknownSiteError, match=r"^rule_table\(layer='9'\)"):
        funcattr.rule_table(model, x, layer="9", rules=rules.epsilon_plus())

    def several(x: Tensor, y: Tensor, *, scale: float) -> dict[str, Tensor]:
        return {"a": x.relu() * scale, "b": (x + y).tanh()}

    options: dict[str, Any] = {"args": (torch.ones(3),), "kwargs": {"scale": 2.0}}
    found = [row[1] for row in rows(rules.epsilon_plus(), several, torch.rand(2, 3), output="b", **options)]
    assert found == ["relu", "mul", "add", "tanh"]  # all calls, whether or not they reach that output
    both = [row[1] for row in rows(rules.epsilon_plus(), lambda a, b: a @ b.mT, (torch.rand(2, 3), torch.rand(2, 3)))]
    assert both == ["mT", "matmul"]


@pytest.mark.parametrize("c", [c for c in CASES if "sdpa" not in c.name], ids=repr)
def test_every_call_of_every_family_has_a_rule(c: Case) -> None:
    (x,) = c.inputs()
    model = c.build()
    for book in (rules.epsilon_plus(), rules.attnlrp()):
        found = rows(book, model, x if c.key is None else {c.key: x}, kwargs=c.kwargs())
        assert len(found) > 5
        assert not [row for row in found if "NO RULE" in row[3]]


def test_it_leaves_the_model_and_the_input_alone() -> None:
    c = case("resnet_basic")
    model, (x,) = c.build(), c.inputs()
    state, before = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    funcattr.rule_table(model, x, rules=rules.epsilon_plus())
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
