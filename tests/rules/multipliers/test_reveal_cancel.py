"""RevealCancel: the paper's example, sums over i and j written out, and where the rule does not hold."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import deep_lift, distribution, rules
from funcattr.metrics import completeness
from funcattr.testing.networks import networks
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal
from ...deep_lift_references import stack_reference
from ...zoo import case
from ..slopes import DOUBLE, assert_sums_to_delta, multipliers, pairs

REVEAL = rules.deep_lift_reveal_cancel()
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.GELU)


class Minimum(nn.Module):
    """min(i_1, i_2) = i_1 - relu(i_1 - i_2)"""

    def __init__(self) -> None:
        super().__init__()
        self.difference = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.difference.weight.copy_(torch.tensor([[1.0, -1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] - F.relu(self.difference(x))[:, 0]


def test_the_minimum_of_two_inputs_belongs_to_both() -> None:
    """Section 3.5.3, figure 3: i_1 = 2, i_2 = 1 from 0; the other way round Rescale does not see i_2 at all."""
    model, x = Minimum().double(), torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=DOUBLE)
    assert deep_lift(model, x).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert deep_lift(model, x, rules=REVEAL).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_two_sides_of_a_relu_by_hand() -> None:
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -1.0]]))
        linear.bias.fill_(1.0)
    x = torch.tensor([[1.0, 6.0]])  # z' = 1, dz+ = 3, dz- = -6, z = -2
    # dy+ = (f(4) - f(1) + f(-2) - f(-5)) / 2 = 3 / 2; dy- = (f(-5) - f(1) + f(-2) - f(4)) / 2 = -5 / 2
    assert deep_lift(nn.Sequential(linear, nn.ReLU()), x, 0, rules=REVEAL).tolist() == [[1.5, -2.5]]
    assert deep_lift(nn.Sequential(linear, nn.ReLU()), x, 0).tolist() == [pytest.approx([1.0, -2.0])]


# --- against sums written out ----------------------------------------------------------------------------------------


@st.composite
def stacks(draw: st.DrawFn) -> tuple[nn.Sequential, Tensor]:
    """Linear layers or convolutions, some with a batch norm after them, activations, pools."""
    act = lambda: draw(st.sampled_from(ACTIVATIONS))()  # noqa: E731
    layers: list[nn.Module] = []
    if convolutional := draw(st.booleans()):
        layers += [nn.Conv1d(2, 4, 3, stride=draw(st.integers(1, 2)), padding=1, groups=draw(st.integers(1, 2)))]
        layers += [nn.BatchNorm1d(4)] * draw(st.integers(0, 1)) + [act()]
        layers += [draw(st.sampled_from([nn.MaxPool1d(2, 1), nn.AvgPool1d(2, 1), nn.Identity()]))]
        layers += [nn.Conv1d(4, 3, 2), act(), nn.AdaptiveAvgPool1d(2), nn.Flatten()]
    for _ in range(draw(st.integers(0, 2))):
        layers += [nn.Linear(6, 6)] + [nn.BatchNorm1d(6)] * draw(st.integers(0, 2)) + [act()]
    model: Any = settle(lambda: nn.Sequential(*layers, nn.Linear(6, 3)), seed=draw(st.integers(0, 99)))
    return model, uniform(2, *((2, 6) if convolutional else (6,)), seed=draw(st.integers(0, 99)))


@settings(max_examples=25)
@given(stacks(), st.sampled_from([0.0, 0.3]))
def test_stacks_equal_sums_over_units_and_inputs(drawn: tuple[nn.Sequential, Tensor], baseline: float) -> None:
    model, x = drawn
    for reveal_cancel, book in ((False, rules.deep_lift()), (True, REVEAL)):
        expected = stack_reference(model, x, 1, baseline=baseline, reveal_cancel=reveal_cancel)
        actual = deep_lift(model, x, 1, baseline=baseline, rules=book)
        assert_equal(actual, expected)
        assert completeness(model, x, 1, actual, baseline=baseline).abs().max() <= 1e-12


def test_spellings_of_a_linear_map_and_its_activation() -> None:
    x, w, b = uniform(3, 4), uniform(5, 4, seed=2), uniform(5, seed=3)
    expected = deep_lift(lambda x: F.relu(F.linear(x, w, b)), x, 1, rules=REVEAL)
    assert not torch.allclose(expected, deep_lift(lambda x: F.relu(F.linear(x, w, b)), x, 1))
    for model in (
        lambda x: torch.addmm(b, x, w.T).relu_(),
        lambda x: torch.nn.ReLU(inplace=True)(F.linear(x, w, b)),
        lambda x: F.conv1d(x[..., None], w[..., None], b).clamp(min=0)[..., 0],
        lambda x: F.relu(F.linear(x[:, None], w, b))[:, 0],
        lambda x: F.relu(F.dropout(F.linear(x, w, b), training=False)),
    ):
        assert_equal(deep_lift(model, x, 1, rules=REVEAL), expected)


@pytest.mark.parametrize(
    "model",
    [
        lambda z: F.relu(z) + z.flip(1),  # z is read twice
        lambda z: F.relu(z + 1),
        lambda z: F.relu(z.flip(1)),
        lambda z: z * torch.sigmoid(z.flip(0)),
        lambda z: z.softmax(1),
        lambda z: z.log_softmax(1),
        lambda z: F.layer_norm(z, (4,)),
    ],
)
def test_an_activation_of_something_else_is_rescaled(model: Any) -> None:
    x, w = uniform(3, 4), uniform(4, 4, seed=2)

    def whole(x: Tensor) -> Tensor:
        return model(F.linear(x, w))

    assert_equal(deep_lift(whole, x, 1, rules=REVEAL), deep_lift(whole, x, 1))


@pytest.mark.parametrize(
    ("written", "named"),
    [
        (lambda z: z * torch.sigmoid(z), F.silu),
        (lambda z: z / (1 + torch.exp(-z)), F.silu),
        (lambda z: z / (1 + z.abs()), F.softsign),
        (lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)), F.gelu),
        (lambda z: torch.maximum(z, 0.1 * z), lambda z: F.leaky_relu(z, 0.1)),
        (lambda z: F.relu(z.flatten(1)), F.relu),
        (lambda z: z * (z > 0), F.relu),
    ],
)
def test_an_activation_that_is_written_out_is_revealed_like_the_named_one(written: Any, named: Any) -> None:
    x, w = uniform(3, 4), uniform(4, 4, seed=2)
    maps = [deep_lift(lambda x, f=f: f(F.linear(x, w)), x, 1, rules=REVEAL) for f in (written, named)]
    assert_equal(maps[0], maps[1])


def test_at_says_which_linear_maps() -> None:
    convolution = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh())
    dense = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2))
    model, x = settle(lambda: nn.Sequential(convolution, dense)), uniform(2, 2, 4)
    book = rules.deep_lift_reveal_cancel
    found = {at: deep_lift(model, x, 1, rules=book(at=at)) for at in ("linear_map", "dense", "convolution")}
    found["none"] = deep_lift(model, x, 1)
    assert all(not torch.allclose(found[a], found[b]) for a in found for b in found if a < b)
    listed = {
        at: [row.rule for row in funcattr.rule_table(model, x, rules=book(at=at))] for at in ("dense", "convolution")
    }
    joined, alone = ["with tanh of", "folded into"], ["gradient", "rescale", "gradient"]
    assert [rule[:12].rstrip() for rule in listed["dense"]] == [*alone, *joined, "linear_multi"]
    assert [rule[:12].rstrip() for rule in listed["convolution"]] == [*joined, "gradient", *alone]
    at: Any = "all"
    with pytest.raises(ValueError, match=r"^deep_lift_reveal_cancel\(at='all'\): expected 'linear_map', 'dense' or 'c"):
        book(at=at)


# --- any operands ----------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(["relu", "tanh", "hardtanh", "hardshrink", "relu6", "sigmoid", "gelu"]))
def test_sums_are_exact_at_any_operands(data: st.DataObject, name: str) -> None:
    x, x0 = data.draw(pairs(3, 4))
    w, b = (uniform(*shape, seed=data.draw(st.integers(0, 99))).round(decimals=1) for shape in ((5, 4), (5,)))
    f = getattr(F, name)
    if name == "hardshrink":  # at whose jump dz+ and dz-, rounded, may come out on the other side
        w, b = w + 0.123456, b + 0.0123
    assert_sums_to_delta(lambda x: f(F.linear(x, w, b)), (x,), (x0,), book=REVEAL)


def test_equal_inputs_give_the_plain_gradient() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = uniform(3, 4)
    (m,) = multipliers(model, (x,), (x.clone(),), book=REVEAL)
    assert_equal(m, torch.func.grad(lambda x: model(x).sum())(x), tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_is_near(dtype: torch.dtype) -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 2)))
    x = uniform(3, 4)
    exact = deep_lift(model, x, 1, rules=REVEAL)
    found = deep_lift(model.to(dtype), x.to(dtype), 1, rules=REVEAL)
    assert found.dtype == dtype
    assert_equal(found.double(), exact, tolerance=1e-5 if dtype == torch.float32 else 0.05)


@given(
    net=networks(write_views=False, kinds=("conv", "relu", "linear", "pool", "residual", "reused", "concat", "gate"))
)
def test_drawn_networks_sum_to_delta(net: Any) -> None:
    found = deep_lift(net.model, net.x, 1, baseline=0.2, rules=REVEAL)
    assert completeness(net.model, net.x, 1, found, baseline=0.2).abs().max() <= 1e-11


MODELS = ("cnn", "vgg_bn", "resnet_bottleneck", "densenet", "mobilenet_v3", "vit", "lstm")


@pytest.mark.parametrize("name", MODELS)
def test_models_sum_to_delta(name: str) -> None:
    model, (x,) = case(name).build(), case(name).inputs()
    found = deep_lift(model, x, 1, baseline=0.1, rules=REVEAL)
    assert completeness(model, x, 1, found, baseline=0.1).abs().max() <= 1e-12


def test_a_batch_norm_before_the_linear_map_changes_nothing() -> None:
    """w_ij s_i dx_i is what pushes or pulls, whether or not the scale s is a part of the weight."""
    model: Any = settle(lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    x = uniform(3, 4)
    expected = deep_lift(model[1:], model[0](x), 1, baseline=model[0](torch.zeros_like(x)), rules=REVEAL)
    assert_equal(deep_lift(model, x, 1, rules=REVEAL), expected)


def test_shap_is_the_mean_over_rows() -> None:
    model = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    x, rows = uniform(2, 4), uniform(3, 4, seed=2)
    each = [deep_lift(model, x, 1, baseline=row, rules=REVEAL) for row in rows]
    assert_equal(deep_lift(model, x, 1, baseline=distribution(rows), rules=REVEAL), torch.stack(each).mean(0))
