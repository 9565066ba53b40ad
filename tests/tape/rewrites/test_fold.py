"""Batch norm folded into its linear neighbour changes nothing: relevance is that of the one affine map they make."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, rules
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal

RULES: dict[str, Any] = {
    "epsilon": rules.epsilon,
    "epsilon, bias ignored": rules.epsilon(bias="ignore"),
    "z_plus": rules.z_plus,
    "gamma": rules.gamma,
    "gamma, bias ignored": rules.gamma(bias="ignore"),
    "alpha_beta": rules.alpha_beta,
    "alpha3_beta2": rules.alpha_beta(alpha=3, beta=2, eps=0.125),
    "z_box": rules.z_box(low=-3, high=3),
    "w_square": rules.w_square,
    "winning_probability": rules.winning_probability,
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # by the number of spatial dimensions


def book(rule: Any) -> Rulebook:
    return rules.composite("one rule", convolution=rule, dense=rule)


def relevance(model: Callable[..., Any], x: Tensor, r: Tensor, rule: Any) -> Tensor:
    y, pull = funcattr.vjp(model, x, rules=book(rule))
    return pull(r.reshape(y.shape))[0].detach()


def made(model: Callable[..., Any], x: Tensor, rule: Any = rules.z_plus) -> list[tuple[str, str, str]]:
    return [(line.module, line.operation, line.rule) for line in funcattr.rule_table(model, x, rules=book(rule))]


def affine_map(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A model that is affine, as one linear layer with its matrix and bias."""
    offset = model(torch.zeros_like(x)).flatten().detach()
    matrix: Any = torch.autograd.functional.jacobian(lambda x: model(x).flatten(), x)
    return lambda x: F.linear(x.flatten(1), matrix.flatten(1), offset)


def assert_folds(model: nn.Module, shape: tuple[int, ...], names: Any = RULES) -> None:
    """Every rule gives what it gives for the one matrix; `shape` is of one example."""
    x = uniform(1, *shape, seed=5)
    r = uniform(*model(x).shape, seed=6)
    for name in names:
        expected = relevance(affine_map(model, x), x, r, RULES[name])
        assert expected.any()
        # where z is nearly 0, rounding is what remains of it
        tolerance = 1e-9 * max(1.0, (r / model(x)).abs().max().item())
        assert_equal(relevance(model, x, r, RULES[name]), expected, tolerance=tolerance)


def pair(layer: nn.Module, channels: int, spatial: int, *, before: bool, affine: bool = True) -> nn.Module:
    norm = NORMS[spatial](channels, affine=affine)
    return settle(lambda: nn.Sequential(*([norm, layer] if before else [layer, norm])))


# Every layer, norm before and after


@st.composite
def pairs(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """Batch norm beside a layer of any geometry, and the shape of an example."""
    spatial, before, affine, bias = draw(st.integers(0, 3)), *(draw(st.booleans()) for _ in range(3))
    if spatial == 0:
        return pair(nn.Linear(3, 4, bias=bias), 3 if before else 4, 0, before=before, affine=affine), (3,)
    groups, transposed = draw(st.sampled_from([1, 2])), draw(st.booleans())
    options: dict[str, Any] = {"stride": draw(st.integers(1, 2)), "bias": bias}
    options |= {"dilation": draw(st.integers(1, 2)), "groups": groups}
    options["padding"] = draw(st.integers(0, 1 if transposed else 2))
    if transposed and options["stride"] == 2:
        options["output_padding"] = draw(st.integers(0, 1))
    if not transposed and options["stride"] == 1 and options["dilation"] == 2 and draw(st.booleans()):
        options["padding"] = "same"
    inputs, outputs = 2 * groups, draw(st.sampled_from([2, 4]))
    layer = (TRANSPOSED if transposed else CONVOLUTIONS)[spatial - 1](inputs, outputs, 2, **options)
    size = tuple(draw(st.integers(2, 3)) + 2 for _ in range(spatial)) if spatial < 3 else (3, 3, 3)
    return pair(layer, inputs if before else outputs, spatial, before=before, affine=affine), (inputs, *size)


@given(pairs(), st.sampled_from(["epsilon", "z_plus", "gamma", "alpha_beta"]))
def test_folding_changes_nothing(drawn: tuple[nn.Module, tuple[int, ...]], name: str) -> None:
    assert_folds(*drawn, [name])


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("spatial", [0, 1, 2, 3])
def test_every_rule_folds(spatial: int, before: bool, affine: bool) -> None:
    layer = CONVOLUTIONS[spatial - 1](2, 4, 3, padding=1, groups=2) if spatial else nn.Linear(2, 4)
    model = pair(layer, 2 if before else 4, spatial, before=before, affine=affine)
    x = uniform(1, 2, *[3] * spatial)
    assert_folds(model, tuple(x.shape[1:]))
    where = "1" if before else "0"
    assert [line[2] for line in made(model, x)][int(not before)] == f"folded into {where!r}"
    assert made(model, x)[int(before)][::2] == (where, "z_plus")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_grouped_transposed_convolutions_fold(spatial: int, before: bool) -> None:
    layer = TRANSPOSED[spatial - 1](4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
    assert_folds(pair(layer, 4 if before else 6, spatial, before=before), (4, *[2] * spatial))


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma", "alpha_beta"])
def test_equals_torchs_own_fusion(name: str) -> None:
    model: Any = pair(nn.Conv2d(3, 4, 3, padding=1, stride=2), 4, 2, before=False)
    fused: Any = torch.nn.utils.fuse_conv_bn_eval(deepcopy(model[0]), model[1])
    x, r = uniform(2, 3, 5, 5), uniform(2, 4, 3, 3, seed=3)
    assert_equal(relevance(model, x, r, RULES[name]), relevance(fused, x, r, RULES[name]))


# More than two


CHAINS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "norm, conv, norm": (lambda: [nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3)], (2, 4, 5)),
    "norm, norm, conv": (lambda: [nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3, padding=1)], (2, 4, 5)),
    "conv, norm, norm": (lambda: [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)], (2, 4, 5)),
    "norm, linear, norm": (lambda: [nn.BatchNorm1d(2), nn.Linear(2, 3), nn.BatchNorm1d(3)], (2,)),
    "norm, convT, norm": (lambda: [nn.BatchNorm1d(2), nn.ConvTranspose1d(2, 3, 2, 2), nn.BatchNorm1d(3)], (2, 4)),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_chains_fold_into_one(chain: str) -> None:
    make, shape = CHAINS[chain]
    assert_folds(settle(lambda: nn.Sequential(*make())), shape)


def test_a_norm_between_two_maps_folds_into_the_first() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2)))
    x, r = uniform(2, 2, 4, 4), uniform(2, 2, 2, 2)
    assert [rule for _, _, rule in made(model, x)] == ["z_plus", "folded into '0'", "z_plus"]
    middle = relevance(model[2], model[:2](x), r, rules.z_plus)
    fused = torch.nn.utils.fuse_conv_bn_eval(deepcopy(model[0]), model[1])
    assert_equal(relevance(model, x, r, rules.z_plus), relevance(fused, x, middle, rules.z_plus))


@pytest.mark.parametrize("name", RULES)
def test_signs_are_those_of_what_the_folded_map_reads(name: str) -> None:
    # Behind a relu x is at least 0, but what the batch norm makes of it is not.
    model: Any = settle(lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3), nn.ReLU()))
    x, r = uniform(1, 4), uniform(1, 3, seed=2)
    expected = relevance(affine_map(model[1:3], x), x.clamp(min=0), r, RULES[name])
    assert_equal(relevance(model, x, r, RULES[name]), expected)


def test_one_norm_called_twice_folds_at_each_call() -> None:
    norm, first, second = nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3)
    model = settle(lambda: nn.Sequential(first, norm, nn.ReLU(), second, norm))
    copies = settle(lambda: nn.Sequential(first, norm, nn.ReLU(), second, norm))
    copies[1], copies[4] = deepcopy(norm), deepcopy(norm)  # pyright: ignore[reportIndexIssue]
    x, r = uniform(2, 3), uniform(2, 3, seed=2)
    assert sum("folded" in rule for _, _, rule in made(model, x)) == 2
    for name in RULES:
        assert_equal(relevance(model, x, r, RULES[name]), relevance(copies, x, r, RULES[name]))


def test_a_norm_that_two_maps_read_folds_into_both() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.a, self.b = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return torch.cat([self.a(y), self.b(y)], 1)

    assert_folds(settle(Two), (3,), ["epsilon", "z_plus", "gamma", "alpha_beta"])


# Where it stands alone


class Reused(nn.Module):
    """A convolution whose output goes by the batch norm, and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.head((F.relu(self.norm(y)) + y).mean((2, 3)))


@pytest.mark.parametrize("name", RULES)
def test_a_map_whose_output_is_used_elsewhere_is_not_folded_and_the_books_still_balance(name: str) -> None:
    model, x = settle(Reused), uniform(2, 2, 3, 3)
    assert [rule for _, op, rule in made(model, x) if op == "batch_norm"] == ["affine"]
    report = funcattr.conservation(model, x, 1, rules=book(RULES[name]), start="one")
    scale = max(abs(amount) for flow in report.flows for amount in (flow.arrived, *flow.lost.values()))
    assert all(abs(flow.lost["other"]) <= 1e-9 * scale for flow in report.flows)
    assert abs(report.start - report.reached - sum(report.lost.values())) <= 1e-9 * scale
    norm = next(flow for flow in report.flows if flow.op == "batch_norm")
    assert norm.lost["bias"] != 0


def test_a_norm_of_the_output_is_folded_and_its_input_as_a_second_output_is_not() -> None:
    layer, norm = (settle(lambda m=m: m) for m in (nn.Linear(3, 2), nn.BatchNorm1d(2)))
    x = uniform(2, 3)
    assert made(lambda x: norm(layer(x)), x)[1][2] == "folded into 'linear'"
    y, pull = funcattr.vjp(lambda x: (norm(layer(x)), layer(x)), x, rules=book(rules.z_plus))
    both = pull(tuple(torch.ones_like(t) for t in y))[0]
    separate = relevance(lambda x: norm(layer(x)), x, torch.ones(4), rules.z_plus)
    assert_equal(both, separate + relevance(layer, x, torch.ones(4), rules.z_plus))
    y, pull = funcattr.vjp(lambda x: (lambda z: (norm(z), z))(layer(x)), x, rules=book(rules.z_plus))
    alone = relevance(norm, layer(x), torch.ones(4), rules.z_plus) + 1
    assert_equal(pull(tuple(torch.ones_like(t) for t in y))[0], relevance(layer, x, alone, rules.z_plus))


@pytest.mark.parametrize("other", [lambda y: y, lambda y: y.relu()])
def test_a_norm_that_a_map_and_something_else_read_stands_alone_for_the_other(other: Any) -> None:
    norm, layer = (settle(lambda m=m: m) for m in (nn.BatchNorm1d(3), nn.Linear(3, 2)))
    x, r, s = uniform(2, 3), uniform(2, 3, seed=2), uniform(2, 2, seed=3)
    _, pull = funcattr.vjp(lambda x: (lambda y: (other(y), layer(y)))(norm(x)), x, rules=book(rules.z_plus))
    folded = relevance(lambda x: layer(norm(x)), x, s, rules.z_plus)
    assert_equal(pull((r, s))[0], relevance(norm, x, r, rules.z_plus) + folded)


def test_a_norm_whose_value_leaves_the_model_before_the_map_is_not_folded() -> None:
    norm, layer = (settle(lambda m=m: m) for m in (nn.BatchNorm1d(3), nn.Linear(3, 2)))
    x, r, s = uniform(2, 3), uniform(2, 3, seed=2), uniform(2, 2, seed=3)

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.dropout(norm(x), training=False)
        return y, layer(y)

    _, pull = funcattr.vjp(model, x, rules=book(rules.z_plus))
    middle = r + relevance(layer, norm(x), s, rules.z_plus)
    assert_equal(pull((r, s))[0], relevance(norm, x, middle, rules.z_plus))


def test_alone_it_is_the_epsilon_rule_of_its_affine_map() -> None:
    norm: Any = settle(lambda: nn.BatchNorm2d(3))
    x, r = uniform(2, 3, 2, 2), uniform(2, 3, 2, 2, seed=2)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1)
    y = norm(x)
    expected = (x * scale * r / torch.where(y >= 0, y + 1e-6, y - 1e-6)).detach()
    for model in (norm, nn.Sequential(norm, nn.ReLU()), nn.Sequential(norm, nn.MaxPool2d(1), nn.Identity())):
        assert_equal(relevance(model.eval(), x, r, rules.z_plus), expected)


@pytest.mark.filterwarnings("ignore:rule_table. the model is in training mode")
def test_in_training_mode_it_stands_alone_with_the_scale_of_the_batch() -> None:
    model: Any = pair(nn.Conv1d(2, 3, 2), 3, 1, before=False).train()
    x, r = uniform(4, 2, 4), uniform(4, 3, 3, seed=2)
    assert [rule for _, _, rule in made(model, x)] == ["z_plus", "affine"]
    z = model[0](x)
    y = F.batch_norm(z, None, None, model[1].weight, model[1].bias, training=True)
    flow = r / torch.where(y >= 0, y + 1e-6, y - 1e-6) * model[1].weight.reshape(-1, 1)
    scale = (z.var((0, 2), correction=0, keepdim=True) + 1e-5).rsqrt()
    middle = (z * scale * (flow - flow.mean((0, 2), keepdim=True))).detach()
    assert_equal(relevance(model, x, r, rules.z_plus), relevance(model[0], x, middle, rules.z_plus))


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_what_lies_between_keeps_them_apart(padding_mode: Any) -> None:
    # The pad is a call of its own; so is a relu, a view, and a sum.
    model: Any = pair(nn.Conv1d(2, 3, 3, padding=1, padding_mode=padding_mode), 2, 1, before=True)
    assert [rule for _, op, rule in made(model, uniform(1, 2, 5)) if op == "batch_norm"] == ["affine"]
    apart = [nn.Sequential(nn.Conv1d(2, 2, 1), between, nn.BatchNorm1d(2)) for between in (nn.ReLU(), nn.AvgPool1d(2))]
    for model in apart:
        assert [rule for _, op, rule in made(model.eval(), torch.ones(1, 2, 4)) if op == "batch_norm"] == ["affine"]


@pytest.mark.parametrize(("training", "expected"), [(False, "folded into '0'"), (True, "affine")])
def test_a_dropout_between_them_keeps_them_apart_if_it_drops(training: bool, expected: str) -> None:
    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training)

    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 4), Drops(), nn.BatchNorm1d(4)))
    assert made(model, uniform(2, 3))[2][2] == expected


def test_a_norm_behind_a_site_goes_to_the_map_before_it_past_other_norms() -> None:
    """Wherever between the map and its norms the root is, it is the same relevance that arrives there."""
    layers = (nn.Conv1d(2, 4, 1), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    model: Any = settle(lambda: nn.Sequential(*layers))
    for norm in model[1:3]:
        norm.running_mean.copy_(uniform(4))
        norm.running_var.copy_(uniform(4).square() + 0.5)
    x = uniform(2, 2, 3)
    behind, between, before = (funcattr.lrp(model, x, 1, layer=site, rules="epsilon") for site in ("2", "1", "0"))
    assert behind.abs().max() > 0
    assert_equal(between, behind)
    assert_equal(before, behind)


def test_a_linear_map_over_tokens_does_not_fold() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(5)))  # channels are the tokens here
    assert [rule for _, _, rule in made(model, uniform(2, 5, 3))] == ["z_plus", "affine"]


def test_the_models_own_parameters_stay() -> None:
    model: Any = pair(nn.Conv2d(2, 3, 3), 3, 2, before=False)
    before = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    relevance(model, uniform(1, 2, 4, 4), torch.ones(1, 3, 2, 2), rules.z_plus)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is value and torch.equal(value, copy) for name, (value, copy) in before.items())


# What lies between


class Between(nn.Module):
    """A convolution and a norm with a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.norm, self.between = nn.Conv2d(2, 3, 2), norm or nn.BatchNorm2d(3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.between(self.conv(x)))


NO_OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda z: z.contiguous(),
    "clone": lambda z: z.clone(),
    "a cast to its dtype": lambda z: z.double(),
    "to": lambda z: z.to(z),
    "type_as": lambda z: z.type_as(z),
    "reshape": lambda z: z.reshape(z.shape),
    "flatten and back": lambda z: z.view(z.shape).expand_as(z),
    "dropout": lambda z: F.dropout(z, 0.5, training=False),
    "two": lambda z: z.clone().contiguous(),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_a_no_op_between_them_changes_nothing(name: str) -> None:
    model: Any = settle(lambda: Between(NO_OPS[name]))
    assert_folds(model, (2, 4, 5), ["epsilon", "z_plus", "gamma"])


@pytest.mark.parametrize("function", [lambda z: z.flip(2), lambda z: z.mT, lambda z: z[:, [1, 0, 2]], lambda z: z * 2])
def test_what_is_no_no_op_keeps_them_apart(function: Any) -> None:
    model: Any = settle(lambda: Between(function))
    assert [rule for module, _, rule in made(model, uniform(1, 2, 4, 4)) if module == "norm"] == ["affine"]


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma"])
def test_a_cast_between_them_folds_in_the_wider_dtype(name: str) -> None:
    model: Any = settle(lambda: Between(lambda z: z.double()))
    x, r = uniform(2, 2, 4, 5), uniform(2, 3, 3, 4, seed=3)
    expected = relevance(model, x, r, RULES[name])
    model.conv.float()
    found = relevance(model, x.float(), r, RULES[name])
    assert found.dtype == torch.float32
    assert_equal(found.double(), expected, tolerance=1e-4)
    assert [rule for _, _, rule in made(model, x.float())][-1] == "folded into 'conv'"


@pytest.mark.parametrize("name", ["epsilon", "z_plus", "gamma"])
def test_a_norm_before_a_cast_stands_alone(name: str) -> None:
    norm: Any = settle(lambda: nn.BatchNorm2d(2)).float()
    conv: Any = settle(lambda: nn.Conv2d(2, 3, 2))
    book = Rulebook({"convolution": RULES[name], "batch_norm": rules.fold(rules.affine)}, unlisted="gradient")

    def relevance(x: Tensor) -> Tensor:
        y, pull = funcattr.vjp(lambda x: conv(norm(x.relu()).double()), x, rules=book)
        return pull(torch.ones_like(y))[0]

    x = uniform(2, 2, 4, 5).float()
    _, before = funcattr.vjp(lambda x: norm(x.relu()), x, rules=book | {"batch_norm": rules.affine})
    y, behind = funcattr.vjp(conv, norm(x.relu()).double(), rules=book)
    assert_equal(relevance(x), before(behind(torch.ones_like(y))[0].float())[0], tolerance=1e-5)


def test_an_instance_norm_by_running_statistics_is_a_batch_norm() -> None:
    plain: Any = settle(lambda: Between(lambda z: z))
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    other: Any = settle(lambda: Between(lambda z: z, norm))
    other.load_state_dict(plain.state_dict())
    x, r = uniform(2, 2, 4, 5), uniform(2, 3, 3, 4, seed=3)
    for name in ("epsilon", "z_plus"):
        assert_equal(relevance(other, x, r, RULES[name]), relevance(plain, x, r, RULES[name]))
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    assert made(other, x)[-1][2] == "affine"


@pytest.mark.parametrize("between", ["contiguous", "two"])
def test_at_the_linear_map_itself_is_what_passes_there(between: str) -> None:
    model: Any = settle(lambda: nn.Sequential(Between(NO_OPS[between]), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)))
    x = uniform(2, 2, 4, 5)
    fused = deepcopy(model)
    fused[0].conv = torch.nn.utils.fuse_conv_bn_eval(model[0].conv, model[0].norm)
    fused[0].norm = nn.Identity()
    for name in ("epsilon", "z_plus"):
        maps = [funcattr.lrp(m, x, 1, rules=book(RULES[name]), layer="0.conv") for m in (model, fused)]
        assert_equal(*maps)
        assert_equal(funcattr.lrp(model, x, 1, rules=book(RULES[name]), layer="0.norm"), maps[0])


def test_at_what_is_no_linear_map_a_norm_stands_alone() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.ReLU()))
    x = uniform(2, 3)
    rows = funcattr.rule_table(model, x, rules=book(rules.epsilon), layer="1")
    assert [line.rule for line in rows] == ["affine", "pass_through"]
