"""Unmodified models of five families, the sites of their streams, and which source is a term of which sink."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...zoo import case


class Family(NamedTuple):
    """A model with sites.

    Attributes:
        case: Of the zoo.
        sources, sinks: Names of sites.
        terms: Source -> the sinks whose sums it is a term of.
        channel_dim: Of the sites' values.
        is_exact: Whether the model computes in the dtype that it is given.
    """

    case: str
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    terms: dict[str, tuple[str, ...]]
    channel_dim: int | None = -1
    is_exact: bool = True

    def model(self) -> nn.Module:
        return case(self.case).build()

    def inputs(self) -> tuple[Any, Any, dict[str, Tensor]]:
        """x and what it is compared with, both of 2 examples, and the further keywords."""
        found = case(self.case)
        (x,) = found.inputs()
        other = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(5)).mul(0.5)
        return (x, other, {}) if found.key is None else ({found.key: x}, {found.key: other}, found.kwargs())

    def number(self, model: nn.Module, x: Any, kwargs: dict[str, Tensor]) -> Tensor:
        """Class 1. [N]"""
        out = model(**x, **kwargs) if isinstance(x, dict) else model(x, **kwargs)
        return (out if isinstance(out, Tensor) else out.logits)[:, 1]


def _in_order(case: str, order: str, is_exact: bool = True) -> Family:
    """A stream that each source adds to, for all sinks after it: sites in order, those of sinks in brackets."""
    sites = order.split()
    sources = tuple(s for s in sites if not s.startswith("["))
    sinks = tuple(s.strip("[]") for s in sites if s.startswith("["))
    terms = {s: tuple(v.strip("[]") for v in sites[sites.index(s) :] if v.startswith("[")) for s in sources}
    return Family(case, sources, sinks, terms, is_exact=is_exact)


def _layers(path: str, *parts: str) -> str:
    return " ".join(part.replace("@@", f"{path}.{i}") for i in (0, 1) for part in parts)


_BERT = "bert.encoder.layer"
_POST_NORM = {
    "bert.embeddings.dropout": (f"{_BERT}.0.attention.output.LayerNorm@input",),
    f"{_BERT}.0.attention.output.dense": (f"{_BERT}.0.attention.output.LayerNorm@input",),
    f"{_BERT}.0.attention.output.LayerNorm": (f"{_BERT}.0.output.LayerNorm@input",),
    f"{_BERT}.0.output.dense": (f"{_BERT}.0.output.LayerNorm@input",),
    f"{_BERT}.0.output": (f"{_BERT}.1.attention.self.query@input", f"{_BERT}.1.attention.output.LayerNorm@input"),
}
_RESIDUAL = {
    "maxpool": ("layer1.0.relu#1@input",),
    "layer1.0.bn2": ("layer1.0.relu#1@input",),
    "layer2.0.bn2": ("layer2.0.relu#1@input",),
    "layer2.0.downsample": ("layer2.0.relu#1@input",),
    "layer4.1@input": ("layer4.1.relu#1@input",),
    "layer4.1.bn2": ("layer4.1.relu#1@input",),
}


def _of(case: str, terms: dict[str, tuple[str, ...]], channel_dim: int | None = -1) -> Family:
    sinks = tuple(dict.fromkeys(sink for each in terms.values() for sink in each))
    return Family(case, tuple(terms), sinks, terms, channel_dim)


FAMILIES = {
    "llama": _in_order(
        "llama_sdpa",
        "model.layers.0@input "
        + _layers(
            "model.layers",
            "[@@.input_layernorm@input]",
            "@@.self_attn",
            "[@@.post_attention_layernorm@input]",
            "@@.mlp",
        )
        + " [model.norm@input]",
        is_exact=False,
    ),
    "gpt2": _in_order(
        "gpt2_sdpa",
        "transformer.drop "
        + _layers("transformer.h", "[@@.ln_1@input]", "@@.attn", "[@@.ln_2@input]", "@@.mlp")
        + " [transformer.ln_f@input]",
    ),
    "vit": _in_order(
        "hf_vit_sdpa",
        "vit.embeddings "
        + _layers("vit.layers", "[@@.layernorm_before@input]", "@@.attention", "[@@.layernorm_after@input]", "@@.mlp")
        + " [vit.layernorm@input]",
    ),
    "multihead": _in_order(
        "vit",
        "encoder.dropout "
        + _layers(
            "encoder.layers.encoder_layer", "[@@.ln_1@input]", "@@.self_attention", "[@@.ln_2@input]", "@@.mlp"
        ).replace("encoder_layer.", "encoder_layer_")
        + " [encoder.ln@input]",
    ),
    "bert": _of("bert_sdpa", _POST_NORM),
    "resnet": _of("resnet_basic", _RESIDUAL, None),
}
