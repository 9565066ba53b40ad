"""What each rule costs: the convolutions and matrix products of one call of a method, counted layer by layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import funcattr
from funcattr import Rulebook, rules
from funcattr.testing.seeding import settle, uniform

from .zoo.classic import VGG, BasicBlock, ResNet
from .zoo.transformers import VisionTransformer

aten: Any = torch.ops.aten


class Cost(NamedTuple):
    """How often a linear map is computed, and how often its adjoint; the model's own forward pass included."""

    forward: int
    backward: int


class Counter(TorchDispatchMode):
    """Counts the uses of a model's linear layers, by the shapes of their weights.

    A matrix product with a weight [out, in] is the adjoint, one with its transpose the layer itself: out is not in.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.costs = {weight_shape(layer): Cost(0, 0) for layer in linear_layers(model)}
        self.others: list[str] = []
        self.work = 0  # multiplications in matrix products
        self.attention = 0  # calls of a fused kernel, forward and backward

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet is aten.convolution:
            self._count(args[1].shape, Cost(1, 0))
        elif packet is aten.convolution_backward:
            self._count(args[2].shape, Cost(0, 1))
        elif packet in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
            left, right = args[-2:]
            self.work += left.numel() * right.shape[-1]
            transposed = right.mT.shape in self.costs
            self._count(right.mT.shape if transposed else right.shape, Cost(1, 0) if transposed else Cost(0, 1))
        elif "_scaled_dot_product_" in packet.__name__:
            self.attention += 1
        return func(*args, **(kwargs or {}))

    def _count(self, shape: torch.Size, cost: Cost) -> None:
        if shape in self.costs:
            before = self.costs[shape]
            self.costs[shape] = Cost(before.forward + cost.forward, before.backward + cost.backward)
        else:
            self.others.append(f"{list(shape)}")


def linear_layers(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)
    return [module for module in model.modules() if isinstance(module, kinds)]


def weight_shape(layer: nn.Module) -> torch.Size:
    return layer.get_parameter("weight").shape


def counted(model: nn.Module, run: Callable[[], Any]) -> Counter:
    """What `run` computes with the layers of `model`."""
    with Counter(model) as counter:
        run()
    return counter


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """The gradient by autograd, attention in matrix products."""
    leaf = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        return torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0]


# --- the counter -----------------------------------------------------------------------------------------------------


def test_the_counter_sees_each_use_of_a_layer() -> None:
    conv, linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
    model = nn.Sequential(conv, linear).requires_grad_(False)
    x = torch.randn(2, 3, 3, 3, requires_grad=True)

    def run() -> None:
        h = conv(x) + conv(x)
        y = linear(h.flatten(1)) + F.linear(h.flatten(1), linear.weight.clamp(min=0))
        torch.autograd.grad(y.sum(), h, retain_graph=True)
        torch.autograd.grad(y.sum(), x)

    counter = counted(model, run)
    assert counter.costs == {conv.weight.shape: Cost(2, 2), linear.weight.shape: Cost(2, 4)}
    assert counter.others == []
    assert counter.work == 6 * 2 * 4 * 5


def test_the_counter_tells_of_what_is_no_layer() -> None:
    model = nn.Linear(4, 5)
    counter = counted(
        model, lambda: (F.conv1d(torch.ones(1, 2, 4), torch.ones(3, 2, 2)), torch.ones(2, 4) @ torch.ones(4, 4))
    )
    assert counter.others == ["[3, 2, 2]", "[4, 4]"]
    assert counter.costs == {model.weight.shape: Cost(0, 0)}


# --- one layer -------------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A rule, and what it costs where data flow tells that x >= 0 and where it does not."""

    rule: Any
    nonnegative: Cost
    signed: Cost


CASES = {
    "epsilon": Case(rules.epsilon, Cost(1, 1), Cost(1, 1)),
    "z_plus": Case(rules.z_plus, Cost(2, 1), Cost(3, 2)),
    "alpha_beta": Case(rules.alpha_beta, Cost(3, 2), Cost(5, 4)),
    "alpha_beta(1, 0)": Case(rules.alpha_beta(alpha=1, beta=0), Cost(2, 1), Cost(3, 2)),
    "gamma": Case(rules.gamma, Cost(2, 2), Cost(3, 4)),
    "z_box": Case(rules.z_box(low=-2.0, high=2.0), Cost(3, 3), Cost(3, 3)),
    "w_square": Case(rules.w_square, Cost(2, 1), Cost(2, 1)),
    "flat": Case(rules.flat, Cost(2, 1), Cost(2, 1)),
    "winning_probability": Case(rules.winning_probability, Cost(2, 1), Cost(2, 1)),
}
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (2, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 8)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 2, groups=2), (2, 4, 4, 4, 4)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("signed", [False, True], ids=["nonnegative", "signed"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_rule_costs(layer: str, name: str, signed: bool) -> None:
    make, shape = LAYERS[layer]
    module, case, x = settle(make), CASES[name], uniform(*shape)
    book = funcattr.Rulebook({"linear_map": case.rule, "relu": rules.pass_through})

    def run() -> None:
        output, pullback = funcattr.vjp(lambda x: module(x if signed else F.relu(x)), x, rules=book)
        pullback(torch.ones_like(output))

    counter = counted(module, run)
    assert counter.costs == {weight_shape(module): case.signed if signed else case.nonnegative}
    assert counter.others == []


# --- a net -----------------------------------------------------------------------------------------------------------


class Prices(NamedTuple):
    """A rulebook with the cost of the first linear map, of other convolutions and of dense layers.

    Attributes:
        before_sum: Of convolutions whose result is no relu's, so that relevance arrives at values below zero too; None:
            as the others.
    """

    rules: Rulebook
    first: Cost
    convolution: Cost
    dense: Cost
    before_sum: Cost | None = None


# All layers but the first read a relu, or pooling of one.
PRICES = (
    Prices(rules.epsilon_everywhere(), Cost(1, 1), Cost(1, 1), Cost(1, 1)),
    Prices(rules.epsilon_plus(), Cost(3, 2), Cost(2, 1), Cost(1, 1)),
    Prices(rules.epsilon_plus_flat(), Cost(2, 1), Cost(2, 1), Cost(1, 1)),
    Prices(rules.epsilon_alpha2_beta1(), Cost(5, 4), Cost(3, 2), Cost(1, 1)),
    Prices(rules.epsilon_alpha2_beta1_flat(), Cost(2, 1), Cost(3, 2), Cost(1, 1)),
    Prices(rules.epsilon_gamma_box(low=-2.0, high=2.0), Cost(3, 3), Cost(2, 1), Cost(1, 1), before_sum=Cost(2, 2)),
    Prices(rules.excitation_backprop(), Cost(2, 1), Cost(2, 1), Cost(2, 1)),
    Prices(rules.attnlrp(), Cost(1, 1), Cost(1, 1), Cost(1, 1)),
    Prices(rules.cp_lrp(), Cost(1, 1), Cost(1, 1), Cost(1, 1)),
)


def vgg(norm: bool) -> nn.Module:
    net = VGG((5, "M", 6, 7, "M", 8), norm=norm)
    net.classifier = nn.Sequential(nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 9), nn.ReLU(), nn.Linear(9, 3))
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "vgg": lambda: vgg(norm=False),
    "vgg_bn": lambda: vgg(norm=True),
    "resnet": lambda: ResNet(BasicBlock, (1, 1, 1, 2), classes=3),
}


def expected(model: nn.Module, prices: Prices) -> dict[torch.Size, Cost]:
    """The sum of the prices of all layers with that shape of weight."""
    first, *others = linear_layers(model)
    found = {weight_shape(first): prices.first}
    blocks = [block for block in model.modules() if isinstance(block, BasicBlock)]
    summed = [layer for block in blocks for layer in (block.conv2, *linear_layers(block.downsample or nn.Identity()))]
    for layer in others:
        price = prices.dense if isinstance(layer, nn.Linear) else prices.convolution
        price = prices.before_sum or price if any(layer is other for other in summed) else price
        before = found.get(weight_shape(layer), Cost(0, 0))
        found[weight_shape(layer)] = Cost(before.forward + price.forward, before.backward + price.backward)
    return found


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("prices", PRICES, ids=lambda prices: prices.rules.name)
def test_a_net_costs_what_its_layers_do(net: str, prices: Prices) -> None:
    model, x = settle(NETS[net]), uniform(2, 3, 32, 32)
    counter = counted(model, lambda: funcattr.lrp(model, x, 1, rules=prices.rules, start="one"))
    assert counter.costs == expected(model, prices)
    assert counter.others == []


@pytest.mark.parametrize("net", NETS)
def test_the_plain_gradient_costs_one_of_each(net: str) -> None:
    model, x = settle(NETS[net]).requires_grad_(False), uniform(2, 3, 32, 32)
    once = Prices(rules.epsilon_everywhere(), Cost(1, 1), Cost(1, 1), Cost(1, 1))
    for run in (plain, lambda model, x: funcattr.gradient(model, x, 1)):
        counter = counted(model, lambda run=run: run(model, x))
        assert counter.costs == expected(model, once)


def test_a_batch_norm_costs_nothing_after_a_convolution_and_its_field_before_one() -> None:
    conv, after = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
    norm = nn.BatchNorm2d(6)
    x = uniform(2, 4, 6, 6)
    for layers, cost in (([conv, norm, nn.ReLU(), after], 1), ([conv, nn.ReLU(), norm, after], 2)):
        model = settle(lambda layers=layers: nn.Sequential(*layers, nn.Flatten()))
        counter = counted(model, lambda model=model: funcattr.lrp(model, x, 1, rules="epsilon", start="one"))
        assert counter.costs == {conv.weight.shape: Cost(1, 1), after.weight.shape: Cost(cost, 1)}


def test_attnlrp_of_a_vision_transformer_costs_the_plain_gradient() -> None:
    """Attention is the fused kernel's one call and its adjoint, and no product is computed twice."""
    model = settle(lambda: VisionTransformer(depth=2, heads=2, dim=8)).requires_grad_(False)
    x = uniform(2, 3, 16, 16)
    gradient = counted(model, lambda: funcattr.gradient(model, x, 1))
    relevance = counted(model, lambda: funcattr.attnlrp(model, x, 1))
    assert relevance.work == gradient.work > 0
    assert relevance.attention == gradient.attention == 4
    stem, out = weight_shape(model.get_submodule("conv_proj")), weight_shape(model.get_submodule("heads.head"))
    for counter in (gradient, relevance):
        assert (counter.costs[stem], counter.costs[out]) == (Cost(1, 1), Cost(1, 1))
