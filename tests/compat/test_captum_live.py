"""`funcattr.compat.captum.attr` beside Captum: the same calls of the same classes give the same numbers.

Runs where Captum is installed: `pip install captum`, or the extra "bench". Captum's values are exact but for a few rows
that are left out here, and are closed forms in `test_captum_attr.py`: its trapezoid sums to (n - 1) / n, its
conductance takes differences on one side, and its DeepLIFT misses functional activations and inputs of activations.
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funcattr.compat.captum import attr as ours
from funcattr.testing.seeding import settle, uniform

from .test_captum_attr import Skip

# Captum tells of the hooks and gradients that it sets on the user's things.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:captum.*", "ignore::UserWarning:torch.*", "ignore:Multiple layers provided:UserWarning"
)

theirs: Any = pytest.importorskip("captum.attr", reason="captum is not installed (it is in the extra 'bench')")


class Inputs(nn.Module):
    """Two inputs, the second optional, and two arguments: a number, and a tensor of a row for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.out = nn.Linear(3, 4), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Any = None, scale: float = 1.0, gate: Any = None) -> Tensor:
        h = self.a(x) if y is None else self.a(x) + self.b(y)
        h = self.relu(h)
        return self.out(h if gate is None else h * gate) * scale


class Pair(nn.Module):
    """A layer of two inputs and two outputs."""

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a * 2, b * b


class Paired(nn.Module):
    """A model with a `Pair` in it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pair, self.out = nn.Linear(3, 4), nn.Linear(5, 4), Pair(), nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        p, q = self.pair(self.a(x), self.b(y))
        return self.out(p * q + p)


class Flat(nn.Module):
    """Convolutions, whose features are flattened by a function: Captum's LRP has no rule for nn.Flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.pool = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2)
        self.second, self.out = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.pool(self.relu(self.first(x)))).flatten(1))


inputs, paired, conv = settle(Inputs), settle(Paired), settle(Flat)
mlp: Any = settle(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
X, Y, X0, Y0 = uniform(4, 3), uniform(4, 5), uniform(4, 3, seed=2), uniform(4, 5, seed=2)
IMAGE, IMAGE0 = uniform(2, 2, 4, 4), uniform(2, 2, 4, 4, seed=2)
ARGS = (2.0, uniform(4, 4, seed=3))
MASKS = (torch.tensor([[3, 3, 7]]), torch.tensor([[7, 9, 9, 3, 12]]))
TARGETS = {
    "class": {"target": 1, "additional_forward_args": ARGS},
    "tensor": {"target": torch.tensor([0, 1, 2, 0]), "additional_forward_args": ARGS},
    "list": {"target": [0, 1, 2, 0]},
    "one": {"target": torch.tensor([2])},
    "tuple": {"target": (1,)},
}
DELTA: dict[str, Any] = {"return_convergence_delta": True}


def both(name: str, *args: Any, **options: Any) -> None:
    """One call of a class of that name: `args` are the constructor's, a tuple in `options["call"]` the method's."""
    call, found = options.pop("call"), []
    for space in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        # Captum leaves its rules on the modules.
        made = copy.deepcopy(args) if name in ("LRP", "LayerLRP") else args
        found.append(getattr(space, name)(*made).attribute(*call, **options))
    expected, actual = found
    assert_same(actual, expected)


def assert_same(actual: Any, expected: Any) -> None:
    """Alike in structure, shape and value; Captum has the weights of integrals, and some results, in float32."""
    if isinstance(expected, tuple | list):
        assert type(actual) is type(expected) and len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same(a, e)
        return
    assert actual.shape == expected.shape and not actual.requires_grad
    single = torch.float32 in (actual.dtype, expected.dtype)
    torch.testing.assert_close(actual.double(), expected.detach().double(), rtol=1e-5, atol=1e-5 if single else 1e-6)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution"])
def test_gradients(name: str, target: str) -> None:
    both(name, inputs, call=((X, Y),), **TARGETS[target])
    both(name, inputs, call=(X,), target=1)


def test_the_signed_saliency() -> None:
    both("Saliency", inputs, call=(X, 1, False))


@pytest.mark.parametrize("name", ["IntegratedGradients", "DeepLift"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("multiply", [True, False])
def test_differences_to_a_baseline(name: str, target: str, multiply: bool) -> None:
    both(name, inputs, multiply, call=((X, Y), (X0, 0.5)), **TARGETS[target], **DELTA)
    both(name, inputs, multiply, call=(X, X0[:1]), target=1, **DELTA)
    both(name, inputs, multiply, call=(X,), target=1)


@pytest.mark.parametrize("method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_middle"])
def test_quadratures(method: str) -> None:
    options: Any = {"target": 1, "method": method, "n_steps": 7}
    both("IntegratedGradients", mlp, call=(X,), internal_batch_size=9, **options, **DELTA)
    both("InternalInfluence", mlp, mlp[1], call=(X,), **options)
    both("NeuronConductance", mlp, mlp[1], call=(X, 2), **options)
    both("NeuronConductance", mlp, mlp[1], None, False, call=(X, (2,)), **options | {"target": [1, 0, 1, 0]})


def test_conductance_in_the_limit_of_many_steps() -> None:
    args = {"call": (X, X0), "target": 1}
    exact = ours.LayerConductance(mlp, mlp[1]).attribute(*args["call"], target=1)
    near = theirs.LayerConductance(mlp, mlp[1]).attribute(*args["call"], target=1, n_steps=2000)
    torch.testing.assert_close(exact, near.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["class", "tensor"])
def test_deep_shap_and_functions_of_multipliers(target: str) -> None:
    def custom(multipliers: Any, inputs: Any, baselines: Any) -> Any:
        return tuple(m * i * b for m, i, b in zip(multipliers, inputs, baselines, strict=True))

    options = TARGETS[target]
    both("DeepLiftShap", inputs, call=((X, Y), (X0[:3], Y0[:3])), **options, **DELTA)
    both("DeepLift", inputs, call=((X, Y), (X0, Y0)), custom_attribution_func=custom, **options)
    both("DeepLiftShap", inputs, call=((X, Y), (X0, Y0)), custom_attribution_func=custom, **options)


def test_relevance() -> None:
    both("LRP", conv, call=(IMAGE, 1), **DELTA)
    both("LayerLRP", conv, conv.second, call=(IMAGE, 1), **DELTA)


@pytest.mark.parametrize("layer", ["first", "relu", "pool", "second"])
@pytest.mark.parametrize("of_input", [False, True])
def test_layers(layer: str, of_input: bool) -> None:
    at: Any = (conv, getattr(conv, layer))
    where: Any = {"attribute_to_layer_input": of_input}
    both("LayerActivation", *at, call=(IMAGE,), **where)
    for name in ("LayerGradientXActivation", "LayerGradCam", "InternalInfluence", "GuidedGradCam"):
        both(name, *at, call=(IMAGE,), target=1, **where)
    both("LayerGradCam", *at, call=(IMAGE,), target=1, relu_attributions=True, attr_dim_summation=False, **where)
    both("LayerGradientXActivation", *at, None, False, call=(IMAGE,), target=1, **where)
    both("LayerIntegratedGradients", *at, call=(IMAGE, IMAGE0), target=1, **where, **DELTA)
    both("LayerFeatureAblation", *at, call=(IMAGE, 0.3), target=1, perturbations_per_eval=4, **where)
    if not (layer == "relu" and of_input):
        both("LayerDeepLift", *at, call=(IMAGE, IMAGE0), target=1, **where, **DELTA)
        both("LayerDeepLiftShap", *at, call=(IMAGE, IMAGE0), target=1, **where, **DELTA)


@pytest.mark.parametrize("layer", ["first", "relu", "pool"])
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("neuron", [(1, 0, 0), (1, slice(0, 2), 0), lambda v: v.sum((1, 2, 3))])
def test_neurons(layer: str, of_input: bool, neuron: Any) -> None:
    at: Any = (conv, getattr(conv, layer))
    where: Any = {"attribute_to_neuron_input": of_input}
    names = ["NeuronGradient", "NeuronGuidedBackprop", "NeuronDeconvolution", "NeuronIntegratedGradients"]
    for name in (*names, "NeuronFeatureAblation"):
        both(name, *at, call=(IMAGE, neuron), **where)
    both("NeuronDeepLift", *at, call=(IMAGE, neuron, IMAGE0), **where)
    both("NeuronDeepLiftShap", *at, call=(IMAGE, neuron, IMAGE0), **where)


def test_several_layers() -> None:
    layers: Any = [conv.first, conv.second]
    both("LayerActivation", conv, layers, call=(IMAGE,))
    both("LayerGradientXActivation", conv, layers, call=(IMAGE, 1))
    both("LayerIntegratedGradients", inputs, [inputs.a, inputs.b], call=((X, Y),), target=1, **DELTA)


@pytest.mark.parametrize("of_input", [False, True])
def test_a_layer_of_several_tensors(of_input: bool) -> None:
    where: Any = {"attribute_to_layer_input": of_input}
    both("LayerActivation", paired, paired.pair, call=((X, Y),), **where)
    for name in ("LayerGradientXActivation", "InternalInfluence", "LayerIntegratedGradients", "LayerFeatureAblation"):
        both(name, paired, paired.pair, call=((X, Y),), target=[0, 1, 2, 0], **where)


def test_a_neuron_of_several_tensors() -> None:
    both("NeuronGradient", paired, paired.pair, call=((X, Y), lambda v: (v[0] * v[1]).sum(1)))


@pytest.mark.parametrize("of_input", [False, True])
def test_a_layer_inside_of_a_function(of_input: bool) -> None:
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return inputs(x, y).softmax(1)

    where: Any = {"attribute_to_layer_input": of_input}
    for name in ("LayerGradientXActivation", "InternalInfluence", "LayerIntegratedGradients", "LayerFeatureAblation"):
        both(name, forward, inputs.relu, call=((X, Y),), target=1, **where)
    both("NeuronGradient", forward, inputs.relu, call=((X, Y), 2), attribute_to_neuron_input=of_input)


GAMES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "tensor targets": (inputs, {"target": torch.tensor([0, 1, 2, 0]), "additional_forward_args": ARGS}),
    "several at once": (inputs, {"target": 1, "perturbations_per_eval": 3}),
    "a number for the batch": (lambda a, b: inputs(a, b).sum(), {}),
    "a Python number for the batch": (lambda a, b: inputs(a, b).sum().item(), {}),
    "a row for the batch": (lambda a, b: inputs(a, b).sum(0, keepdim=True), {"target": 1}),
    "every output": (inputs, {}),
    "integers": (lambda a, b: (inputs(a, b) * 10).long(), {"target": 1}),
    "three dimensions": (lambda a, b: torch.stack([inputs(a, b), inputs(a, b) ** 2], 2), {"target": (1, 0)}),
    "a part of three dimensions": (lambda a, b: torch.stack([inputs(a, b), inputs(a, b) ** 2], 2), {"target": 1}),
}


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("masks", [None, MASKS])
def test_ablation(game: str, masks: Any) -> None:
    model, options = GAMES[game]
    both("FeatureAblation", model, call=((X, Y), (0.1, 0.5)), feature_mask=masks, **options)


@pytest.mark.parametrize("game", GAMES)
def test_exact_shapley_values(game: str) -> None:
    model, options = GAMES[game]
    # Captum runs all orders of the numbers up to the highest.
    masks = (torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 2, 0, 3]]))
    both("ShapleyValues", model, call=((X, Y), (0.1, 0.5)), feature_mask=masks, **options)


def test_occlusion() -> None:
    both("Occlusion", conv, call=(IMAGE, (1, 3, 3), (1, 2, 2), IMAGE0, 1))
    both("Occlusion", conv, call=(IMAGE, (2, 3, 3), 2), target=1, perturbations_per_eval=3)
    both("Occlusion", inputs, call=((X, Y), ((2,), (3,)), (1, (2,))), target=1)
    both("Occlusion", inputs, call=((X, Y), ((2,), (3,))), target=1)
    both("Occlusion", lambda x: conv(x).sum(), call=(IMAGE, (2, 3, 3)), strides=2)
    both("Occlusion", conv, call=(IMAGE, (1, 4, 4)))


@pytest.mark.parametrize("baselines", [None, 1, 0.5])
def test_ablation_of_integers(baselines: Any) -> None:
    ids = torch.arange(12).reshape(4, 3)
    both("FeatureAblation", lambda ids: mlp(ids.double()), call=(ids, baselines, 1))


def test_permutation_by_a_function_of_the_users() -> None:
    def backwards(x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, x.flip(0), x)

    both("FeaturePermutation", mlp, backwards, call=(X, 1))
    both("FeaturePermutation", lambda x: mlp(x).sum(), backwards, call=(X,))


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "InputXGradient", "FeatureAblation"])
def test_one_number_for_each_example(name: str) -> None:
    delta: Any = DELTA if name == "IntegratedGradients" else {}
    both(name, lambda x: x**2, call=(X[:, 0],), **delta)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", ["IntegratedGradients", "DeepLift", "FeatureAblation", "Saliency"])
def test_the_noise_tunnel_without_noise(nt_type: str, batch: Any, name: str) -> None:
    options: Any = {"nt_type": nt_type, "nt_samples": 3, "nt_samples_batch_size": batch, "stdevs": 0.0}
    options |= TARGETS["tensor"]
    options |= {} if name == "Saliency" else {"baselines": (X0, Y0)}
    # In batches of samples Captum's deltas go batch by batch; ours example by example.
    options |= DELTA if name in ("IntegratedGradients", "DeepLift") and batch is None else {}
    found = []
    for space in (theirs, ours):
        found.append(space.NoiseTunnel(getattr(space, name)(inputs)).attribute((X, Y), **options))
    assert_same(found[1], found[0])


@pytest.mark.parametrize("name", ["GradientShap", "LayerGradientShap", "NeuronGradientShap"])
@pytest.mark.parametrize("multiply", [True, False])
def test_gradient_shap_of_one_seed(name: str, multiply: bool) -> None:
    at = (multiply,) if name == "GradientShap" else (inputs.relu, None, multiply)
    neuron = (2,) if name == "NeuronGradientShap" else ()
    options: Any = {"n_samples": 7}
    options |= {} if neuron else {"target": [0, 1, 2, 0], **DELTA}
    for stdevs in (0.0, 0.3, (0.3, 0.1)):
        both(name, inputs, *at, call=((X, Y), *neuron, (X0, Y0)), stdevs=stdevs, **options)
    both(name, inputs, *at, call=(X, *neuron, lambda: X0[:3]), **options)
    both(name, inputs, *at, call=(X, *neuron, lambda x: x[:3] / 2), **options)


@pytest.mark.parametrize("multiply", [True, False])
def test_gradient_shap_of_a_layer_before_others(multiply: bool) -> None:
    """The gradient behind them depends on where it is taken: between the inputs."""
    calls = {"target": 1, "stdevs": 0.3, **DELTA}
    for layer in (inputs.a, inputs.relu):
        both("LayerGradientShap", inputs, layer, None, multiply, call=((X, Y), (X0, Y0)), **calls)
    both("LayerGradientShap", paired, paired.pair, None, multiply, call=((X, Y), (X0, Y0)), **calls)
    for i in range(2):
        both("LayerGradientShap", mlp, mlp[i], None, multiply, call=(X, X0), **calls)
    skip = settle(Skip)
    for name in ("a", "f", "relu", "last"):
        both("LayerGradientShap", skip, getattr(skip, name), None, multiply, call=(X, X0), **calls)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("masks", [None, (torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 2, 0, 5]]))])
def test_shapley_sampling_of_one_seed(game: str, masks: Any) -> None:
    model, options = GAMES[game]
    both("ShapleyValueSampling", model, call=((X, Y), (0.1, 0.5)), feature_mask=masks, n_samples=3, **options)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("masks", [None, MASKS])
def test_permutation_of_one_seed(game: str, masks: Any) -> None:
    model, options = GAMES[game]
    both("FeaturePermutation", model, call=((X, Y),), feature_mask=masks, **options)


def test_permutation_of_a_layer_of_one_seed() -> None:
    for mask in (None, torch.tensor([[0, 0, 1, 2]])):
        # Captum chooses a target twice.
        both("LayerFeaturePermutation", lambda x, y: inputs(x, y)[:, 1], inputs.relu, call=((X, Y),), layer_mask=mask)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("name", ["IntegratedGradients", "DeepLift", "Saliency"])
def test_the_noise_tunnel_of_one_seed(nt_type: str, name: str) -> None:
    options: Any = {"nt_type": nt_type, "nt_samples": 4, "stdevs": (0.3, 0.1), "target": torch.tensor([1])}
    options |= {} if name == "Saliency" else {"baselines": (X0, Y0), **DELTA}
    drawn: Any = ({},) if name == "Saliency" else ({}, {"draw_baseline_from_distrib": True})
    for draw in drawn:
        found = []
        for space in (theirs, ours):
            torch.manual_seed(0)
            np.random.seed(0)
            tunnel = space.NoiseTunnel(getattr(space, name)(inputs))
            found.append(tunnel.attribute((X, Y), **options, **draw))
        assert_same(found[1], found[0])


DRAWING: dict[str, tuple[Any, dict[str, Any]]] = {
    "gradient shap": (lambda space: space.GradientShap(inputs), {"target": 1, **DELTA}),
    "of a layer": (lambda space: space.LayerGradientShap(inputs, inputs.a), {"target": 1, **DELTA}),
    "of a neuron": (lambda space: space.NeuronGradientShap(inputs, inputs.relu), {"neuron_selector": 1}),
    "shapley": (lambda space: space.ShapleyValueSampling(inputs), {"target": 1, "n_samples": 3}),
    "permutation": (lambda space: space.FeaturePermutation(inputs), {"target": 1}),
    "tunnel": (lambda space: space.NoiseTunnel(space.Saliency(inputs)), {"target": 1}),
}


@pytest.mark.parametrize("nt_type", ["smoothgrad", "vargrad"])
@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("examples", [1, 4])
def test_the_noise_tunnel_around_a_method_that_draws(nt_type: str, name: str, examples: int) -> None:
    make, options = DRAWING[name]
    x, start, found = (X[:examples], Y[:examples]), (X0[:examples], Y0[:examples]), []
    options = options | ({"baselines": start} if name.startswith(("gradient", "of a")) else {})
    for space in (theirs, ours):
        torch.manual_seed(0)
        np.random.seed(0)
        found.append(space.NoiseTunnel(make(space)).attribute(x, nt_type, 3, stdevs=0.2, **options))
    assert_same(found[1], found[0])


@pytest.mark.filterwarnings("ignore:FeaturePermutation.*no other example:UserWarning")
@pytest.mark.parametrize("name", ["FeatureAblation", "FeaturePermutation"])
def test_empty_inputs(name: str) -> None:
    def total(x: Tensor, ids: Tensor) -> Tensor:
        return x.sum() + (ids[0] if ids.numel() else 0)

    for x in (X, X[:1], X[:0]):
        for ids in (X[0, :0], X[0, :1], X[:, 0]):
            both(name, total, call=((x, ids),))
    # Features over an input of one example and another of four.
    masks = (torch.tensor([[0, 1, 1]]), torch.tensor([[1, 2, 3, 4, 4]]))
    both(name, lambda x, y: x.sum() + (y**2).sum(), call=((X[:1], Y),), feature_mask=masks)


def test_the_sizes_of_occlusion() -> None:
    for sizes, strides in (((2, 3, 3), (5, 2, 2)), (((2, 3, 3),), ((2, 3, 3),)), ((2, 3, 3), ((2, 3, 1),))):
        both("Occlusion", conv, call=(IMAGE, sizes, strides), target=1)
        both("Occlusion", conv, call=((IMAGE,), sizes, strides), target=1)
    both("Occlusion", lambda a, b: a - b.relu(), call=((X[:, 0], Y[:, 0]), ((), ())))


@pytest.mark.parametrize("model", [lambda a, b: (a * b).sum(1), lambda a, b: a * b, lambda a, b: (a * b)[:, :1]])
@pytest.mark.parametrize("masks", [None, (torch.tensor([[0, 0, 1]]), torch.tensor([[2, 3, 5]]))])
def test_data_loaders(model: Any, masks: Any) -> None:
    batches = [[X[:3], X0[:3]], [X[3:], X0[3:]]]  # Captum takes no tuples
    for options in ({}, {"return_input_shape": False}, {"perturbations_per_pass": 3, "baselines": (0.5, X[:1])}):
        found = []
        for space in (theirs, ours):
            method = space.DataLoaderAttribution(space.FeatureAblation(model))
            found.append(method.attribute(batches, feature_mask=masks, **options))
        assert_same(found[1], found[0])


@pytest.mark.parametrize("name", ["LayerDeepLift", "LayerDeepLiftShap", "LayerIntegratedGradients"])
@pytest.mark.parametrize("layer", ["a", "f", "relu", "last"])
def test_a_layer_beside_a_skip_connection(name: str, layer: str) -> None:
    model = settle(Skip)
    both(name, model, getattr(model, layer), call=(X, X0), target=1, **DELTA)


@pytest.mark.parametrize("name", sorted(set(theirs.__all__)))
def test_every_name_is_there_or_refused_by_a_sentence(name: str) -> None:
    if name in dir(ours):
        return
    with pytest.raises(ImportError, match=f"{name} is not served: "):
        getattr(ours, name)


SERVED = [name for name in theirs.__all__ if name in dir(ours) and hasattr(getattr(theirs, name), "attribute")]


@pytest.mark.parametrize("name", SERVED)
def test_every_class_says_of_itself_what_captums_says(name: str) -> None:
    own: Any = getattr(ours, name)
    has_parts = {"NoiseTunnel": theirs.Saliency, "DataLoaderAttribution": theirs.FeatureAblation}
    if name in has_parts:
        mine = getattr(ours, has_parts[name].__name__)(mlp)
        pair = getattr(theirs, name)(has_parts[name](mlp)), own(mine)
    else:
        args = (mlp, mlp[1]) if "layer" in inspect.signature(own.__init__).parameters else (mlp,)
        pair = getattr(theirs, name)(*args), own(*args)
    for word in ("multiplies_by_inputs", "has_convergence_delta", "get_name"):
        expected, actual = (getattr(method, word) for method in pair)
        assert (actual() if callable(actual) else actual) == (expected() if callable(expected) else expected), word
