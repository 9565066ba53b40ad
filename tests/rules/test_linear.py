"""Rules of linear operations: every rule and operation equals its closed form, whatever came before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr

from ..contract import assert_equal, loop
from ..sweeps import sweep
from .applied import DEFAULTS, book, found, relevance, rule_of
from .linear_draws import linear_maps
from .linear_maps import CONVOLUTIONS, OPERATIONS, TRANSPOSED, LinearMap, assert_relevance, grid

few = settings(max_examples=max(4, settings().max_examples // 5))  # where an example takes long
_eps = st.sampled_from([{}, {}, {"eps": 0.125}])
_numbers = st.integers(-16, 16).map(lambda i: i / 8)


def _options(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.fixed_dictionaries({}, optional=more), _eps).map(lambda pair: pair[0] | pair[1])


OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "epsilon": _options(bias=st.sampled_from(["absorb", "ignore"])),
    "norm": _options(),
    "z_plus": _options(),
    "alpha_beta": st.tuples(st.sampled_from([{}, *({"alpha": 1 + b, "beta": b} for b in (0, 0.5, 2))]), _eps).map(
        lambda pair: pair[0] | pair[1]
    ),
    "gamma": _options(gamma=st.sampled_from([0, 0.5, 4])),
    "w_square": _options(),
    "flat": _options(),
    "e_rule": _options(p=st.sampled_from([1, 2, 3])),
    "b_rule": _options(beta=st.sampled_from([0, 0.25, 2, 0.3, -0.3, -1, -3])),
    "winning_probability": _options(),
}


# Every rule, every operation


# A rule meets an operation through its linear map alone: three dimensions are for two rules, and with `--long` for all.
EACH = [(name, op) for name in OPTIONS for op in OPERATIONS]
QUICK = [f"{name}-{op}" for name, op in EACH if not op.endswith("3d") or name in ("epsilon", "alpha_beta")]


@pytest.mark.parametrize(("name", "op"), sweep(EACH, quick=QUICK))
def test_a_rule_equals_its_closed_form(name: str, op: str) -> None:
    @given(linear_maps(op), OPTIONS[name])
    def check(m: LinearMap, options: dict[str, Any]) -> None:
        assert_relevance(found(m, name, options), *m.expected(name, **options))

    check()


@pytest.mark.parametrize("op", OPERATIONS)
def test_z_box_equals_its_closed_form(op: str) -> None:
    @given(linear_maps(op), st.data())
    def check(m: LinearMap, data: st.DataObject) -> None:
        bounds = data.draw(st.tuples(_numbers, _numbers).map(sorted))
        low, high = bounds
        if op in (*CONVOLUTIONS, *TRANSPOSED, "linear") and data.draw(st.booleans()):
            channels = m.x.shape[m.channel]
            low, high = tuple(low - i / 4 for i in range(channels)), tuple(high + i / 8 for i in range(channels))
        options = {"low": low, "high": high} | data.draw(_eps)
        assert_relevance(found(m, "z_box", options), *m.expected("z_box", **options))

    check()


# What holds between rules


@pytest.mark.parametrize("name", DEFAULTS)
@given(m=linear_maps(), a=_numbers, b=_numbers)
def test_relevance_is_linear_in_what_arrives(name: str, m: LinearMap, a: float, b: float) -> None:
    rule, other = rule_of(name, DEFAULTS[name]), m.relevance.flip(0)
    pull = funcattr.vjp(m.model, m.x, rules=book(rule))[1]
    (both,), (first,), (second,) = pull(a * m.relevance + b * other), pull(m.relevance), pull(other)
    scale = m.expected(name, **DEFAULTS[name])[1].max() + first.abs().max() + second.abs().max()
    assert_equal(both / scale, (a * first + b * second) / scale)


@given(m=linear_maps())
def test_gamma_0_is_epsilon(m: LinearMap) -> None:
    m.relevance = m.relevance * (m.model(m.x) != 0)  # where z = 0 gamma sends nothing
    scale = m.expected("epsilon")[1]
    assert_relevance(found(m, "gamma", {"gamma": 0}), found(m, "epsilon", {}), scale)


@given(m=linear_maps())
def test_alpha_1_beta_0_is_z_plus(m: LinearMap) -> None:
    scale = m.expected("z_plus")[1]
    assert_relevance(found(m, "alpha_beta", {"alpha": 1, "beta": 0}), found(m, "z_plus", {}), scale)


@given(m=linear_maps())
def test_epsilon_without_the_bias_is_the_e_rule(m: LinearMap) -> None:
    bias = torch.from_numpy(m.dense().bias)
    own = m.model(m.x).detach() - bias.view(m.relevance.shape)
    m.relevance = m.relevance * (own != 0)  # there the e-rule sends nothing
    scale = m.expected("e_rule")[1]
    assert_relevance(found(m, "epsilon", {"bias": "ignore"}), found(m, "e_rule", {}), scale)


@given(m=linear_maps())
def test_flat_is_w_square_of_ones_without_bias(m: LinearMap) -> None:
    flat, scale = found(m, "flat", {}), m.expected("flat")[1]
    ones = LinearMap(m.description)
    ones.weight.fill_(1 / m.description.options.get("alpha", 1))
    if ones.bias is not None:
        ones.bias.zero_()
    ones.rebuild()
    assert_relevance(found(ones, "w_square", {}), flat, scale)


@pytest.mark.parametrize("name", [n for n in DEFAULTS if n != "flat"])
@pytest.mark.parametrize("op", [*CONVOLUTIONS, *TRANSPOSED])
def test_a_convolution_is_its_toeplitz_matrix(op: str, name: str) -> None:
    @few
    @given(linear_maps(op, rectified=False))
    def check(m: LinearMap) -> None:
        assume("padding_mode" not in m.description.options)
        matrix, _, bias = (torch.from_numpy(a) for a in m.dense())
        rule = rule_of(name, DEFAULTS[name])
        dense = relevance(lambda x: F.linear(x, matrix, bias), m.x.flatten(), m.relevance.flatten(), rule)
        scale = m.expected(name, **DEFAULTS[name])[1]
        assert_relevance(found(m, name, DEFAULTS[name]), dense.view(m.x.shape), scale)

    check()


@given(m=linear_maps(), options=_eps)
def test_epsilon_loses_exactly_what_bias_and_stabiliser_take(m: LinearMap, options: dict[str, float]) -> None:
    z = m.model(m.x).detach()
    bias = torch.from_numpy(m.dense().bias).view(z.shape)
    eps = options.get("eps", 1e-6)
    kept = m.relevance * (z - bias) / (z + eps * torch.where(z >= 0, 1.0, -1.0))
    scale = m.expected("epsilon", **options)[1].sum() + kept.abs().sum()
    assert_relevance(found(m, "epsilon", options).sum(), kept.sum(), scale)


@pytest.mark.parametrize("name", DEFAULTS)
@given(m=linear_maps(), eps=_eps)
def test_what_reaches_no_input_is_told_by_the_rule(name: str, m: LinearMap, eps: dict[str, float]) -> None:
    rule, leaks = rule_of(name, DEFAULTS[name] | eps), {}

    def spy(call: funcattr.rules.Call, r: Tensor) -> Any:
        leaks.update(rule.leaks(call, r))
        return rule(call, r)

    passed = relevance(m.model, m.x, m.relevance, spy).detach().sum()
    scale = m.expected(name, **DEFAULTS[name] | eps)[1].sum() + m.relevance.abs().sum()
    assert set(leaks) == {"bias", "stabilizer", "dead units"}
    assert_relevance(passed + torch.as_tensor(sum(leaks.values())).detach(), m.relevance.sum(), scale)


# Transforms and dtypes


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("op", OPERATIONS)
def test_vmap_over_examples_and_weights_equals_a_loop(op: str, name: str) -> None:
    @few
    @given(linear_maps(op))
    def check(m: LinearMap) -> None:
        rule = rule_of(name, DEFAULTS[name])

        def one(x: Tensor, r: Tensor, weight: Tensor) -> Tensor:
            return relevance(lambda x: m.layer(m.before(F.relu(x)), weight, m.bias), x, r, rule)

        x, r = grid(3, *m.x.shape, seed=5), grid(3, *m.relevance.shape, seed=6)
        weights = torch.stack([m.weight, m.weight.flip(0), -m.weight])
        scale = 1e-3 + loop(one, x, r, weights).abs().max()
        assert_equal(torch.vmap(one)(x, r, weights) / scale, loop(one, x, r, weights) / scale)
        shared = torch.vmap(lambda x, r: one(x, r, m.weight))(x, r)
        assert_equal(shared / scale, loop(lambda x, r: one(x, r, m.weight), x, r) / scale)

    check()


@pytest.mark.parametrize("name", DEFAULTS)
@given(m=linear_maps())
def test_float32_is_close_to_float64(name: str, m: LinearMap) -> None:
    expected, scale = m.expected(name, **DEFAULTS[name])
    m.weight, m.bias = m.weight.float(), None if m.bias is None else m.bias.float()
    m.x, m.relevance = m.x.float(), m.relevance.float()
    m.rebuild()
    actual = found(m, name, DEFAULTS[name])
    assert actual.dtype == torch.float32
    assert_relevance(actual, expected, scale, tolerance=1e-5)


def _away_from_zero(*shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=torch.float64)
    return x + 0.2 * torch.where(x >= 0, 1.0, -1.0)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 2, padding=1, stride=2), (1, 2, 3, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(2, 2, 3, stride=2), (1, 2, 3)),
}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_relevance_is_differentiated_by_reverse_and_forward_mode(layer: str, name: str) -> None:
    make, shape = LAYERS[layer]
    model, x = make().double().requires_grad_(False), _away_from_zero(*shape)
    r = torch.randn_like(model(x))
    # steep rules are no test of their derivative
    rule = rule_of(name, DEFAULTS[name] | {"eps": 0.1})
    assert torch.autograd.gradcheck(
        lambda x: relevance(model, x, r, rule), x.requires_grad_(), check_forward_ad=True, check_batched_grad=True
    )
    jacobian = torch.func.jacrev(lambda x: relevance(model, x, r, rule))(x.detach())
    assert_equal(torch.func.jacfwd(lambda x: relevance(model, x, r, rule))(x.detach()), jacobian)
