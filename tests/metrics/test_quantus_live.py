"""`metrics.as_quantus` inside Quantus: its measures of funcattr's methods equal funcattr's own, where both are right.

Runs where Quantus is installed: `pip install quantus`, or the extra "bench". Left out are the measures of Quantus 0.6
that compute something else: its infidelity adds perturbations up, its sensitivity-n is cumulative, its pointing game
takes an empty mask for a hit, and its structural similarity of randomised maps is that of their values in one line.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import maps, masks, metrics
from funcattr.sampling import draws
from funcattr.testing.seeding import settle, uniform

quantus: Any = pytest.importorskip("quantus", reason="quantus is not installed (it is in the extra 'bench')")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
PLAIN: Any = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}
SEED = 3


class Convolution(nn.Conv2d):
    """A layer that takes given numbers when Quantus randomises it."""

    new: dict[str, Tensor]

    def reset_parameters(self) -> None:
        _take(self)


class Linear(nn.Linear):
    """A layer that takes given numbers when Quantus randomises it."""

    new: dict[str, Tensor]

    def reset_parameters(self) -> None:
        _take(self)


def _take(layer: nn.Module) -> None:
    with torch.no_grad():
        for name, value in vars(layer).get("new", {}).items():
            layer.get_parameter(name).copy_(value)


def network() -> nn.Module:
    first, second = Convolution(1, 4, 3, padding=1), Convolution(4, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), Linear(36, 3))


def replaceable(dtype: torch.dtype) -> nn.Module:
    """A network whose layers hold the numbers that `randomization` gives them."""
    model = settle(network, dtype=dtype)
    for stream, (name, p) in enumerate(model.named_parameters()):
        layer: Any = model.get_submodule(name.rpartition(".")[0])
        own = p.detach()
        e = draws.normal(torch.tensor([0]), p.shape, own, SEED, stream)[0]
        layer.new = {**vars(layer).get("new", {}), name.rpartition(".")[2]: own.mean() + own.std(correction=0) * e}
    return model


MODEL, DOUBLE = replaceable(torch.float32), replaceable(torch.float64)
X, Y = uniform(5, 1, 12, 12, dtype=torch.float32), torch.tensor([0, 1, 2, 2, 1])
BATCH: Any = {"model": MODEL, "x_batch": X.numpy(), "y_batch": Y.numpy(), "device": "cpu"}


@pytest.fixture(autouse=True)
def nothing_of_the_model_is_touched() -> Iterator[None]:
    def state() -> list[Any]:
        both = nn.ModuleList([MODEL, DOUBLE])
        flags = [(p.requires_grad, p.grad, p._version) for p in both.parameters()]
        hooks = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in both.modules()]
        return [flags, hooks]

    before = state()
    yield
    assert state() == before


def summed(model: Any, x: Tensor, target: Any) -> Tensor:
    return maps.sum(funcattr.input_x_gradient(model, x, target))


def test_pixel_flipping_is_deletion() -> None:
    measure = quantus.PixelFlipping(features_in_step=9, perturb_baseline=0.0, **PLAIN)
    theirs = measure(**BATCH, a_batch=None, explain_func=metrics.as_quantus(summed), softmax=True)
    ours = metrics.deletion(MODEL, X, Y, summed(MODEL, X, Y), steps=16)
    torch.testing.assert_close(
        ours.scores[:, 1:], torch.tensor(np.array(theirs), dtype=torch.float32)
    )  # it has no point before the first


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_region_perturbation_is_deletion_of_patches(order: str) -> None:
    measure = quantus.RegionPerturbation(patch_size=4, regions_evaluation=9, order=order, perturb_baseline=0.0, **PLAIN)
    theirs = measure(**BATCH, a_batch=None, explain_func=metrics.as_quantus(summed), softmax=False)
    curve = metrics.deletion(
        *(MODEL, X, Y, summed(MODEL, X, Y)),
        first="highest" if order == "morf" else "lowest",
        feature_mask=masks.patches(X, 4),
        activation=None,
    )
    fall = curve.scores[:, :1] - curve.scores[:, 1:]
    torch.testing.assert_close(fall, torch.tensor(np.array(theirs)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gradient", "guided_backprop", "lrp"])
def test_max_sensitivity_at_the_same_points(name: str) -> None:
    method = {"gradient": summed, "guided_backprop": funcattr.guided_backprop, "lrp": funcattr.lrp}[name]
    options: Any = {"rules": "epsilon_plus"} if name == "lrp" else {}
    steps = iter(2 * draws.uniform(torch.arange(4), X.shape[1:], X, SEED) - 1)

    def moved(arr: np.ndarray, **_: Any) -> np.ndarray:
        return arr + 0.1 * next(steps).reshape(1, -1).numpy()

    measure = quantus.MaxSensitivity(nr_samples=4, perturb_func=moved, **PLAIN)
    theirs = measure(**BATCH, a_batch=None, explain_func=metrics.as_quantus(method, **options))
    ours = metrics.max_sensitivity(partial(method, MODEL, **options), X, Y, radius=0.1, samples=4, generator=SEED)
    torch.testing.assert_close(ours, torch.tensor(np.array(theirs)).to(ours), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_mprt_with_the_same_random_layers(order: Any) -> None:
    measure = quantus.MPRT(
        similarity_func=quantus.similarity_func.correlation_spearman,
        layer_order="top_down" if order == "cascading" else "independent",
        **{**PLAIN, "abs": True},
    )
    # In double precision no ranks change places, and here Quantus itself does not ask the model.
    theirs = measure(**{**BATCH, "model": DOUBLE}, a_batch=None, explain_func=metrics.as_quantus(funcattr.gradient))
    ours = metrics.randomization(funcattr.gradient, DOUBLE, X.double(), Y, order=order, generator=SEED)
    expected = np.stack([theirs[layer] for layer in ours.layers], 1)
    assert set(theirs) - {"original"} == set(ours.layers)
    torch.testing.assert_close(ours.similarity, torch.tensor(expected), rtol=1e-9, atol=1e-9)


def test_efficient_mprt_with_the_same_random_model() -> None:
    measure = quantus.EfficientMPRT(complexity_func_kwargs={"n_bins": 12}, **PLAIN)
    theirs = measure(**BATCH, a_batch=None, explain_func=metrics.as_quantus(funcattr.gradient))
    ours = metrics.randomization_entropy(funcattr.gradient, MODEL, X, Y, bins=12, generator=SEED)
    torch.testing.assert_close(ours, torch.tensor(np.array(theirs)), rtol=1e-3, atol=1e-3)
