"""`funcattr.compat.captum.attr` at its edges: kinds of outputs, layers off the path, arguments that are wrong."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.compat.captum import attr
from funcattr.testing.seeding import settle, uniform

X = uniform(4, 3)
mlp: Any = settle(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)))
WHOLE = torch.tensor([[2, -3, 4], [1, 0, 5]])


@pytest.mark.parametrize("name", ["FeatureAblation", "FeaturePermutation"])
@pytest.mark.parametrize(
    ("output", "dtype"),
    [
        (lambda x: (2 * x).sum(1), torch.int64),
        (lambda x: x.sum().int(), torch.int32),
        (lambda x: int(x.sum()), torch.int64),
        (lambda x: float(x.sum()), torch.float64),
        (lambda x: x.sum().half(), torch.float16),
        (lambda x: x.sum(1) > 2, torch.get_default_dtype()),
    ],
)
def test_ablation_is_of_the_outputs_kind(name: str, output: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
    assert getattr(attr, name)(output).attribute(WHOLE).dtype == dtype


def test_an_integer_output_loses_integers() -> None:
    assert torch.equal(attr.FeatureAblation(lambda x: 3 * x.sum(1)).attribute(WHOLE), 3 * WHOLE)
    assert torch.equal(attr.FeatureAblation(lambda x: int(x.sum())).attribute(WHOLE), WHOLE.sum(0, keepdim=True))
    neuron = attr.NeuronFeatureAblation(Doubled(), Doubled.of)
    assert torch.equal(neuron.attribute(WHOLE, 1), torch.tensor([[0, -6, 0], [0, 0, 0]]))


class Twice(nn.Module):
    """A layer of integers."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Doubled(nn.Module):
    """A model around such a layer."""

    of = Twice()

    def __init__(self) -> None:
        super().__init__()
        self.layer = self.of

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("name", ["Occlusion", "ShapleyValues", "ShapleyValueSampling"])
def test_shares_of_an_integer_output_are_floats(name: str) -> None:
    options: Any = {"sliding_window_shapes": (1,)} if name == "Occlusion" else {}
    for output in (lambda x: x.sum(1), lambda x: int(x.sum()), lambda x: float(x.sum())):
        assert getattr(attr, name)(output).attribute(WHOLE, **options).dtype == torch.get_default_dtype()


@pytest.mark.parametrize("name", ["FeatureAblation", "FeaturePermutation", "ShapleyValues", "Lime", "KernelShap"])
def test_numbers_for_the_batch_have_one_perturbation_at_a_time(name: str) -> None:
    for output in (lambda x: mlp(x).sum(), lambda x: mlp(x).sum().item(), lambda x: mlp(x).sum(0)):
        with pytest.raises(AssertionError, match="perturbations_per_eval"):
            getattr(attr, name)(output).attribute(X, perturbations_per_eval=2)
    assert getattr(attr, name)(lambda x: mlp(x).sum()).attribute(X).shape == (1, 3)


FAR = (0,) * 9
BY_TARGET = ("Saliency", "IntegratedGradients", "FeatureAblation", "FeaturePermutation", "ShapleyValues", "Lime")
BY_NEURON = ("NeuronGradient", "NeuronDeconvolution", "NeuronDeepLift", "NeuronFeatureAblation", "NeuronConductance")


@pytest.mark.parametrize("name", BY_TARGET)
def test_a_target_of_too_many_numbers_is_about_arguments(name: str) -> None:
    with pytest.raises(AssertionError, match="target"):
        getattr(attr, name)(mlp).attribute(X, target=FAR)


def test_a_window_and_a_layer_look_at_the_target_too() -> None:
    with pytest.raises(AssertionError, match="target"):
        attr.Occlusion(mlp).attribute(X, (1,), target=FAR)
    with pytest.raises(AssertionError, match="target"):
        attr.LayerFeatureAblation(mlp, mlp[1]).attribute(X, target=FAR)


@pytest.mark.parametrize("name", BY_NEURON)
def test_an_index_of_too_many_numbers_is_about_arguments(name: str) -> None:
    options = {"target": 1} if name == "NeuronConductance" else {}
    with pytest.raises(AssertionError, match="neuron_selector"):
        getattr(attr, name)(mlp, mlp[1]).attribute(X, FAR, **options)


@pytest.mark.parametrize("name", ["FeatureAblation", "ShapleyValueSampling", "IntegratedGradients", "DeepLift"])
@pytest.mark.parametrize("count", [1, 3])
def test_as_many_baselines_as_inputs(name: str, count: int) -> None:
    method = getattr(attr, name)(nn.Bilinear(3, 3, 1).double())
    with pytest.raises(AssertionError, match=f"baselines=.*2 inputs.*got {count}"):
        method.attribute((X, X), baselines=(0.0,) * count, target=0)


class Windows(nn.Module):
    """Two windows of each example go through one layer, as rows of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.out = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.each(x.flatten(0, 1)).reshape(len(x), 4))


def mixed_examples(name: str, **options: Any) -> Any:
    """A call of a model whose examples see each other."""
    return getattr(attr, name)(lambda x: mlp(x - x.mean(0))).attribute(X, target=0, **options)


@pytest.mark.parametrize(
    ("name", "options"), [("IntegratedGradients", {}), ("FeatureAblation", {"perturbations_per_eval": 2})]
)
def test_examples_that_see_each_other_are_about_arguments(name: str, options: dict[str, Any]) -> None:
    """They raised the TypeError of an error that could not be made."""
    with pytest.raises(ValueError, match=r"examples in dimension 0 .* on what else is in the batch") as raised:
        mixed_examples(name, **options)
    assert isinstance(raised.value, AssertionError)


def test_a_layer_whose_rows_are_no_examples_is_about_arguments() -> None:
    model = settle(Windows)
    with pytest.raises(AssertionError, match="not a row for each of 8 examples"):
        attr.LayerIntegratedGradients(model, model.each).attribute(uniform(4, 2, 3), target=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: funcattr.integrated_gradients(lambda x: mlp(x - x.mean(0)), X, 0),
        lambda: mixed_examples("IntegratedGradients"),
        lambda: attr.IntegratedGradients(mlp).attribute((X, X), baselines=(0.0,), target=0),
    ],
)
@pytest.mark.parametrize("through", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_pickling_and_copying(call: Callable[[], Any], through: Callable[[Any], Any]) -> None:
    """As an error does that a worker's process sends back."""
    with pytest.raises(ValueError, match=r".") as raised:
        call()
    again = through(raised.value)
    assert type(again) is type(raised.value) and str(again) == str(raised.value) and again.args == raised.value.args


def test_features_of_inputs_with_too_few_examples_keep_their_values() -> None:
    """The first input has one example: nothing can be permuted, whatever the mask puts beside it."""
    x, masks = (X[:1], X), (torch.tensor([0, 0, 0]), torch.zeros(4, 3, dtype=torch.int64))
    method = attr.FeaturePermutation(lambda a, b: a.sum(1))
    with pytest.warns(UserWarning, match="no other example"):
        assert [a.shape for a in method.attribute(x, feature_mask=masks)] == [(1, 3), (1, 3)]
    method._min_examples_per_batch_grouped = 1
    with pytest.raises(AssertionError, match="two examples"):
        method.attribute(x, feature_mask=masks)


def test_a_mask_of_whole_numbers_may_be_of_floats() -> None:
    """Masks are often made by torch.zeros_like(x)."""
    found = attr.FeatureAblation(mlp).attribute(X, target=0, feature_mask=torch.tensor([[1.0, 0.0, 1.0]]))
    expected = attr.FeatureAblation(mlp).attribute(X, target=0, feature_mask=torch.tensor([[1, 0, 1]]))
    assert torch.equal(found, expected)
    with pytest.raises(TypeError, match="expected integers"):
        attr.FeatureAblation(mlp).attribute(X, target=0, feature_mask=torch.tensor([[0.5, 0.0, 1.0]]))


class Aside(nn.Module):
    """A model with a layer whose value it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.out = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.used(x)
        self.unused(h)
        return self.out(h)


@pytest.mark.parametrize(
    "name", ["LayerGradientXActivation", "LayerGradCam", "LayerConductance", "InternalInfluence", "LayerGradientShap"]
)
def test_what_the_output_does_not_depend_on_gets_zeros_where_they_are_asked_for(name: str) -> None:
    model: Any = settle(Aside)
    of, options = getattr(attr, name), {"baselines": X} if name == "LayerGradientShap" else {}
    with pytest.raises(funcattr.UntrackedPathError):
        of(model, model.unused).attribute(X, target=0, **options)
    if name == "LayerGradientShap":  # which has no such option
        return
    ask = {"target": 0, "grad_kwargs": {"materialize_grads": True}}
    found = of(model, model.unused).attribute(X, **ask)
    assert found.shape == (4, 1 if name == "LayerGradCam" else 4) and not found.any()
    used, none = of(model, [model.used, model.unused]).attribute(X, **ask)
    torch.testing.assert_close(used, of(model, model.used).attribute(X, target=0))
    assert not none.any()


def test_conductance_through_the_neuron_that_a_function_picks() -> None:
    method = attr.NeuronConductance(mlp, mlp[1])
    expected = method.attribute(X, 3, target=1)
    torch.testing.assert_close(method.attribute(X, lambda h: h[:, 3], target=1), expected)
    torch.testing.assert_close(method.attribute(X, lambda h: h[:, 3:4], target=1), expected)
    pair: Any = settle(Branches)
    both = attr.NeuronConductance(pair, pair.halves)
    found = [both.attribute(X, lambda parts, i=i: parts[i][:, 1], target=0) for i in range(2)]
    layer = attr.LayerConductance(pair, pair.halves).attribute(X, target=0, n_steps=400)
    for one, part in zip(found, layer, strict=True):
        torch.testing.assert_close(one.sum(1), part[:, 1], rtol=0.0, atol=0.02)
    assert not torch.allclose(*found)


class TwoWays(nn.Module):
    """A layer that gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.tanh(), x**2


class Branches(nn.Module):
    """A model with such a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.halves, self.out = TwoWays(), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.halves(x)
        return self.out(a * 2 + b)


@pytest.mark.parametrize(
    "selector",
    [
        lambda h: h[:, 0] + h[:, 1],
        lambda h: 2 * h[:, 0],
        lambda h: h[:, 0].relu(),
        lambda h: h[:, 0] ** 2,
        lambda h: h.max(1).values,
        lambda h: h.sum(),
        lambda h: h.flip(0)[:, 0],
    ],
)
def test_conductance_through_a_function_that_picks_no_neuron_is_refused(selector: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(funcattr.FuncattrError, match="neuron_selector"):
        attr.NeuronConductance(mlp, mlp[1]).attribute(X, selector, target=1)


def test_conductance_through_an_index_wants_a_layer_of_one_tensor() -> None:
    pair: Any = settle(Branches)
    with pytest.raises(funcattr.FuncattrError, match="gives 2 tensors"):
        attr.NeuronConductance(pair, pair.halves).attribute(X, 1, target=0)


@pytest.mark.parametrize("batch", [None, 3])
def test_integrated_gradients_of_one_number_that_a_function_makes_of_all_neurons(batch: Any) -> None:
    method = attr.NeuronIntegratedGradients(mlp, mlp[1])
    options: Any = {"n_steps": 20, "internal_batch_size": batch}
    each = method.attribute(X, lambda h: h.sum(1), **options)
    torch.testing.assert_close(method.attribute(X, lambda h: h.sum(), **options), each)
    # Not a sum over examples: the batch goes its way as a whole, and the attributions sum to what the number gains.
    found = method.attribute(X, lambda h: h.sum() ** 2, **(options | {"n_steps": 200}))
    hidden = mlp[:2]
    gain = hidden(X).sum() ** 2 - hidden(0 * X).sum() ** 2
    torch.testing.assert_close(found.sum(), gain.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Lime", "KernelShap"])
def test_a_batch_is_fitted_example_by_example(name: str) -> None:
    """One state of torch's generator gives a batch what it gives its examples, one after the other."""
    wide = settle(lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 2)))
    x, masks = uniform(3, 12), torch.stack([torch.arange(12), torch.arange(12).flip(0), torch.arange(12) // 2 * 2 + 1])
    method: Any = getattr(attr, name)(wide)
    for mask in (None, masks):
        torch.manual_seed(0)
        whole = method.attribute(x, target=[0, 1, 1], feature_mask=mask, baselines=0.1 * x, n_samples=30)
        torch.manual_seed(0)
        single = [
            method.attribute(
                x[i : i + 1],
                target=[0, 1, 1][i],
                feature_mask=None if mask is None else mask[i : i + 1],
                baselines=0.1 * x[i : i + 1],
                n_samples=30,
            )
            for i in range(3)
        ]
        torch.testing.assert_close(whole, torch.cat(single))


def test_of_more_arguments_tensors_go_by_examples_and_lists_do_not() -> None:
    """f(x) = scale x_0 for one example with a scale of its own; a list and a number are the same for all."""

    def model(x: Tensor, scale: Tensor, powers: list[int], shift: Tensor) -> Tensor:
        return scale * (x[:, 0] ** powers[0] + x[:, 1] ** powers[1]) + shift

    x, scale = uniform(2, 2), torch.tensor([2.0, -3.0], dtype=torch.float64)
    args = (scale, [1, 2], torch.tensor(0.5))
    found = attr.KernelShap(model).attribute(x, additional_forward_args=args, n_samples=4)
    torch.testing.assert_close(found, scale[:, None] * torch.stack([x[:, 0], x[:, 1] ** 2], 1))


def test_an_embedding_that_is_configured_already_is_about_arguments() -> None:
    model = nn.Sequential(nn.Embedding(4, 2))
    with pytest.warns(UserWarning, match="takes vectors"):
        embedding = attr.configure_interpretable_embedding_layer(model, "0")
    with pytest.raises(AssertionError, match="configured already"):
        attr.configure_interpretable_embedding_layer(model, "0")
    attr.remove_interpretable_embedding_layer(model, embedding)


def test_no_futures() -> None:
    for method in (attr.Saliency(mlp), attr.FeatureAblation(mlp), attr.LayerActivation(mlp, mlp[0])):
        with pytest.raises(NotImplementedError, match="futures are not served"):
            method.attribute_future()


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (attr.SkLearnLasso(alpha=0.02), {"regression": "lasso", "penalty": 0.02}),
        (attr.SkLearnRidge(alpha=0.3), {"regression": "ridge", "penalty": 0.3}),
        (attr.SkLearnRidge(), {"regression": "ridge", "penalty": 1.0}),
        (attr.SkLearnLinearRegression(), {"regression": "linear"}),
        (None, {"regression": "lasso", "penalty": 0.01}),
    ],
)
def test_lime_with_a_linear_model_and_a_kernel(model: Any, options: dict[str, Any]) -> None:
    kernel = attr.get_exp_kernel_similarity_function("cosine", 0.2)
    torch.manual_seed(0)
    found = attr.Lime(mlp, model, kernel).attribute(X[:1], target=1, n_samples=7)
    torch.manual_seed(0)
    drawn = torch.stack([torch.bernoulli(torch.full((3,), 0.5)) for _ in range(7)]).bool()
    expected = funcattr.lime(mlp, X[:1], 1, coalitions=drawn, kernel_width=0.2, **options)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(0)
    wide = attr.Lime(mlp, model).attribute(X[:1], target=1, n_samples=7)
    assert not torch.allclose(wide, expected) and attr.Lime(mlp)._options["kernel_width"] == 1.0


def test_the_kernel_is_the_exponential_of_the_squared_distance() -> None:
    a, b = (torch.tensor([3.0, 0.0]), torch.tensor([0.0])), (torch.tensor([0.0, 0.0]), torch.tensor([4.0]))
    far = attr.get_exp_kernel_similarity_function("euclidean", 5.0)
    assert far(a, b) == pytest.approx(torch.tensor(-0.5).exp().item())
    assert attr.get_exp_kernel_similarity_function("cosine", 0.5)(a, b) == pytest.approx(
        torch.tensor(-2.0).exp().item()
    )
    with pytest.raises(ValueError, match="'cosine' or 'euclidean'"):
        attr.get_exp_kernel_similarity_function("city")


def test_parts_of_lime_that_are_not_served() -> None:
    for model in (attr.SkLearnLasso(alpha=1.0, positive=True), attr.SkLearnLinearRegression(alpha=1.0), object()):
        with pytest.raises(funcattr.FuncattrError, match="interpretable_model"):
            attr.Lime(mlp, model)
    for kernel in (lambda *_: 1.0, attr.get_exp_kernel_similarity_function("euclidean")):
        with pytest.raises(funcattr.FuncattrError, match="similarity_func"):
            attr.Lime(mlp, similarity_func=kernel)
    with pytest.raises(funcattr.FuncattrError, match="perturb_func"):
        attr.Lime(mlp, perturb_func=lambda *_: None)
