"""Excitation backprop against its paper: a probability that is conserved, and the contrast of two walks by hand."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import contrastive_excitation_backprop as contrastive
from funcattr import excitation_backprop as ebp
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal


class Residual(nn.Module):
    """relu(relu(conv(x)) + x), with the branch's relu as a site. [N, C, *S] -> [N, C, *S]"""

    def __init__(self, channels: int, *, detached: bool = False) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.detached = detached

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + (x.detach() if self.detached else x)


class Branches(nn.Module):
    """Two convolutions side by side, joined. [N, C, *S] -> [N, C, *S]"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.wide = (nn.Conv2d(channels, channels // 2, k, padding="same") for k in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.narrow(x)), self.wide(x).relu_()], 1)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
    "grouped": lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.ReLU()),
    "residual": lambda: Residual(4),
    "max": lambda: nn.MaxPool2d(3, 1, 1),
    "avg": lambda: nn.AvgPool2d(3, 1, 1),
    "avg, padding not counted": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "branches": lambda: Branches(4),
}


def build(blocks: list[str], seed: int) -> nn.Module:
    """A net whose sites "0" and after are at least 0, and whose biases are at most 0."""
    body = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), *(BLOCKS[name]() for name in blocks)]
    model = settle(lambda: nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)), seed=seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.copy_(-value.abs() / 10)
            if name == f"{len(blocks) + 3}.weight":
                value.abs_()  # a class that nothing excites is a dead unit
    return model


# The marginal winning probability


@given(st.lists(st.sampled_from(list(BLOCKS)), max_size=4), st.integers(0, 99), st.data())
def test_probabilities_sum_to_one(blocks: list[str], seed: int, data: st.DataObject) -> None:
    # A unit above 0 with no bias above 0 has some excitation, so that none is dead: all the mass arrives.
    model, x = build(blocks, seed), uniform(2, 3, 4, 4, seed=seed)
    layer = str(data.draw(st.integers(0, len(blocks))))
    target = data.draw(st.integers(0, 2))
    if not all(example.any() for example in funcattr.read(model, str(len(blocks)))(x)[1][str(len(blocks))]):
        return  # the whole map of some example is 0
    p: Any = ebp(model, x, target, layer=layer)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum((1, 2, 3)), torch.ones(2).double(), rtol=0, atol=1e-9)


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0]])
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 1.0], [-1.0, 2.0]]))
        layer.bias.copy_(torch.tensor([7.0, -9.0]))
    head = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), head)
    # The bias takes no part: of 3 * 1 + 1 * 2, and of 2 * 2 alone.
    assert_equal(ebp(layer, x, 0), torch.tensor([[3 / 5, 2 / 5]]), tolerance=1e-6)
    assert_equal(ebp(layer, x, 1), torch.tensor([[0.0, 1.0]]), tolerance=1e-6)
    # h = relu([12, -6]) = [12, 0]: the walk goes by the first hidden unit, if its weight excites the class
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.5, 4.0], [-1.0, 4.0]]))
    assert_equal(ebp(model, x, 0), torch.tensor([[3 / 5, 2 / 5]]), tolerance=1e-6)
    with pytest.warns(UserWarning, match="excitation_backprop: 0 % of the relevance"):
        assert_equal(ebp(model, x, 1), torch.tensor([[0.0, 0.0]]), tolerance=1e-6)


def test_a_dead_unit_loses_its_mass_and_the_report_counts_it() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = -1, 5  # alive by its bias, but nothing excites it
        model[2].weight.abs_()
    x = uniform(3, 4).abs() / 2
    report = funcattr.conservation(model, x, 1, rules="excitation_backprop", start="one")
    p: Any = ebp(model, x, 1)
    assert report.lost["dead units"] > 0.1
    assert report.lost["dead units"] == pytest.approx(3 - p.sum().item(), abs=1e-9)


def test_a_sum_splits_in_proportion_to_its_operands() -> None:
    a, b = torch.tensor([[3.0, 0.0, 2.0]]), torch.tensor([[1.0, 0.0, 6.0]])
    model: Any = lambda a, b: a + b  # noqa: E731
    for target, (of_a, of_b) in enumerate([(3 / 4, 1 / 4), (0, 0), (1 / 4, 3 / 4)]):  # 0 / 0 gives 0
        nothing_arrives = pytest.warns(UserWarning, match="excitation_backprop: 0 % of the relevance")
        with nothing_arrives if of_a == of_b == 0 else contextlib.nullcontext():
            pa, pb = ebp(model, (a, b), target)
        assert (pa[0, target].item(), pb[0, target].item()) == pytest.approx((of_a, of_b), abs=1e-6)
        assert (pa.sum() + pb.sum()).item() == pytest.approx(of_a + of_b, abs=1e-6)


def test_batch_norm_passes_on_and_average_pooling_splits_in_proportion() -> None:
    norm: Any = settle(lambda: nn.Sequential(nn.BatchNorm1d(3)))
    assert_equal(ebp(norm, uniform(2, 3), 1), torch.tensor([[0, 1, 0]] * 2).double())
    x = torch.tensor([[[1.0, 3.0, 0.0, 4.0]]])
    pooled = ebp(lambda x: F.avg_pool1d(x, 2).flatten(1), x, 0)
    assert_equal(pooled, torch.tensor([[[1 / 4, 3 / 4, 0, 0]]]), tolerance=1e-6)


# The contrast, by two walks in plain torch


vjp: Any = torch.func.vjp


def winning(module: nn.Module, x: Tensor, p: Tensor, sign: float = 1.0) -> Tensor:
    """One module's P at its input from P at its output."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        weight = (sign * module.weight).clamp(min=0)
        padding = module.padding if isinstance(module, nn.Conv2d) else 0
        z, pull = vjp(lambda x: F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, None, 1, padding), x)
    elif isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        z, pull = vjp(module, x)
    else:
        return vjp(module, x)[1](p)[0]
    return x * pull(p / (z + 1e-20))[0]


def walked(modules: nn.Sequential, values: list[Tensor], p: Tensor, start: int, end: int, sign: float = 1.0) -> Tensor:
    """P at the output of module `end`, from P at the output of module `start`."""
    for i in range(start, end, -1):
        p = winning(modules[i], values[i], p, sign if i == len(modules) - 1 else 1.0)
    return p


def two_walks(modules: nn.Sequential, x: Tensor, target: list[int], layer: int, contrast: int) -> Tensor:
    """max(0, sum_c P), P from A+ - A- at the contrast layer."""
    values = [x.clone()]
    for module in modules:
        values.append(module(values[-1].clone()).detach())
    one_hot = F.one_hot(torch.tensor(target), values[-1].shape[1]).to(x)
    last = len(modules) - 1
    plus, minus = (walked(modules, values, one_hot, last, contrast, sign) for sign in (1.0, -1.0))
    return walked(modules, values, plus - minus, contrast, layer).sum(1, keepdim=True).clamp(min=0)


def vgg(seed: int = 0) -> Any:
    def make() -> nn.Module:
        body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 5)]
        return nn.Sequential(*body, *head)

    return settle(make, seed=seed)


@pytest.mark.parametrize(("layer", "contrast"), [(1, 8), (4, 8), (1, 5), (2, 4), (4, 6), (7, 8)])
def test_contrastive_equals_two_walks(layer: int, contrast: int) -> None:
    nonzero = 0
    for seed in range(3):
        model, x, target = vgg(seed), uniform(3, 3, 8, 8, seed=seed), [0, 4, seed]
        actual = contrastive(model, x, target, layer=str(layer), contrast_layer=str(contrast))
        expected = two_walks(model, x, target, layer, contrast)
        assert_equal(actual, expected)
        nonzero += int(expected.count_nonzero())
        by_name = contrastive(model, x, target, layer=str(layer), contrast_layer=str(contrast), classifier_layer="9")
        assert_equal(by_name, actual, tolerance=1e-12)
    assert nonzero > 2


def test_contrastive_by_hand() -> None:
    # One channel at each of two places; what excites a class inhibits the other.
    head = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, -1.0], [-1.0, 0.0, 0.0, 1.0]]))
    model = nn.Sequential(nn.ReLU(), nn.Identity(), nn.Flatten(), head)
    x = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    for target, expected in ((0, [1.0, 0.0]), (1, [0.0, 1.0])):
        assert contrastive(model, x, target, layer="0", contrast_layer="1", channel_dim=1).tolist() == [[expected]]


class SkipNet(nn.Module):
    """A stem, a residual block and a linear head, registered before all else."""

    def __init__(self, *, detached: bool) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.block = Residual(4, detached=detached)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.block(self.stem(x)), 2).flatten(1))


@pytest.mark.parametrize("contrast", ["block.branch", "block.branch.0"])
def test_what_goes_beside_the_contrast_layer_is_left_out(contrast: str) -> None:
    whole, one_way = (settle(lambda d=d: SkipNet(detached=d)) for d in (False, True))
    x = uniform(2, 3, 4, 4)
    options: Any = {"layer": "stem", "contrast_layer": contrast}
    actual = contrastive(whole, x, [0, 2], **options)
    assert actual.count_nonzero() > 5
    assert_equal(actual, contrastive(one_way, x, [0, 2], **options))
    assert_equal(actual, contrastive(whole, x, [0, 2], **options, classifier_layer="head"))
    through_both: Any = contrastive(whole, x, [0, 2], layer="stem", contrast_layer="block")
    assert not torch.allclose(actual, through_both)


def test_tokens_have_their_channels_last() -> None:
    mean: Any = lambda dim: nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten()) if dim == 2 else Mean()  # noqa: E731
    linear = settle(
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), mean(1), nn.Linear(5, 3))
    )
    convolution = nn.Sequential(nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 5, 1), nn.ReLU(), mean(2), nn.Linear(5, 3))
    convolution.load_state_dict(
        {k: v[..., None] if k in ("0.weight", "2.weight") else v for k, v in linear.state_dict().items()}
    )
    x = uniform(2, 7, 4)
    options: Any = {"layer": "1", "contrast_layer": "3"}
    actual = contrastive(linear, x, 1, channel_dim=-1, **options)
    assert actual.shape == (2, 1, 7) and actual.count_nonzero() > 3
    assert_equal(actual, contrastive(convolution.double(), x.mT, 1, channel_dim=1, **options))


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contrast_layer": "9"}, ValueError, "site '9' comes after 'linear' in '9', expected a site before it"),
        ({"contrast_layer": "0"}, funcattr.UntrackedPathError, "the site '0' does not depend on the site '1'"),
        ({"contrast_layer": "none"}, funcattr.UnknownSiteError, "no such site"),
        (
            {"contrast_layer": "8", "classifier_layer": "8"},
            ValueError,
            "no call matches 'linear_map 8', which is req",
        ),
        ({"contrast_layer": "8", "classifier_layer": "7"}, ValueError, "the site '8' comes after 'linear' in '7'"),
    ],
)
def test_layers_out_of_order_are_refused(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^contrastive_excitation_backprop.*{message}"):
        contrastive(vgg(), uniform(1, 3, 8, 8), 0, layer="1", **options)
