"""Tiny Hugging Face models with random weights; nothing is downloaded."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

LENGTH, WIDTH = 6, 8


def _options(attention: str) -> dict[str, Any]:
    """Return what the configurations have in common."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_labels": 4,
        "attn_implementation": attention,
    }


def bert(attention: str) -> nn.Module:
    """Bert with a pooler and a classifier over 4 labels."""
    config = BertConfig(
        **_options(attention),
        vocab_size=20,
        max_position_embeddings=LENGTH,
    )
    return BertForSequenceClassification(config)


def _llama_config(attention: str) -> LlamaConfig:
    # two query heads share one key head, as in the grouped attention of the large ones
    return LlamaConfig(
        **_options(attention),
        num_key_value_heads=1,
        vocab_size=20,
        max_position_embeddings=LENGTH,
        pad_token_id=0,
    )


def llama(attention: str) -> nn.Module:
    """Llama with 4 labels read off the last token; it makes a cache at each call, as users' models do."""
    return LlamaForSequenceClassification(_llama_config(attention))


class NextToken(nn.Module):
    """The usual wrapper to attribute a language model: logits of the token after the last."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, inputs_embeds: Tensor, **options: Any) -> Tensor:
        return self.lm(inputs_embeds=inputs_embeds, use_cache=False, **options).logits[:, -1]


def llama_next(attention: str) -> nn.Module:
    """Llama as a language model, wrapped to give the next token's logits. -> [N, 20]"""
    return NextToken(LlamaForCausalLM(_llama_config(attention)))


def vit(attention: str) -> nn.Module:
    """ViT over 16x16 images in 8x8 patches."""
    config = ViTConfig(**_options(attention), image_size=16, patch_size=8)
    return ViTForImageClassification(config)


def padding_mask() -> Tensor:
    """Mask the last two tokens of the second row. [2, LENGTH]"""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    return mask
