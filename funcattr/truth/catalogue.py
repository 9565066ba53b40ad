"""Every method of maps and every method of tokens, with the options that the comparison gives it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import (
    ablation_cam,
    attnlrp,
    bottleneck,
    contrastive_excitation_backprop,
    cp_lrp,
    deconvnet,
    deep_lift,
    distribution,
    eigen_cam,
    eigen_grad_cam,
    excitation_backprop,
    expected_gradients,
    extremal_perturbation,
    feature_ablation,
    full_grad,
    grad_cam,
    grad_cam_plus_plus,
    gradient,
    guided_backprop,
    guided_grad_cam,
    hires_cam,
    iba,
    input_x_gradient,
    integrated_gradients,
    internal_influence,
    kernel_shap,
    layer_cam,
    layer_conductance,
    lime,
    linear_approx,
    lrp,
    maps,
    noise_tunnel,
    occlusion,
    rise,
    rules,
    score_cam,
    shapley_sampling,
    xgrad_cam,
)
from .subject import Method, Questions

CHANCE, CENTRE = "random", "centre"
"""Maps that look at neither the network nor, the second, at the image: what a method has to beat."""


class Sites(NamedTuple):
    """Where in a network of images the methods look."""

    layer: str
    """Whose features make class activation maps."""
    contrast: str
    """Between `layer` and the output, for contrastive excitation backpropagation."""
    channels: int
    """At `layer`: so many passes have those methods that ask about each channel."""
    narrow: str
    """Where the information bottleneck stands."""


def of_images(
    sites: Sites,
    questions: Questions,
    *,
    low: float,
    high: float,
    sigma: float,
    window: int,
    statistics: bottleneck.FeatureStatistics,
    samples: int,
) -> tuple[Method, ...]:
    """Every method that makes maps.

    Args:
        sites: Of the network.
        questions: What is asked; its baseline is the methods' too.
        low, high: What black and white are to the network.
        sigma: Of the tunnel's noise.
        window: Of occlusion, in pixels.
        statistics: Of the values at `sites.narrow`.
        samples: Draws of the methods that draw.
    """
    layer, baseline, coarse = {"layer": sites.layer}, questions.baseline, questions.coarse
    features, size = int(coarse.max()) + 1, questions.x.shape[-1]
    behind = torch.cat([maps.smooth(questions.x, size / 16), torch.zeros_like(questions.x) + baseline]).detach()
    windows = len(range(0, size - window + 1, window // 2)) ** 2
    book = rules.epsilon_gamma_box(low=low, high=high)

    def smooth(model: nn.Module, x: Tensor, target: Tensor, kind: Any = "smoothgrad") -> Tensor:
        return noise_tunnel(partial(gradient, model), x, target, samples=samples // 8, sigma=sigma, kind=kind)

    def masked(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return extremal_perturbation(model, x, target, areas=0.1, steps=samples // 2, jitter=False)

    return (
        Method(CHANCE, _chance, sums, passes=0),
        Method(CENTRE, _centre, sums, passes=0),
        Method("gradient", gradient, sizes, "gradient"),
        Method("input_x_gradient", input_x_gradient, sums, "share", sums_to="output"),
        Method("smoothgrad", smooth, sizes, "gradient", 3 * (samples // 8)),
        Method("vargrad", partial(smooth, kind="vargrad"), sums, passes=3 * (samples // 8)),
        Method("full_grad", full_grad, sums, passes=6, sums_to="output"),
        Method("guided_backprop", guided_backprop, sizes),
        Method("deconvnet", deconvnet, sizes),
        Method("grad_cam", partial(grad_cam, **layer), sums),
        Method("guided_grad_cam", partial(guided_grad_cam, **layer), sizes, passes=5),
        Method("layer_cam", partial(layer_cam, **layer), sums),
        Method("hires_cam", partial(hires_cam, **layer), sums),
        Method("grad_cam_plus_plus", partial(grad_cam_plus_plus, **layer), sums),
        Method("xgrad_cam", partial(xgrad_cam, **layer), sums),
        Method("eigen_cam", partial(eigen_cam, **layer), sums, passes=1),
        Method("eigen_grad_cam", partial(eigen_grad_cam, **layer), sums),
        Method("score_cam", partial(score_cam, **layer), sums, passes=sites.channels),
        Method("ablation_cam", partial(ablation_cam, **layer), sums, passes=sites.channels),
        Method("linear_approx", partial(linear_approx, **layer), sums, sums_to="output"),
        Method("internal_influence", partial(internal_influence, baseline=baseline, **layer), sizes, passes=50),
        Method("layer_conductance", partial(layer_conductance, baseline=baseline, **layer), sums, "none", 50, "rise"),
        Method("excitation_backprop", partial(excitation_backprop, **layer), sums, passes=4),
        Method(
            "contrastive_excitation_backprop",
            partial(contrastive_excitation_backprop, contrast_layer=sites.contrast, **layer),
            sums,
            passes=6,
        ),
        Method("lrp_epsilon", partial(lrp, rules="epsilon"), sums, "share", 4, "output"),
        Method("lrp_epsilon_plus", partial(lrp, rules="epsilon_plus"), sums, "share", 5, "output"),
        Method("lrp_epsilon_gamma_box", partial(lrp, rules=book), sums, "share", 9, "output"),
        Method("deep_lift", partial(deep_lift, baseline=baseline), sums, "share", 6, "rise"),
        Method(
            "integrated_gradients",
            partial(integrated_gradients, baseline=baseline, steps=samples // 8),
            sums,
            "share",
            3 * (samples // 8),
            "rise",
        ),
        Method(
            "expected_gradients",
            partial(expected_gradients, baseline=distribution(behind), samples=samples // 8),
            sums,
            "share",
            3 * (samples // 8),
        ),
        Method(
            "occlusion",
            partial(occlusion, window=(window, window), stride=window // 2, baseline=baseline),
            sums,
            passes=windows,
        ),
        Method(
            "feature_ablation",
            partial(feature_ablation, feature_mask=coarse, baseline=baseline),
            sums,
            passes=features,
        ),
        Method(
            "shapley_sampling",
            partial(shapley_sampling, feature_mask=coarse, baseline=baseline, samples=max(2, samples // features)),
            sums,
            passes=features * max(2, samples // features),
        ),
        Method(
            "kernel_shap",
            partial(kernel_shap, feature_mask=coarse, baseline=baseline, samples=2 * features),
            sums,
            passes=2 * features,
        ),
        Method(
            "lime",
            partial(lime, feature_mask=coarse, baseline=baseline, samples=2 * features),
            sums,
            passes=2 * features,
        ),
        Method("rise", partial(rise, samples=samples, cells=8), sums, passes=samples),
        Method("extremal_perturbation", masked, sums, passes=3 * (samples // 2)),
        Method("iba", partial(iba, layer=sites.narrow, statistics=statistics), sums, passes=300),
    )


NOT_OF_IMAGES = {
    "attnlrp": "lrp for attention, which convolutional networks have not: there it is lrp_epsilon",
    "cp_lrp": "as attnlrp",
}
"""Methods of the command line that of_images leaves out, and why."""


def of_tokens(questions: Questions, *, sigma: float, rest: Tensor, layer: str, samples: int) -> tuple[Method, ...]:
    """Every method that says something of the tokens of a transformer.

    Args:
        questions: What is asked, one of the batches.
        sigma: Of the tunnel's noise.
        rest: What stands for nothing, for methods that remove words. [D]
        layer: A site whose values are the tokens', [N, T, D].
        samples: Draws of the methods that draw.
    """
    baseline = rest.expand(1, 1, -1)

    def by_word(method: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
        """A method that removes whole tokens."""

        def attribute(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
            words = torch.arange(x.shape[1])[None, :, None].expand(1, -1, x.shape[2])
            found = method(model, x, target, feature_mask=words, baseline=baseline, **options)
            return found[..., :1]  # each value of a token has the token's number

        return attribute

    def smooth(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        return noise_tunnel(partial(gradient, model), x, target, samples=samples // 8, sigma=sigma)

    count = questions.x.shape[1]
    cams = {"layer": layer, "channel_dim": -1}
    return (
        Method(CHANCE, _chance_of_tokens, of_words, passes=0),
        Method("gradient", gradient, lengths, "gradient"),
        Method("input_x_gradient", input_x_gradient, of_words, "share", sums_to="output"),
        Method("smoothgrad", smooth, lengths, "gradient", 3 * (samples // 8)),
        Method("grad_cam", partial(grad_cam, **cams), of_words),
        Method("linear_approx", partial(linear_approx, **cams), of_words),
        Method("hires_cam", partial(hires_cam, **cams), of_words),
        Method("layer_cam", partial(layer_cam, **cams), of_words),
        Method("grad_cam_plus_plus", partial(grad_cam_plus_plus, **cams), of_words),
        Method("xgrad_cam", partial(xgrad_cam, **cams), of_words),
        Method("eigen_cam", partial(eigen_cam, **cams), of_words, passes=1),
        Method("eigen_grad_cam", partial(eigen_grad_cam, **cams), of_words),
        Method("ablation_cam", partial(ablation_cam, **cams), of_words, passes=questions.x.shape[2]),
        Method("internal_influence", partial(internal_influence, layer=layer, baseline=baseline), lengths, passes=50),
        Method(
            "layer_conductance",
            partial(layer_conductance, layer=layer, baseline=baseline),
            of_words,
            "none",
            50,
            "rise",
        ),
        Method("lrp_epsilon", partial(lrp, rules="epsilon"), of_words, "share", 4, "output"),
        Method("attnlrp", attnlrp, of_words, "share", 4, "output"),
        Method("cp_lrp", cp_lrp, of_words, "share", 4, "output"),
        Method("deep_lift", partial(deep_lift, baseline=baseline), of_words, "share", 6, "rise"),
        Method(
            "integrated_gradients",
            partial(integrated_gradients, baseline=baseline, steps=samples // 8),
            of_words,
            "share",
            3 * (samples // 8),
            "rise",
        ),
        Method(
            "expected_gradients",
            partial(expected_gradients, baseline=baseline, sigma=sigma, samples=samples // 8),
            of_words,
            "share",
            3 * (samples // 8),
        ),
        Method("feature_ablation", by_word(feature_ablation), of_words, passes=count),
        Method("shapley_sampling", by_word(shapley_sampling, samples=8), of_words, passes=8 * count),
        Method("kernel_shap", by_word(kernel_shap, samples=8 * count), of_words, passes=8 * count),
        Method("lime", by_word(lime, samples=8 * count), of_words, passes=8 * count),
    )


_RELU, _IMAGES = "it changes how relu passes signals, which transformers have not", "it makes maps of images"
NOT_OF_TOKENS = {
    **dict.fromkeys(("guided_backprop", "deconvnet", "guided_grad_cam"), _RELU),
    **dict.fromkeys(("full_grad", "score_cam", "rise", "extremal_perturbation"), _IMAGES),
    "occlusion": "of words it is feature_ablation",
    "excitation_backprop": "it follows activations that are at least 0, which those of transformers are not",
    "contrastive_excitation_backprop": "as excitation_backprop",
}
"""Methods of the command line that of_tokens leaves out, and why."""


def sums(attributions: Tensor, x: Tensor) -> Tensor:
    """The sum over channels, at the input's size."""
    return maps.resize(maps.sum(attributions), x).detach()


def sizes(attributions: Tensor, x: Tensor) -> Tensor:
    """The greatest size over channels, at the input's size: rates of change cancel in a sum."""
    return maps.resize(maps.max_abs(attributions), x).detach()


def of_words(attributions: Tensor, x: Tensor) -> Tensor:
    """The sum over a token's values. [N, T, D] -> [N, T, 1]"""
    return attributions.detach().reshape(len(x), x.shape[1], -1).sum(2, keepdim=True)


def lengths(attributions: Tensor, x: Tensor) -> Tensor:
    """The length of a token's vector. [N, T, D] -> [N, T, 1]"""
    return torch.linalg.vector_norm(attributions.detach(), dim=2, keepdim=True)


def _chance(model: Any, x: Tensor, target: Tensor) -> Tensor:
    return torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(1))


def _chance_of_tokens(model: Any, x: Tensor, target: Tensor) -> Tensor:
    return torch.rand(len(x), x.shape[1], 1, generator=torch.Generator().manual_seed(1))


def _centre(model: Any, x: Tensor, target: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (2 - rows**2 - columns**2).expand(len(x), 1, -1, -1)
