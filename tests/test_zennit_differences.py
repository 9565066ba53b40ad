"""Where `lrp` and zennit 0.5.1 part: the published rule, by data flow, against modules in the order of registration.

Each row of `DIFFERENCES` is one function as two nets. On the second, written as zennit needs it, zennit gives what the
rule says, and so does `lrp` on both; on the first, zennit gives something else without a word.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import rules
from funcattr.testing.seeding import settle, uniform

from . import zennit_peer as zennit
from .contract import assert_equal

if not zennit.is_installed():
    pytest.skip(zennit.WHY_NOT, allow_module_level=True)

TARGET = 1
COMPOSITES = {
    "EpsilonPlus": (rules.epsilon_plus(), {}),
    "EpsilonPlusFlat": (rules.epsilon_plus_flat(), {}),
    "EpsilonGammaBox": (rules.epsilon_gamma_box(low=-2.0, high=2.0), {"low": -2.0, "high": 2.0}),
}


def image() -> Tensor:
    return uniform(2, 4, 6, 6)


def by_zennit(model: nn.Module, composite: str = "EpsilonPlus") -> Tensor:
    """Relevance of the image. [2, 4, 6, 6]"""
    options = {"canonizers": zennit.canonizers(exact=True), **COMPOSITES[composite][1]}
    return zennit.relevance(model, image(), TARGET, getattr(zennit.part("composites"), composite)(**options))


class Net(nn.Module):
    """`run(net, x)` on layers that are registered in the order given."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], layers: dict[str, nn.Module]) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Total(nn.Module):
    """a + b, by the layer that zennit has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = zennit.part("layer").Sum()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.sum(torch.stack([a, b], -1))


def settled(*modules: nn.Module) -> list[Any]:
    """The modules, in float64 and with seeded values."""
    settle(lambda: nn.ModuleList(modules))
    return list(modules)


def layers(**more: nn.Module) -> dict[str, nn.Module]:
    """Two convolutions that keep the size of the image, a head, and `more`; the same values each time."""
    one, two, fc = settled(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5))
    return {"one": one, "two": two, "fc": fc, "pool": nn.AdaptiveAvgPool2d(1), "act": nn.ReLU(), **more}


def head(net: Any, h: Tensor) -> Tensor:
    return net.fc(net.pool(h).flatten(1))


def plain(net: Any, x: Tensor) -> Tensor:
    return head(net, net.act(net.two(net.act(net.one(x)))))


class Difference(NamedTuple):
    """What zennit does, a net where it does, the same function as zennit needs it, and a composite that shows it."""

    zennit: str
    net: nn.Module
    rewritten: nn.Module
    composite: str = "EpsilonPlus"


def function_activation() -> Difference:
    net = Net(lambda net, x: head(net, net.two(F.silu(net.one(x)))), layers())
    rewritten = Net(lambda net, x: head(net, net.two(net.silu(net.one(x)))), layers(silu=nn.SiLU()))
    return Difference("an activation that is no module gets its gradient", net, rewritten)


def function_pool() -> Difference:
    net = Net(lambda net, x: net.fc(net.act(net.two(net.act(net.one(x)))).mean((2, 3))), layers())
    return Difference("an average that is no module gets its gradient", net, Net(plain, layers()))


def function_convolution() -> Difference:
    def run(net: Any, x: Tensor) -> Tensor:
        return head(net, net.act(F.conv2d(net.act(net.one(x)), net.two.weight, net.two.bias, padding=1)))

    return Difference("a linear map that is no module gets its gradient", Net(run, layers()), Net(plain, layers()))


def residual() -> Difference:
    def plus(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.one(x))
        return head(net, net.act(net.two(h) + h))

    def total(net: Any, x: Tensor) -> Tensor:
        h = net.act(net.one(x))
        return head(net, net.act(net.total(net.two(h), h)))

    rewritten = Net(total, layers(total=Total()))
    return Difference("both sides of + get all of the relevance", Net(plus, layers()), rewritten)


def reused() -> Difference:
    def twice(net: Any, x: Tensor) -> Tensor:
        return head(net, net.act(net.two(net.act(net.two(net.act(net.one(x)))))))

    def copied(net: Any, x: Tensor) -> Tensor:
        return head(net, net.act(net.three(net.act(net.two(net.act(net.one(x)))))))

    rewritten = Net(copied, layers(three=layers()["two"]))
    return Difference("each call of a module gets the input of its last call", Net(twice, layers()), rewritten)


def registered_first() -> Difference:
    last = dict(reversed(layers().items()))
    return Difference(
        "the layer registered first is the first", Net(plain, last), Net(plain, layers()), "EpsilonPlusFlat"
    )


def two_stems() -> Difference:
    one, two, *_ = layers().values()
    wide, fc = settled(nn.Conv2d(4, 8, 3, padding=1), nn.Linear(8, 5))
    with torch.no_grad():
        for name, value in wide.named_parameters():
            value.copy_(torch.cat([one.get_parameter(name), two.get_parameter(name)]))
    net = Net(lambda net, x: head(net, net.act(torch.cat([net.one(x), net.two(x)], 1))), layers(fc=fc))
    rewritten = Net(lambda net, x: head(net, net.act(net.wide(x))), {"wide": wide, **layers(fc=fc)})
    return Difference("of the layers that read the input only one is first", net, rewritten, "EpsilonGammaBox")


def dense_first() -> Difference:
    stem, fc = settled(nn.Conv2d(4, 6, 6), nn.Linear(6, 5))
    dense = nn.Linear(4 * 36, 6).double()
    dense.load_state_dict({"weight": stem.weight.flatten(1), "bias": stem.bias})
    net = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), fc)
    rewritten = nn.Sequential(stem, nn.ReLU(), nn.Flatten(), fc)
    return Difference("the z-box of a first dense layer is left out", net, rewritten, "EpsilonGammaBox")


def folded(norm: Any, conv: Any) -> nn.Module:
    """conv(norm(x)) as one convolution, by hand."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    one = nn.Conv2d(4, 3, 3).double()
    bias = conv.bias + (conv.weight * shift[:, None, None]).sum((1, 2, 3))
    one.load_state_dict({"weight": conv.weight * scale[:, None, None], "bias": bias})
    return one


def norm_before() -> Difference:
    stem, norm, conv, fc = norm_net()
    net = nn.Sequential(stem, nn.ReLU(), norm, conv, nn.ReLU(), nn.Flatten(), fc)
    rewritten = nn.Sequential(stem, nn.ReLU(), folded(norm, conv), nn.ReLU(), nn.Flatten(), fc)
    return Difference("a batch norm before a linear map is passed, its shift for nothing", net, rewritten)


def norm_beyond_relu() -> Difference:
    stem, norm, conv, fc = norm_net()

    def run(net: Any, x: Tensor) -> Tensor:
        return net.fc(F.relu(net.conv(net.norm(F.relu(net.stem(x))))).flatten(1))

    net = Net(run, {"stem": stem, "norm": norm, "conv": conv, "fc": fc})
    rewritten = nn.Sequential(stem, nn.ReLU(), folded(norm, conv), nn.ReLU(), nn.Flatten(), fc)
    return Difference("a batch norm is merged into what is registered before it, past a relu", net, rewritten)


def norm_net() -> list[Any]:
    """A convolution, a batch norm, a convolution and a linear layer."""
    return settled(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3), nn.Linear(12, 5))


DIFFERENCES: tuple[Callable[[], Difference], ...] = (
    function_activation,
    function_pool,
    function_convolution,
    residual,
    reused,
    registered_first,
    two_stems,
    dense_first,
    norm_before,
    norm_beyond_relu,
)


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda made: made.__name__)
def test_zennit_depends_on_how_the_net_is_written(difference: Callable[[], Difference]) -> None:
    _, net, rewritten, composite = difference()
    assert_equal(net(image()), rewritten(image()), tolerance=1e-12)
    by_rule = by_zennit(rewritten, composite)
    for form in (net, rewritten):
        assert_equal(
            funcattr.lrp(form, image(), TARGET, rules=COMPOSITES[composite][0], start="one"), by_rule, tolerance=1e-12
        )
    assert (by_zennit(net, composite) - by_rule).abs().max() > 0.05 * by_rule.abs().max()


# --- what has no row -------------------------------------------------------------------------------------------------


def test_merging_past_a_relu_changes_what_the_model_computes() -> None:
    model = norm_beyond_relu().net
    before = model(image())
    composite = zennit.part("composites").EpsilonPlus(canonizers=zennit.canonizers(exact=True))
    with torch.no_grad(), composite.context(model) as merged:
        assert (merged(image()) - before).abs().max() > 0.05 * before.abs().max()
    funcattr.lrp(model, image(), TARGET, start="one")
    assert torch.equal(model(image()), before)


def test_relevance_of_a_layer_norm_is_not_zennits_gradient() -> None:
    """A normalisation's gradient sums to 0 over what it centres, whatever the relevance."""
    model = settle(lambda: nn.Sequential(nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 5, bias=False)))
    x = uniform(2, 6)
    theirs = zennit.relevance(model, x, TARGET, zennit.part("composites").EpsilonPlus())
    assert theirs.sum(1).abs().max() < 1e-12 < theirs.abs().max()
    assert (funcattr.lrp(model, x, TARGET, start="one").sum(1) - 1).abs().max() < 1e-5


def grouped() -> tuple[nn.Module, nn.Module]:
    """A grouped transposed convolution with its batch norm, and the same with zeros for the groups."""
    stem, norm, fc = settled(nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), nn.Linear(384, 5))
    whole = nn.ConvTranspose2d(4, 6, 3, bias=False).double()
    weight = torch.zeros_like(whole.weight)
    weight[:2, :3], weight[2:, 3:] = stem.weight[:2], stem.weight[2:]
    whole.load_state_dict({"weight": weight})
    ending = [norm, nn.ReLU(), nn.Flatten(), fc]
    return nn.Sequential(stem, *ending), nn.Sequential(whole, *ending)


def without_affine() -> tuple[nn.Module, nn.Module]:
    """A convolution with a batch norm that has no weight and bias, and the same with ones and zeros."""
    conv, bare, fc = settled(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False), nn.Linear(96, 5))
    norm = nn.BatchNorm2d(6).double().eval()
    norm.load_state_dict({**bare.state_dict(), "weight": torch.ones(6), "bias": torch.zeros(6)})
    ending = [nn.ReLU(), nn.Flatten(), fc]
    return nn.Sequential(conv, bare, *ending), nn.Sequential(conv, norm, *ending)


@pytest.mark.parametrize(
    ("nets", "error", "message"),
    [
        (grouped, RuntimeError, r"size of tensor a \(3\) must match the size of tensor b \(6\)"),
        (without_affine, AttributeError, "'NoneType' object has no attribute 'data'"),
    ],
)
def test_batch_norms_that_zennit_cannot_merge(
    nets: Callable[[], tuple[nn.Module, nn.Module]], error: type[Exception], message: str
) -> None:
    net, rewritten = nets()
    assert_equal(net(image()), rewritten(image()), tolerance=1e-12)
    assert_equal(funcattr.lrp(net, image(), TARGET, start="one"), by_zennit(rewritten), tolerance=1e-12)
    with pytest.raises(error, match=message):
        by_zennit(net)


def test_a_failed_merge_leaves_a_parameter_on_the_model() -> None:
    net, _ = grouped()
    names = set(net.state_dict())
    funcattr.lrp(net, image(), TARGET, start="one")
    assert set(net.state_dict()) == names
    with pytest.raises(RuntimeError, match="must match"):
        by_zennit(net)
    assert set(net.state_dict()) == {*names, "0.bias"}


def test_alpha_minus_beta_is_1_up_to_rounding() -> None:
    assert rules.alpha_beta(alpha=2.2, beta=1.2).options["alpha"] == 2.2
    with pytest.raises(ValueError, match="must equal 1"):
        zennit.part("rules").AlphaBeta(alpha=2.2, beta=1.2)
