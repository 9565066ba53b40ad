"""The rows of `python -m tests.benchmarks`: each method on each model, what it is measured against, and its peers."""

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import funcattr
from funcattr.testing.seeding import settle

from ..zoo.large import resnet50, vgg16, vit_b_16
from .measure import BOX, RULEBOOKS, report_peak

CLASS, SAMPLES = 3, 4
PEERS = {"epsilon_plus": "EpsilonPlus", "epsilon_gamma_box": "EpsilonGammaBox"}


class Row(NamedTuple):
    """One line: what runs, how often its unit has to run for it, and whether it can be compiled."""

    name: str
    run: Callable[[Tensor], Any]
    unit: str = "backward"
    times: float = 1
    compiles: bool = True


class Model(NamedTuple):
    """A model with random weights, and what is asked of it."""

    build: Callable[..., nn.Module]
    inputs: Callable[[int], Tensor]
    rows: Callable[[nn.Module], Iterator[Row]]
    root: str | None = None
    """Where the unit's gradient ends: None for the input."""
    deepens: bool = False
    """Whether `build` takes a `depth`."""


def images(count: int) -> Tensor:
    """[count, 3, 224, 224]"""
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def small_images(count: int) -> Tensor:
    """[count, 3, 64, 64]"""
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def tokens(count: int) -> Tensor:
    """[count, 128]"""
    return torch.randint(30000, (count, 128), generator=torch.Generator().manual_seed(0))


def bert_base() -> nn.Module:
    """110 million parameters, as Hugging Face builds it."""
    found: Any = import_module("transformers")
    return found.BertForSequenceClassification(found.BertConfig(num_labels=8)).eval()


def chain(depth: int = 8) -> nn.Module:
    """Convolutions of 16 channels: small, so that what a call costs besides its arithmetic shows."""

    def build() -> nn.Module:
        widths = [3] + [16] * depth
        maps = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths)]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        return nn.Sequential(OrderedDict(features=nn.Sequential(*maps), head=head))

    return settle(build, dtype=torch.float32)


def _of_convolutions(layer: str, model: nn.Module) -> Iterator[Row]:
    fm = funcattr.functionalize(model)
    yield from _reverse_passes(fm, layer)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        for row in _reverse_passes(funcattr.functionalize(model, fold=True), layer):
            yield row._replace(name=f"{row.name}, folded")
    yield tunnel(fm, SAMPLES)
    yield path(fm, SAMPLES)
    yield masks(fm, 4 * SAMPLES)
    yield from captums(model)
    yield from zennits(model)


def _reverse_passes(fm: funcattr.FunctionalModel, layer: str) -> Iterator[Row]:
    yield Row("gradient", lambda x: funcattr.gradient(fm, x, CLASS))
    yield Row("guided_backprop", lambda x: funcattr.guided_backprop(fm, x, CLASS))
    yield Row("deconvnet", lambda x: funcattr.deconvnet(fm, x, CLASS))
    yield Row("grad_cam", lambda x: funcattr.grad_cam(fm, x, CLASS, layer=layer))
    for name, book in RULEBOOKS.items():
        yield Row(f"lrp {name}", lambda x, book=book: funcattr.lrp(fm, x, CLASS, rules=book, start="one"))


def tunnel(fm: funcattr.FunctionalModel, samples: int) -> Row:
    """`noise_tunnel` around a gradient."""
    method, chunk = partial(funcattr.gradient, fm), min(samples, SAMPLES)
    run = partial(funcattr.noise_tunnel, method, target=CLASS, samples=samples, sigma=0.1, chunk_size=chunk)
    return Row("noise_tunnel", lambda x: run(x), "backward of samples", samples / chunk)


def path(fm: funcattr.FunctionalModel, samples: int) -> Row:
    """`integrated_gradients` from 0."""
    chunk = min(samples, SAMPLES)
    run = partial(funcattr.integrated_gradients, fm, target=CLASS, steps=samples, chunk_size=chunk)
    return Row("integrated_gradients", lambda x: run(x), "backward of samples", samples / chunk)


def masks(fm: funcattr.FunctionalModel, samples: int) -> Row:
    """`rise` for one class."""
    chunk = min(samples, SAMPLES)
    run = partial(funcattr.rise, fm, target=CLASS, samples=samples, chunk_size=chunk)
    return Row("rise", lambda x: run(x), "forward of samples", samples / chunk)


def _of_attention(layer: str | None, model: nn.Module) -> Iterator[Row]:
    fm, frozen = funcattr.functionalize(model), copy.deepcopy(model).requires_grad_(False)
    if layer is None:  # without weights that require a gradient, torch multiplies strided tokens in another way
        yield Row("the unit, frozen", lambda x: units(frozen, x, None)["backward"](), compiles=False)
    for name in ("gradient", "attnlrp", "cp_lrp"):
        method = getattr(funcattr, name)
        yield Row(name, lambda x, method=method: method(fm, x, CLASS, layer=layer))


def captums(model: nn.Module) -> Iterator[Row]:
    """Captum's, where it is installed."""
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


def zennits(model: nn.Module) -> Iterator[Row]:
    """zennit's, where it is installed."""
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
    "vit_b_16": Model(vit_b_16, images, partial(_of_attention, None), deepens=True),
    "bert_base": Model(bert_base, tokens, partial(_of_attention, "bert.embeddings"), "bert.embeddings"),
    "chain": Model(chain, small_images, partial(_of_convolutions, "features"), deepens=True),
}


def units(model: nn.Module, x: Tensor, root: str | None, chunk: int = SAMPLES) -> dict[str, Callable[[], Any]]:
    """Plain passes of the model itself: `torch.autograd.grad` of a logit, and a forward pass.

    Those "of samples" are of `chunk` copies of each example: what a loop over samples runs at a time.
    """
    many = x.repeat_interleave(chunk, 0)

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


def candidate(model_name: str, what: str, batch: int) -> Callable[[], Any]:
    """A row of a model by its name, or a unit by its own."""
    case = MODELS[model_name]
    model, x = case.build().eval(), case.inputs(batch)
    plain = units(model, x, case.root)
    if what in plain:
        return plain[what]
    row = next(row for row in case.rows(model) if row.name == what)
    return partial(row.run, x)


if __name__ == "__main__":
    report_peak(candidate(sys.argv[1], sys.argv[2], int(sys.argv[3])))
