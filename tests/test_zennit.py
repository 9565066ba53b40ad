"""`lrp` against zennit 0.5.1's composites on VGG11-BN- and ResNet18-shaped nets; where they part, see
`test_zennit_differences.py`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.testing.seeding import settle, uniform

from . import zennit_peer as zennit
from .contract import assert_equal
from .zoo.classic import CNN, VGG, BasicBlock, Bottleneck, ResNet

if not zennit.is_installed():
    pytest.skip(zennit.WHY_NOT, allow_module_level=True)

# The published layers, at a quarter of their widths.
VGG11 = (16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M")
NETS: dict[str, Callable[[], nn.Module]] = {
    "vgg11_bn": lambda: VGG(VGG11, norm=True, pooled=7, hidden=64, classes=10),
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2), width=16, classes=10),
}
LOW, HIGH = (-2.0, -2.5, -3.0), (2.5, 2.0, 3.0)
BOX = {"low": torch.tensor(LOW)[None, :, None, None].double(), "high": torch.tensor(HIGH)[None, :, None, None].double()}
TARGET = 1


def _everywhere_epsilon(canonizers: list[Any]) -> Any:
    """zennit has no composite of that name; its table of the rest, and its rule."""
    composites, epsilon = zennit.part("composites"), zennit.part("rules").Epsilon()
    linear = zennit.part("types").Linear
    return composites.LayerMapComposite([*composites.layer_map_base(), (linear, epsilon)], canonizers=canonizers)


def _named(name: str, **options: Any) -> Callable[[list[Any]], Any]:
    return lambda canonizers: getattr(zennit.part("composites"), name)(canonizers=canonizers, **options)


COMPOSITES: dict[str, tuple[Rulebook, Callable[[list[Any]], Any]]] = {
    "epsilon": (rules.epsilon_everywhere(), _everywhere_epsilon),
    "epsilon_plus": (rules.epsilon_plus(), _named("EpsilonPlus")),
    "epsilon_plus_flat": (rules.epsilon_plus_flat(), _named("EpsilonPlusFlat")),
    "epsilon_alpha2_beta1": (rules.epsilon_alpha2_beta1(), _named("EpsilonAlpha2Beta1")),
    "epsilon_alpha2_beta1_flat": (rules.epsilon_alpha2_beta1_flat(), _named("EpsilonAlpha2Beta1Flat")),
    "epsilon_gamma_box": (rules.epsilon_gamma_box(low=LOW, high=HIGH), _named("EpsilonGammaBox", **BOX)),
}

each_net = pytest.mark.parametrize("net", NETS)
each_composite = pytest.mark.parametrize("composite", COMPOSITES)
# Where z changes sign, epsilon has poles; 12 layers of them amplify the eps of batch norms to 2e-4.
each_published = pytest.mark.parametrize("composite", [name for name in COMPOSITES if name != "epsilon"])


def image() -> Tensor:
    return uniform(2, 3, 64, 64)


def built(net: str) -> nn.Module:
    return settle(NETS[net])


@cache
def by_lrp(net: str, composite: str) -> Tensor:
    """Relevance of the image by funcattr. [2, 3, 64, 64]"""
    return funcattr.lrp(built(net), image(), TARGET, rules=COMPOSITES[composite][0], start="one")


def by_zennit(net: str, composite: str, *, exact: bool) -> Tensor:
    """Relevance of the image by zennit. [2, 3, 64, 64]"""
    return zennit.relevance(built(net), image(), TARGET, COMPOSITES[composite][1](zennit.canonizers(exact=exact)))


# --- the same results ------------------------------------------------------------------------------------------------


@each_published
@each_net
def test_lrp_is_zennits_composite(net: str, composite: str) -> None:
    found, theirs = by_lrp(net, composite), by_zennit(net, composite, exact=False)
    assert theirs.abs().max() > 1e-4  # of a relevance of 1 in all
    assert (found - theirs).abs().max() < 1e-4 * theirs.abs().max()


@each_composite
@each_net
def test_what_remains_is_the_eps_of_merged_batch_norms(net: str, composite: str) -> None:
    """zennit sets a merged batch norm's variance to 1 and keeps its eps, so it divides by sqrt(1 + eps) once more."""
    found, theirs = by_lrp(net, composite), by_zennit(net, composite, exact=True)
    assert (found - theirs).abs().max() < 1e-11 * theirs.abs().max()


@each_net
def test_equality_would_notice_another_composite(net: str) -> None:
    maps = [by_lrp(net, composite) for composite in COMPOSITES]
    for i, one in enumerate(maps):
        assert all((one - other).abs().max() > 1e-2 * other.abs().max() for other in maps[:i])


@each_net
def test_under_zennits_canonizers_the_model_computes_something_else(net: str) -> None:
    model, x = built(net), image()
    before = model(x)
    with torch.no_grad(), _named("EpsilonPlus")(zennit.canonizers()).context(model) as merged:
        error = (merged(x) - before).abs().max() / before.abs().max()
    assert 1e-6 < error < 1e-3
    with torch.no_grad(), _named("EpsilonPlus")(zennit.canonizers(exact=True)).context(model) as merged:
        assert_equal(merged(x), before, tolerance=1e-12)
    assert torch.equal(model(x), before)


@each_composite
def test_zero_over_zero(composite: str) -> None:
    """Most of the image is 0 and there are no biases, so that both convolutions and the pooling have outputs of 0."""
    model, x = _chain(bias=False), uniform(2, 3, 14, 14)
    x[:, :, :, 4:] = 0
    book, theirs = COMPOSITES[composite]
    assert all((model[:depth](x) == 0).any() for depth in (1, 3, 4))
    assert_equal(
        funcattr.lrp(model, x, TARGET, rules=book, start="one"), zennit.relevance(model, x, TARGET, theirs([]))
    )


def test_relu_as_a_function_makes_no_difference() -> None:
    """What follows a relu here gives no relevance to a unit that is 0, so its gradient is pass."""
    model, x = settle(CNN), uniform(2, 3, 16, 16)
    theirs = zennit.relevance(model, x, TARGET, _named("EpsilonPlus")([]))
    assert_equal(funcattr.lrp(model, x, TARGET, rules="epsilon_plus", start="one"), theirs, tolerance=1e-12)


def test_bottlenecks_too() -> None:
    model = settle(lambda: ResNet(Bottleneck, (1, 1, 1, 2), width=4, classes=10))
    found = funcattr.lrp(model, image(), TARGET, rules="epsilon_plus", start="one")
    theirs = zennit.relevance(model, image(), TARGET, _named("EpsilonPlus")(zennit.canonizers(exact=True)))
    assert_equal(found, theirs, tolerance=1e-12)


# --- excitation backpropagation --------------------------------------------------------------------------------------


def _chain(bias: bool) -> Any:
    layers = [nn.Conv2d(3, 6, 3, bias=bias), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3, bias=bias), nn.ReLU()]
    return settle(lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 5, bias=bias)))


def test_excitation_backprop_is_zennits_on_images_at_least_0_without_biases() -> None:
    model, x = _chain(bias=False), uniform(2, 3, 14, 14).abs()
    theirs = zennit.relevance(model, x, TARGET, _named("ExcitationBackprop", stabilizer=1e-20)([]))
    assert_equal(funcattr.excitation_backprop(model, x, TARGET), theirs, tolerance=1e-12)


def test_excitation_backprop_loses_nothing_to_biases_where_zennits_does() -> None:
    """The paper's rule has no bias in it; zennit uses z+ with b+, and a stabiliser of 1e-6."""
    model, x = _chain(bias=True), uniform(2, 3, 14, 14).abs()
    theirs = zennit.relevance(model, x, TARGET, _named("ExcitationBackprop")([]))
    found = funcattr.excitation_backprop(model, x, TARGET)
    assert (found.sum((1, 2, 3)) - 1).abs().max() < 1e-12
    assert (theirs.sum((1, 2, 3)) - 1).abs().min() > 0.02
