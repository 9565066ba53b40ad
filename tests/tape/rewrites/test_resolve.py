"""First and last by data flow, rows by path and module class, and rows that a pass requires."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.rules import GRADIENT, Entry
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal
from ...zoo import case

LINEAR = ("linear", "conv1d", "conv2d", "conv_transpose1d", "matmul", "addmm")
FIRST = rules.epsilon_everywhere() | Entry("linear_map", rules.flat, position="first")
LAST = rules.epsilon_everywhere() | Entry("linear_map", rules.z_plus, position="last")


def chosen(model: Callable[..., Any], x: Any, **options: Any) -> tuple[list[str], list[str]]:
    """The linear maps that are first, and those that are last, by module (by operation outside of any)."""
    marked = []
    for book, mark in ((FIRST, "flat"), (LAST, "z_plus")):
        lines = [line for line in funcattr.rule_table(model, x, **options, rules=book) if line.operation in LINEAR]
        marked.append([line.module or line.operation for line in lines if line.rule == mark])
    return marked[0], marked[1]


class Net(nn.Module):
    """Linear layers a to e [3 -> 3], registered from e to a, and a forward pass of the test's own."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.e, self.d, self.c, self.b, self.a = (nn.Linear(3, 3) for _ in range(5))
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Cell(nn.Module):
    """Two calls of one layer, with a relu between."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.layer(x)))


Forward = Callable[[Any, Tensor], Any]
NETS: dict[str, tuple[Forward, list[str], list[str]]] = {
    "chain": (lambda m, x: m.c(m.b(m.a(x).relu())), ["a"], ["c"]),
    "one layer": (lambda m, x: m.a(x.relu()), ["a"], ["a"]),
    "parallel branches": (lambda m, x: m.c(m.a(x) + m.b(x)), ["a", "b"], ["c"]),
    "heads": (lambda m, x: torch.cat([m.b(m.a(x)), m.c(m.a(x).tanh())], 1), ["a", "a"], ["b", "c"]),
    "a skip around": (lambda m, x: m.b(torch.cat([x, m.a(x)], 1)[:, 2:5]), ["a"], ["b"]),
    "a late branch of the input": (lambda m, x: m.b(m.a(x)) + m.c(x), ["a", "c"], ["b", "c"]),
    "a sum with the input": (lambda m, x: m.b(m.a(x) + x), ["a"], ["b"]),
    "in execution order": (lambda m, x: m.a(m.e(x)), ["e"], ["a"]),
    "two in a row by views": (lambda m, x: m.b(m.a(x).reshape(-1, 1).flatten().view(2, 3)), ["a"], ["b"]),
    "used beside its follower": (lambda m, x: m.a(x) + m.b(m.a(x)), ["a", "a"], ["a", "b"]),
    "a dead end": (lambda m, x: (m.b(m.a(x)), m.c(x * 2))[1], ["a", "c"], ["c"]),
    "a branch of a constant": (lambda m, x: m.b(m.a(torch.ones_like(x))) + m.c(x), ["c"], ["c"]),
    "a constant, then the input": (lambda m, x: m.b(m.a(torch.ones_like(x)) + x), ["b"], ["b"]),
    "a detached branch": (lambda m, x: m.b(m.a(x).detach() + x), ["a", "b"], ["b"]),
    "written in place": (lambda m, x: m.b(m.a(x).relu_().add_(1)), ["a"], ["b"]),
    "a gate": (lambda m, x: m.c(m.a(x) * torch.sigmoid(m.b(x))), ["a", "b"], ["c"]),
    "functions": (lambda m, x: F.linear(x @ m.a.weight, m.b.weight), ["matmul"], ["linear"]),
}


@pytest.mark.parametrize("name", NETS)
def test_first_and_last_are_by_data_flow(name: str) -> None:
    forward, first, last = NETS[name]
    assert chosen(Net(forward).double(), uniform(2, 3)) == (first, last)


def test_a_reused_module_is_first_at_its_first_call_and_last_at_its_last() -> None:
    book = FIRST | Entry("linear_map", rules.z_plus, position="last")
    assert [
        line.rule
        for line in funcattr.rule_table(Cell().double(), uniform(2, 3), rules=book)
        if line.operation == "linear"
    ] == [*("flat", "z_plus")]


def test_products_of_two_tracked_values_are_no_linear_maps() -> None:
    # Neither for what comes after them, nor for what comes before.
    first, last = chosen(Net(lambda m, x: m.a(x @ x.mT @ x)), torch.rand(3, 3))
    assert (first, last) == (["a"], ["a"])
    first, last = chosen(Net(lambda m, x: m.a(x) @ m.b(x).mT), torch.rand(3, 3))
    assert (first, last) == (["a", "b"], ["a", "b"])


def test_models_that_users_bring() -> None:
    for name, first, last in (
        ("cnn", ["conv1"], ["fc2"]),
        ("resnet_basic", ["conv1"], ["fc"]),
        ("vit", ["conv_proj"], ["heads.head"]),
    ):
        c = case(name)
        assert chosen(c.build(), c.inputs()[0]) == (first, last), name
    first, last = chosen(case("squeezenet").build(), case("squeezenet").inputs()[0])
    assert (first, last) == (["features.0"], ["classifier.1"])


def test_with_a_layer_as_root_first_means_first_after_the_input() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.b(F.relu(funcattr.site(m.a(funcattr.site(x + 1, "before")), "after")))

    net: Any = Net(forward)
    x = torch.rand(2, 3)
    assert chosen(net, x, layer="before") == (["a"], ["b"])
    assert chosen(net, x, layer="after") == ([], ["b"])
    assert chosen(net, x, layer="a") == ([], ["b"])
    assert chosen(nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), x, layer="0") == (["1"], ["1"])


def test_the_rule_of_the_first_and_last_maps_is_applied() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))
    x = uniform(2, 4)
    book = rules.composite("mine", convolution=rules.gamma, dense=rules.gamma, first=rules.w_square)
    book |= Entry("dense", rules.alpha_beta, position="last")
    by_path = Rulebook(
        (Entry("linear", rules.w_square, "0"), Entry("linear", rules.alpha_beta, "4"), Entry("linear", rules.gamma)),
        space="relevance",
    ) | {"relu": rules.pass_through}
    assert_equal(
        funcattr.lrp(model, x, 1, rules=book, start="one"), funcattr.lrp(model, x, 1, rules=by_path, start="one")
    )


def test_the_last_map_may_have_the_ordinary_adjoint() -> None:
    model, x = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))), uniform(2, 4)
    double = Rulebook((Entry("linear", GRADIENT, position="last"), Entry("linear", lambda c, g: 2 * c.vjp(g)[0])))
    pulled = funcattr.attribute(model, x, 1, rules=double).cotangent
    assert_equal(pulled, 2 * funcattr.gradient(model, x, 1))


def test_compiled_calls_resolve_alike(fresh_dynamo: None) -> None:
    c = case("vgg_bn")
    fm, x = funcattr.functionalize(c.build()), c.inputs()[0]
    book = FIRST | Entry("linear_map", rules.z_plus, position="last")
    compiled = torch.compile(
        lambda x: funcattr.lrp(fm, x, 1, rules=book, start="one"), fullgraph=True, backend="aot_eager"
    )
    expected: Any = funcattr.lrp(fm, x, 1, rules=book, start="one")
    assert_equal(compiled(x), expected)


# Rows by path, by class, and groups


def ruled(model: nn.Module, x: Tensor, *rows: Entry) -> list[str]:
    book = rules.epsilon_everywhere() | tuple(rows)
    return [line.module for line in funcattr.rule_table(model, x, rules=book) if line.rule == "z_plus"]


def tower() -> nn.Module:
    block = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU(), nn.ConvTranspose1d(2, 2, 1))
    return nn.Sequential(block, nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU()), nn.Flatten(), nn.Linear(6, 3)).double()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Entry("linear_map", rules.z_plus, "0.*"), ["0.0", "0.2"]),
        (Entry("convolution", rules.z_plus), ["0.0", "0.2", "1.0"]),
        (Entry("dense", rules.z_plus), ["3"]),
        (Entry("*", rules.z_plus, module=nn.Conv1d), ["0.0", "1.0"]),
        (Entry("linear_map", rules.z_plus, "[13]*"), ["1.0", "3"]),
        (Entry("linear_map", rules.z_plus, "1.*", module=nn.Conv1d, position="first"), []),
        (Entry("linear_map", rules.z_plus, module=nn.Conv1d, position="first"), ["0.0"]),
        (Entry("linear_map", rules.z_plus, "3", position="last"), ["3"]),
        (Entry("linear_map", rules.z_plus, "0.*", position="last"), []),
        (Entry("linear_map", rules.z_plus, module=nn.Module), ["0.0", "0.2", "1.0", "3"]),
        (Entry("linear_map", rules.z_plus, module=nn.Linear), ["3"]),
        (Entry("conv_transpose1d", rules.z_plus), ["0.2"]),
    ],
)
def test_rows_match_by_group_path_class_and_position(row: Entry, expected: list[str]) -> None:
    assert ruled(tower(), uniform(1, 2, 3), row) == expected


def test_a_class_matches_its_subclasses_and_the_functions_that_they_call() -> None:
    class Mine(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return F.linear(input, self.weight) + self.bias

    model = nn.Sequential(Mine(2, 2), nn.Linear(2, 2))
    x = torch.rand(1, 3, 2)
    assert ruled(model, x, Entry("linear", rules.z_plus, module=Mine)) == ["0"]
    assert ruled(model, x, Entry("linear", rules.z_plus, module=nn.Linear)) == ["0", "1"]
    encoder = nn.TransformerEncoderLayer(2, 1, 3, batch_first=True).eval()
    attention = ruled(encoder, x, Entry("dense", rules.z_plus, module=nn.MultiheadAttention))
    assert attention == ["self_attn"] * 4  # queries, keys, values and the projection, whichever function computes them
    assert ruled(encoder, x, Entry("dense", rules.z_plus, module=nn.Linear)) == ["linear1", "linear2"]


# Rows that are required


def test_a_required_row_without_a_call_is_refused() -> None:
    model, x = tower(), uniform(1, 2, 3)
    for row, shown in (
        (Entry("linear_map", rules.z_plus, "9", required=True), "'linear_map 9'"),
        (Entry("gelu", rules.pass_through, required=True), "'gelu'"),
        (Entry("linear_map", rules.z_plus, "0.0", position="last", required=True), "'linear_map last 0.0'"),
    ):
        book = rules.epsilon_everywhere() | row
        with pytest.raises(ValueError, match=rf"^lrp\(rules='epsilon'\): no call matches {shown}, which is required"):
            funcattr.lrp(model, x, 0, rules=book, start="one")
        assert len(funcattr.rule_table(model, x, rules=book)) == 7  # which says what there is
    first = rules.epsilon_everywhere() | Entry("linear_map", rules.z_plus, position="first", required=True)
    assert funcattr.lrp(model, x, 0, rules=first, start="one").shape == x.shape


def test_a_required_row_behind_another_that_takes_its_calls_is_refused() -> None:
    book = rules.epsilon_everywhere() | (Entry("linear", rules.gamma), Entry("linear", rules.z_plus, required=True))
    with pytest.raises(ValueError, match=r"no call matches 'linear'"):
        funcattr.lrp(tower(), uniform(1, 2, 3), 0, rules=book, start="one")


_middle: Any = "middle"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lambda: Entry("linear", rules.z_plus, position=_middle), r"expected 'first', 'last' or None, got 'middle'"),
        (
            lambda: Entry("linear", funcattr.rules.STOP, position="last"),
            r"^Entry\(position='last'\): .* too late for stop",
        ),
        (lambda: Entry("linear", funcattr.rules.decompose(torch.relu), position="last"), "too late for decompose"),
    ],
)
def test_bad_positions_are_refused(row: Callable[[], Entry], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rulebook(row())
