"""The books of relevance: every row adds up, every loss is what its closed form says, and nothing is unexplained."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.attribution.forward import Start
from funcattr.methods.relevance.conservation import Conservation
from funcattr.rules import Entry
from funcattr.testing.networks import Network, networks, targets
from funcattr.testing.seeding import settle, uniform

from ...zoo import Case, case

# These change a gradient or compare with a baseline: they share out no relevance, and conservation refuses them.
NO_RELEVANCE = ("guided", "deconvnet", "deep_lift", "deep_lift_reveal_cancel")
COMPOSITES: dict[str, Any] = {
    **{name: name for name in rules.COMPOSITES if name not in NO_RELEVANCE},
    "epsilon_gamma_box": rules.epsilon_gamma_box(low=-2.0, high=2.0),
}
# The models that users bring, one of each shape; Llama computes its norms in float32, whatever its own dtype.
FAMILIES = (
    "resnet_basic resnet_bottleneck densenet googlenet efficientnet mobilenet_v2 mobilenet_v3 convnext vit swin "
    "bert_eager bert_sdpa llama_eager llama_sdpa"
).split()
REASONS = ("bias", "dead units", "stabilizer", "softmax", "constants", "other")


def report_of(
    model: Callable[..., Any], x: Any, book: Any = "epsilon", target: Any = 0, start: Start = "one", **options: Any
) -> Conservation:
    return funcattr.conservation(model, x, target, rules=book, start=start, **options)


def largest(report: Conservation) -> float:
    """The scale of the amounts that cancel: relevance of both signs may be far larger than its sum."""
    amounts = [a for f in report.flows for a in (f.arrived, f.passed, *f.lost.values())]
    return max(map(abs, (report.start, report.reached, *amounts)))


def assert_adds_up(report: Conservation, tolerance: float = 1e-9) -> None:
    assert report.flows
    for flow in report.flows:
        assert tuple(flow.lost) == REASONS
        scale = max(map(abs, (flow.arrived, flow.passed, *flow.lost.values())))
        assert abs(flow.arrived - flow.passed - sum(flow.lost.values())) <= 1e-12 * scale, flow
        assert abs(flow.lost["other"]) <= tolerance * scale, flow
    off = report.start - report.reached - sum(report.lost.values())
    assert abs(off) <= tolerance * largest(report)


def family_report(c: Case, book: str, **options: Any) -> Conservation:
    (x,) = c.inputs()
    inputs = x if c.key is None else {c.key: x}
    return report_of(c.build(), inputs, COMPOSITES[book], 1, kwargs=c.kwargs(), **options)


# The bounds of epsilon_gamma_box are those of an image.
@pytest.mark.parametrize(
    ("name", "book"),
    [(n, b) for n in FAMILIES for b in COMPOSITES if b != "epsilon_gamma_box" or len(case(n).shape) == 4],
)
def test_every_family_is_accounted_for(name: str, book: str) -> None:
    c = case(name)
    assert_adds_up(family_report(c, book), 1e-5 if c.in_float32 else 1e-9)


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "attnlrp"])
@pytest.mark.parametrize("name", ["resnet_basic", "densenet", "vit"])
def test_start_and_reached_are_what_lrp_starts_from_and_gives(name: str, book: str) -> None:
    c = case(name)
    (x,), model = c.inputs(), c.build()
    starts: tuple[Start, ...] = ("one", "output")
    for start in starts:
        for layer in (None, c.layer):
            report = family_report(c, book, start=start, layer=layer)
            relevance: Any = funcattr.lrp(model, x, 1, rules=book, start=start, layer=layer)
            assert report.reached == pytest.approx(relevance.sum().item(), rel=1e-9, abs=1e-12)
            # in gradient space the start 1 is divided by the stabilised output
            expected = 2.0 if start == "one" else model(x)[:, 1].sum().item()
            assert report.start == pytest.approx(expected, rel=1e-4 if start == "one" else 1e-12)
            assert_adds_up(report)


@given(networks(), st.data(), st.sampled_from(["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "attnlrp"]))
def test_drawn_networks_are_accounted_for(net: Network, data: st.DataObject, book: str) -> None:
    assert_adds_up(report_of(net.model, net.x, book, data.draw(targets(net.output_shape))))


@given(networks(only_relu=True, bias=False), st.data())
def test_without_biases_only_dead_units_and_the_stabilizer_take_relevance(net: Network, data: st.DataObject) -> None:
    target = data.draw(targets(net.output_shape))
    report = report_of(net.model, net.x, "epsilon", target)
    scale = largest(report)
    for reason in ("bias", "softmax", "other"):
        assert abs(report.lost[reason]) <= 1e-9 * scale
    kept = report_of(net.model, net.x, "attnlrp", target, start="output")
    assert kept.reached == pytest.approx(kept.start, abs=1e-9 * max(1, largest(kept)))


# Each reason by its closed form


def linear(bias: bool = True) -> tuple[Any, Tensor, Tensor]:
    """A linear layer, an input, and the relevance of its outputs: what the last layer hands back."""
    layer: Any = settle(lambda: nn.Linear(4, 5, bias=bias))
    return layer, uniform(3, 4), torch.eye(5, dtype=torch.float64)[[0, 2, 4]]


def s(z: Tensor, eps: float = 1e-6) -> Tensor:
    return torch.where(z >= 0, z + eps, z - eps)


def lost(report: Conservation, op: str, reason: str) -> float:
    return sum(flow.lost[reason] for flow in report.flows if flow.op == op)


def test_the_bias_of_epsilon() -> None:
    layer, x, r = linear()
    expected = (r * layer.bias / s(layer(x))).sum().item()
    report = report_of(layer, x, "epsilon", r)
    assert lost(report, "linear", "bias") == pytest.approx(expected, rel=1e-9)
    assert report.reached == pytest.approx((r * (layer(x) - layer.bias) / s(layer(x))).sum().item(), rel=1e-9)
    ignored = report_of(layer, x, rules.epsilon_everywhere() | {"dense": rules.epsilon(bias="ignore")}, r)
    assert ignored.lost["bias"] == 0


def test_the_biases_of_the_two_parts_of_alpha_beta() -> None:
    layer, x, r = linear()
    w, b, up, down = layer.weight, layer.bias, x.clamp(min=0), x.clamp(max=0)
    above = up @ w.clamp(min=0).T + down @ w.clamp(max=0).T + b.clamp(min=0)
    below = up @ w.clamp(max=0).T + down @ w.clamp(min=0).T + b.clamp(max=0)
    positive, negative = (r * b.clamp(min=0) / s(above)).sum(), (r * b.clamp(max=0) / s(below)).sum()
    for rule, expected in ((rules.z_plus, positive), (rules.alpha_beta(alpha=3, beta=2), 3 * positive - 2 * negative)):
        report = report_of(layer, x, rules.composite("one", convolution=rule, dense=rule), r)
        assert lost(report, "linear", "bias") == pytest.approx(expected.item(), rel=1e-9)
        assert_adds_up(report)


def test_the_bias_of_a_folded_batch_norm() -> None:
    conv: Any = settle(lambda: nn.Conv2d(2, 3, 3))
    norm: Any = settle(lambda: nn.BatchNorm2d(3), seed=1)
    x = uniform(2, 2, 3, 3)
    z = norm(conv(x)).flatten(1)
    shift = norm(conv(torch.zeros_like(x))).flatten(1)
    report = report_of(nn.Sequential(conv, norm, nn.Flatten()).eval(), x, "epsilon", 1)
    assert lost(report, "conv2d", "bias") == pytest.approx((shift / s(z))[:, 1].sum().item(), rel=1e-9)


def test_a_bias_counts_at_every_position() -> None:
    x = uniform(2, 3, 3, 3)
    for module, shape in ((nn.Conv2d(3, 3, 2), (-1, 1, 1)), (nn.LayerNorm(3), (3,)), (nn.GroupNorm(1, 3), (-1, 1, 1))):
        layer: Any = settle(lambda module=module: module)
        z = layer(x)
        r = uniform(*z.shape, seed=3)
        expected = (r * layer.bias.reshape(shape) / s(z)).sum().item()
        assert report_of(layer, x, "epsilon", r).lost["bias"] == pytest.approx(expected, rel=1e-9)


def test_a_constant_in_a_sum_is_a_bias() -> None:
    x, c = uniform(2, 3), uniform(3, seed=2)
    for function, z in ((lambda x: x + c, x + c), (lambda x: c - x, c - x)):
        report = report_of(function, x, "epsilon", 1)
        assert report.lost["bias"] == pytest.approx((c / s(z))[:, 1].sum().item(), rel=1e-9)


def test_dead_units_lose_all_that_arrives() -> None:
    layer, x, r = linear(bias=False)
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1.0, -1.0, 2.0, -3.0])
        layer.weight[2] = 0
        layer.weight[4] = -layer.weight[4].abs()
    report = report_of(layer, x, "epsilon", r)
    assert report.lost["dead units"] == pytest.approx(1, rel=1e-12)
    assert report.reached == pytest.approx(2, rel=1e-4)
    # no weight above zero: nothing excites the last unit (x is meant to be at least 0)
    assert report_of(layer, x.abs(), "excitation_backprop", r).lost["dead units"] == pytest.approx(2, rel=1e-12)
    # and nothing inhibits what has negative weights only, where x < 0; alpha = 2 of it, less beta = 1
    both = rules.composite("both", convolution=rules.alpha_beta, dense=rules.alpha_beta)
    assert report_of(layer, -x.abs(), both, r).lost["dead units"] == pytest.approx(1 - 1, abs=1e-12)
    assert report_of(layer, x.abs(), both, r).lost["dead units"] == pytest.approx(1 + 2, rel=1e-12)
    dead_sum = report_of(lambda x: x - x, uniform(2, 3), "epsilon", 1)
    assert (dead_sum.lost["dead units"], dead_sum.reached) == (2, 0)


def test_the_stabilizer_takes_its_part() -> None:
    layer, x, r = linear(bias=False)
    z = layer(x)
    report = report_of(layer, x, rules.epsilon_everywhere(eps=0.5), r)
    assert report.lost["stabilizer"] == pytest.approx((r * (1 - z / s(z, 0.5))).sum().item(), rel=1e-9)
    assert report.reached == pytest.approx((r * z / s(z, 0.5)).sum().item(), rel=1e-9)
    x = uniform(2, 1, 3)
    z = x @ x.mT
    products = report_of(lambda x: (x @ x.mT)[..., 0], x, "epsilon")
    assert products.lost["stabilizer"] == pytest.approx((1 - z / s(z)).sum().item(), rel=1e-6)
    assert_adds_up(products)


def test_softmax_takes_the_rest_of_its_expansion() -> None:
    x, r = uniform(2, 4), uniform(2, 4, seed=5)
    p = x.softmax(1)
    inside = (x * (r - p * r.sum(1, keepdim=True))).sum()
    report = report_of(lambda x: x.softmax(1), x, "epsilon", r)
    assert report.lost["softmax"] == pytest.approx((r.sum() - inside).item(), rel=1e-9)
    # In gradient space the relevance of the output is p * g.
    report = report_of(lambda x: x.softmax(1), x, "attnlrp", r, start="output")
    inside = (x * p * (r - (p * r).sum(1, keepdim=True))).sum()
    assert report.lost["softmax"] == pytest.approx(((p * r).sum() - inside).item(), rel=1e-9)


def test_what_padding_and_masks_fill_in_is_a_constant() -> None:
    w, x, mask = uniform(5, 1, seed=3), uniform(2, 3), torch.tensor([[True, False, False], [False, True, True]])
    filled: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "pad": (lambda x: F.pad(x, (1, 1), value=2.0), F.pad(torch.zeros(2, 3), (1, 1), value=1.0)),
        "masked_fill": (lambda x: x.masked_fill(mask, 2.0), mask.double()),
        "where": (lambda x: torch.where(mask, 2.0, x), mask.double()),
        "cat": (lambda x: torch.cat([torch.full_like(x, 2.0), x], 1), torch.tensor([1.0, 1, 1, 0, 0, 0])),
    }
    for op, (function, constant) in filled.items():
        values = function(x)
        weight = w.new_ones(values.shape[1], 1) * 0.5
        z = values @ weight
        expected = ((values * constant) @ weight / s(z)).sum().item()
        report = report_of(lambda x, function=function, weight=weight: function(x) @ weight, x, "epsilon")
        assert lost(report, op, "constants") == pytest.approx(expected, rel=1e-9), op
        assert_adds_up(report)


def test_gradient_space_counts_the_biases_as_bias_times_gradient() -> None:
    layer, x, _ = linear()
    head: Any = settle(lambda: nn.Linear(5, 2), seed=1)
    model = nn.Sequential(layer, nn.ReLU(), head)
    hidden = layer(x)
    g = head.weight[1] * (hidden > 0)
    report = report_of(model, x, "attnlrp", 1, start="output")
    by_path = {flow.path: flow.lost["bias"] for flow in report.flows}
    assert by_path["0"] == pytest.approx((layer.bias * g).sum().item(), rel=1e-9)
    assert by_path["2"] == pytest.approx(3 * head.bias[1].item(), rel=1e-9)
    assert report.start == pytest.approx(model(x)[:, 1].sum().item(), rel=1e-12)


def test_masked_scores_of_minus_infinity_have_no_relevance() -> None:
    mask = torch.tensor([[False, True, False, False]])
    model: Any = lambda x: x.masked_fill(mask, -torch.inf).softmax(1)  # noqa: E731
    for book in ("epsilon", "attnlrp"):
        report = report_of(model, uniform(2, 4), book)
        assert_adds_up(report)
        assert all(abs(amount) < 100 for flow in report.flows for amount in (flow.arrived, flow.passed))


# The report


def test_rows_run_from_the_output_to_the_root() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    report = report_of(model, uniform(2, 3))
    assert [(flow.path, flow.op, flow.rule) for flow in report.flows] == [
        ("2", "linear", "epsilon"),
        ("1", "relu", "pass_through"),
        ("0", "linear", "epsilon"),
    ]
    for before, after in zip(report.flows, report.flows[1:], strict=False):
        assert before.passed == pytest.approx(after.arrived, rel=1e-12)
    assert (report.start, report.reached) == pytest.approx((report.flows[0].arrived, report.flows[-1].passed))


def test_a_rule_of_ones_own_is_unexplained_and_still_adds_up() -> None:
    def halve(call: funcattr.rules.Call, relevance: Tensor) -> Tensor:
        return relevance / 2

    book = rules.epsilon_everywhere() | Entry("relu", halve)
    report = report_of(nn.Sequential(nn.ReLU(), nn.Flatten()), uniform(2, 3).abs(), book)
    assert lost(report, "relu", "other") == 1
    assert report.start - report.reached == sum(report.lost.values()) == 1


def test_an_input_that_is_being_differentiated_is_followed_like_any_other() -> None:
    model, x = settle(lambda: nn.Linear(3, 2)), uniform(2, 3)
    assert report_of(model, x.clone().requires_grad_()) == report_of(model, x)


def test_it_prints_as_a_table() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)))
    report = report_of(model, uniform(2, 3), "epsilon_plus")
    lines = repr(report).splitlines()
    assert len(lines) == len(report.flows) + 2
    assert lines[0].split() == [
        *("module operation rule in out bias dead units stabilizer softmax constants other").split()
    ]
    assert lines[1].split()[:3] == ["3", "linear", "epsilon"]
    total = lines[-1].split()
    assert total[:3] == ["total", f"{report.start:.4g}", f"{report.reached:.4g}"]
    ends = lines[0].index(" in") + 3  # numbers are flush right
    assert all(line[ends - 1] != " " and line[ends : ends + 1] in (" ", "") for line in lines)
    assert "-0" not in total
