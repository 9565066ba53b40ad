"""What Hugging Face models keep from call to call: hooks that their forward installs, and caches of keys and values."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

import funcattr


def right(model: nn.Module, score: Callable[[Any, Tensor], Tensor], x: Tensor) -> Tensor:
    """By autograd, on a copy of its own."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(score(copy.deepcopy(model), leaf), leaf)[0]


def hooks(model: nn.Module) -> int:
    return sum(len(v) for m in model.modules() for k, v in vars(m).items() if k.endswith("hooks"))


class Hidden(nn.Module):
    """The hidden states of a model after its first block, which Hugging Face collects by hooks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
        )
        self.bert = BertModel(config).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.bert(inputs_embeds=x, output_hidden_states=True).hidden_states[1]


@pytest.mark.parametrize("rules", [None, {"softsign": funcattr.rules.GRADIENT}])
def test_hidden_states_are_asked_for_again_and_again(rules: Any) -> None:
    model, x = Hidden(), torch.randn(2, 5, 16)
    expected = right(model, lambda m, x: m(x)[:, 0].sum(), x)
    for _ in range(3):
        found = funcattr.attribute(model, x, lambda y: y[:, 0].sum(1), rules=rules).cotangent
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert hooks(model) == 0


@pytest.mark.parametrize("rules", [None, {"softsign": funcattr.rules.GRADIENT}])
def test_a_segformer_is_asked_again_and_again(rules: Any) -> None:
    torch.manual_seed(0)
    sizes: Any = {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [2, 1],
        "hidden_sizes": [8, 16],
        "patch_sizes": [3, 3],
        "strides": [2, 2],
        "num_attention_heads": [1, 2],
        "mlp_ratios": [2, 2],
        "decoder_hidden_size": 16,
        "num_labels": 3,
    }
    model, x = SegformerForSemanticSegmentation(SegformerConfig(**sizes)).eval(), torch.randn(1, 3, 32, 32)
    expected = right(model, lambda m, x: m(x).logits[:, 1].sum(), x)
    for _ in range(3):
        found = funcattr.attribute(model, x, 1, rules=rules).cotangent
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert hooks(model) == 0


@pytest.mark.filterwarnings(
    "ignore:.past_key_values. is deprecated:FutureWarning"
)  # older versions know that name alone
def test_a_cache_of_keys_and_values_does_not_grow() -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0)
    model: Any = GPT2LMHeadModel(config).eval()
    prefix, ids = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    past = DynamicCache()
    with torch.no_grad():
        model(prefix, past_key_values=past, use_cache=True)
    x = {"inputs_embeds": model.transformer.wte(ids).detach()}

    def rise(scale: float) -> Tensor:
        embedded = torch.cat([model.transformer.wte(prefix), scale * x["inputs_embeds"]], 1)
        return model(inputs_embeds=embedded).logits[0, -1, 7].detach()

    for chunk_size in (1, 4, 100):
        found = funcattr.integrated_gradients(
            model, x, (-1, 7), kwargs={"past_key_values": past, "use_cache": True}, steps=100, chunk_size=chunk_size
        )
        torch.testing.assert_close(found["inputs_embeds"].sum(), rise(1) - rise(0), rtol=1e-2, atol=1e-3)
        assert past.get_seq_length() == 3
