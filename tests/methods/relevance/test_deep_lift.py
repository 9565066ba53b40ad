"""DeepLIFT and DeepSHAP of whole models: what the attributions sum to, what they mean, and what is refused."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import funcattr
from funcattr import Rulebook, UnsupportedOperationError, deep_lift, distribution, rules
from funcattr.metrics import completeness
from funcattr.rules import GRADIENT
from funcattr.testing.networks import Smooth, networks, targets
from funcattr.testing.seeding import settle, uniform

from ...contract import assert_equal, loop
from ...deep_lift_references import deep_lift_reference, stack_reference
from ...relevance_references import UnknownOperationError
from ...sweeps import long
from ...zoo import CASES, Case, case

EXACT = 1e-12  # of numbers about 1 in double precision
DOUBLE = torch.float64


def mlp(*activations: Callable[[], nn.Module], classes: int = 2) -> Any:
    """Linear layers from 4 features over 5 to the classes, each activation after one of them."""
    layers = [part for i, act in enumerate(activations) for part in (nn.Linear(5 if i else 4, 5), act())]
    return settle(lambda: nn.Sequential(*layers, nn.Linear(5, classes)))


def both(model: Any, x: Any, target: Any = None, **options: Any) -> Any:
    """The attributions, which are asserted to sum to what the output has gained."""
    found = deep_lift(model, x, target, **options)
    assert delta_of(model, x, target, found, **options).abs().max() <= EXACT
    return found


def delta_of(model: Any, x: Any, target: Any, found: Any, *, layer: Any = None, rules: Any = None, **more: Any) -> Any:
    """By how much attributions miss what the output has gained, with the options of `deep_lift`. [N]"""
    return completeness(model, x, target, found, **more)


# --- summation to delta ----------------------------------------------------------------------------------------------

MIXTURES = [c for c in CASES if "mixtral" in c.name or "moe" in c.name]


@pytest.mark.filterwarnings("ignore:.*padding tokens.*")
@pytest.mark.parametrize("c", [c for c in CASES if c not in MIXTURES], ids=repr)
def test_models_sum_to_delta(c: Case) -> None:
    model, (x,) = c.build(), c.inputs()
    inputs: Any = x if c.key is None else {c.key: x}
    found = deep_lift(model, inputs, 1, baseline=0.1, kwargs=c.kwargs())
    attributions = found if c.key is None else found[c.key]
    assert attributions.shape == x.shape
    assert attributions.abs().max() > 1e-3
    delta = completeness(model, inputs, 1, found, baseline=0.1, kwargs=c.kwargs())
    assert delta.shape == (2,)
    assert delta.abs().max() <= (1e-5 if c.in_float32 else EXACT)


@pytest.mark.parametrize("c", MIXTURES, ids=repr)
def test_mixtures_of_experts_are_refused_for_their_choice(c: Case) -> None:
    model, (x,), key = c.build(), c.inputs(), str(c.key)
    explain = partial(deep_lift, model, {key: x}, 1, kwargs=c.kwargs())
    with pytest.raises(UnsupportedOperationError, match=r"^deep_lift\(rules='deep_lift'\): no rule for\s+topk in 'mod"):
        explain()
    book = rules.deep_lift() | {"topk": GRADIENT}
    near = {key: 0.999 * x}  # where the choice is the same
    found = explain(baseline=near, rules=book)
    assert completeness(model, {key: x}, 1, found, baseline=near, kwargs=c.kwargs()).abs().max() <= 1e-5
    if c.name.startswith("mixtral"):
        with pytest.raises(
            UnsupportedOperationError, match=r"in the module 'model\.layers\.0\.mlp\.experts', the model "
        ):
            explain(rules=book)


@given(net=networks(write_views=True), data=st.data())
def test_drawn_networks_sum_to_delta(net: Any, data: st.DataObject) -> None:
    baseline = uniform(1, *net.x.shape[1:], seed=data.draw(st.integers(0, 9)))
    layer = data.draw(st.sampled_from([None, net.layer]))
    target = data.draw(targets(net.output_shape))
    found = deep_lift(net.model, net.x, target, baseline=baseline, layer=layer)
    assert completeness(net.model, net.x, target, found, baseline=baseline).abs().max() <= 1e-11


@settings(max_examples=8)  # with a baseline that is not the same everywhere; the contract has the rest
@given(net=networks(write_views=False), at_layer=st.booleans())
def test_drawn_networks_equal_the_reference(net: Any, at_layer: bool) -> None:
    options: Any = {"baseline": uniform(1, *net.x.shape[1:], seed=7), "layer": net.layer if at_layer else None}
    assert_equal(deep_lift(net.model, net.x, 1, **options), deep_lift_reference(net.model, net.x, 1, **options))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
def test_lower_precisions_are_near(dtype: torch.dtype, error: float) -> None:
    for name in ("cnn", "vit"):
        model, (x,) = case(name).build(), case(name).inputs()
        exact = deep_lift(model, x, 1, baseline=0.5)
        found = deep_lift(model.to(dtype), x.to(dtype), 1, baseline=0.5)
        assert found.dtype == dtype
        assert_equal(found.double(), exact, tolerance=error)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_a_linear_model_by_its_weights() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 3)))
    x, baseline = uniform(2, 4), uniform(2, 4, seed=2)
    assert_equal(deep_lift(model, x, 1, baseline=baseline), (x - baseline) * model[0].weight[1].detach())
    gradient = funcattr.gradient(model, x, 1)
    assert_equal(deep_lift(model, x, 1, baseline=baseline), (x - baseline) * gradient)


def test_one_relu_by_hand() -> None:
    linear, head = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        linear.bias.copy_(torch.tensor([-1.0, 2.0]))
        head.weight.copy_(torch.tensor([[2.0, 10.0]]))
    # z' = (-1, 2), z = (4, 3): slopes 4 / 5 and 1; m = 2 * 0.8 * (1, 2) + 10 * (3, -1) = (31.6, -6.8)
    a = deep_lift(nn.Sequential(linear, nn.ReLU(), head), torch.tensor([[1.0, 2.0]]), 0)
    assert a.tolist() == [pytest.approx([31.6, -13.6])]
    # from (1, 1): z' = (2, 4), all on the same side
    a = deep_lift(nn.Sequential(linear, nn.ReLU(), head), torch.tensor([[1.0, 2.0]]), 0, baseline=1.0)
    assert a.tolist() == [pytest.approx([0.0, 2 * 2 - 10])]


def test_saturation_and_thresholds_of_the_paper() -> None:
    """Figures 1 and 2, section 2: the gradient is 0 or jumps, the slope is not and does not."""
    capped: Any = lambda x: 1 - F.relu(1 - x.sum(1))  # noqa: E731
    x = torch.tensor([[1.0, 1.0]])
    assert funcattr.input_x_gradient(capped, x).tolist() == [[0.0, 0.0]]
    assert deep_lift(capped, x).tolist() == [[0.5, 0.5]]
    biased: Any = lambda x: F.relu(x - 10).sum(1)  # noqa: E731
    around = torch.tensor([[10 - 1e-3], [10 + 1e-3]], dtype=DOUBLE)
    assert_equal(deep_lift(biased, around), torch.tensor([[0.0], [1e-3]], dtype=DOUBLE))
    assert funcattr.input_x_gradient(biased, around)[1] > 10


def test_stacks_equal_layer_by_layer_arithmetic() -> None:
    act = (nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    stack = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), act[0], nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), act[1]]
    model: Any = settle(lambda: nn.Sequential(*stack, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3), act[2]))
    x = uniform(2, 2, 6, 6)
    expected = stack_reference(model, x, 2, baseline=0.4)
    assert_equal(both(model, x, 2, baseline=0.4), expected)
    assert_equal(deep_lift_reference(model, x, 2, baseline=0.4), expected)


def test_the_references_can_fail() -> None:
    model, x = mlp(nn.Tanh), uniform(3, 4)
    for reference in (deep_lift_reference, stack_reference):
        with pytest.raises(AssertionError):
            assert_equal(funcattr.input_x_gradient(model, x, 1), reference(model, x, 1))
    with pytest.raises(UnknownOperationError, match="no handler for cosh"):
        deep_lift_reference(torch.cosh, x, 1)
    with pytest.raises(AssertionError):
        assert_equal(stack_reference(model, x, 1), stack_reference(model, x, 1, reveal_cancel=True))


# --- spellings -------------------------------------------------------------------------------------------------------


class Reused(nn.Module):
    """One relu for all, and a residual."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.relu, self.how = nn.ReLU(inplace=how == "in place"), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "in place":
            h = self.relu(self.a(x))
            h = self.relu(self.b(h).add_(x))
            h *= 2
            return self.c(h)
        if self.how == "of functions":
            h = torch.relu(F.linear(x, self.a.weight, self.a.bias))
            return self.c(2 * F.relu(x + self.b(h)))
        if self.how == "of methods":
            return self.c((self.b(self.a(x).clamp(min=0)) + x).relu() * 2)
        if self.how == "writing into x":
            h = self.a(x).relu_()
            x += self.b(h)
            return self.c(x.relu_().mul_(2))
        h = self.relu(self.a(x))
        return self.c(self.relu(self.b(h) + x) * 2)


def test_activations_as_modules_functions_methods_and_in_place_are_one() -> None:
    x = uniform(3, 4)
    expected = both(settle(lambda: Reused("of modules")), x, 1, baseline=0.3)
    assert expected.abs().max() > 0.1
    for how in ("in place", "of functions", "of methods", "writing into x"):
        before = x.clone()
        assert_equal(both(settle(lambda h=how: Reused(h)), x, 1, baseline=0.3), expected)
        assert torch.equal(x, before)


def test_gates_of_every_spelling() -> None:
    x, w = uniform(3, 4), uniform(4, 4, seed=2)
    by_product = both(lambda x: F.linear(x, w) * F.linear(x, w).sigmoid(), x, 1, baseline=0.2)
    assert_equal(both(lambda x: torch.mul(torch.sigmoid(F.linear(x, w)), x @ w.T), x, 1, baseline=0.2), by_product)
    doubled = torch.cat([w, w])
    assert_equal(both(lambda x: F.glu(F.linear(x, doubled), 1), x, 1, baseline=0.2), by_product)
    # What depends on one value has one slope, however it is written.
    assert_equal(both(lambda x: F.silu(F.linear(x, w)), x, 1, baseline=0.2), by_product)
    assert_equal(both(lambda x: nn.SiLU(inplace=True)(x @ w.T), x, 1, baseline=0.2), by_product)


class Attention(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.mha, self.how = nn.MultiheadAttention(4, 2, batch_first=True), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how in ("module", "module, weights"):
            return self.mha(x, x, x, need_weights=self.how != "module")[0].mean(1)
        q, k, v = F.linear(x, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, 2)).transpose(1, 2) for part in (q, k, v))
        return self.mha.out_proj(self.mixed(q, k, v).transpose(1, 2).flatten(2)).mean(1)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "fused":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "masked":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(3, 3, dtype=torch.bool))
        if self.how == "einsum":
            return torch.einsum("nhqk,nhkd->nhqd", F.softmax(torch.einsum("nhqd,nhkd->nhqk", q, k) / 2**0.5, -1), v)
        if self.how == "bmm":
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            scores = torch.baddbmm(torch.zeros(4, 3, 3).to(q.dtype), q, k.mT, alpha=2**-0.5)
            return scores.softmax(-1).bmm(v).unflatten(0, (2, 2))
        return ((q * 2**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def test_attention_of_every_spelling() -> None:
    x, baseline = uniform(2, 3, 4), uniform(2, 3, 4, seed=2)
    expected = both(settle(lambda: Attention("products")), x, 1, baseline=baseline)
    assert expected.abs().max() > 0.01
    for how in ("module", "module, weights", "fused", "masked", "einsum", "bmm"):
        assert_equal(both(settle(lambda h=how: Attention(h)), x, 1, baseline=baseline), expected)


def test_a_transformer_layer_without_its_fused_kernel() -> None:
    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2))

    both(settle(make), uniform(2, 3, 4), 1, baseline=uniform(3, 4, seed=2))


# --- DeepSHAP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("layer", [None, "1"])
def test_deep_shap_is_the_mean_over_rows(chunk_size: int | None, layer: str | None) -> None:
    model, x, rows, target = mlp(nn.ReLU, nn.Tanh), uniform(3, 4), uniform(5, 4, seed=2), [0, 1, 1]
    each = torch.stack([deep_lift(model, x, target, baseline=row, layer=layer) for row in rows])
    found = both(model, x, target, baseline=distribution(rows), layer=layer, chunk_size=chunk_size)
    assert_equal(found, each.mean(0), tolerance=1e-14)


def test_deep_shap_of_many_inputs_and_options() -> None:
    def model(a: Tensor, b: Tensor, scale: Tensor, *, shift: Tensor) -> dict[str, Tensor]:
        return {"y": (a.tanh() * b * scale + shift).relu(), "other": a}

    x, rows = (uniform(2, 3), uniform(2, 3, seed=2)), (uniform(4, 3, seed=3), uniform(4, 3, seed=4))
    options: Any = {"args": (uniform(2, 3, seed=5),), "kwargs": {"shift": uniform(2, 1, seed=6)}, "output": "y"}
    found = both(model, x, 1, baseline=distribution(rows), chunk_size=3, **options)
    each = [both(model, x, 1, baseline=(a, b), **options) for a, b in zip(*rows, strict=True)]
    for i in range(2):
        assert_equal(found[i], torch.stack([a[i] for a in each]).mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deep_shap_has_the_dtype_of_what_it_explains(dtype: torch.dtype) -> None:
    model = mlp(nn.ReLU).to(dtype)
    x, rows = uniform(2, 4).to(dtype), distribution(uniform(3, 4, seed=2).to(dtype))
    assert deep_lift(model, x, 1, baseline=rows).dtype == dtype
    assert deep_lift(model, x, 1, baseline=rows, layer="0").dtype == dtype
    tokens: Any = nn.Sequential(nn.Embedding(7, 4), model).to(dtype)
    ids, others = torch.tensor([[1], [2]]), distribution(torch.tensor([[0], [5], [6]]))
    assert deep_lift(tokens, ids, (0, 1), baseline=others, layer="0").dtype == dtype
    wide = x.double(), distribution((rows.rows, rows.rows.double()))
    mixed = deep_lift(lambda a, b: (a * b)[:, 0], (x, wide[0]), baseline=wide[1])
    assert [part.dtype for part in mixed] == [dtype, DOUBLE]


# --- what is explained, and where ------------------------------------------------------------------------------------


def test_a_layer_is_the_rest_of_the_model_from_the_layers_values() -> None:
    model, x = mlp(nn.Tanh, nn.ReLU), uniform(3, 4)
    found = both(model, x, 1, layer="1", baseline=0.3)
    at_x, at_baseline = (model[:2](v).detach() for v in (x, torch.full_like(x, 0.3)))
    assert_equal(found, deep_lift(model[2:], at_x, 1, baseline=at_baseline))
    assert_equal(both(model, x, 1, layer=model[1], baseline=0.3), found, tolerance=1e-14)


def test_token_ids_with_the_layer_of_their_embedding() -> None:
    model: Any = settle(
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    )
    ids = torch.tensor([[1, 2, 3], [4, 4, 8]])
    found = both(model, ids, [0, 1], baseline=0, layer="0")
    assert found.shape == (2, 3, 4)
    embedded, padding = (model[0](v).detach() for v in (ids, torch.zeros_like(ids)))
    assert_equal(found, deep_lift(model[1:], embedded, [0, 1], baseline=padding))
    rows = distribution(torch.tensor([[0, 0, 0], [5, 6, 7]]))
    assert both(model, ids, 1, baseline=rows, layer="0").shape == (2, 3, 4)
    with pytest.raises(TypeError, match=r"deep_lift: expected a floating-point input, got torch.int64.* give layer="):
        deep_lift(model, ids, 1, baseline=0)
    with pytest.raises(ValueError, match=r"^deep_lift\(baseline=0.5\): expected an integer, as the inputs are"):
        deep_lift(model, ids, 1, baseline=0.5, layer="0")


def test_every_kind_of_target() -> None:
    model, x = mlp(nn.ReLU, classes=3), uniform(3, 4)
    each = [both(model, x, k, baseline=0.2) for k in range(3)]
    assert_equal(both(model, x, [2, 0, 1], baseline=0.2), torch.stack([each[2][0], each[0][1], each[1][2]]))
    assert_equal(both(model, x, torch.tensor([2, 0, 1]), baseline=0.2), both(model, x, [2, 0, 1], baseline=0.2))
    weights = torch.tensor([[1.0, -2.0, 0.0]] * 3, dtype=DOUBLE)
    assert_equal(both(model, x, weights, baseline=0.2), each[0] - 2 * each[1])
    assert_equal(both(model, x, lambda y: y[:, 0] - 2 * y[:, 1], baseline=0.2), each[0] - 2 * each[1])
    assert_equal(both(lambda x: model(x)[:, 1], x, baseline=0.2), each[1])
    assert_equal(both(lambda x: {"a": x, "b": model(x)}, x, 1, baseline=0.2, output="b"), each[1])


def test_a_function_as_the_target_is_on_record_too() -> None:
    """Its own slopes count, so that its number is what the attributions sum to."""
    model, x = mlp(nn.ReLU, classes=3), uniform(3, 4)

    def likelihood(y: Tensor) -> Tensor:
        return y.log_softmax(1)[:, 1]

    expected = both(lambda x: likelihood(model(x)), x, baseline=0.2)
    assert_equal(both(model, x, likelihood, baseline=0.2), expected)
    rows = distribution(uniform(3, 4, seed=2))
    assert_equal(both(model, x, likelihood, baseline=rows), both(lambda x: likelihood(model(x)), x, baseline=rows))
    probability = both(model, x, lambda y: y.softmax(1)[torch.arange(len(y)), torch.tensor([2, 0, 1])], baseline=0.2)
    assert not torch.allclose(probability, expected)
    maps: Any = settle(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()))
    image = uniform(2, 2, 5, 5)
    for target in (funcattr.pointing(1), funcattr.pointing([0, 2])):
        assert both(maps, image, target, baseline=0.5).abs().max() > 0.01
    assert both(maps, image, funcattr.pointing([0, 2]), baseline=distribution(uniform(3, 2, 5, 5))).shape == image.shape


def test_baselines_of_every_kind() -> None:
    model, x = mlp(nn.Tanh), uniform(3, 4)
    zero = both(model, x, 1)
    assert_equal(both(model, x, 1, baseline=torch.zeros(4)), zero)
    assert_equal(both(model, x, 1, baseline=torch.zeros_like(x)), zero)
    each = uniform(3, 4, seed=2)
    found = both(model, x, 1, baseline=each)
    for i in range(3):
        assert_equal(found[i : i + 1], both(model, x[i : i + 1], 1, baseline=each[i]))
    assert_equal(both(model, x, 1, baseline=x), torch.zeros_like(x))


def test_several_inputs_as_a_tuple_or_by_name() -> None:
    def model(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).relu() + b.exp()

    a, b = uniform(2, 3), uniform(2, 3, seed=2)
    as_tuple = both(model, (a, b), 1, baseline=(0.5, torch.ones(3)))
    by_name = both(model, {"b": b, "a": a}, 1, baseline={"b": 1, "a": 0.5})
    assert_equal(by_name["a"], as_tuple[0])
    assert_equal(by_name["b"], as_tuple[1])
    y, y0 = a * b, torch.full_like(a, 0.5)
    slope = (y.relu() - y0) / (y - y0)
    expected_a = (a - 0.5) * slope * (b + 1) / 2
    assert_equal(as_tuple[0], expected_a * torch.tensor([0, 1, 0]))


def test_rows_of_a_users_own() -> None:
    x = uniform(2, 4).abs() + 0.5

    def model(x: Tensor) -> Tensor:
        return torch.cumprod(x, 1)

    with pytest.raises(UnsupportedOperationError, match=r"no rule for\s+cumprod in ''\s+Give each one"):
        deep_lift(model, x, 3, baseline=1.0)

    def written_out(input: Tensor, dim: int) -> Tensor:
        assert dim == 1
        return torch.stack(
            [(sum(input[:, j].log() for j in range(i + 1)) + 0 * input[:, 0]).exp() for i in range(4)], 1
        )

    book = rules.deep_lift() | {"cumprod": funcattr.rules.decompose(written_out)}
    assert both(model, x, 3, baseline=1.0, rules=book).abs().min() > 1e-3
    half = rules.deep_lift() | {"tanh": lambda call, m: m * (call.output - rules.partner(call).output)}
    assert_equal(deep_lift(torch.tanh, x, 1, rules=half)[:, 1], x[:, 1] * x[:, 1].tanh())


def test_rules_by_name_and_by_mapping() -> None:
    model, x = mlp(nn.ReLU, nn.Tanh), uniform(3, 4)
    expected = both(model, x, 1, baseline=0.2)
    assert_equal(both(model, x, 1, baseline=0.2, rules="deep_lift"), expected, tolerance=1e-14)
    revealed = both(model, x, 1, baseline=0.2, rules="deep_lift_reveal_cancel")
    book = rules.deep_lift_reveal_cancel()
    assert_equal(revealed, both(model, x, 1, baseline=0.2, rules=book), tolerance=1e-14)
    assert not torch.allclose(revealed, expected)
    whole: Any = {"linear": GRADIENT, "relu": rules.rescale, "tanh": rules.rescale}
    assert_equal(both(model, x, 1, baseline=0.2, rules=whole), expected)
    # By the derivative at x, in place of the slope.
    plain = {"linear_map": GRADIENT, "activation": GRADIENT}
    gradient = funcattr.gradient(model, x, 1)
    assert_equal(deep_lift(model, x, 1, baseline=0.2, rules=plain), (x - 0.2) * gradient)


def test_a_mapping_has_to_name_every_operation() -> None:
    model, x, rows = mlp(nn.ReLU, nn.Tanh), uniform(3, 4), distribution(uniform(2, 4, seed=2))
    message = r"^deep_lift\(rules='rules'\): no rule for\s+linear in '0'\s+linear in '2'\s+tanh in '3'\s+linear in '4'"
    for baseline in (0.2, rows):
        with pytest.raises(UnsupportedOperationError, match=message):
            deep_lift(model, x, 1, baseline=baseline, rules={"relu": rules.rescale})
    with pytest.raises(UnsupportedOperationError, match=r"no rule for\s+tanh in '3'\s+linear in '4'\s+Give each one"):
        deep_lift(model, x, 1, layer="2", rules={"relu": rules.rescale})


# --- what depends on the values --------------------------------------------------------------------------------------

LEAK = torch.tensor([[1.0, -2.0], [0.5, 1.0]], dtype=DOUBLE)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.1 * x).sum(1)


def detached(x: Tensor) -> Tensor:
    return (x / x.detach().norm(dim=1, keepdim=True).add(1)).sum(1)


def indexed(x: Tensor) -> Tensor:
    return x.gather(1, x.argmax(1, keepdim=True))[:, 0].exp()


def masked(x: Tensor) -> Tensor:
    return (x * (x > 0)).sum(1)


def filled(x: Tensor) -> Tensor:
    return x.masked_fill(x < 0, 0.0).sum(1)


def noisy(x: Tensor) -> Tensor:
    return (x + 0.1 * torch.randn(x.shape, dtype=x.dtype)).sum(1)


@pytest.mark.parametrize("model", [masked, filled])
def test_a_relu_by_a_mask_takes_another_way_at_the_baseline(model: Any) -> None:
    baseline = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
    expected = deep_lift(lambda x: x.relu().sum(1), LEAK, baseline=baseline)
    assert_equal(deep_lift(model, LEAK, baseline=baseline), expected)


@pytest.mark.parametrize("model", [leaky, detached, indexed])
def test_constants_that_depend_on_the_values_are_refused_or_make_nan(model: Any) -> None:
    message = r"^deep_lift: in the module '', the model does not do the same at the input and at its baseline: \w+ "
    baseline = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=DOUBLE)
    with pytest.raises(UnsupportedOperationError, match=message + "gets other constants"):
        deep_lift(model, LEAK, baseline=baseline)

    def one(x: Tensor, baseline: Tensor) -> Tensor:
        return deep_lift(model, x[None], baseline=baseline[None])[0]

    # What takes another way is NaN, the other examples are as they are alone.
    same = LEAK * 0.999 if model is not detached else LEAK
    mapped = torch.vmap(one)(LEAK, torch.stack([same[0], baseline[1]]))
    assert mapped[1].isnan().all()
    assert_equal(mapped[:1], deep_lift(model, LEAK[:1], baseline=same[:1]))


def test_the_same_way_at_both_is_exact() -> None:
    for model in (leaky, indexed, masked, filled):
        both(model, LEAK, baseline=0.5 * LEAK)


def test_noise_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match=r"add gets other constants \(a mask, an index, a detached"):
        deep_lift(noisy, LEAK)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda x: x.exp().sum(1) if x[0, 0] > 0 else x.sum(1), "it calls exp at the input, sum at the baseline"),
        (lambda x: x.sum(1).exp() if x[0, 0] > 0 else x.sum(1), "it calls exp at the input, nothing at the baseline"),
        (lambda x: (x[:, :1] if x[0, 0] > 0 else x).sum(1), "it calls __getitem__ at the input, sum at the baseline"),
        (lambda x: x[:, int(x[0, 0] > 0)].exp(), "__getitem__ (at|gets other)"),
        (lambda x: x[x > 0].reshape(1, -1).sum(1).expand(2), "__getitem__ gets other constants"),
    ],
)
def test_control_flow_that_depends_on_the_values_is_refused(model: Any, what: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=f"^deep_lift: in the module '', .*{what}.*Choose a baseline"):
        deep_lift(model, LEAK, baseline=-1.0)


def test_batch_norm_in_training_mode_warns_and_dropout_is_refused() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))).train()
    before = copy.deepcopy(model.state_dict())
    x = uniform(3, 4)
    baseline = uniform(3, 4, seed=2)
    with pytest.warns(UserWarning, match=r"^deep_lift: the model is in training mode"):
        found = deep_lift(model, x, 1, baseline=baseline)
    with pytest.warns(UserWarning, match=r"^completeness: the model is in training mode"):
        delta = completeness(model, x, 1, found, baseline=baseline)
    assert delta.abs().max() > 1e-3  # an example also changes the others' outputs
    assert delta.sum().abs() <= EXACT
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    dropping = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 2)).double().train()
    with (
        pytest.warns(UserWarning, match="training mode"),
        pytest.raises(UnsupportedOperationError, match=r"in the module '1', no multiplier of a dropout that drops"),
    ):
        deep_lift(dropping, x, 1)
    both(dropping.eval(), x, 1)


# --- transforms ------------------------------------------------------------------------------------------------------


def test_mapped_over_examples_baselines_and_targets() -> None:
    model, (x,) = case("vit").build(), case("vit").inputs()
    baseline, classes = uniform(*x.shape, seed=2), torch.tensor([0, 3])

    def one(x: Tensor, baseline: Tensor, target: Tensor) -> Tensor:
        return deep_lift(model, x[None], target, baseline=baseline[None])[0]

    batch = deep_lift(model, x, classes, baseline=baseline)
    assert_equal(torch.vmap(one)(x, baseline, classes), batch)
    assert_equal(loop(one, x, baseline, classes), batch)
    shap = partial(deep_lift, model, baseline=distribution(uniform(3, *x.shape[1:], seed=3)), chunk_size=2)
    assert_equal(torch.vmap(lambda x, t: shap(x[None], t)[0])(x, classes), shap(x, classes))


def test_differentiable_by_input_and_baseline() -> None:
    model = Smooth().double().eval()
    x, baseline = (uniform(2, 2, 5, 5, seed=s).requires_grad_() for s in (1, 2))
    assert torch.autograd.gradcheck(lambda x, b: deep_lift(model, x, [1, 0], baseline=b), (x, baseline), fast_mode=True)
    rows = uniform(3, 2, 5, 5, seed=3).requires_grad_()

    def mean(rows: Tensor) -> Tensor:
        return deep_lift(model, x.detach(), 1, baseline=distribution(rows), chunk_size=2)

    assert torch.autograd.gradcheck(mean, (rows,), fast_mode=True)


class Block(nn.Module):
    """A convolution, a batch norm, a pool, attention, a gate, a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.norm, self.qkv, self.head = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).mT
        tokens = tokens + F.scaled_dot_product_attention(*self.qkv(self.norm(tokens)).chunk(3, -1))
        return self.head((tokens * tokens.sigmoid()).amax(1)).log_softmax(-1)


def compiled(function: Any) -> Any:
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_compiled_equals_eager(fresh_dynamo: None) -> None:
    fm = funcattr.functionalize(settle(Block))
    x, baseline = (uniform(2, 2, 4, 4, seed=s) for s in (1, 2))

    def explain(x: Tensor, target: Tensor) -> Any:
        found = deep_lift(fm, x, target, baseline=baseline, layer="stem")
        return found, completeness(fm, x, target, found, baseline=baseline)

    fast, slow = compiled(explain)(x, torch.tensor([0, 2])), explain(x, torch.tensor([0, 2]))
    assert_equal(fast[0], slow[0])
    assert fast[1].abs().max() <= EXACT


@long
def test_compiled_deep_shap_and_reveal_cancel_equal_eager(fresh_dynamo: None) -> None:
    fm, book = funcattr.functionalize(mlp(nn.ReLU)), rules.deep_lift_reveal_cancel()
    x, rows = uniform(2, 4), distribution(uniform(4, 4, seed=2))

    def explain(x: Tensor) -> Tensor:
        return deep_lift(fm, x, 1, baseline=rows, rules=book, chunk_size=2)

    assert_equal(compiled(explain)(x), explain(x))


def test_compiled_another_way_makes_nan_and_a_function_as_the_target_is_refused(fresh_dynamo: None) -> None:
    class Leaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return leaky(x)

    fm = funcattr.functionalize(Leaky())
    explain = compiled(lambda x, baseline: deep_lift(fm, x, baseline=baseline))
    assert explain(LEAK, -LEAK).isnan().all()
    assert_equal(explain(LEAK, 0.5 * LEAK), deep_lift(fm, LEAK, baseline=0.5 * LEAK))
    with pytest.raises(Exception, match=r"deep_lift\(target=<function>\): with a baseline, a function of the output"):
        compiled(lambda x: deep_lift(fm, x, lambda y: y))(LEAK)


# --- nothing of the user's is touched --------------------------------------------------------------------------------


def test_nothing_is_touched_and_no_graph_is_kept() -> None:
    model, x = settle(Block), uniform(2, 2, 4, 4)
    baseline = uniform(2, 2, 4, 4, seed=2)
    before = copy.deepcopy((model.state_dict(), x, baseline))
    rng = torch.get_rng_state()
    for start in (baseline, distribution(baseline)):
        found = deep_lift(model, x, 1, baseline=start)
        assert not found.requires_grad and found.grad_fn is None
        assert not completeness(model, x, 1, found, baseline=start).requires_grad
    assert all(torch.equal(v, before[0][k]) for k, v in model.state_dict().items())
    assert torch.equal(x, before[1]) and torch.equal(baseline, before[2])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(not m._forward_hooks and not m._backward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert deep_lift(model, x.requires_grad_(), 1).requires_grad
    with torch.no_grad():
        assert not deep_lift(model, x, 1).requires_grad


# --- bad input -------------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rules of another kind": (
        {"rules": [GRADIENT]},
        TypeError,
        r"\(rules=\.\.\.\): expected the name of a rulebook, a Rulebook or a mapping .*got list",
    ),
    "rules by a wrong name": (
        {"rules": "deep_lit"},
        ValueError,
        r"\(rules='deep_lit'\): no such rulebook\. Closest: 'deep_lift'",
    ),
    "rules for some operations": (
        {"rules": {"relu": GRADIENT}},
        UnsupportedOperationError,
        r"\(rules='rules'\): no rule for\s+linear in '0'\s+linear in '2'\s+Give each one",
    ),
    "baseline's kind": (
        {"baseline": "black"},
        TypeError,
        r"\(baseline=\.\.\.\): expected numbers and tensors, got str",
    ),
    "baseline's shape": (
        {"baseline": torch.zeros(5)},
        ValueError,
        r"expected the input's shape \[3, 4\] .* got \[5\]\. Many baselines are a distribution",
    ),
    "many baselines": ({"baseline": torch.zeros(7, 4)}, ValueError, r"baseline=distribution\(rows\)"),
    "baseline's structure": ({"baseline": (0, 0)}, ValueError, r"expected a number, or 1 baselines structured as"),
    "rows' shape": (
        {"baseline": distribution(torch.zeros(7, 3))},
        ValueError,
        r"\(baseline=distribution\(\.\.\.\)\): expected rows of shapes \[\[4\]\], got \[\[3\]\]",
    ),
    "chunk size": (
        {"baseline": distribution(torch.zeros(7, 4)), "chunk_size": 0},
        ValueError,
        r"\(chunk_size=0\): expected at least 1",
    ),
    "layer": ({"layer": "7"}, funcattr.UnknownSiteError, r"\(layer='7'\): no such site '7'\. Closest: '0'"),
    "layer as a number": (
        {"layer": 0},
        TypeError,
        r"\(layer=\.\.\.\): expected the name of a site or a module of the model, got int",
    ),
    "class": ({"target": 2}, ValueError, r"\(target=2\): class out of range; the output has 2"),
    "no target": ({"target": None}, ValueError, r"\(target=None\): expected an output with one number per example"),
    "target's shape": (
        {"target": lambda y: y},
        ValueError,
        r"expected one number per example, shape \[3\], got \[3, 2\]",
    ),
    "constant": ({"model": lambda x: torch.ones(3, 2)}, funcattr.UntrackedPathError, "does not depend on the input"),
    "constant target": ({"target": lambda y: y.detach()[:, 0]}, funcattr.UntrackedPathError, "does not depend on"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named(what: str) -> None:
    change, kind, message = BAD[what]
    arguments: dict[str, Any] = {"model": mlp(nn.ReLU), "x": uniform(3, 4), "target": 1} | change
    with pytest.raises(kind, match=rf"^deep_lift.*{message}"):
        deep_lift(**arguments)


NO_MULTIPLIERS = {
    "epsilon": "relevance",
    "attnlrp": "gradient",
    "cp_lrp": "gradient",
    "guided": "gradient",
    "deconvnet": "gradient",
    "gradient": "gradient",
}


@pytest.mark.parametrize("name", NO_MULTIPLIERS)
def test_rules_that_give_no_multipliers_are_refused_by_name_and_as_a_rulebook(name: str) -> None:
    """Only multipliers sum to the rise from the baseline."""
    message = rf"^deep_lift\(rules='{name}'\): expected rules that give multipliers, got space='{NO_MULTIPLIERS[name]}'"
    book = Rulebook(name="gradient") if name == "gradient" else rules.rulebook_of("here", name)
    for given_rules in (book, name):
        if given_rules != "gradient":
            with pytest.raises(ValueError, match=message):
                funcattr.deep_lift(nn.Linear(3, 2), torch.ones(1, 3), 0, rules=given_rules)


def test_no_rules_are_no_rulebook() -> None:
    with pytest.raises(TypeError, match=r"^deep_lift\(rules=...\): expected the name of a rulebook, .* got NoneType"):
        funcattr.deep_lift(nn.Linear(3, 2), torch.ones(1, 3), 0, rules=None)  # pyright: ignore[reportArgumentType]


def test_extended_rules_and_a_mapping_give_multipliers() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double(), uniform(5, 3)
    expected = funcattr.deep_lift(model, x, 0)
    mapping = {"linear": rules.GRADIENT, "relu": rules.rescale}
    books: list[Any] = [rules.deep_lift() | {"relu": rules.rescale}, mapping, Rulebook(mapping, space="multiplier")]
    for book in books:
        assert_equal(funcattr.deep_lift(model, x, 0, rules=book), expected)
