"""Small random mirrors of the models that users bring: `CASES`, and `case(name)` for one of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from funcattr.testing.seeding import settle, uniform

from . import huggingface as hf
from .branching import GoogLeNet, Inception, ShuffleNet, SqueezeNet
from .classic import CNN, VGG, BasicBlock, Bottleneck, DenseNet, ResNet
from .mobile import ConvNeXt, EfficientNet, MobileNetV2, MobileNetV3
from .recurrent import GRUClassifier, LSTMClassifier
from .transformers import SwinTransformer, VisionTransformer

_SMALL_VGG = (4, "M", 6, 6, "M", 8, "M")


class Case(NamedTuple):
    """A model to attribute, how to call it, and where to look inside."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]  # of the input to be attributed
    layer: str  # a late site for Grad-CAM and its kin
    has_relu: bool  # some call is a relu; relu6 and hardswish are not
    outputs: int = 4
    key: str | None = None  # the keyword of that input; None if it is positional
    extra: Callable[[], dict[str, Tensor]] = dict  # further keyword inputs
    in_float32: bool = False  # the model casts to float32 inside, whatever its own dtype
    compiles: bool = True  # False if values decide which functions run, so that there is no one graph
    seed: int = 0

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Build the model: eval mode, the same random parameters each time."""
        return settle(self.make, seed=self.seed, dtype=dtype)

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        """Return the float inputs to be attributed, each [2, ...]."""
        return (uniform(*self.shape, dtype=dtype),)

    def kwargs(self) -> dict[str, Tensor]:
        """Return the further keyword inputs, which are not attributed."""
        return self.extra()

    def logits(self, model: Callable[..., Any], x: Tensor, kwargs: dict[str, Tensor] | None = None) -> Tensor:
        """Call the model as its users do; `kwargs` (batch first) are the case's if None. -> [N, outputs]"""
        kwargs = self.kwargs() if kwargs is None else kwargs
        out = model(x, **kwargs) if self.key is None else model(**{self.key: x}, **kwargs)
        return out if isinstance(out, Tensor) else out.logits

    def __repr__(self) -> str:  # short test ids
        return self.name


def _image(name: str, make: Callable[[], nn.Module], layer: str, size: int = 32, has_relu: bool = True) -> Case:
    return Case(name, make, (2, 3, size, size), layer, has_relu)


def _hf(attention: str) -> tuple[Case, ...]:
    """Return the Hugging Face cases with one implementation of attention."""
    tokens = {"shape": (2, hf.LENGTH, hf.WIDTH), "has_relu": False, "key": "inputs_embeds"}
    return (
        Case(
            f"bert_{attention}",
            lambda: hf.bert(attention),
            layer="bert.encoder.layer.1.output",
            extra=lambda: {"attention_mask": hf.padding_mask()},
            **tokens,
        ),
        Case(
            f"llama_{attention}",
            lambda: hf.llama(attention),
            layer="model.layers.1.post_attention_layernorm",
            in_float32=True,
            **tokens,
        ),
        Case(
            f"llama_next_{attention}",
            lambda: hf.llama_next(attention),
            layer="lm.model.layers.1.post_attention_layernorm",
            in_float32=True,
            outputs=20,
            **tokens,
        ),
        Case(
            f"hf_vit_{attention}",
            lambda: hf.vit(attention),
            (2, 3, 16, 16),
            layer="vit.layers.1.layernorm_before",
            has_relu=False,
            in_float32=attention == "eager",  # its softmax
        ),
        *_decoders(attention),
    )


def _decoders(attention: str) -> tuple[Case, ...]:
    """Return the decoders after Llama, with labels read off the last token."""

    def decoder(make: Callable[[str], nn.Module], layer: str = "model.layers.1.post_attention_layernorm") -> Case:
        name, shape = f"{make.__name__}_{attention}", (2, hf.LENGTH, hf.WIDTH)
        return Case(name, lambda: make(attention), shape, layer, has_relu=False, key="inputs_embeds", in_float32=True)

    return (
        decoder(hf.gpt2, "transformer.h.1.ln_2")._replace(in_float32=False),
        decoder(hf.qwen2),
        decoder(hf.qwen3),
        decoder(hf.gemma3, "model.layers.0.pre_feedforward_layernorm"),
        decoder(hf.mixtral)._replace(compiles=False),  # it loops over the experts that some token chose
        decoder(hf.qwen2_moe),
    )


CASES: tuple[Case, ...] = (
    _image("cnn", CNN, "conv2", size=16),
    _image("vgg", lambda: VGG(_SMALL_VGG), "features.9"),
    _image("vgg_bn", lambda: VGG(_SMALL_VGG, norm=True), "features.13"),
    _image("resnet_basic", lambda: ResNet(BasicBlock, (1, 1, 1, 2)), "layer3"),
    _image("resnet_bottleneck", lambda: ResNet(Bottleneck, (1, 1, 1, 2), width=2), "layer3"),
    _image("densenet", DenseNet, "features"),
    _image("googlenet", GoogLeNet, "inception3b"),
    _image("inception", Inception, "Mixed_7a"),
    _image("squeezenet", SqueezeNet, "features")._replace(seed=2),  # its last relu kills classes at other seeds
    _image("shufflenet", ShuffleNet, "conv5"),
    _image("mobilenet_v2", MobileNetV2, "features.3", has_relu=False),
    _image("mobilenet_v3", MobileNetV3, "features.3"),
    _image("efficientnet", EfficientNet, "features.2", has_relu=False),
    _image("convnext", ConvNeXt, "features.3", has_relu=False),
    _image("vit", VisionTransformer, "encoder.layers.encoder_layer_1.ln_1", size=16, has_relu=False),
    _image("swin", SwinTransformer, "features.3", size=24, has_relu=False),
    *_hf("eager"),
    *_hf("sdpa"),
    # transformers offers Gemma 2 no sdpa: it cannot cap the scores
    Case(
        "gemma2_next_eager",
        lambda: hf.gemma2_next("eager"),
        (2, hf.LENGTH, hf.WIDTH),
        layer="lm.model.layers.0.pre_feedforward_layernorm",
        has_relu=False,
        outputs=20,
        key="inputs_embeds",
        in_float32=True,
    ),
    Case("lstm", LSTMClassifier, (2, 6, 8), "project", has_relu=False),
    Case("gru", GRUClassifier, (2, 6, 8), "tokens", has_relu=True),
)


def case(name: str) -> Case:
    """Return the case of that name."""
    found = {each.name: each for each in CASES}
    if name not in found:
        raise KeyError(f"case({name!r}): no such case. Known: {', '.join(found)}.")
    return found[name]
