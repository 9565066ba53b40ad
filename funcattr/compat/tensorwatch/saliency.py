"""Maps of an image by the names of methods, and their picture."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ... import (
    deconvnet,
    deep_lift,
    excitation_backprop,
    grad_cam,
    gradient,
    guided_backprop,
    input_x_gradient,
    integrated_gradients,
    lime,
    lrp,
    maps,
    noise_tunnel,
    occlusion,
)
from ...errors import FuncattrError
from ...extras import needed
from ...rules import composite, w_square, z_plus
from .innvestigate import rulebook

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("lime_imagenet", "gradcam", "smooth_grad", "guided_backprop", "deeplift", "grad_x_input")

LAYERS = {
    "VGG": ("features", "30"),
    "GoogleNet": ("pool5",),
    "ResNet": ("avgpool",),
    "Inception3": ("Mixed_7c", "branch_pool"),
}
"""Where Grad-CAM looks, by the class of the model: the values that go into this layer."""

DEEP_TAYLOR = composite("deep_taylor", convolution=z_plus, dense=z_plus, first=w_square)


class ImageSaliencyResult:
    """A map of an image, and how it is drawn.

    Args:
        raw_image: The image, as Pillow has it or as an array [H, W, 3].
        saliency: Its map. [h, w]
        title: The method.
        saliency_alpha: How much of the image the map hides.
        saliency_cmap: Its colours, by matplotlib's name.
    """

    def __init__(
        self, raw_image: Any, saliency: np.ndarray, title: str, saliency_alpha: float = 0.4, saliency_cmap: str = "jet"
    ) -> None:
        self.raw_image, self.saliency, self.title = raw_image, saliency, title
        self.saliency_alpha, self.saliency_cmap = saliency_alpha, saliency_cmap


class _Question(NamedTuple):
    model: nn.Module
    raw_image: Any
    x: Tensor
    target: int
    layer_path: Sequence[str] | None


def _plain(method: Callable[..., Tensor], **options: Any) -> Callable[[_Question], Tensor]:
    return lambda q: method(q.model, q.x, q.target, **options)


def _smooth_grad(q: _Question) -> Tensor:
    method = partial(gradient, q.model)
    return noise_tunnel(method, q.x, q.target, kind="smoothgrad_sq", samples=25, sigma=0.15, relative=True)


def _occlusion(q: _Question) -> Tensor:
    return occlusion(q.model, q.x, q.target, window=(10, 10), stride=1)


def _grad_cam(q: _Question) -> Tensor:
    path = q.layer_path or LAYERS.get(type(q.model).__name__)
    if path is None:
        raise FuncattrError(
            f"get_saliency(method='gradcam'): which layer of a {type(q.model).__name__}? Give layer_path=['features', "
            "'30'], say: the names on the way to it. The values that go into it are taken."
        )
    return grad_cam(q.model, q.x, q.target, layer=f"{'.'.join(path)}@input")


def _lime(q: _Question) -> Tensor:
    """The five superpixels that speak for the class most, of quickshift's, from 1000 coalitions."""
    segmentation = needed("get_saliency(method='lime')", "skimage.segmentation", ".[demo]", "scikit-image")
    size = [int(length) for length in q.x.shape[2:]]
    pixels = torch.from_numpy(_pixels(q.raw_image)).movedim(-1, 0)[None].double()
    fitting = maps.resize(pixels, size)[0].movedim(0, -1).numpy()
    segments = segmentation.quickshift(fitting, kernel_size=4, max_dist=200, ratio=0.2)
    mask = torch.from_numpy(segments).to(q.x.device).expand(q.x.shape)

    def probability(output: Tensor) -> Tensor:
        return output.softmax(1)[:, q.target]

    weights = lime(q.model, q.x, probability, feature_mask=mask, samples=1000)
    strongest = weights.clamp(min=0).unique().topk(min(5, len(weights.unique()))).values[-1]
    return torch.where((weights >= strongest) & (weights > 0), weights, 0.0)


EXPLAINERS: Mapping[str, Callable[[_Question], Tensor]] = {
    "gradcam": _grad_cam,
    "vanilla_grad": _plain(gradient),
    "saliency": _plain(gradient),
    "grad_x_input": _plain(input_x_gradient),
    "integrate_grad": _plain(integrated_gradients, steps=100, quadrature="riemann_right"),
    "deconv": _plain(deconvnet),
    "deconvnet": _plain(deconvnet),
    "guided_backprop": _plain(guided_backprop),
    "guided_backprop_grad": _plain(guided_backprop),
    "smooth_grad": _smooth_grad,
    "deeplift": _plain(deep_lift),
    "occlusion": _occlusion,
    "lrp": _plain(lrp, rules=rulebook()),
    "deep_taylor": _plain(lrp, rules=DEEP_TAYLOR),
    "excitation_backprop": _plain(excitation_backprop),
    "lime": _lime,
    "lime_imagenet": _lime,
}
"""Name of a method to the attributions of a question, [1, C, h, w]."""


def get_saliency(
    model: nn.Module,
    raw_input: Any,
    input: Tensor,
    label: Any,
    device: torch.device | str | None = None,
    method: str = "integrate_grad",
    layer_path: Sequence[str] | None = None,
) -> np.ndarray:
    """The map of an image by one method, from 0 to 1: the sum over channels of what is absolute.

    The model is copied, and runs in evaluation mode; it stays on its device and in its mode itself.

    Args:
        model: The model.
        raw_input: The image as people see it, for LIME's superpixels.
        input: The image as the model takes it, [1, C, H, W]; the first one of several.
        label: Its class, a number or a tensor [1]; None for the largest.
        device: Where to compute; None for where the model is.
        method: A name of `EXPLAINERS`.
        layer_path: The names on the way to Grad-CAM's layer; None for the one that is known for the model's class.

    Returns:
        [H, W], or the layer's size for Grad-CAM.

    Raises:
        ValueError: If there is no such method.
        FuncattrError: If Grad-CAM's layer is not known.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5))
        >>> get_saliency(model, None, torch.randn(1, 3, 8, 8), 2, method="guided_backprop").shape
        (8, 8)
    """
    if method not in EXPLAINERS:
        raise ValueError(f"get_saliency(method={method!r}): expected one of {', '.join(EXPLAINERS)}.")
    model = copy.deepcopy(model).eval()
    model = model if device is None else model.to(device)
    place = next((p.device for p in model.parameters()), input.device)
    x = input[:1].detach().to(place)
    if label is None:
        with torch.no_grad():
            label = model(x.clone()).argmax(1)
    target = int(label.flatten()[0]) if isinstance(label, Tensor) else int(label)
    attributions = EXPLAINERS[method](_Question(model, raw_input, x, target, layer_path))
    found = maps.abs_sum(attributions.detach())[0, 0]
    found = found - found.min()
    return (found / (found.max() + 1e-20)).cpu().numpy()


def get_image_saliency_results(
    model: nn.Module,
    raw_image: Any,
    input: Tensor,
    label: Any,
    device: torch.device | str | None = None,
    methods: Sequence[str] = METHODS,
    layer_path: Sequence[str] | None = None,
) -> list[ImageSaliencyResult]:
    """The maps of an image by several methods.

    Args:
        model, input, label, device, layer_path: As in `get_saliency`.
        raw_image: The image as people see it.
        methods: Names of methods.

    Raises:
        ValueError, FuncattrError: As in `get_saliency`.
    """
    found = (get_saliency(model, raw_image, input, label, device, method, layer_path) for method in methods)
    return [ImageSaliencyResult(raw_image, values, method) for values, method in zip(found, methods, strict=True)]


def get_image_saliency_plot(
    image_saliency_results: Sequence[ImageSaliencyResult], cols: int = 2, figsize: tuple[float, float] | None = None
) -> "Figure":
    """Draw maps over their images, some in a row.

    Args:
        image_saliency_results: The maps.
        cols: How many are in a row.
        figsize: In inches; None for 8 across and 3 for each row.

    Returns:
        A figure of pyplot.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    pyplot = needed("get_image_saliency_plot", "matplotlib.pyplot", ".[plot]")
    rows = math.ceil(len(image_saliency_results) / cols)
    figure = pyplot.figure(figsize=figsize or (8, 3 * rows))
    for index, result in enumerate(image_saliency_results, 1):
        axes = figure.add_subplot(rows, cols, index)
        pixels = _pixels(result.raw_image)
        axes.imshow(pixels)
        values = maps.resize(torch.from_numpy(result.saliency)[None, None], pixels.shape[:2])[0, 0]
        axes.imshow(values.numpy(), alpha=result.saliency_alpha, cmap=result.saliency_cmap)
        axes.set(xticks=[], yticks=[])
        axes.set_title(result.title, fontsize=24)
    return figure


def _pixels(image: Any) -> np.ndarray:
    """[H, W, 3], uint8 or as the array has it."""
    if image is None:
        raise ValueError("get_saliency(raw_input=None): expected the image as people see it, for its superpixels.")
    return np.array(image.convert("RGB") if hasattr(image, "convert") else image)
