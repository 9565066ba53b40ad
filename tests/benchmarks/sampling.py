"""What the benchmarks of sampling run: noise tunnels, integrated gradients, the gradients that they consist of, and
Captum's."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

import funcattr

from ..zoo.large import resnet50, vgg16
from .measure import report_peak

MODELS: dict[str, Callable[[], nn.Module]] = {"vgg16": vgg16, "resnet50": resnet50}
CLASS = 3
Runs = dict[str, Callable[[], Any]]


def images(count: int) -> Tensor:
    """[count, 3, 224, 224]"""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def gradients(model: nn.Module, x: Tensor, times: int) -> None:
    """`times` plain forward and backward passes."""
    for _ in range(times):
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf)[:, CLASS].sum(), leaf)


def methods(model: Any, x: Tensor, samples: int, chunk_size: int | None) -> Runs:
    """A tunnel, a tunnel's variance and integrated gradients of so many samples."""
    options: Any = {"samples": samples, "sigma": 0.1, "chunk_size": chunk_size}
    gradient = partial(funcattr.gradient, model)
    return {
        "noise_tunnel": partial(funcattr.noise_tunnel, gradient, x, CLASS, **options),
        "vargrad": partial(funcattr.noise_tunnel, gradient, x, CLASS, kind="vargrad", **options),
        "integrated_gradients": partial(
            funcattr.integrated_gradients, model, x, CLASS, steps=samples, chunk_size=chunk_size
        ),
    }


def beside_plain(model_name: str, batch: int, samples: int, chunk_size: int) -> Runs:
    """`plain` is the gradients alone, of the same chunks; Captum's where it is installed."""
    model, x = MODELS[model_name]().eval(), images(batch)
    chunk = x.repeat_interleave(chunk_size, 0)
    ours = methods(funcattr.functionalize(model), x, samples, chunk_size)
    return {
        "plain": partial(gradients, model, chunk, samples // chunk_size),
        **ours,
        **_captums(model, x, samples, chunk_size),
    }


def _captums(model: nn.Module, x: Tensor, samples: int, chunk_size: int) -> Runs:
    if find_spec("captum") is None:
        return {}
    attr = import_module("captum.attr")
    integrated = attr.IntegratedGradients(model)
    tunnel: Any = {"nt_samples": samples, "nt_samples_batch_size": chunk_size, "stdevs": 0.1, "abs": False}
    return {
        "captum noise_tunnel": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(x, target=CLASS, **tunnel),
        "captum integrated_gradients": lambda: integrated.attribute(
            x, target=CLASS, n_steps=samples, internal_batch_size=chunk_size * len(x)
        ),
    }


def of_one_image(model_name: str, name: str, samples: int) -> Callable[[], Any]:
    """A method with its default chunks; `plain` is one gradient of as many images."""
    model, x = MODELS[model_name]().eval(), images(1)
    if name == "plain":
        return partial(gradients, model, x.repeat_interleave(samples, 0), 1)
    return methods(funcattr.functionalize(model), x, samples, None)[name]


if __name__ == "__main__":
    report_peak(of_one_image(sys.argv[1], sys.argv[2], int(sys.argv[3])))
