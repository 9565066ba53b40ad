"""The rows of `python -m tests.benchmarks`: each method on each model, what it is measured against, and its peers."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import funcattr

from ..models.large import resnet50, vgg16, vit_b_16
from .measure import BOX, RULEBOOKS

CLASS, SAMPLES = 3, 4
PEERS = {"epsilon_plus": "EpsilonPlus", "epsilon_gamma_box": "EpsilonGammaBox"}


class Row(NamedTuple):
    """One line: what runs, how often its unit has to run for it, and whether it can be compiled."""

    name: str
    run: Callable[[Tensor], Any]
    unit: str = "backward"
    times: int = 1
    compiles: bool = True


class Model(NamedTuple):
    """A model of the true shape with random weights, and what is asked of it."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    rows: Callable[[nn.Module], Iterator[Row]]
    root: str | None = None
    """Where the unit's gradient ends: None for the input."""


def images(count: int) -> Tensor:
    """[count, 3, 224, 224]"""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def tokens(count: int) -> Tensor:
    """[count, 128]"""
    return torch.randint(30000, (count, 128), generator=torch.Generator().manual_seed(0))


def bert_base() -> nn.Module:
    """110 million parameters, as Hugging Face builds it."""
    found: Any = import_module("transformers")
    return found.BertForSequenceClassification(found.BertConfig(num_labels=8)).eval()


def _of_convolutions(layer: str, model: nn.Module) -> Iterator[Row]:
    fm = funcattr.functionalize(model)
    gradient = partial(funcattr.gradient, fm)
    yield Row("gradient", lambda x: funcattr.gradient(fm, x, CLASS))
    yield Row("guided_backprop", lambda x: funcattr.guided_backprop(fm, x, CLASS))
    yield Row("deconvnet", lambda x: funcattr.deconvnet(fm, x, CLASS))
    yield Row("grad_cam", lambda x: funcattr.grad_cam(fm, x, CLASS, layer=layer))
    for name, book in RULEBOOKS.items():
        yield Row(f"lrp {name}", lambda x, book=book: funcattr.lrp(fm, x, CLASS, rules=book))
    loop: Any = {"chunk_size": SAMPLES}
    tunnel = partial(funcattr.noise_tunnel, gradient, target=CLASS, samples=SAMPLES, stdev=0.1, **loop)
    yield Row("noise_tunnel", lambda x: tunnel(x), "backward of samples")
    yield Row(
        "integrated_gradients",
        lambda x: funcattr.integrated_gradients(fm, x, CLASS, steps=SAMPLES, **loop),
        "backward of samples",
    )
    yield Row("rise", lambda x: funcattr.rise(fm, x, CLASS, samples=4 * SAMPLES, **loop), "forward of samples", 4)
    yield from _captums(model)
    yield from _zennits(model)


def _of_attention(layer: str | None, model: nn.Module) -> Iterator[Row]:
    fm = funcattr.functionalize(model)
    for name in ("gradient", "attnlrp", "cp_lrp"):
        method = getattr(funcattr, name)
        yield Row(name, lambda x, method=method: method(fm, x, CLASS, layer=layer))


def _captums(model: nn.Module) -> Iterator[Row]:
    if find_spec("captum") is None:
        return
    attr = import_module("captum.attr")
    for name in ("Saliency", "GuidedBackprop", "Deconvolution"):
        yield Row(
            f"captum {name}", lambda x, name=name: getattr(attr, name)(model).attribute(x, target=CLASS), compiles=False
        )
    tunnel: Any = {"nt_samples": SAMPLES, "nt_samples_batch_size": SAMPLES, "stdevs": 0.1, "abs": False}
    yield Row(
        "captum NoiseTunnel",
        lambda x: attr.NoiseTunnel(attr.Saliency(model)).attribute(x, target=CLASS, **tunnel),
        "backward of samples",
        compiles=False,
    )


def _zennits(model: nn.Module) -> Iterator[Row]:
    if find_spec("zennit") is None:
        return
    peer = import_module("tests.zennit_peer")
    composites = peer.part("composites")
    for name, theirs in PEERS.items():
        options = BOX if name == "epsilon_gamma_box" else {}

        def run(x: Tensor, theirs: str = theirs, options: dict[str, float] = options) -> Any:
            composite = getattr(composites, theirs)(canonizers=peer.canonizers(), **options)
            return peer.relevance(model, x, CLASS, composite)

        yield Row(f"zennit {theirs}", run, compiles=False)


MODELS: dict[str, Model] = {
    "vgg16": Model(vgg16, images, partial(_of_convolutions, "features.29")),
    "resnet50": Model(resnet50, images, partial(_of_convolutions, "layer4")),
    "vit_b_16": Model(vit_b_16, images, partial(_of_attention, None)),
    "bert_base": Model(bert_base, tokens, partial(_of_attention, "bert.embeddings"), "bert.embeddings"),
}


def units(model: nn.Module, x: Tensor, root: str | None) -> dict[str, Callable[[], Any]]:
    """Plain passes of the model itself: `torch.autograd.grad` of a logit, and a forward pass."""
    many = x.repeat_interleave(SAMPLES, 0)

    def backward(x: Tensor) -> Tensor:
        if root is None:
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(_logits(model(leaf))[:, CLASS].sum(), leaf)[0]
        found: list[Any] = []
        with model.get_submodule(root).register_forward_hook(lambda _m, _x, y: found.append(y)):
            logits = _logits(model(x))
        return torch.autograd.grad(logits[:, CLASS].sum(), found[0])[0]

    def forward(x: Tensor) -> Any:
        with torch.no_grad():
            return model(x)

    return {
        "backward": lambda: backward(x),
        "backward of samples": lambda: backward(many),
        "forward of samples": lambda: forward(many),
    }


def _logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits
