"""Rulebooks as tables, and what a rule sees of a call."""

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

import funcattr
from funcattr import Rulebook
from funcattr.calls.call import replace
from funcattr.calls.operations import canonical
from funcattr.calls.recorded_call import RecordedCall
from funcattr.rulebook.actions import UNLISTED, Action
from funcattr.rulebook.rulebook import Match
from funcattr.rules import GRADIENT, STOP, Call, Entry, decompose, output_only
from funcattr.rules.composites import rulebook_of

from ..contract import assert_equal


def halve(call: Call, cotangent: Tensor) -> tuple[Tensor, ...]:
    return tuple(g / 2 for g in call.vjp(cotangent))


def double(call: Call, cotangent: Tensor) -> tuple[Tensor, ...]:
    return tuple(g * 2 for g in call.vjp(cotangent))


def rule_of(book: Rulebook, op: str, path: str = "") -> Any:
    action = book.action(Match(op, path))
    assert action is not None
    return action.function


def pulled(rules: Any, model: Any = torch.relu, x: Tensor | None = None) -> Tensor:
    x = torch.ones(1, 2) if x is None else x
    y, pullback = funcattr.vjp(model, x, rules=rules)
    return pullback(torch.ones_like(y))[0]


# The table


def test_equal_rulebooks_hash_alike_and_differ_by_every_part() -> None:
    book = Rulebook({"relu": halve}, name="a", expects=("relu",))
    assert book == Rulebook({"relu": halve}, name="a", expects=("relu",))
    assert hash(book) == hash(Rulebook({"relu": halve}, name="a", expects=("relu",)))
    others: list[object] = [
        Rulebook({"relu": double}, name="a", expects=("relu",)),
        Rulebook({"gelu": halve}, name="a", expects=("relu",)),
        Rulebook({"relu": halve}, name="b", expects=("relu",)),
        Rulebook({"relu": halve}, name="a"),
        Rulebook({"relu": halve}, name="a", expects=("relu",), unlisted="raise"),
        Rulebook((Entry("relu", halve, "layer1.*"),), name="a", expects=("relu",)),
        "a",
    ]
    for other in others:
        assert book != other


def _own_operation(x: Tensor) -> Tensor:
    return handle_torch_function(_own_operation, (x,), x) if has_torch_function_unary(x) else x * 3


def test_a_row_for_a_function_that_torch_does_not_have_is_good_for_further_rulebooks() -> None:
    row = Rulebook({_own_operation: halve}).entries
    books = [
        Rulebook({_own_operation: halve}),
        Rulebook(row),
        Rulebook(row[0]),
        Rulebook({"relu": double}) | {_own_operation: halve},
        (Rulebook({"relu": double}) | {_own_operation: halve}) | {"gelu": double},
        Rulebook({_own_operation: halve}) | Rulebook(row),
        pickle.loads(pickle.dumps(Rulebook({_own_operation: halve}) | {"relu": double})) | {"gelu": double},
    ]
    for book in books:
        (found,) = funcattr.vjp(_own_operation, torch.ones(2), rules=book)[1](torch.ones(2))
        assert_equal(found, torch.full((2,), 1.5))
    with pytest.raises(ValueError, match="no torch function has that name"):
        Rulebook({str(row[0].op): halve})


def test_a_rulebook_survives_pickling() -> None:
    book = Rulebook({"relu": halve, "gelu": STOP}, name="a")
    assert pickle.loads(pickle.dumps(book)) == book


def test_the_repr_shows_every_row_and_the_default() -> None:
    book = Rulebook({"relu": halve, "gelu": STOP}, name="half", unlisted="raise")
    lines = [line.split() for line in repr(book).splitlines()]
    assert lines == [
        ["Rulebook", "'half'"],
        ["operation", "where", "rule"],
        ["relu", "halve"],
        ["gelu", "stop"],
        ["(unlisted)", "raise"],
    ]


def test_the_repr_shows_where_a_row_holds() -> None:
    rows = (Entry("linear", halve, "head.*", nn.Linear, "last"), Entry("*", GRADIENT), Entry("dense", halve))
    lines = [line.split() for line in repr(Rulebook(rows)).splitlines()]
    assert lines[2:] == [
        ["linear", "last", "head.*", "Linear", "halve"],
        ["*", "gradient"],
        ["dense", "halve"],
        ["(unlisted)", "gradient"],
    ]


@pytest.mark.parametrize(
    "spelling",
    [
        *("relu", "relu_", "relu6", torch.relu, torch.relu_, F.relu, F.relu6, torch.Tensor.relu, torch.Tensor.relu_),
        *(torch.ops.aten.relu, torch.ops.aten.relu.default),
    ],
)
def test_every_spelling_of_an_operation_names_it(spelling: Any) -> None:
    for book in (Rulebook({spelling: halve}), Rulebook((Entry(spelling, halve),))):
        assert book.entries == (Entry("relu", Action("rule", halve)),)
        torch.testing.assert_close(pulled(book, lambda x: x.relu()), torch.full((1, 2), 0.5))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("hardtanh", F.hardtanh),
        ("clamp", lambda x: x.clamp(-1, 4)),
        ("clamp_min", lambda x: x.clamp_min(-1)),
        ("threshold", lambda x: F.threshold(x, 0.1, 0.0)),
    ],
)
def test_operations_that_may_be_relus_are_named_as_they_are(name: str, function: Any) -> None:
    torch.testing.assert_close(pulled({name: lambda call, p: 3 * p}, function), torch.full((1, 2), 3.0))
    torch.testing.assert_close(pulled({name: lambda call, p: 3 * p}, torch.relu), torch.ones(1, 2))


@pytest.mark.parametrize("spelling", ["add", "add_", "__iadd__", torch.add, torch.Tensor.add_, torch.Tensor.__add__])
def test_every_spelling_of_plus_names_it(spelling: Any) -> None:
    torch.testing.assert_close(pulled({spelling: halve}, lambda x: x + 1), torch.full((1, 2), 0.5))


def test_unlisted_operations_get_the_gradient_or_nothing() -> None:
    assert Rulebook({"relu": halve}).action(Match("gelu", "")) is GRADIENT
    assert Rulebook({"relu": halve}, unlisted="raise").action(Match("gelu", "")) is UNLISTED
    assert Rulebook().action(Match("relu", "")) is GRADIENT


def test_the_first_matching_entry_wins() -> None:
    book = Rulebook((Entry("relu", halve, "layer1.*"), Entry("*", double, "layer*"), Entry("relu", STOP)))
    assert rule_of(book, "relu", "layer1.0") is halve
    assert rule_of(book, "gelu", "layer1.0") is double
    assert rule_of(book, "relu", "layer2.0") is double
    assert book.action(Match("relu", "head")) is STOP
    assert book.action(Match("gelu", "head")) is GRADIENT


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("*", ["", "a", "a.b"], []),
        ("a", ["a"], ["", "a.b", "A"]),
        ("a.*", ["a.b", "a.b.c"], ["a", "ab.c"]),
        ("*.relu", ["a.relu", "a.b.relu"], ["relu", "a.relu1"]),
        ("layer?.0", ["layer1.0", "layer2.0"], ["layer10.0", "layer1.00"]),
        ("layer[12].*", ["layer1.0", "layer2.1"], ["layer3.0"]),
    ],
)
def test_paths_match_as_globs(glob: str, matching: list[str], other: list[str]) -> None:
    book = Rulebook((Entry("relu", halve, glob),))
    for path in matching:
        assert rule_of(book, "relu", path) is halve
    for path in other:
        assert book.action(Match("relu", path)) is GRADIENT


def test_a_path_chooses_the_module_in_a_model() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), nn.ReLU()), nn.ReLU())
    book = Rulebook((Entry("relu", halve, "1.*"),))
    torch.testing.assert_close(pulled(book, funcattr.functionalize(model)), torch.full((1, 2), 0.25))


def test_or_puts_the_right_rulebook_first_and_keeps_the_lefts_settings() -> None:
    left = Rulebook({"relu": halve, "gelu": halve}, unlisted="raise", name="left", expects=("relu",))
    both = left | Rulebook({"relu": double}, name="right")
    assert rule_of(both, "relu") is double
    assert rule_of(both, "gelu") is halve
    assert (both.unlisted, both.name, both.expects) == ("raise", "left", ("relu",))
    assert both == left | {"relu": double}
    assert rule_of(left, "relu") is halve


def test_or_keeps_what_a_path_does_not_cover() -> None:
    book = Rulebook({"relu": halve}) | Rulebook((Entry("relu", double, "head.*"),))
    assert rule_of(book, "relu", "head.0") is double
    assert rule_of(book, "relu", "body.0") is halve


def test_rulebooks_come_from_names_mappings_and_themselves() -> None:
    book = Rulebook({"relu": halve})
    assert rulebook_of("f", book) is book
    assert rulebook_of("f", {"relu": halve}) == book
    with pytest.raises(TypeError, match=r"^f\(rules=...\): expected the name of a rulebook, .* got NoneType"):
        rulebook_of("f", None)  # pyright: ignore[reportArgumentType]
    complete = rulebook_of("f", {"relu": halve}, unlisted="raise", space="relevance")
    assert complete == Rulebook({"relu": halve}, unlisted="raise", space="relevance")
    assert rulebook_of("f", "guided").entries[0].op == "relu"
    with pytest.raises(ValueError, match=r"^f\(rules='epsilon_plu'\): no such rulebook\. Closest: 'epsilon_plus'"):
        rulebook_of("f", "epsilon_plu")
    with pytest.raises(
        ValueError, match=r"^f\(rules='epsilon_gamma_box'\): it needs bounds\. Pass rules\.epsilon_gamma_box"
    ):
        rulebook_of("f", "epsilon_gamma_box")
    with pytest.raises(
        TypeError, match=r"^f\(rules=\.\.\.\): expected the name of a rulebook, a Rulebook or a mapping"
    ):
        rulebook_of("f", 3)  # type: ignore[arg-type]


def test_actions_are_used_as_they_are() -> None:
    book = Rulebook({"relu": decompose(lambda x: 3 * (x + x.abs()) / 2), "abs": halve})
    torch.testing.assert_close(pulled(book), torch.full((1, 2), 2.25))
    with pytest.raises(funcattr.UntrackedPathError, match="does not depend on the input"):
        pulled({"relu": STOP})


@pytest.mark.parametrize(
    ("rules", "options", "kind", "message"),
    [
        ({"relu": halve}, {"unlisted": "ignore"}, ValueError, r"unlisted=.*'gradient' or 'raise', got 'ignore'"),
        ({"relu": "halve"}, {}, TypeError, r"Rulebook\({'relu': ...}\): expected a rule or an action, got str"),
        ({"relu_": None}, {}, TypeError, r"Rulebook\({'relu_': ...}\): expected a rule or an action, got NoneType"),
        ({nn.ReLU: halve}, {}, TypeError, "expected an operation's name or a torch function"),
        ({3: halve}, {}, TypeError, r"Rulebook\({3: ...}\): expected an operation's name or a torch function"),
        (
            [Entry("relu", halve)],
            {},
            TypeError,
            r"Rulebook\(rules=...\): expected a dict or a tuple of Entry, got list",
        ),
        ((("relu", halve),), {}, TypeError, r"Rulebook\(rules=...\): expected a dict or a tuple of Entry, got tuple"),
        ((Entry("relu", 3),), {}, TypeError, "expected a rule or an action, got int"),
    ],
)
def test_bad_rules_are_refused(rules: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Rulebook(rules, **options)


# What a rule sees


def make_call(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], positions: tuple[tuple[Any, ...], ...]
) -> RecordedCall:
    return RecordedCall(func, canonical(func.__name__), args, kwargs, positions, "block")


def test_an_argument_is_found_wherever_the_caller_put_it() -> None:
    x, w = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1)
    call = make_call(F.conv2d, (x, w), {"padding": 1}, ((0,),))
    assert call.argument("input") is x
    assert call.argument("weight") is w
    assert call.argument("padding") == 1
    assert call.argument("bias") is None
    assert call.argument("stride", 1) == 1
    assert call.argument("no_such_name", "default") == "default"
    assert make_call(F.conv2d, (x, w, None, 2), {}, ((0,),)).argument("stride") == 2


def test_a_call_knows_its_operation_spelling_and_path() -> None:
    seen: list[tuple[str, str, str]] = []

    def look(call: Call, cotangent: Tensor) -> Tensor:
        seen.append((call.op, call.spelling, call.path))
        return cotangent

    pulled({"relu": look}, funcattr.functionalize(nn.Sequential(nn.ReLU6(), nn.ReLU())))
    assert seen == [("relu", "relu", "1"), ("relu", "hardtanh", "0")]


def test_a_call_is_a_pure_function_of_its_operands() -> None:
    x, y, z = torch.randn(3, 2)
    call = make_call(torch.cat, ([x, y],), {"dim": 0}, ((0, 0), (0, 1)))
    assert [a is b for a, b in zip(call.operands, (x, y))] == [True, True]
    torch.testing.assert_close(call(z, x), torch.cat([z, x]))
    torch.testing.assert_close(call(*call.operands), torch.cat([x, y]))
    g = torch.randn(4)
    torch.testing.assert_close(torch.cat(call.vjp(g)), g)


def test_replace_copies_the_containers_on_the_way() -> None:
    inner: list[Any] = [1, (2, {"a": 3})]
    args, kwargs = replace((inner, 0), {"key": [4]}, ((0, 1, 1, "a"), ("key", 0)), (30, 40))
    assert (args, kwargs) == (([1, (2, {"a": 30})], 0), {"key": [40]})
    assert inner == [1, (2, {"a": 3})]


def test_an_output_only_rule_sees_the_output_and_options_but_no_operand() -> None:
    errors: list[str] = []

    @output_only
    def look(call: Call, cotangent: Tensor) -> Tensor:
        for ask in (lambda: call.operands, lambda: call.args, lambda: call.kwargs, lambda: call.argument("input")):
            with pytest.raises(
                AttributeError, match="'leaky_relu' declares @output_only, so its call keeps no operands"
            ):
                ask()
            errors.append("raised")
        assert call.argument("negative_slope") == 0.5
        return cotangent * call.output

    found = pulled({"leaky_relu": look}, lambda x: F.leaky_relu(x, 0.5), torch.tensor([[2.0, -2.0]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, -1.0]]))
    assert len(errors) == 4


def test_a_call_that_dropped_its_operands_still_reads_its_constants() -> None:
    x, w = torch.ones(1, 2), torch.ones(3, 2)
    call = make_call(F.linear, (x, w), {}, ((0,),))
    call.drop_inputs()
    assert call.argument("weight") is w
    assert call.argument("bias") is None
    with pytest.raises(AttributeError, match="the rule for 'linear' declares @output_only"):
        call.argument("input")
    with pytest.raises(AttributeError, match="the rule for 'linear' declares @output_only"):
        call(x)
