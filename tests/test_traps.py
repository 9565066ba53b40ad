"""The traps that other packages fall into, one test each: see "Traps" in the reference on layer-wise relevance."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import lrp, rules
from funcattr.testing.seeding import settle, uniform

from .contract import assert_equal
from .zoo import case

CHAINS = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "excitation_backprop", "attnlrp", "cp_lrp")
each_composite = pytest.mark.parametrize("book", CHAINS)


def relevance(model: Callable[..., Any], x: Tensor, book: Any, target: Any = 1, **options: Any) -> Tensor:
    result: Any = lrp(model, x, target, rules=book, **options, start="one")
    return result


def of_rule(rule: Any, layer: Callable[[Tensor], Tensor], x: Tensor, r: Tensor) -> Tensor:
    """One rule at one layer, the relevance of its output given."""
    return funcattr.vjp(layer, x, rules=rules.composite("one", convolution=rule, dense=rule))[1](r)[0]


def s(z: Tensor, eps: float = 1e-6) -> Tensor:
    return torch.where(z >= 0, z + eps, z - eps)


class Wired(nn.Module):
    """Layers [4 -> 4] and a forward pass of the test's own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], layers: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        self.relu = nn.ReLU()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def wired(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return settle(lambda: Wired(function))


# Wrong results


@each_composite
def test_a_module_reused_in_forward(book: str) -> None:
    shared: Any = wired(lambda m, x: m.layers[1](m.relu(m.layers[0](m.relu(m.layers[0](x))))))
    copies: Any = wired(lambda m, x: m.layers[1](m.relu(m.layers[2](m.relu(m.layers[0](x))))))
    copies.layers[2].load_state_dict(shared.layers[0].state_dict())
    x = uniform(3, 4)
    assert_equal(relevance(shared, x, book), relevance(copies, x, book))


@each_composite
@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "sigmoid", "tanh"])
def test_functional_activations(name: str, book: str) -> None:
    module: Any = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[name]()
    by_module = wired(lambda m, x: m.layers[1](module(m.layers[0](x))))
    x = uniform(3, 4)
    expected = relevance(by_module, x, book)
    for function in (getattr(F, name), getattr(Tensor, name, getattr(F, name)), getattr(torch, name, module)):
        by_function = wired(lambda m, x, f=function: m.layers[1](f(m.layers[0](x))))
        assert_equal(relevance(by_function, x, book), expected)


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "excitation_backprop"])
def test_a_residual_sum_does_not_double(book: str) -> None:
    # Ten skips in a row: a sum that went to both branches would be 1024 times too much.
    model = settle(lambda: nn.Sequential(*(Skip() for _ in range(10)), nn.Flatten(), nn.Linear(16, 3, bias=False)))
    x = uniform(2, 4, 4).abs()
    report = funcattr.conservation(model, x, 1, rules=book, start="one")
    assert report.start == 2
    assert report.reached == pytest.approx(2 - sum(report.lost.values()), rel=1e-9)
    assert abs(report.lost["stabilizer"]) < 0.01 and report.lost["other"] == pytest.approx(0, abs=1e-9)
    deep, x = case("resnet_basic").build(), case("resnet_basic").inputs()[0]
    assert abs(relevance(deep, x, book).sum().item()) < 20


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x)) + x


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d((2, 3))])
def test_average_pooling_conserves(pool: nn.Module) -> None:
    x = uniform(2, 3, 4, 6)
    y: Tensor = pool(x)
    r = uniform(*y.shape, seed=3)
    back = of_rule(rules.epsilon, pool, x, r)
    assert back.sum().item() == pytest.approx((r * y / s(y)).sum().item(), rel=1e-9)
    gradient: Any = torch.func.vjp(pool, x)[1](r)[0]
    assert not torch.allclose(back, gradient)


def test_overlapping_max_pooling_conserves_and_adds_up() -> None:
    x = torch.tensor([[[[0.0, 1.0, 5.0, 2.0, 3.0]]]], dtype=torch.float64)
    pool = nn.MaxPool2d((1, 3), 1)  # the 5 wins three times
    back = of_rule(rules.epsilon, pool, x, torch.tensor([[[[1.0, 2.0, 4.0]]]], dtype=torch.float64))
    assert back.tolist() == [[[[0, 0, 7, 0, 0]]]]


NORMS: dict[str, Callable[[], nn.Module]] = {
    "before the convolution": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)),
    "without affine": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "grouped, transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("rule", [rules.epsilon, rules.z_plus, rules.gamma, rules.alpha_beta], ids=repr)
@pytest.mark.parametrize("where", NORMS)
def test_batch_norm_in_every_place(where: str, rule: Any) -> None:
    model, x = settle(NORMS[where]), uniform(1, 4, 3, 3)
    r = uniform(*model(x).shape, seed=2)
    matrix: Any = torch.autograd.functional.jacobian(lambda x: model(x).flatten(), x)
    offset = model(torch.zeros_like(x)).flatten().detach()
    expected = of_rule(rule, lambda x: F.linear(x.flatten(1), matrix.flatten(1), offset), x, r.flatten(1))
    assert_equal(of_rule(rule, model, x, r).detach(), expected, tolerance=1e-8)


# Other formulas than the published ones


def test_the_stabilizer_has_the_sign_of_z() -> None:
    x = torch.tensor([[1.0]], dtype=torch.float64)
    for z in (-1e-6, -2e-6, 1e-6, -1e-30, 0.0):  # a plain z + eps has its pole at the first
        weight = torch.tensor([[z]], dtype=torch.float64)
        back = of_rule(rules.epsilon, lambda x, w=weight: F.linear(x, w), x, torch.ones_like(x)).item()
        assert back == pytest.approx(abs(z) / (abs(z) + 1e-6), rel=1e-12)
        assert 0 <= back <= 1


def test_alpha1_beta0_of_negative_inputs_and_a_bias_in_each_denominator_once() -> None:
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    w = torch.tensor([[1.0, -3.0], [1.0, 4.0]], dtype=torch.float64)
    b = torch.tensor([1.0, -1.0], dtype=torch.float64)
    # contributions 2, 3 and bias 1 above zero; then 2 above, -4 and bias -1 below
    for target, z_plus, below in ((0, [2 / 6, 3 / 6], [0, 0]), (1, [2 / 2, 0], [0, -4 / -5])):
        r = F.one_hot(torch.tensor([target]), 2).double()
        layer: Any = lambda x: F.linear(x, w, b)  # noqa: E731
        for rule in (rules.z_plus, rules.alpha_beta(alpha=1, beta=0)):
            assert of_rule(rule, layer, x, r)[0].tolist() == pytest.approx(z_plus, rel=1e-5)
        both = [2 * up - 1 * down for up, down in zip(z_plus, below, strict=True)]
        assert of_rule(rules.alpha_beta, layer, x, r)[0].tolist() == pytest.approx(both, rel=1e-5)


def test_the_gamma_formula() -> None:
    x, w = uniform(2, 3).abs(), uniform(2, 3, seed=2)
    r = uniform(2, 2, seed=3) * (x @ w.T > 0)  # where x and z are positive it is the original rule
    assert r.count_nonzero() >= 2
    for gamma in (0.25, 2.0):
        more = w + gamma * w.clamp(min=0)
        expected = x * ((r / s(x @ more.T)) @ more)
        assert_equal(of_rule(rules.gamma(gamma=gamma), lambda x: F.linear(x, w), x, r), expected)


@pytest.mark.parametrize("eps", [1e-6, 0.1, 3.0])
def test_stride_padding_dilation_and_eps_are_the_users(eps: float) -> None:
    conv: Any = settle(lambda: nn.Conv2d(2, 4, 3, stride=2, padding=(2, 1), dilation=(1, 2), groups=2))
    x = uniform(1, 2, 6, 7)
    z: Tensor = conv(x)
    r = uniform(*z.shape, seed=2)
    matrix: Any = torch.autograd.functional.jacobian(lambda x: conv(x).flatten(), x)
    expected = x * ((r / s(z, eps)).reshape(1, -1) @ matrix.flatten(1)).reshape(x.shape)
    assert_equal(of_rule(rules.epsilon(eps=eps), conv, x, r).detach(), expected.detach())


# Derivatives, threads, and what is left behind


SMOOTH: dict[str, Callable[[], nn.Module]] = {
    "dense": lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2)),
    "normalised": lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Flatten(), nn.Linear(24, 2)),
    "convolution": lambda: nn.Sequential(
        *(nn.Conv1d(4, 5, 2), nn.BatchNorm1d(5), nn.SiLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(5, 2))
    ),
    "attention": lambda: nn.Sequential(
        nn.Linear(3, 6),
        nn.TransformerEncoderLayer(6, 2, 5, activation="gelu", batch_first=True),
        nn.Flatten(),
        nn.Linear(24, 2),
    ),
}


@pytest.mark.parametrize("book", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1", "attnlrp"])
@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_are_right(name: str, book: str) -> None:
    fm = funcattr.functionalize(settle(SMOOTH[name]))
    x, weight, direction = uniform(2, 4, 3), fm.params["0.weight"].detach(), uniform(2, 4, 3, seed=2)

    def value(x: Tensor, weight: Tensor) -> Tensor:
        return (relevance(fm.bind({"0.weight": weight}), x, book) * direction).sum()

    at = x.clone().requires_grad_(), weight.clone().requires_grad_()
    found = torch.autograd.grad(value(*at), at)
    for i, g in enumerate(found):
        step = 1e-6 * uniform(*g.shape, seed=3)
        ahead, behind = ((x, weight + sign * step) if i else (x + sign * step, weight) for sign in (1, -1))
        expected = ((value(*ahead) - value(*behind)) / 2).item()
        assert (g * step).sum().item() == pytest.approx(expected, rel=1e-4)


def test_eight_threads_on_one_model() -> None:
    model = case("resnet_basic").build()
    inputs = [uniform(1, 3, 16, 16, seed=i) for i in range(24)]
    expected = [relevance(model, x, CHAINS[i % 6], i % 4) for i, x in enumerate(inputs)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda i: relevance(model, inputs[i], CHAINS[i % 6], i % 4), range(24))
    for got, right in zip(found, expected, strict=True):
        assert_equal(got, right, tolerance=1e-12)


@each_composite
def test_the_users_model_is_untouched(book: str) -> None:
    model, x = case("resnet_basic").build(), case("resnet_basic").inputs()[0]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    kept = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    hooks = [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()]
    relevance(model, x, book)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert [len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules()] == hooks
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is value and torch.equal(value, copy) for name, (value, copy) in kept.items())
    # An optimiser made before still updates the model.
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    relevance(model, x, book)
    model(x).sum().backward()
    optimiser.step()
    assert not torch.equal(after["fc.weight"], kept["fc.weight"][1])


@pytest.mark.parametrize("name", ["bert_sdpa", "llama_sdpa", "vit"])
def test_other_models_of_the_process_are_untouched(name: str) -> None:
    c = case(name)
    model, other, (x,) = c.build(), c.build(), c.inputs()
    classes = {type(module): dict(vars(type(module))) for module in model.modules()}
    functions = {k: getattr(F, k) for k in ("relu", "linear", "scaled_dot_product_attention", "layer_norm")}
    before = c.logits(other, x.clone().requires_grad_())
    relevance(model, {c.key: x} if c.key else x, "attnlrp", kwargs=c.kwargs())  # pyright: ignore[reportArgumentType]
    assert all(dict(vars(kind)) == attributes for kind, attributes in classes.items())
    assert all(getattr(F, k) is function for k, function in functions.items())
    assert_equal(c.logits(other, x).detach(), before.detach(), tolerance=1e-6 if c.in_float32 else 1e-12)
    tracked = x.clone().requires_grad_()
    plain = torch.autograd.grad(c.logits(deepcopy(other), tracked)[:, 1].sum(), tracked)[0]
    assert_equal(
        torch.autograd.grad(c.logits(other, tracked)[:, 1].sum(), tracked)[0],
        plain,
        tolerance=1e-6 if c.in_float32 else 1e-12,
    )
