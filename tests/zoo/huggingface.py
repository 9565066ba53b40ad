"""Tiny Hugging Face models with random weights; nothing is downloaded.

Each function imports what it builds: to import the whole of it takes seconds, and most tests need none.
"""

from typing import Any

import torch
from torch import Tensor, nn

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
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        **_options(attention),
        vocab_size=20,
        max_position_embeddings=LENGTH,
    )
    return BertForSequenceClassification(config)


def gpt2(attention: str) -> nn.Module:
    """GPT-2 with 4 labels read off the last token. Its `Conv1D` is addmm, its gelu is written out."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    options = _options(attention)
    config = GPT2Config(
        n_embd=options.pop("hidden_size"),
        n_inner=options.pop("intermediate_size"),
        n_layer=options.pop("num_hidden_layers"),
        n_head=options.pop("num_attention_heads"),
        **options,
        vocab_size=20,
        n_positions=LENGTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2ForSequenceClassification(config)


def _decoder_options(attention: str, **more: Any) -> dict[str, Any]:
    """Return what the configurations after Llama's have in common, and `more`."""
    return {
        **_options(attention),
        "num_key_value_heads": 1,  # two query heads share it, as in the grouped attention of the large ones
        "vocab_size": 20,
        "max_position_embeddings": LENGTH,
        "pad_token_id": 0,
        **more,
    }


def llama(attention: str) -> nn.Module:
    """Llama with 4 labels read off the last token; it makes a cache at each call, as users' models do."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(LlamaConfig(**_decoder_options(attention)))


def qwen2(attention: str) -> nn.Module:
    """Llama, but that queries, keys and values have biases; the second layer looks back three tokens."""
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    config = Qwen2Config(**_decoder_options(attention), use_sliding_window=True, sliding_window=3, max_window_layers=1)
    return Qwen2ForSequenceClassification(config)


def qwen3(attention: str) -> nn.Module:
    """Llama, but that queries and keys are normalised, head by head."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    return Qwen3ForSequenceClassification(Qwen3Config(**_decoder_options(attention), head_dim=4))


def _gemma_options(attention: str, kind: str) -> dict[str, Any]:
    # one layer of Gemma calls as many functions as two of Llama
    layers = {"num_hidden_layers": 1, "layer_types": [kind], "sliding_window": 3}
    return _decoder_options(attention, head_dim=4, query_pre_attn_scalar=4, **layers)


def gemma3(attention: str) -> nn.Module:
    """One layer of Gemma 3, which looks back three tokens. Norms, also after a branch, scale by 1 + weight."""
    from transformers import Gemma3TextConfig, Gemma3TextForSequenceClassification

    config = Gemma3TextConfig(**_gemma_options(attention, "sliding_attention"))
    return Gemma3TextForSequenceClassification(config)


def mixtral(attention: str) -> nn.Module:
    """Two of four experts for each token, in a loop over those that some token chose."""
    from transformers import MixtralConfig, MixtralForSequenceClassification

    # the default implementation of experts, grouped_mm, has no float64
    options = _decoder_options(attention, experts_implementation="eager")
    return MixtralForSequenceClassification(MixtralConfig(**options, num_local_experts=4, num_experts_per_tok=2))


def qwen2_moe(attention: str) -> nn.Module:
    """Two of four experts, one batched product for all, beside a shared expert gated by a sigmoid."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForSequenceClassification

    config = Qwen2MoeConfig(
        **_decoder_options(attention, experts_implementation="batched_mm"),
        moe_intermediate_size=6,
        shared_expert_intermediate_size=10,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return Qwen2MoeForSequenceClassification(config)


class NextToken(nn.Module):
    """The usual wrapper to attribute a language model: logits of the token after the last."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, inputs_embeds: Tensor, **options: Any) -> Tensor:
        return self.lm(inputs_embeds=inputs_embeds, use_cache=False, **options).logits[:, -1]


def llama_next(attention: str) -> nn.Module:
    """Llama as a language model, wrapped to give the next token's logits. -> [N, 20]"""
    from transformers import LlamaConfig, LlamaForCausalLM

    return NextToken(LlamaForCausalLM(LlamaConfig(**_decoder_options(attention))))


def gemma2_next(attention: str) -> nn.Module:
    """One layer of Gemma 2 as a language model: tanh caps the scores of its attention, and its logits. -> [N, 20]"""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        **_gemma_options(attention, "full_attention"), attn_logit_softcapping=5.0, final_logit_softcapping=5.0
    )
    return NextToken(Gemma2ForCausalLM(config))


def vit(attention: str) -> nn.Module:
    """ViT over 16x16 images in 8x8 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(**_options(attention), image_size=16, patch_size=8)
    return ViTForImageClassification(config)


def padding_mask() -> Tensor:
    """Mask the last two tokens of the second row. [2, LENGTH]"""
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, -2:] = 0
    return mask
