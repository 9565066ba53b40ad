"""`funcattr.compat.captum.attr` by itself: its numbers are those of closed forms, and the user's model is untouched."""

import inspect
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.compat.captum import attr
from funcattr.testing.seeding import settle, uniform

X, X0 = uniform(4, 3), uniform(4, 3, seed=2)
mlp: Any = settle(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))


def slopes(x: Tensor, target: int) -> Tensor:
    """The gradient of `mlp`, by autograd."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(mlp(x)[:, target].sum(), x)[0]


def test_the_seeds_example_runs_with_its_import_changed() -> None:
    from funcattr.compat.captum.attr import IntegratedGradients, NoiseTunnel

    net = settle(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)))
    ig = IntegratedGradients(net)
    input = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    nt = NoiseTunnel(ig)
    attribution = nt.attribute(input, nt_type="smoothgrad", nt_samples=10, target=3)
    assert attribution.shape == input.shape and not attribution.requires_grad


def test_saliency_is_absolute_and_so_is_its_noise_tunnel() -> None:
    torch.testing.assert_close(attr.Saliency(mlp).attribute(X, 1), slopes(X, 1).abs())
    torch.manual_seed(5)
    found = attr.NoiseTunnel(attr.Saliency(mlp)).attribute(X, nt_samples=3, stdevs=0.5, target=1)
    signed = torch.stack([slopes(x, 1) for x in noisy(0.5, 3, seed=5)])
    torch.testing.assert_close(found, signed.abs().mean(0))
    assert not torch.allclose(found, signed.mean(0))


def noisy(stdev: float, samples: int, seed: int) -> list[Tensor]:
    """The noisy copies of `X` that Captum makes of one seed of torch's generator."""
    torch.manual_seed(seed)
    noise = torch.normal(0.0, torch.full((len(X), samples, *X.shape[1:]), stdev))
    return [X + noise[:, i].double() for i in range(samples)]


def test_noise_is_of_the_size_that_is_asked_for() -> None:
    """Of f = x^2 the gradient is 2 x: its variance over the noise is 4 s^2, and its mean square 4 (x^2 + s^2)."""
    options: Any = {"nt_samples": 4000, "stdevs": 0.5, "abs": False}
    method = attr.NoiseTunnel(attr.Saliency(lambda x: (x**2).sum(1)))
    variance = method.attribute(X, nt_type="vargrad", **options)
    torch.testing.assert_close(variance, torch.ones_like(X), rtol=0.1, atol=0.0)
    square = method.attribute(X, nt_type="smoothgrad_sq", **options)
    torch.testing.assert_close(square, 4 * (X**2 + 0.25), rtol=0.0, atol=0.35)


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_the_noise_tunnels_deltas_are_those_of_the_samples(batch: Any) -> None:
    """f = x^3 by one Riemann step: each delta is what that step misses at its own noisy input, x^3 - 0."""
    method = attr.NoiseTunnel(attr.IntegratedGradients(lambda x: (x**3).sum(1)))
    options: Any = {"n_steps": 1, "method": "riemann_left", "return_convergence_delta": True}
    torch.manual_seed(0)
    a, delta = method.attribute(X, nt_samples=5, nt_samples_batch_size=batch, stdevs=0.1, **options)
    assert delta.shape == (20,) and not a.any()
    torch.testing.assert_close(delta.reshape(4, 5).T, torch.stack([-(x**3).sum(1) for x in noisy(0.1, 5, seed=0)]))


def test_torchs_seed_decides() -> None:
    cases: Any = (
        (attr.NoiseTunnel(attr.Saliency(mlp)), {}),
        (attr.ShapleyValueSampling(mlp), {"n_samples": 2}),
        (attr.KernelShap(mlp), {"n_samples": 4}),
        (attr.Lime(mlp), {}),
        (attr.FeaturePermutation(mlp), {}),
    )
    for method, options in cases:
        found = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(method.attribute(X, target=1, **options))
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
        if not isinstance(method, attr.KernelShap):  # whose six coalitions need four
            assert not torch.allclose(found[0], found[2], rtol=1e-9)


def test_numpys_seed_decides_where_baselines_are_drawn() -> None:
    torch.manual_seed(0)
    options: Any = {"baselines": X0, "target": 1}
    tunnel = partial(attr.NoiseTunnel(attr.IntegratedGradients(mlp)).attribute, draw_baseline_from_distrib=True)
    for method in (attr.GradientShap(mlp).attribute, partial(tunnel, stdevs=0.0)):
        found = []
        for seed in (1, 1, 2):
            np.random.seed(seed)
            found.append(method(X, **options))
        torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(found[0], found[2], rtol=1e-9)


def test_drawn_baselines_of_a_linear_model_give_the_difference_to_their_mean() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    method = attr.NoiseTunnel(attr.IntegratedGradients(lambda x: x @ weight))
    options: Any = {"baselines": X0, "draw_baseline_from_distrib": True, "stdevs": 0.0, "nt_samples": 3000}
    found = method.attribute(X, **options)
    torch.testing.assert_close(found, weight * (X - X0.mean(0)), rtol=0.0, atol=0.15)


@pytest.mark.parametrize("method", ["riemann_trapezoid", "gausslegendre"])
def test_a_linear_function_is_integrated_exactly(method: str) -> None:
    """Captum's trapezoid gives (n - 1) / n of it."""
    weight = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    found = attr.IntegratedGradients(lambda x: x @ weight).attribute(X, X0, n_steps=5, method=method)
    torch.testing.assert_close(found, weight * (X - X0))


def test_deep_lift_sees_activations_written_as_functions() -> None:
    model = settle(lambda: Written())
    found, delta = attr.DeepLift(model).attribute(X, X0, 1, return_convergence_delta=True)
    torch.testing.assert_close(found.sum(1), (model(X) - model(X0))[:, 1])
    torch.testing.assert_close(delta, torch.zeros(4, dtype=torch.float64))


class Written(nn.Module):
    """A model whose activation is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())


def test_the_users_model_is_as_before_on_errors_too() -> None:
    def forward(x: Tensor) -> Tensor:
        return mlp(x)

    before = {name: dict(vars(module)) for name, module in mlp.named_modules()}
    attr.LayerActivation(forward, mlp[1]).attribute(X)
    attr.LayerIntegratedGradients(forward, [mlp[0], mlp[1]]).attribute(X, target=1)
    with pytest.raises(ValueError, match="out of range"):
        attr.LayerGradientXActivation(forward, mlp[1]).attribute(X, target=7)
    attr.LRP(mlp).attribute(X, 1)
    mlp[0].forward = mlp[0].forward  # a forward of the user's own
    own = vars(mlp[0])["forward"]
    try:
        attr.LayerActivation(forward, mlp[0]).attribute(X)
        assert vars(mlp[0])["forward"] is own
    finally:
        del mlp[0].forward
    assert {name: dict(vars(module)) for name, module in mlp.named_modules()} == before
    assert all(parameter.grad is None for parameter in mlp.parameters()) and X.grad is None


class Sentence(nn.Module):
    """A class from token ids, some of which are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Any = None, kinds: Any = None) -> Tensor:
        h = self.embedding(ids) if mask is None else self.embedding(ids) * mask.unsqueeze(2)
        return self.out(self.mix(h).tanh().mean(1))


sentence = settle(Sentence)


def predicted(ids: Tensor, mask: Any, kinds: Any) -> Tensor:
    """As notebooks have it: a global model, called by a function."""
    return sentence(ids, mask, kinds)


def test_functions_around_functions_around_a_global_model() -> None:
    def forward(ids: Tensor, mask: Any = None, kinds: Any = None) -> Tensor:
        return predicted(ids, mask, kinds)[:, 1]

    ids, mask = torch.tensor([[1, 5, 3], [2, 2, 8]]), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]).double()
    options: Any = {"additional_forward_args": (mask, None), "return_convergence_delta": True, "n_steps": 30}
    found = attr.LayerIntegratedGradients(forward, sentence.embedding).attribute(ids, 0 * ids, **options)
    direct = attr.LayerIntegratedGradients(sentence, sentence.embedding)
    expected = direct.attribute(ids, 0 * ids, target=1, **options)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e)
    rise = forward(ids, mask) - forward(0 * ids, mask)
    torch.testing.assert_close(found[0].sum((1, 2)), rise.detach(), rtol=1e-6, atol=1e-8)


TWICE = nn.ReLU()
twice: Any = settle(lambda: nn.Sequential(TWICE, nn.Linear(3, 3), TWICE))


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("name", [name for name in dir(attr) if name.startswith(("Layer", "Neuron"))])
def test_a_layer_that_runs_twice_is_refused(name: str, of_input: bool) -> None:
    """Which of its calls is meant cannot be known, and Captum changes both where it integrates."""
    made = getattr(attr, name)
    names = inspect.signature(made.attribute).parameters
    where = next((word for word in names if word.startswith("attribute_to_")), None)
    if (where is None and of_input) or name in ("LayerAttribution", "NeuronAttribution"):
        return
    options: Any = {word: value for word, value in (("target", 1), ("neuron_selector", 1)) if word in names}
    options |= {"baselines": X0} if name.endswith("Shap") else {}
    options |= {where: of_input} if where else {}
    site = "0#1@args:0" if of_input else "0#1"
    with pytest.raises(funcattr.FuncattrError, match=f"layer='0.*runs more than once.*layer='{site}'") as raised:
        made(twice, twice[0]).attribute(X, **options)
    assert isinstance(raised.value, AssertionError)
    if not name.endswith(("DeepLift", "DeepLiftShap", "LRP", "GuidedBackprop", "Deconvolution")):  # which want a module
        with pytest.raises(funcattr.FuncattrError, match=r"layer=<ReLU>.*runs more than once"):
            made(lambda x: twice(x), twice[0]).attribute(X, **options)
    funcattr.gradient(twice, X, 1, layer=site)  # the way out


def test_a_layer_of_a_function_is_called_by_its_class() -> None:
    """A function's modules have no paths; errors said 'layer0'."""
    aside = nn.Linear(3, 3).double()
    with pytest.raises(funcattr.UnknownSiteError, match=r"did not run each of <Linear>\. Give a module"):
        attr.LayerGradCam(lambda x: mlp(x), aside).attribute(X, 1)
    with pytest.raises(funcattr.UnknownSiteError, match=r"did not run each of <Linear>@args\. Give a module"):
        attr.NeuronGradient(lambda x: mlp(x), aside).attribute(X, 1, attribute_to_neuron_input=True)
    lstm: Any = nn.LSTM(3, 2, batch_first=True).double()
    for model in (lambda x: lstm(x)[0][:, 0], nn.Sequential(lstm)):
        with pytest.raises(funcattr.FuncattrError, match=r"got tuple of \['Tensor', 'tuple'\]\. .*layer='.*:0'"):
            attr.LayerActivation(model, lstm).attribute(X[:, None])


def test_layers_that_are_no_modules_of_the_model_are_refused() -> None:
    with pytest.raises(TypeError, match="expected a module of the model, got str"):
        attr.LayerActivation(mlp, "1").attribute(X)
    with pytest.raises(ValueError, match="not one of the model's"):
        attr.LayerActivation(mlp, nn.ReLU()).attribute(X)
    with pytest.raises(TypeError, match=r"DeepLift\(model=...\): expected a module, got function"):
        attr.DeepLift(lambda x: x)  # pyright: ignore[reportArgumentType]


def test_conductance_of_a_neuron_is_the_neurons_share_of_all() -> None:
    """Summed over the neurons of a layer that all paths go through, it is integrated gradients."""
    for layer in (0, 1):
        each = [
            attr.NeuronConductance(mlp, mlp[layer]).attribute(X, i, X0, [1, 0, 1, 0], method="gausslegendre")
            for i in range(5)
        ]
        whole = attr.IntegratedGradients(mlp).attribute(X, X0, [1, 0, 1, 0])
        torch.testing.assert_close(torch.stack(each).sum(0), whole, rtol=1e-9, atol=1e-12)


def test_conductance_takes_layers_of_several_tensors() -> None:
    """f = a b with a = x1 and b = 2 x2 along x: conductance of each is int b da = x1 x2."""

    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x[:, :1], 2 * x[:, 1:2]

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.two(x)
            return (a * b).sum(1)

    model = Product()
    a, b = attr.LayerConductance(model, model.two).attribute(X)
    torch.testing.assert_close(a, X[:, :1] * X[:, 1:2])
    torch.testing.assert_close(b, X[:, :1] * X[:, 1:2])


def test_rules_of_modules() -> None:
    """On one linear layer: R along W + gamma W+, along W+, and as it comes."""
    from funcattr.compat.captum.attr.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, IdentityRule

    layer: Any = nn.Linear(3, 2).double()
    weight, bias = layer.weight[1].detach(), layer.bias[1].detach()
    output = layer(X)[:, 1:].detach()
    cases = {
        GammaRule(0.5): (weight + 0.5 * weight.clamp(min=0), bias),
        GammaRule(0.5, set_bias_to_zero=True): (weight + 0.5 * weight.clamp(min=0), 0.0),
        Alpha1_Beta0_Rule(): (weight.clamp(min=0), bias),
        EpsilonRule(1e-6): (weight, bias),
    }
    for rule, (changed, b) in cases.items():
        layer.rule = rule
        expected = X * changed * output / ((X * changed).sum(1, keepdim=True) + b)
        torch.testing.assert_close(attr.LRP(Held(layer)).attribute(X, 1), expected, rtol=1e-4, atol=1e-4)
    square: Any = nn.Linear(3, 3).double()
    square.rule = IdentityRule()
    found = attr.LRP(Held(square)).attribute(X, 1)
    torch.testing.assert_close(found, torch.stack([0 * X[:, 0], square(X)[:, 1].detach(), 0 * X[:, 0]], 1))
    square.rule = "epsilon"
    with pytest.raises(TypeError, match="expected a PropagationRule as the rule of 'layer'"):
        attr.LRP(Held(square)).attribute(X, 1)


class Held(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_permutation_importance_of_a_feature_that_does_not_count_is_zero() -> None:
    found = attr.FeaturePermutation(lambda x: x[:, 0] * x[:, 1]).attribute(X)
    assert found[:, :2].any() and not found[:, 2].any()
    of_batch = attr.FeaturePermutation(lambda x: (x[:, 0] * x[:, 1]).mean()).attribute(X)
    assert of_batch.shape == (1, 3) and not of_batch[:, 2].any()
    with pytest.warns(UserWarning, match="3 features have no other example to take values from"):
        assert not attr.FeaturePermutation(mlp).attribute(X[:1], 1).any()


@pytest.mark.parametrize("name", ["KernelShap", "Lime"])
def test_coefficients_by_feature(name: str) -> None:
    mask = torch.tensor([[0, 2, 0]])
    method = getattr(attr, name)(mlp)
    torch.manual_seed(0)
    shaped = method.attribute(X, target=1, feature_mask=mask)
    torch.manual_seed(0)
    found = method.attribute(X, target=1, feature_mask=mask, return_input_shape=False)
    expected = torch.stack([shaped[:, 0], 0 * shaped[:, 0], shaped[:, 1]], 1)
    torch.testing.assert_close(found, expected)


def test_what_is_refused_says_what_to_use() -> None:
    with pytest.raises(funcattr.FuncattrError, match=r"Use funcattr.lime\("):
        attr.Lime(mlp, interpretable_model=object())
    with pytest.raises(funcattr.FuncattrError, match="models that return futures are not served"):
        attr.Saliency(mlp).attribute_future(X)
    with pytest.raises(ImportError, match="visualization is not served"):
        from funcattr.compat.captum.attr import visualization as visualization  # pyright: ignore


def test_one_float_or_bool_is_no_class() -> None:
    with pytest.raises(ValueError, match="a floating-point target is a cotangent"):
        attr.Saliency(mlp).attribute(X, torch.tensor([1.7]))
    with pytest.raises(TypeError, match=r"expected integer classes, got torch\.bool"):
        attr.Saliency(mlp).attribute(X, torch.tensor([True]))


def test_names_and_properties() -> None:
    assert attr.IntegratedGradients.get_name() == "Integrated Gradients"
    assert attr.IntegratedGradients(mlp).has_convergence_delta() and not attr.Saliency(mlp).has_convergence_delta()
    assert attr.NoiseTunnel(attr.DeepLift(mlp)).multiplies_by_inputs
    assert attr.LayerActivation(mlp, mlp[0]).multiplies_by_inputs and not attr.Lime(mlp).multiplies_by_inputs
    assert not attr.NoiseTunnel(attr.Saliency(mlp)).has_convergence_delta()
    assert issubclass(attr.LayerLRP, attr.LayerAttribution) and issubclass(attr.NeuronDeepLift, attr.NeuronAttribution)
    for name, value in vars(attr).items():
        if inspect.isclass(value):
            assert value.__doc__, name


def test_interpolation() -> None:
    maps = uniform(2, 1, 2, 2)
    larger = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(attr.LayerAttribution.interpolate(maps, (4, 4)), larger)


def test_an_embedding_is_configured_and_removed() -> None:
    model: Any = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 2)).double()
    ids, embedding = torch.tensor([[1, 2], [3, 4]]), model[0]
    expected = model(ids)
    with pytest.warns(UserWarning, match="now takes vectors"):
        wrapped = attr.configure_interpretable_embedding_layer(model, "0")
    vectors = wrapped.indices_to_embeddings(ids)
    torch.testing.assert_close(model(vectors), expected)
    assert wrapped.embedding_dim == 3
    with pytest.raises(ValueError, match="configured already"):
        attr.configure_interpretable_embedding_layer(model, "0")
    found = attr.IntegratedGradients(model).attribute(vectors, target=1)
    attr.remove_interpretable_embedding_layer(model, wrapped)
    assert model[0] is embedding
    torch.testing.assert_close(model(ids), expected)
    at_layer = attr.LayerIntegratedGradients(model, embedding)
    reference = attr.TokenReferenceBase(0).generate_reference(2, "cpu")
    assert reference.tolist() == [0, 0]
    first = attr.IntegratedGradients(nn.Sequential(*model[1:])).attribute(vectors, target=1)
    torch.testing.assert_close(found, first)
    zero = at_layer.attribute(ids, reference.expand(2, 2), target=1)
    weight = model[2].weight[1].reshape(1, 2, 3)
    torch.testing.assert_close(zero, ((vectors - embedding(reference)) * weight).detach())


class InPlace(nn.Module):
    """Normalises what it is given where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(1.0).div_(0.5)).tanh()


@pytest.mark.parametrize("as_function", [False, True])
def test_a_model_that_writes_into_its_input_leaves_the_users_as_it_is(as_function: bool) -> None:
    torch.manual_seed(0)
    net = InPlace().double().eval()
    model: Any = (lambda x: net(x)) if as_function else net
    x = torch.rand(2, 6, dtype=torch.float64)
    given = x.clone()
    found = attr.FeatureAblation(model).attribute(given, target=1)
    torch.testing.assert_close(found, funcattr.feature_ablation(net, x, 1))
    expected = net.inner((x - 1) / 0.5).detach()
    torch.testing.assert_close(attr.LayerActivation(model, net.inner).attribute(given), expected)
    slope = funcattr.attribute(net, x, 1, layer="inner")
    found = attr.LayerGradientXActivation(model, net.inner).attribute(given, target=1)
    torch.testing.assert_close(found, slope.root.detach() * slope.cotangent)
    assert torch.equal(given, x)


def test_threads_ask_about_layers_of_one_function_one_after_the_other() -> None:
    torch.manual_seed(0)
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    model = lambda x: b(torch.tanh(a(x)))  # noqa: E731
    x = torch.randn(2, 4)
    right = {a: a(x).detach(), b: model(x).detach()}

    def ask(k: int) -> None:
        layer = (a, b)[k % 2]
        torch.testing.assert_close(attr.LayerActivation(model, layer).attribute(x), right[layer])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(80)))
    assert "forward" not in vars(a) and "forward" not in vars(b)


class Skip(nn.Module):
    """A layer `f` with a way around it, between two rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.f, self.relu, self.last, self.out = (
            nn.Linear(3, 4),
            nn.Linear(4, 4),
            nn.ReLU(),
            nn.ReLU(),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.a(x))
        return self.out(self.last(h + self.f(h)))


def test_deep_lift_of_a_layer_beside_a_skip_connection() -> None:
    """The multiplier behind `f` is that of the last rectifier, whose input has both ways; before `f` its weights."""
    model: Any = settle(Skip)

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = model.relu(model.a(x))
        return h, model.f(h), h + model.f(h)

    with torch.no_grad():
        (h, f, s), (h0, f0, s0) = parts(X), parts(X0)
        multipliers = (s.clamp(min=0) - s0.clamp(min=0)) / (s - s0) * model.out.weight[1]
        expected, before = multipliers * (f - f0), (multipliers @ model.f.weight) * (h - h0)
    method = attr.LayerDeepLift(model, model.f)
    torch.testing.assert_close(method.attribute(X, X0, 1), expected)
    torch.testing.assert_close(method.attribute(X, X0, 1, attribute_to_layer_input=True), before)
    rows = attr.LayerDeepLiftShap(model, model.f).attribute(X, X0, 1)
    each = [method.attribute(X, row.expand_as(X), 1) for row in X0]
    torch.testing.assert_close(rows, torch.stack(each).mean(0))


def test_deep_lift_of_a_layer_of_two_tensors() -> None:
    model: Any = settle(Twins)
    found, delta = attr.LayerDeepLift(model, model.pair).attribute(X, X0, 1, return_convergence_delta=True)
    assert isinstance(found, tuple) and [part.shape for part in found] == [(4, 4), (4, 4)]
    torch.testing.assert_close(delta, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(sum(part.sum(1) for part in found), (model(X) - model(X0))[:, 1])


class Halves(nn.Module):
    """Two tensors of one."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.tanh()


class Twins(nn.Module):
    """A sum of rectified halves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.pair, self.relu, self.out = nn.Linear(3, 4), Halves(), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.pair(self.a(x))
        return self.out(self.relu(a + b))


def total(x: Tensor, ids: Tensor) -> Tensor:
    """One number for the batch, of a table and of numbers of any count."""
    return 3 * x.sum() + (ids[0] if ids.numel() else 0)


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling", "KernelShap"])
def test_an_empty_input_has_nothing_to_perturb(name: str) -> None:
    of_x, of_ids = getattr(attr, name)(total).attribute((X, X.new_zeros(0)))
    torch.testing.assert_close(of_x, 3 * X.sum(0, keepdim=True))
    assert of_ids.shape == (1,) and not of_ids.any()


def test_empty_inputs_alone_have_zeros() -> None:
    for method in (attr.FeatureAblation(torch.sum), attr.FeaturePermutation(torch.sum)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = method.attribute(X.new_zeros(0, 2))
        assert found.shape == (1, 2) and not found.any()


@pytest.mark.parametrize("name", ["GradientShap", "DeepLiftShap"])
def test_baselines_by_a_function_of_nothing_or_of_the_inputs(name: str) -> None:
    linear: Any = settle(lambda: nn.Linear(3, 2))
    method = getattr(attr, name)(linear)
    for baselines in (lambda: X0[:1], lambda x: X0[:1] + 0 * x[:1]):
        torch.testing.assert_close(method.attribute(X, baselines, target=1), linear.weight[1] * (X - X0[:1]))
    with pytest.raises(funcattr.FuncattrError, match="expected tensors whose rows are baselines"):
        method.attribute(X, lambda: X0[:1].numpy(), target=1)


def test_the_noise_tunnel_takes_one_class_as_a_tensor() -> None:
    method, options = attr.NoiseTunnel(attr.Saliency(mlp)), {"stdevs": 0.0, "nt_samples": 2}
    torch.testing.assert_close(method.attribute(X, **options, target=torch.tensor([1])), slopes(X, 1).abs())


def test_occlusion_counts_all_dimensions_but_the_first() -> None:
    image = uniform(2, 2, 4, 4)
    model: Any = settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    method = attr.Occlusion(model)
    for sizes in ((2, 2), ((2, 2),), (1, 2, 2, 2), ((1, 2, 2), (1, 2, 2))):
        with pytest.raises(ValueError, match=r"sliding_window_shapes=.*a size for each dimension but the first"):
            method.attribute(image, sizes, target=1)
    for strides in ((1, 2), ((1, 2),)):
        with pytest.raises(ValueError, match="a step for each dimension but the first"):
            method.attribute(image, (1, 2, 2), strides, target=1)
    both = attr.Occlusion(lambda a, b: model(a) + b)
    with pytest.raises(ValueError, match="a step for each of 2 inputs"):
        both.attribute((image, X), ((1, 2, 2), (1,)), (1, 1, 1), target=1)
    # A step beyond a window that covers the whole dimension does not count.
    parts = (image * model[1].weight[1].reshape(2, 4, 4)).unfold(2, 2, 2).unfold(3, 2, 2).sum((1, 4, 5))
    expected = parts.repeat_interleave(2, 1).repeat_interleave(2, 2).unsqueeze(1).expand(image.shape)
    torch.testing.assert_close(method.attribute(image, (2, 2, 2), (5, 2, 2), target=1), expected)


def test_occlusion_of_numbers() -> None:
    a, b = X[:, 0], X[:, 1]
    found = attr.Occlusion(lambda a, b: a * b).attribute((a, b), ((), ()), baselines=(0.5, 0.0))
    torch.testing.assert_close(found, ((a - 0.5) * b, a * b))


BATCHES = [(X[:2], X0[:2], torch.tensor([[0], [1]])), (X[2:], X0[2:], torch.tensor([[1], [1]]))]
"""Of a data loader: two inputs, and labels."""


def passes(counted: list[int]) -> Any:
    """The batches, which count how often they are read."""

    class Loader:
        def __iter__(self) -> Any:
            counted[0] += 1
            return iter(BATCHES)

    return Loader()


@pytest.mark.parametrize("together", [1, 2, 5])
def test_a_metric_of_all_batches(together: int) -> None:
    """The sum over all examples of a - 2 b, and its mean over those of label 1: each feature has its part of both."""
    counted = [0]

    def reduce(found: Any, output: Tensor, things: Any) -> Any:
        a, _, label = things
        assert a.shape == output.shape == (2, 3) and label.shape == (2, 1)
        return [*(found or []), (output.sum(), output[label[:, 0] == 1])]

    def to_metric(found: Any) -> Tensor:
        return torch.stack(
            [torch.stack([total for total, _ in found]).sum(), torch.cat([rows for _, rows in found]).mean(0).sum()]
        )

    method = attr.DataLoaderAttribution(attr.FeatureAblation(lambda a, b: a - 2 * b))
    options: Any = {"input_roles": (0, 0, 2), "reduce": reduce, "to_metric": to_metric}
    of_a, of_b = method.attribute(passes(counted), perturbations_per_pass=together, **options)
    torch.testing.assert_close(of_a, torch.stack([X.sum(0), X[1:].mean(0)]), check_dtype=False)
    torch.testing.assert_close(of_b, -2 * torch.stack([X0.sum(0), X0[1:].mean(0)]), check_dtype=False)
    assert counted[0] == 2 + -(-6 // together)  # one batch to see what there is, one pass for the whole


def test_a_data_loader_gives_what_its_batches_give() -> None:
    inner = attr.FeatureAblation(lambda a, b: (a * b).sum(1))
    masks = (torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 2]]))
    method, options = attr.DataLoaderAttribution(inner), {"baselines": (0.5, X[:1]), "feature_mask": masks}
    found = method.attribute([batch[:2] for batch in BATCHES], **options)
    each = [inner.attribute(batch[:2], **options) for batch in BATCHES]
    for actual, parts in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(actual, torch.cat(parts), check_dtype=False)
    flat = method.attribute([batch[:2] for batch in BATCHES], return_input_shape=False, **options)
    torch.testing.assert_close(flat, torch.stack([found[0][:, 0], found[0][:, 2], found[1][:, 1]], 1))
    single = attr.DataLoaderAttribution(attr.FeatureAblation(lambda a: a.sum(1))).attribute([X[:2], X[2:]])
    torch.testing.assert_close(single, X, check_dtype=False)
    wrongs: Any = (
        {"input_roles": (1, 2)},
        {"input_roles": (0,)},
        {"baselines": (X[:2], 0)},
        {"feature_mask": masks[:1]},
    )
    for wrong in wrongs:
        with pytest.raises(funcattr.FuncattrError, match=f"DataLoaderAttribution.attribute.{next(iter(wrong))}="):
            method.attribute([batch[:2] for batch in BATCHES], **wrong)
    with pytest.raises(funcattr.FuncattrError, match="expected a FeatureAblation"):
        attr.DataLoaderAttribution(attr.Occlusion(mlp))


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValues", "ShapleyValueSampling", "KernelShap", "Lime"])
def test_every_output_costs_as_much_as_two(name: str) -> None:
    calls = [0]
    wide: Any = settle(lambda: nn.Linear(3, 20))

    def model(x: Tensor) -> Tensor:
        calls[0] += 1
        return torch.from_numpy(np.tanh(wide(x).detach().numpy()))  # a black box

    def found(target: Any) -> tuple[Tensor, int]:
        calls[0] = 0
        torch.manual_seed(0)
        return getattr(attr, name)(model).attribute(X, target=target), calls[0]

    (every, in_all), (one, of_one) = found(None), found(13)
    assert in_all < 2 * of_one
    torch.testing.assert_close(every.reshape(4, 20, 3)[:, 13], one)


def test_a_rule_that_is_none_is_told_at_once() -> None:
    model: Any = settle(lambda: nn.Sequential(nn.Linear(3, 2)))
    model[0].rule = 1
    for make in (lambda: attr.LRP(model), lambda: attr.LayerLRP(model, model[0])):
        with pytest.raises(TypeError, match="expected a PropagationRule as the rule of '0', got 1"):
            make()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "GradientShap", "FeatureAblation", "Occlusion"])
def test_scripted_modules(name: str) -> None:
    options: Any = {"GradientShap": {"baselines": X0}, "Occlusion": {"sliding_window_shapes": (2,)}}.get(name, {})
    found = []
    for model in (mlp, torch.jit.script(mlp), torch.jit.trace(mlp, X)):
        np.random.seed(0)
        found.append(getattr(attr, name)(model).attribute(X, target=1, **options))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


# --- draws -----------------------------------------------------------------------------------------------------------


def test_a_noise_tunnel_calls_a_method_that_draws_once_for_all_samples() -> None:
    method = attr.GradientShap(mlp)
    np.random.seed(4)
    copies = torch.stack(noisy(0.5, 3, seed=5), 1).flatten(0, 1)
    expected = method.attribute(copies, X0.repeat_interleave(3, 0), target=1).unflatten(0, (4, 3))
    torch.manual_seed(5)
    np.random.seed(4)
    found = attr.NoiseTunnel(method).attribute(X, nt_samples=3, stdevs=0.5, baselines=X0, target=1)
    torch.testing.assert_close(found, expected.mean(1))


def test_gradient_shap_of_a_layer_is_its_difference_times_its_gradient_between_the_inputs() -> None:
    np.random.seed(4)
    found = attr.LayerGradientShap(mlp, mlp[0]).attribute(X, X0, n_samples=2, target=1)
    np.random.seed(4)
    rows, alpha = X0[np.random.choice(4, 8)], torch.from_numpy(np.random.uniform(size=8))[:, None]
    ends = X.repeat_interleave(2, 0)
    at = mlp[0](rows + alpha * (ends - rows)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(mlp[2](mlp[1](at))[:, 1].sum(), at)
    expected = slope * (mlp[0](ends) - mlp[0](rows)).detach()
    torch.testing.assert_close(found, expected.unflatten(0, (4, 2)).mean(1))


# --- several layers --------------------------------------------------------------------------------------------------


class Counting(nn.Sequential):
    """Notes each of its calls."""

    def forward(self, input: Tensor) -> Tensor:
        CALLS.append(len(input))
        return super().forward(input)


CALLS: list[int] = []


@pytest.mark.parametrize(
    "name", ["LayerGradientXActivation", "LayerLRP", "LayerActivation", "LayerIntegratedGradients"]
)
def test_a_list_of_layers_is_answered_in_one_pass_and_as_each_alone(name: str) -> None:
    net: Any = settle(lambda: Counting(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)))
    made, options = getattr(attr, name), {} if name == "LayerActivation" else {"target": 1}
    calls = []
    for count in (2, 4):
        layers = list(net)[:count]
        CALLS.clear()
        found = made(net, layers).attribute(X, **options)
        # Beside the answer the model is read, and asked for each layer whether it runs twice.
        calls.append(len(CALLS) - count)
        assert isinstance(found, list) and len(found) == count
        if name != "LayerIntegratedGradients":  # there all layers are moved together
            torch.testing.assert_close(found, [made(net, layer).attribute(X, **options) for layer in layers])
    # What LRP's rules do with a call may depend on where they begin: a pass for each layer.
    assert (calls[0] == calls[1]) is (name != "LayerLRP")


# --- errors ----------------------------------------------------------------------------------------------------------


IMAGES = uniform(1, 1, 4, 4)
flat: Any = settle(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
ARGUMENTS: dict[str, tuple[Any, type[Exception]]] = {
    "no target": (lambda: attr.Saliency(mlp).attribute(X), ValueError),
    "too many targets": (lambda: attr.IntegratedGradients(mlp).attribute(X, target=[0, 1, 0, 1, 0]), ValueError),
    "a class out of range": (lambda: attr.NoiseTunnel(attr.InputXGradient(mlp)).attribute(X, target=7), ValueError),
    "one number for rows": (lambda: attr.GradientShap(mlp).attribute(X, 0.0, target=1), funcattr.FuncattrError),
    "a window": (lambda: attr.Occlusion(flat).attribute(IMAGES, ((1, 2),), target=0), ValueError),
    "a stride": (lambda: attr.Occlusion(flat).attribute(IMAGES, (1, 2, 2), (1, 2), target=0), ValueError),
    "no module": (lambda: attr.DeepLift(abs), TypeError),  # pyright: ignore[reportArgumentType]
    "a layer's name": (lambda: attr.LayerActivation(mlp, "0").attribute(X), TypeError),
    "rows of attributions": (lambda: attr.DeepLift(mlp).compute_convergence_delta(X[:2], X0, X, 1), ValueError),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_error_about_arguments_is_an_assertion_error_too_as_in_captum(name: str) -> None:
    call, kind = ARGUMENTS[name]
    with pytest.raises(AssertionError) as found:
        call()
    assert isinstance(found.value, kind) and re.search("expected|out of range", str(found.value))


def test_an_error_of_the_users_model_stays_what_it_is() -> None:
    def fails(x: Tensor) -> Tensor:
        raise ValueError("of the user's own")

    def refuses(x: Tensor) -> Tensor:
        return torch.ones(2, 3) @ x

    for model, kind in ((fails, ValueError), (refuses, RuntimeError)):
        for method in (attr.Saliency(model), attr.NoiseTunnel(attr.Saliency(model))):
            with pytest.raises(kind) as found:
                method.attribute(X, target=1)
            assert not isinstance(found.value, AssertionError)


def test_errors_that_say_what_the_package_cannot_do_are_not_about_arguments() -> None:
    relu = torch.jit.script(nn.ReLU())
    with pytest.raises(funcattr.UnsupportedOperationError) as found:
        attr.DeepLift(nn.Sequential(nn.Linear(3, 2).double(), relu)).attribute(X, target=1)
    assert not isinstance(found.value, AssertionError)
