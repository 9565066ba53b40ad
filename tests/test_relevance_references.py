"""The slow references of relevance themselves: by hand, against dense matrices, and that they can fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal
from .relevance_references import (
    REFERENCES,
    Composite,
    UnknownOperationError,
    attnlrp_reference,
    cp_lrp_reference,
    lrp_reference,
)
from .relevance_references import linear_rules as rules

RULES: dict[str, rules.Rule] = {
    "epsilon": rules.epsilon,
    "z_plus": rules.z_plus,
    "alpha2_beta1": rules.alpha_beta(2, 1),
    "gamma": rules.gamma(0.25),
    "z_box": rules.z_box(-2, 2),
    "flat": rules.flat,
    "winning_probability": rules.winning_probability,
}

X = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
W = torch.tensor([[3.0, 1.0], [-1.0, 2.0]], dtype=torch.float64)  # F.linear: z = [1, -5] + bias
B = torch.tensor([1.0, 2.0], dtype=torch.float64)


def lrp(function: Callable[[Tensor], Tensor], x: Tensor, rule: rules.Rule | None = None, target: int = 0) -> Tensor:
    """Of a function of small parts, with one rule for every linear map."""
    return lrp_reference(function, x, target, Composite(rule or rules.epsilon, rule or rules.epsilon))


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # z_0 = 3 * 1 + 1 * -2 + 1 = 2
        ("epsilon", [3 / 2, -2 / 2]),
        # positive contributions: 3, bias 1; negative: -2, bias 0
        ("z_plus", [3 / 4, 0]),
        ("alpha2_beta1", [2 * 3 / 4, -1]),
        # z > 0: 3 * 1.25 * 1 + 1 * -2 + 1.25 * 1 = 3
        ("gamma", [3.75 / 3, -2 / 3]),
        # (x - low) * W+ = 9, 0
        ("z_box", [1, 0]),
        ("flat", [1 / 2, 1 / 2]),
        # x W+ = 3, -2
        ("winning_probability", [3, -2]),
    ],
)
def test_rules_by_hand(rule: str, expected: list[float]) -> None:
    actual = lrp(lambda x: F.linear(x, W, B), X, RULES[rule])
    assert_equal(actual, torch.tensor([expected], dtype=torch.float64), tolerance=1e-5)


def test_gamma_of_a_negative_output_by_hand() -> None:
    # z_1 = -1 * 1 + 2 * -2 + 2 = -3: x+ (W + W- / 4) + x- (W + W+ / 4) + b = -1.25 - 5 + 2 = -4.25
    actual = lrp(lambda x: F.linear(x, W, B), X, RULES["gamma"], target=1)
    assert_equal(actual, torch.tensor([[1.25, 5.0]], dtype=torch.float64) / 4.25, tolerance=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + torch.tensor([4.0, 4.0]), [1 / 5, 0]),
        (lambda x: 4 - x, [-1 / 3, 0]),
        (lambda x: x.sum(1, keepdim=True), [-1, 2]),
        (lambda x: x.mean(1, keepdim=True), [-1, 2]),
        (lambda x: 3 * x, [1, 0]),
        (lambda x: x / x.norm(dim=1, keepdim=True), [1, 0]),
        (lambda x: x * x.flip(1), [1 / 2, 1 / 2]),
        (lambda x: torch.sigmoid(x.flip(1))[:, :1].float().double() * x, [1, 0]),
        (lambda x: x * x[:, 1:].tanh(), [1 / 2, 1 / 2]),
        (lambda x: F.glu(torch.cat([x, x.flip(1)], 1)), [1, 0]),
        (lambda x: x * (x.square().mean(1, keepdim=True) + 1).rsqrt(), [1, 0]),
        (lambda x: 1 / x, [0, 0]),
        (lambda x: x**3, [1, 0]),
        (lambda x: torch.cat([x.amax(1, keepdim=True), x], 1), [1, 0]),
        (lambda x: x.clone().add_(x).relu_(), [1, 0]),
        (lambda x: x @ x.T + 0 * x[:, :1], [1 / 5, 4 / 5]),
    ],
)
def test_other_operations_by_hand(function: Callable[[Tensor], Tensor], expected: list[float]) -> None:
    assert_equal(lrp(function, X), torch.tensor([expected], dtype=torch.float64), tolerance=1e-5)


def test_softmax_by_hand() -> None:
    p, q = X.softmax(1)[0].tolist()
    assert_equal(lrp(lambda x: x.softmax(1), X), torch.tensor([[1 - p, 2 * q]], dtype=torch.float64))
    masked = lrp(lambda x: x.masked_fill(torch.tensor([False, True]), -torch.inf).softmax(1), X)
    assert masked.tolist() == [[0.0, 0.0]]


def test_layer_norm_by_hand() -> None:
    # y = (x - mean(x)) / 1.5 = [1, -1]; y_0 = (x_0 - x_1) / 3: x_0 gives 1/3, x_1 gives 2/3
    actual = lrp(lambda x: F.layer_norm(x, (2,), eps=0.0), X)
    assert_equal(actual, torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64), tolerance=1e-5)


def test_gradient_space_by_hand() -> None:
    def both(function: Callable[[Tensor], Tensor]) -> list[list[float]]:
        return [[round(v, 6) for v in r(function, X, 0)[0].tolist()] for r in (attnlrp_reference, cp_lrp_reference)]

    assert both(lambda x: x**3) == [[1, 0], [1, 0]]
    assert both(lambda x: (x - 1).sigmoid()) == [[0.25, 0], [0.25, 0]]  # the limit f'(0)
    assert both(lambda x: x * x.flip(1)) == [[-1, -1], [-1, -1]]
    assert both(lambda x: x.flip(1) * x.clamp(min=0).relu()) == [[-1, -1], [0, -2]]
    assert both(lambda x: x.flip(1) * x.sigmoid()) == [[0, round(-2 * X[0, 0].sigmoid().item(), 6)]] * 2
    assert both(lambda x: x / x.norm()) == [[round(5**-0.5, 6), 0]] * 2
    p, q = X.softmax(1)[0].tolist()
    assert both(lambda x: x.softmax(1)) == [[round(p * q, 6), round(2 * p * q, 6)], [0, 0]]


# --- against dense matrices ------------------------------------------------------------------------------------------


def dense(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """An affine function of one example as `F.linear` with its matrix."""
    jacobian: Any = torch.autograd.functional.jacobian(lambda t: function(t).flatten(), x)
    matrix = jacobian.flatten(1)
    offset = function(torch.zeros_like(x)).flatten().detach()
    return lambda t: F.linear(t.flatten(1), matrix, offset)


MAPS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1, groups=2), (1, 2, 6)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1, dilation=2), (1, 2, 4, 4)),
    "conv2d_same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (1, 2, 4, 4)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, groups=2), (1, 4, 3, 3)),
    "conv_norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), (1, 2, 4, 4)),
    "linear_norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)), (1, 3)),
    "transpose_norm": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2), nn.BatchNorm2d(4)),
        (1, 2, 3, 3),
    ),
    "norm_conv": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=2)), (1, 4, 3, 3)),
    "norm_linear": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)), (1, 3)),
    "norm_transpose": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3, padding=1, groups=2)),
        (1, 4, 3, 3),
    ),
    "norm": (lambda: nn.BatchNorm2d(2), (1, 2, 2, 2)),
}


@pytest.mark.parametrize("rule", [r for r in RULES if r != "flat"])
@pytest.mark.parametrize("name", MAPS)
def test_linear_maps_equal_their_dense_matrix(name: str, rule: str) -> None:
    make, shape = MAPS[name]
    model, x = settle(make), uniform(*shape)
    chosen = RULES["epsilon" if name == "norm" else rule]  # a norm alone, whatever the composite
    matrix = dense(model, x)
    outputs, total = matrix(x).numel(), torch.zeros(())
    for target in range(outputs):
        actual = lrp(lambda t: model(t).flatten(1), x, RULES[rule], target)
        assert_equal(actual, lrp(matrix, x, chosen, target))
        total = total + actual.abs().sum()
    assert total > 1e-3 * outputs


@pytest.mark.parametrize("name", [name for name in MAPS if name.startswith("conv") and "norm" not in name])
def test_flat_is_epsilon_of_ones(name: str) -> None:
    make, shape = MAPS[name]
    model: Any = settle(make)
    x = uniform(*shape)
    actual = lrp(lambda t: model(t).flatten(1), x, RULES["flat"], 1)
    model.bias = None
    nn.init.ones_(model.weight)
    assert_equal(actual, lrp(lambda t: model(t).flatten(1), torch.ones_like(x), target=1))


def test_products_with_constants_are_linear_maps() -> None:
    expected = lrp(lambda x: F.linear(x, W), X, rules.z_plus)
    for function in (
        lambda x: x @ W.T,
        lambda x: torch.einsum("nd,ed->ne", x, W),
        lambda x: torch.addmm(0 * B, x, W.T),
        lambda x: (W @ x.T).T,
        lambda x: F.conv1d(x[..., None], W[..., None])[..., 0],
    ):
        assert_equal(lrp(function, X, rules.z_plus), expected)
    assert_equal(lrp(lambda x: torch.addmm(B, x, W.T), X), lrp(lambda x: F.linear(x, W, B), X))


# --- that they can fail ----------------------------------------------------------------------------------------------


def test_unknown_operations_raise() -> None:
    for reference in REFERENCES.values():
        with pytest.raises(UnknownOperationError, match=r"no handler for cosh\(\(1, 2\),\)"):
            reference(torch.cosh, X, 0)
        assert reference(lambda x: x * (x.argmax(1) + 1), X, 0).shape == (1, 2)  # of integers nothing is asked


def test_a_convolution_used_beside_its_batch_norm_is_refused() -> None:
    convolution, norm = settle(lambda: nn.Conv1d(2, 2, 1)), settle(lambda: nn.BatchNorm1d(2))

    def both(x: Tensor) -> Tensor:
        y = convolution(x[..., None])
        return (norm(y) + y)[..., 0]

    with pytest.raises(AssertionError, match="used beside the batch norm"):
        lrp(both, X)


def test_parameters_are_constants_and_stay_as_they_are() -> None:
    weight = nn.Parameter(W.clone())
    assert_equal(
        lrp(lambda x: F.linear(x, weight) * weight.sum(), X),
        lrp(lambda x: F.linear(x, W) * W.sum(), X),
    )
    assert weight.requires_grad and weight.grad is None


def test_the_first_linear_map_is_found_by_data_flow() -> None:
    rule = Composite(rules.z_plus, first=rules.flat)
    two = lambda x: F.linear(F.linear(x, W), W)  # noqa: E731
    later = rules.epsilon(rules.LinearMap(F.linear, W, B * 0), F.linear(X, W), torch.eye(2, dtype=X.dtype)[:1])
    assert_equal(lrp_reference(two, X, 0, rule), (later / (2 + 1e-6)).sum().expand(1, 2).clone())
    side_by_side = lrp_reference(lambda x: F.linear(x, W) + F.linear(x.relu(), W), X, 0, rule)
    assert side_by_side[0, 0] == side_by_side[0, 1]
