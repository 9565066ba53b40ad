"""Maps by tensorwatch's names, against plain autograd and formulas of their own."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr
from funcattr.compat.tensorwatch import (
    ImageSaliencyResult,
    get_image_saliency_plot,
    get_image_saliency_results,
    get_saliency,
)
from funcattr.compat.tensorwatch.saliency import EXPLAINERS
from funcattr.testing.seeding import settle, uniform

from ..iba.test_bottleneck import state

SIDE = 12
X = uniform(1, 3, SIDE, SIDE)
CLASS = 4  # weights of both signs


class ResNet(nn.Module):
    """Of the name that tensorwatch knows a layer for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)
        self.avgpool, self.drop, self.fc = nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Linear(4, 5)

    def features(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(self.conv(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.avgpool(self.features(x)).flatten(1)))


def model() -> ResNet:
    return settle(ResNet)  # type: ignore[return-value]


def as_map(attributions: Tensor) -> np.ndarray:
    summed = attributions[0].abs().sum(0)
    return ((summed - summed.min()) / (summed.max() - summed.min())).detach().numpy()


def grad(x: Tensor, target: int = CLASS) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model()(x)[:, target].sum(), x)[0]


def by_relu(rule: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The backward pass by hand, with the relu's own rule of (relevance, input)."""
    net = model()
    x = X.clone().requires_grad_()
    h = net.conv(x)
    a = h.detach().relu().requires_grad_()
    (g,) = torch.autograd.grad(net.fc(net.avgpool(net.pool(a)).flatten(1))[:, CLASS].sum(), a)
    return torch.autograd.grad(h, x, rule(g, h.detach()))[0]


def riemann() -> Tensor:
    return sum((grad(X * k / 100) for k in range(1, 101)), torch.zeros_like(X)) * X / 100


def covered() -> Tensor:
    net, total, count = model(), torch.zeros_like(X), torch.zeros_like(X)
    for i in range(SIDE - 9):
        for j in range(SIDE - 9):
            other = X.clone()
            other[:, :, i : i + 10, j : j + 10] = 0
            total[:, :, i : i + 10, j : j + 10] += (net(X) - net(other))[0, CLASS].detach()
            count[:, :, i : i + 10, j : j + 10] += 1
    return total / count


def cam() -> Tensor:
    """The values before the pooling, weighted by sums of gradients behind it, as tensorwatch's hooks see them."""
    net = model()
    h = net.features(X).detach()
    pooled = net.avgpool(h).requires_grad_()
    (g,) = torch.autograd.grad(net.fc(pooled.flatten(1))[:, CLASS].sum(), pooled)
    return (g.sum((2, 3), keepdim=True) * h).sum(1, keepdim=True).clamp(min=0)


EXPECTED: dict[str, Callable[[], Tensor]] = {
    "gradcam": cam,
    "vanilla_grad": lambda: grad(X),
    "saliency": lambda: grad(X),
    "grad_x_input": lambda: X * grad(X),
    "integrate_grad": riemann,
    "deconv": lambda: by_relu(lambda g, h: g.clamp(min=0)),
    "deconvnet": lambda: by_relu(lambda g, h: g.clamp(min=0)),
    "guided_backprop": lambda: by_relu(lambda g, h: g.clamp(min=0) * (h > 0)),
    "guided_backprop_grad": lambda: by_relu(lambda g, h: g.clamp(min=0) * (h > 0)),
    "occlusion": covered,
}


@pytest.mark.parametrize("method", EXPECTED)
def test_a_method_by_its_name(method: str) -> None:
    found = get_saliency(model(), None, X, torch.tensor([CLASS]), method=method)
    np.testing.assert_allclose(found, as_map(EXPECTED[method]()), rtol=1e-6, atol=1e-9)


def test_smooth_grad_is_the_mean_square_of_noisy_gradients() -> None:
    found = get_saliency(model(), None, X, CLASS, method="smooth_grad")
    torch.manual_seed(0)
    noisy = (grad(X + 0.15 * (X.max() - X.min()) * torch.randn_like(X)) ** 2 for _ in range(400))
    expected = as_map(sum(noisy, torch.zeros_like(X)) / 400)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("method", ["deeplift", "lrp", "deep_taylor", "excitation_backprop"])
def test_relevance_is_that_of_the_package(method: str) -> None:
    rules = funcattr.rules
    books = {
        "lrp": rules.composite("e", convolution=rules.e_rule, dense=rules.e_rule),
        "deep_taylor": rules.composite("d", convolution=rules.z_plus, dense=rules.z_plus, first=rules.w_square),
    }
    expected = {
        "deeplift": lambda: funcattr.deep_lift(model(), X, CLASS),
        "lrp": lambda: funcattr.lrp(model(), X, CLASS, rules=books["lrp"]),
        "deep_taylor": lambda: funcattr.lrp(model(), X, CLASS, rules=books["deep_taylor"]),
        "excitation_backprop": lambda: funcattr.excitation_backprop(model(), X, CLASS),
    }[method]()
    np.testing.assert_allclose(
        get_saliency(model(), None, X, CLASS, method=method), as_map(expected), rtol=1e-6, atol=1e-9
    )


class Brightness(nn.Module):
    """Class 1 is for light in the upper left quarter."""

    def forward(self, x: Tensor) -> Tensor:
        light = x[:, :, :6, :6].mean((1, 2, 3))
        return 4 * torch.stack([-light, light], 1)


@pytest.mark.parametrize("method", ["lime", "lime_imagenet"])
def test_lime_finds_the_superpixel_that_counts(method: str) -> None:
    pytest.importorskip("skimage", reason="superpixels are scikit-image's")
    pytest.importorskip("sklearn")
    image = np.zeros((24, 24, 3), np.uint8)
    image[:12, :12] = 255
    image[12:, 12:, 0] = 255
    x = F.interpolate(torch.from_numpy(image).movedim(-1, 0)[None].float() / 255, 12)
    found = get_saliency(Brightness(), image, x, 1, method=method)
    assert found.shape == (12, 12)
    assert found[:6, :6].mean() > 0.9
    assert found[6:, 6:].mean() < 0.1


def test_every_name_gives_a_map_from_0_to_1() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    results = get_image_saliency_results(model(), image, X, torch.tensor([CLASS]), methods=list(EXPLAINERS))
    assert [result.title for result in results] == list(EXPLAINERS)
    for result in results:
        assert isinstance(result, ImageSaliencyResult)
        assert np.isfinite(result.saliency).all() and result.saliency.ndim == 2
        assert result.saliency.min() == pytest.approx(0) and result.saliency.max() <= 1 + 1e-6
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    figure = get_image_saliency_plot(results[:3])
    assert [axes.get_title() for axes in figure.axes] == list(EXPLAINERS)[:3]
    below, above = figure.axes[0].get_images()
    np.testing.assert_array_equal(np.asarray(below.get_array()), image)
    assert np.asarray(above.get_array()).shape == (SIDE, SIDE)
    pyplot.close("all")


def test_the_model_is_as_it_was_and_runs_in_evaluation_mode() -> None:
    net = model().train()
    net.conv.eval()
    before = state(net)
    found = get_saliency(net, None, X, None, method="guided_backprop")
    assert state(net) == before
    largest = int(model()(X).argmax())
    np.testing.assert_allclose(found, get_saliency(model(), None, X, largest, method="guided_backprop"))


def test_a_layer_by_its_path() -> None:
    wrapped = nn.Sequential(copy.deepcopy(model()))
    found = get_saliency(wrapped, None, X, CLASS, method="gradcam", layer_path=["0", "avgpool"])
    np.testing.assert_allclose(found, as_map(cam()), rtol=1e-6, atol=1e-9)


ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "method": ({"method": "gradcam++"}, ValueError, r"method='gradcam\+\+'\): expected one of gradcam, vanilla_grad"),
    "layer": ({"method": "gradcam", "model": nn.Sequential(nn.Flatten())}, funcattr.FuncattrError, "of a Sequential"),
    "no image": ({"method": "lime"}, ValueError, "raw_input=None"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_named_errors(what: str) -> None:
    options, error, message = ERRORS[what]
    given = {"model": model(), **options}
    with pytest.raises(error, match=message):
        get_saliency(given.pop("model"), None, X, CLASS, **given)
