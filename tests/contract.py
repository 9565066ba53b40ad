"""The table of all methods: what each is checked against, and what it conserves."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr import FunctionalModel, Rulebook, rules
from funcattr.sampling import draws
from funcattr.testing import assert_equal as assert_equal
from funcattr.testing import loop as loop

from . import (
    bottleneck_references,
    path_and_bias_references,
    perturbation_references,
    references,
    sampling_references,
)
from .deep_lift_references import deep_lift_reference
from .relevance_references import REFERENCES, lrp_reference

Reference = Callable[[nn.Module, Tensor, Any, str], Tensor]


class Row(NamedTuple):
    """A method with its layer bound by name where it has one."""

    name: str
    method: Callable[..., Tensor]
    reference: Reference
    at_layer: bool = False  # takes layer=, and its result has the layer's spatial size
    conserves: bool = False  # sums to the target's output on a positively homogeneous net
    is_map: bool = False  # its result has one channel
    every_class: bool = False  # without a target it explains all classes
    reads_target: bool = True
    rules: Rulebook | None = None  # of relevance, which `conservation` accounts for
    share: float = 1.0  # of the drawn networks: less where another row has the same formula, or where a call is slow

    def __call__(
        self, model: nn.Module | FunctionalModel | Any, x: Any, target: Any, layer: str, **options: Any
    ) -> Tensor:
        return self.method(model, x, target, **({"layer": layer} if self.at_layer else {}), **options)

    def at(self, layer: str) -> Callable[..., Tensor]:
        """The method with its layer bound: `(model, x, target) -> attributions`."""
        return partial(self, layer=layer)

    def __repr__(self) -> str:
        return self.name

    @property
    def divides(self) -> bool:
        """Whether it works in relevance space: relevance over z has poles, beside which rounding is amplified."""
        return self.rules is not None and self.rules.space == "relevance"


def _at_input(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target)[1]


def _at_layer(rule: str) -> Reference:
    return lambda model, x, target, layer: references.pseudo_gradient(rule, model, x, target, layer)[1]


def _product(at_layer: bool) -> Reference:
    def product(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        root, g = references.pseudo_gradient("gradient", model, x, target, layer if at_layer else None)
        return root * g

    return product


def _map(formula: Callable[[Tensor, Tensor], Tensor]) -> Reference:
    return lambda model, x, target, layer: formula(*references.pseudo_gradient("gradient", model, x, target, layer))


def _guided_grad_cam(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    cam = _map(references.grad_cam)(model, x, target, layer)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    return _at_input("guided_backprop")(model, x, target, layer) * F.interpolate(cam, x.shape[2:], mode=mode)


def _from_input(reference: Callable[..., Tensor], **options: Any) -> Reference:
    return lambda model, x, target, layer: reference(model, x, target, **options)


def _from_layer(reference: Callable[..., Tensor]) -> Reference:
    """At a site: of the model as a function of the site's (first) value."""

    def at_layer(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        module, values = model.get_submodule(layer), list[Tensor]()
        with module.register_forward_hook(lambda module, inputs, output: values.append(output.clone())):
            model(x)

        def rest(value: Tensor) -> Tensor:
            given = [value]
            with module.register_forward_hook(lambda module, inputs, output: given.pop() if given else None):
                return model(x)

        return reference(rest, values[0].detach(), target)

    return at_layer


def _with_channels(method: Callable[..., Any]) -> Callable[..., Any]:
    """The drawn networks have channels in dimension 1 of every layer, of signals too, where the methods ask for it."""
    return partial(method, channel_dim=1)


def _class_scores(output: Tensor, target: Any) -> list[float]:
    return (output * references.one_hot(output, target)).flatten(1).sum(1).tolist()


def _score_cam(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """Channel by channel and example by example."""
    features, _ = sampling_references.from_layer(model, x, layer)
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    scores = torch.zeros(features.shape[:2], dtype=x.dtype, device=x.device)
    for c in range(features.shape[1]):
        masked = x.clone()
        for n, mask in enumerate(F.interpolate(features[:, c : c + 1], x.shape[2:], mode=mode)[:, 0]):
            spread = mask.max() - mask.min()
            masked[n] *= (mask - mask.min()) / spread if spread > 0 else 0 * mask
        scores[:, c] = x.new_tensor(_class_scores(model(masked), target))
    weights = scores.exp() / scores.exp().sum(1, keepdim=True)
    return torch.einsum("nc,nc...->n...", weights, features).unsqueeze(1).clamp(min=0)


def _ablation_cam(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    features, rest = sampling_references.from_layer(model, x, layer)
    found, whole = torch.zeros_like(features[:, :1]), _class_scores(rest(features.clone()), target)
    for c in range(features.shape[1]):
        without = features.clone()
        without[:, c] = 0
        for n, score in enumerate(_class_scores(rest(without), target)):
            found[n, 0] += (whole[n] - score) * features[n, c]
    return found.clamp(min=0)


def _contrastive(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """Of the net and of its dual, whose last linear map has the opposite sign; all paths go through `blocks`."""
    dual = copy.deepcopy(model)
    classifier: Any = dual.get_submodule("head.out")
    with torch.no_grad():
        classifier.weight.neg_()
        classifier.bias.neg_()
    excitation = _from_layer(REFERENCES["excitation_backprop"])
    difference = excitation(model, x, target, layer) - excitation(dual, x, target, layer)
    return difference.sum(1, keepdim=True).clamp(min=0)


def _lrp(name: str, **bounds: float) -> Row:
    book = getattr(rules, name if name != "epsilon" else "epsilon_everywhere")(**bounds)
    reference = _from_input(lrp_reference, composite=name, **bounds)
    # The composites differ in one rule of their own, which is enough for half of the networks.
    share = 1.0 if name == "epsilon_plus" else 0.5
    return Row(f"lrp_{name}", partial(funcattr.lrp, rules=book, start="one"), reference, rules=book, share=share)


def _cam(
    name: str,
    method: Callable[..., Tensor],
    formula: Callable[[Tensor, Tensor], Tensor],
    reads_target: bool = True,
    **options: bool,
) -> Row:
    cam = _with_channels(partial(method, **options))
    return Row(name, cam, _map(formula), at_layer=True, is_map=True, reads_target=reads_target, share=0.5)


STEPS, SAMPLES, CHUNK = 3, 3, 2
NODES, WEIGHTS = sampling_references.gauss_legendre(STEPS)


def noise(x: Tensor) -> Tensor:
    """Pre-drawn noise: numbers that look random, the same for each batch, and in any transform. [SAMPLES, 1, ...]"""
    count = SAMPLES * x[0].numel()
    waves = torch.sin(torch.arange(1, count + 1, dtype=x.dtype, device=x.device) * 1.7)
    return waves.reshape(SAMPLES, 1, *x.shape[1:])


def _noise_tunnel(method: Callable[..., Any], kind: Any) -> Callable[..., Tensor]:
    def tunnel(model: Any, x: Any, target: Any, **options: Any) -> Tensor:
        given = {"noise": noise(x)} if isinstance(x, Tensor) and x.ndim and len(x) else {"samples": SAMPLES}
        return funcattr.noise_tunnel(
            partial(method, model), x, target, kind=kind, sigma=0.3, chunk_size=CHUNK, **given, **options
        )

    return tunnel


def _over_noise(kind: str, product: bool) -> Reference:
    def tunnel(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        def method(x: Tensor, target: Any) -> Tensor:
            root, g = references.pseudo_gradient("gradient", model, x, target)
            return root * g if product else g

        return sampling_references.noise_tunnel(method, x, target, noise=noise(x), sigma=0.3, kind=kind)

    return tunnel


BASELINE = 0.25
_ON_A_LINE: dict[str, Any] = {"baseline": BASELINE, "steps": STEPS, "chunk_size": CHUNK}
_NODES: dict[str, Any] = {"baseline": BASELINE, "nodes": NODES, "weights": WEIGHTS}


def _on_a_line(reference: Callable[..., Tensor], **options: Any) -> Reference:
    return lambda model, x, target, layer: reference(model, x, target, layer, **options)


def _idgi(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """Step by step: the rise to the next point, shared out by the squared gradient at this one."""
    points = [BASELINE + (x - BASELINE) * s / STEPS for s in range(STEPS + 1)]
    scores = [_class_scores(model(point), target) for point in points]
    found = torch.zeros_like(x)
    for s in range(STEPS):
        squares = references.pseudo_gradient("gradient", model, points[s], target)[1] ** 2
        for n, square in enumerate(squares):
            if square.any():
                found[n] += square / square.sum() * (scores[s + 1][n] - scores[s][n])
    return found


def _expected_gradients(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    """The draws are the package's, what is made of them is not."""
    alphas = draws.uniform(torch.arange(SAMPLES), (), torch.zeros((), dtype=x.dtype), 0, stream=-2)
    baselines = torch.full((SAMPLES, *x.shape[1:]), BASELINE, dtype=x.dtype, device=x.device)
    return sampling_references.expected_gradients(model, x, target, baselines=baselines, alphas=alphas.tolist())


# The smallest drawn inputs have two values.
COALITIONS = torch.tensor([[1, 0], [0, 1]])
PLAYERS = COALITIONS.shape[1]


def _groups(x: Any) -> dict[str, Any]:
    """The values of an example dealt out to two features, where x is a batch of examples."""
    if not isinstance(x, Tensor) or x.ndim < 2 or len(x) == 0:
        return {}
    ids = torch.arange(x[0].numel(), device=x.device) % PLAYERS
    return {"feature_mask": ids.reshape(1, *x.shape[1:]), "features": PLAYERS}


def _of_features(method: Callable[..., Any], reference: Callable[..., Any], **given: Any) -> tuple[Any, Reference]:
    """A method of groups of features and its reference, which counts the groups itself."""

    def grouped(model: Any, x: Any, target: Any, **options: Any) -> Tensor:
        return method(model, x, target, baseline=BASELINE, chunk_size=CHUNK, **_groups(x), **given, **options)

    def expected(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
        mask = _groups(x)["feature_mask"]
        return reference(model, x, target, feature_mask=mask, baseline=BASELINE, **given).to(x)

    return grouped, expected


def _window(x: Any) -> tuple[int, ...]:
    return (min(2, x.shape[-1]),) if isinstance(x, Tensor) and x.ndim > 1 else (2,)


def _occlusion(model: Any, x: Any, target: Any, **options: Any) -> Tensor:
    return funcattr.occlusion(model, x, target, window=_window(x), baseline=BASELINE, chunk_size=CHUNK, **options)


def _occluded(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    whole = (*x.shape[1:-1], *_window(x))
    found: Any = perturbation_references.occlusion(model, x, target, window=whole, baseline=BASELINE)
    return found.to(x)


def _rise(model: Any, x: Any, target: Any, **options: Any) -> Tensor:
    if isinstance(x, Tensor) and x.ndim > 2 and len(x):
        options["masks"] = noise(x)[:, 0, 0].abs()
    return funcattr.rise(model, x, target, samples=SAMPLES, chunk_size=CHUNK, **options)


def _risen(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    return perturbation_references.rise(model, x, target, masks=noise(x)[:, 0, 0].abs()).to(x)


def _of_bottleneck(shape: torch.Size, like: Tensor) -> funcattr.bottleneck.FeatureStatistics:
    """Made up, so that any layer of any net has some; every third element is hardly ever anything but 0."""
    count = torch.arange(shape.numel(), device=like.device).reshape(shape)
    nonzero = torch.where(count % 3 == 2, 1, 100)
    centre, squares = torch.cos(count.to(like) * 1.3) / 3, 10 + 9 * torch.sin(count.to(like))
    return funcattr.bottleneck.FeatureStatistics("", "gaussian", 100, nonzero, centre, squares)


IBA_STEPS = 2  # each has a forward and a backward of the tail for each sample


def _iba_noise(value: Tensor) -> Tensor:
    """[IBA_STEPS, SAMPLES, 1, ...]"""
    count = IBA_STEPS * SAMPLES * value[0].numel()
    waves = torch.sin(torch.arange(1, count + 1, dtype=value.dtype, device=value.device))
    return waves.reshape(IBA_STEPS, SAMPLES, 1, *value.shape[1:])


def _iba(model: Any, x: Any, target: Any, layer: str, **options: Any) -> Tensor:
    known = isinstance(model, nn.Module | FunctionalModel) and layer in funcattr.functionalize(model).sites
    if known and isinstance(x, Tensor) and x.ndim and len(x) and x.device.type != "meta":
        value = funcattr.read(model, layer)(x)[1][layer]
        statistics, options["noise"] = _of_bottleneck(value.shape[1:], value), _iba_noise(value)
    else:
        statistics = _of_bottleneck(torch.Size([1]), torch.zeros(1))
    statistics = replace(statistics, layer=layer)
    given: Any = {"steps": IBA_STEPS, "samples": SAMPLES, "per": "element", "chunk_size": 2, **options}
    return funcattr.iba(model, x, target, statistics=statistics, layer=layer, **given)


def _iba_reference(model: nn.Module, x: Tensor, target: Any, layer: str) -> Tensor:
    value = sampling_references.from_layer(model, x, layer)[0]
    given = _of_bottleneck(value.shape[1:], value)
    statistics = bottleneck_references.Statistics(given.mean, given.std, given.active)
    runs = bottleneck_references.iba(model, x, target, layer, statistics=statistics, noise=_iba_noise(value))
    return bottleneck_references.stacked(runs, "capacity").to(x) / math.log(2)


ROWS = (
    Row("gradient", funcattr.gradient, _at_input("gradient")),
    Row("gradient_at_layer", funcattr.gradient, _at_layer("gradient"), at_layer=True, share=0.5),
    Row("input_x_gradient", funcattr.input_x_gradient, _product(False), conserves=True),
    Row(
        "input_x_gradient_at_layer", funcattr.input_x_gradient, _product(True), at_layer=True, conserves=True, share=0.5
    ),
    Row("guided_backprop", funcattr.guided_backprop, _at_input("guided_backprop")),
    Row("guided_backprop_at_layer", funcattr.guided_backprop, _at_layer("guided_backprop"), at_layer=True, share=0.5),
    Row("deconvnet", funcattr.deconvnet, _at_input("deconvnet")),
    Row("deconvnet_at_layer", funcattr.deconvnet, _at_layer("deconvnet"), at_layer=True, share=0.5),
    Row("guided_grad_cam", _with_channels(funcattr.guided_grad_cam), _guided_grad_cam, at_layer=True),
    Row("grad_cam", _with_channels(funcattr.grad_cam), _map(references.grad_cam), at_layer=True, is_map=True),
    _cam("grad_cam_signed", funcattr.grad_cam, references.signed_grad_cam, relu=False),
    Row(
        "layer_cam",
        _with_channels(funcattr.layer_cam),
        _map(lambda h, g: (g.clamp(min=0) * h).sum(1, keepdim=True).clamp(min=0)),
        at_layer=True,
        is_map=True,
    ),
    _cam("hires_cam", funcattr.hires_cam, lambda h, g: references.linear_approx(h, g).clamp(min=0)),
    _cam("grad_cam_plus_plus", funcattr.grad_cam_plus_plus, references.grad_cam_plus_plus),
    _cam("xgrad_cam", funcattr.xgrad_cam, references.xgrad_cam),
    _cam("eigen_cam", funcattr.eigen_cam, lambda h, g: references.principal(h).clamp(min=0), reads_target=False),
    _cam("eigen_grad_cam", funcattr.eigen_grad_cam, lambda h, g: references.principal(h * g), relu=False),
    Row(
        "score_cam",
        _with_channels(partial(funcattr.score_cam, chunk_size=CHUNK)),
        _score_cam,
        at_layer=True,
        is_map=True,
        share=0.5,
    ),
    Row(
        "ablation_cam",
        _with_channels(partial(funcattr.ablation_cam, chunk_size=CHUNK)),
        _ablation_cam,
        at_layer=True,
        is_map=True,
        share=0.5,
    ),
    Row(
        "linear_approx",
        _with_channels(funcattr.linear_approx),
        _map(references.linear_approx),
        at_layer=True,
        conserves=True,
        is_map=True,
    ),
    _lrp("epsilon"),
    _lrp("epsilon_plus"),
    _lrp("epsilon_plus_flat"),
    _lrp("epsilon_alpha2_beta1"),
    _lrp("epsilon_alpha2_beta1_flat"),
    _lrp("epsilon_gamma_box", low=-4.0, high=4.0),
    Row(
        "excitation_backprop",
        funcattr.excitation_backprop,
        _from_input(REFERENCES["excitation_backprop"]),
        rules=rules.excitation_backprop(),
    ),
    Row(
        "excitation_backprop_at_layer",
        funcattr.excitation_backprop,
        _from_layer(REFERENCES["excitation_backprop"]),
        share=0.5,
        at_layer=True,
        rules=rules.excitation_backprop(),
    ),
    # The models here have a site "blocks", between every layer that is asked for and the classifier.
    Row(
        "contrastive_excitation_backprop",
        _with_channels(partial(funcattr.contrastive_excitation_backprop, contrast_layer="blocks")),
        _contrastive,
        at_layer=True,
        is_map=True,
        rules=rules.excitation_backprop(),
    ),
    Row("noise_tunnel", _noise_tunnel(funcattr.gradient, "smoothgrad"), _over_noise("smoothgrad", product=False)),
    Row(
        "vargrad", _noise_tunnel(funcattr.input_x_gradient, "vargrad"), _over_noise("vargrad", product=True), share=0.5
    ),
    Row(
        "integrated_gradients",
        partial(funcattr.integrated_gradients, **_ON_A_LINE),
        _on_a_line(
            lambda model, x, target, layer, **o: sampling_references.integrated_gradients(model, x, target, **o),
            **_NODES,
        ),
    ),
    Row(
        "integrated_gradients_at_layer",
        partial(funcattr.integrated_gradients, **_ON_A_LINE),
        _on_a_line(sampling_references.integrated_gradients, **_NODES),
        at_layer=True,
        share=0.5,
    ),
    Row(
        "idgi",
        partial(funcattr.integrated_gradients, **_ON_A_LINE, path=funcattr.paths.idgi()),
        _idgi,
        share=0.5,
    ),
    Row(
        "blur_integrated_gradients",
        partial(funcattr.integrated_gradients, steps=2, chunk_size=CHUNK, path=funcattr.paths.blur(1.5)),
        _from_input(
            lambda model, x, target: path_and_bias_references.blur_integrated_gradients(model, x, target, "", 1.5, 2)
        ),
        share=0.5,
    ),
    Row(
        "expected_gradients",
        partial(funcattr.expected_gradients, baseline=BASELINE, samples=SAMPLES, chunk_size=CHUNK),
        _expected_gradients,
    ),
    Row(
        "layer_conductance",
        partial(funcattr.layer_conductance, **_ON_A_LINE),
        _on_a_line(sampling_references.conductance_by_sums, baseline=BASELINE, steps=STEPS),
        at_layer=True,
    ),
    Row(
        "internal_influence",
        partial(funcattr.internal_influence, **_ON_A_LINE),
        _on_a_line(sampling_references.internal_influence, **_NODES),
        at_layer=True,
    ),
    Row(
        "deep_lift",
        partial(funcattr.deep_lift, baseline=BASELINE),
        _from_input(deep_lift_reference, baseline=BASELINE),
    ),
    Row(
        "deep_lift_at_layer",
        partial(funcattr.deep_lift, baseline=BASELINE),
        _on_a_line(deep_lift_reference, baseline=BASELINE),
        at_layer=True,
        share=0.5,
    ),
    Row("rise", _rise, _risen, is_map=True, every_class=True),
    Row("occlusion", _occlusion, _occluded),
    Row("feature_ablation", *_of_features(funcattr.feature_ablation, perturbation_references.feature_ablation)),
    Row(
        "shapley_sampling",
        *_of_features(
            funcattr.shapley_sampling,
            perturbation_references.shapley_sampling,
            permutations=torch.tensor([[0, 1], [1, 0], [1, 0]]),
        ),
    ),
    Row("shapley_values", *_of_features(funcattr.shapley_values, perturbation_references.shapley_values)),
    Row(
        "kernel_shap",
        *_of_features(funcattr.kernel_shap, perturbation_references.kernel_shap, coalitions=COALITIONS),
    ),
    Row(
        "lime",
        *_of_features(
            partial(funcattr.lime, regression="ridge", penalty=0.1),
            partial(perturbation_references.lime, kind="ridge", alpha=0.1),
            coalitions=COALITIONS,
        ),
        share=0.5,
    ),
    Row("iba", _iba, _iba_reference, at_layer=True, share=0.25),
    Row("full_grad", funcattr.full_grad, path_and_bias_references.full_grad, conserves=True, is_map=True, share=0.5),
    Row("attnlrp", funcattr.attnlrp, _from_input(REFERENCES["attnlrp"]), conserves=True, rules=rules.attnlrp()),
    Row("cp_lrp", funcattr.cp_lrp, _from_input(REFERENCES["cp_lrp"]), conserves=True, rules=rules.cp_lrp()),
)

ELSEWHERE = {
    "attention_relevance": ("attention/test_attention_methods.py", "it needs attention, which few drawn networks have"),
    "attention_rollout": ("attention/test_attention_methods.py", "it needs attention, which few drawn networks have"),
    "legrad": ("attention/test_attention_methods.py", "it needs attention, which few drawn networks have"),
    "value_zeroing": ("attention/test_attention_methods.py", "it needs attention, which few drawn networks have"),
    "edges": ("edges/test_edges.py", "its result is a table of sites by sites"),
    "readout_iba": ("bottleneck/test_readout.py", "it needs a network that was trained for the model's layers"),
    "extremal_perturbation": ("extremal/test_extremal_perturbation.py", "a search of many steps is slow"),
    "conservation": (
        "relevance/test_conservation.py",
        "its result is a report; each row of relevance is checked by it",
    ),
    "conditional_relevance": ("relevance/test_conditional.py", "it needs conditions at sites of the model"),
    "relevance_maximization": ("relevance/test_conditional.py", "it explains a data set"),
    "guided": ("paths/test_other_paths.py", "rounding says which of two values of one gradient moves first"),
}
"""Public methods and paths that have no row -> the file under tests/methods that checks them, and why there."""

BOOKS_ELSEWHERE = {
    "guided": "the row guided_backprop",
    "deconvnet": "the row deconvnet",
    "deep_lift": "the row deep_lift",
    "deep_lift_reveal_cancel": "tests/rules/multipliers/test_reveal_cancel.py: its reference is for stacks of layers",
}
"""Rulebooks that no row has as its own."""


def row(name: str) -> Row:
    """The row of that name."""
    return next(r for r in ROWS if r.name == name)
