"""Every family of text models by several methods: a batch is each prompt alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t

from funcattr import UnsupportedOperationError
from funcattr.language import explain, explain_all

from ..sweeps import sweep
from .models import built, byte_level, small, word_pieces
from .test_explain import quiet, slow_under_vmap

GROUPED: dict[str, Any] = {"num_key_value_heads": 1}
LOOKS_BACK: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
GEMMA: dict[str, Any] = {
    **GROUPED,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}
EXPERTS: dict[str, Any] = {**GROUPED, "experts_implementation": "eager"}
WHISPER: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "max_target_positions": 64,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 1,
    "vocab_size": 330,
    "max_source_positions": 10,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "scale_embedding": True,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "decoder_start_token_id": 3,
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
GPT2: dict[str, Any] = {"n_embd": 16, "n_inner": 24, "n_layer": 2, "n_head": 2, "vocab_size": 330, "n_positions": 64}
MAMBA: dict[str, Any] = {"vocab_size": 330, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
T5: dict[str, Any] = {
    "decoder_start_token_id": 0,
    "vocab_size": 120,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": 120,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 64,
}

Build = Callable[[], Any]
SPEAKING: dict[str, Build] = {
    "gpt2": lambda: built(t.GPT2LMHeadModel, t.GPT2Config(**GPT2)),
    "llama": lambda: built(t.LlamaForCausalLM, t.LlamaConfig(**small(**GROUPED))),
    "qwen2": lambda: built(t.Qwen2ForCausalLM, t.Qwen2Config(**small(**GROUPED, **LOOKS_BACK))),
    "qwen3": lambda: built(t.Qwen3ForCausalLM, t.Qwen3Config(**small(**GROUPED, head_dim=8))),
    "gemma2": lambda: built(t.Gemma2ForCausalLM, t.Gemma2Config(**small(**GEMMA, attn_logit_softcapping=5.0))),
    "gemma3": lambda: built(t.Gemma3ForCausalLM, t.Gemma3TextConfig(**small(**GEMMA, sliding_window=3))),
    "mixtral": lambda: built(t.MixtralForCausalLM, t.MixtralConfig(**small(**EXPERTS, num_local_experts=4))),
    "qwen2_moe": lambda: built(
        t.Qwen2MoeForCausalLM,
        t.Qwen2MoeConfig(
            **small(**EXPERTS, moe_intermediate_size=6, shared_expert_intermediate_size=10, num_experts=4)
        ),
    ),
    "mamba": lambda: built(t.MambaForCausalLM, t.MambaConfig(**MAMBA)),
    "whisper_decoder": lambda: built(t.WhisperForCausalLM, t.WhisperConfig(**WHISPER)),
}
BESIDE: dict[str, Build] = {
    "t5": lambda: built(t.T5ForConditionalGeneration, t.T5Config(**T5)),
    "bart": lambda: built(t.BartForConditionalGeneration, t.BartConfig(**BART)),
}
CLASSIFYING: dict[str, Build] = {
    "bert": lambda: built(t.BertForSequenceClassification, t.BertConfig(**small(vocab_size=120))),
    "roberta": lambda: built(t.RobertaForSequenceClassification, t.RobertaConfig(**small(vocab_size=120))),
    "distilbert": lambda: built(t.DistilBertForSequenceClassification, t.DistilBertConfig(**DISTILBERT)),
    "gpt2_classes": lambda: built(t.GPT2ForSequenceClassification, t.GPT2Config(**GPT2, pad_token_id=0)),
    "llama_classes": lambda: built(t.LlamaForSequenceClassification, t.LlamaConfig(**small(**GROUPED))),
}
ALL = {**SPEAKING, **BESIDE, **CLASSIFYING}
METHODS = ("attnlrp", "cp_lrp", "input_x_gradient", "occlusion")
PROMPTS = ("The quick brown fox", "The quick brown fox and the lazy dog")


def given(name: str) -> tuple[Any, list[str] | None]:
    """The tokenizer of a family, and what is said."""
    reads_bytes = name in SPEAKING or name.endswith("_classes")
    tokenizer = byte_level() if reads_bytes else word_pieces(end_only=name == "t5")
    return tokenizer, [" jumps", " it was"] if name in SPEAKING else ["jumps over", "it"] if name in BESIDE else None


PAIRS = [(name, method) for name in ALL for method in METHODS]
QUICK = {"gpt2-attnlrp", "bart-cp_lrp", "roberta-input_x_gradient"}


@quiet
@slow_under_vmap
@pytest.mark.parametrize(("name", "method"), sweep(PAIRS, quick=QUICK))
def test_a_batch_is_each_prompt_alone(name: str, method: Any) -> None:
    model, (tokenizer, said) = ALL[name](), given(name)
    both = explain_all(model, tokenizer, PROMPTS, continuations=said, method=method)
    for i, (one, prompt) in enumerate(zip(both, PROMPTS, strict=True)):
        alone = explain(model, tokenizer, prompt, continuation=said[i] if said else None, method=method)
        assert alone.attributions.isfinite().all() and alone.attributions.abs().max() > 0
        assert (one.columns, one.rows, one.said) == (alone.columns, alone.rows, alone.said)
        size = float(alone.attributions.abs().max())
        torch.testing.assert_close(one.attributions, alone.attributions, rtol=1e-5, atol=1e-5 * size)
        torch.testing.assert_close(one.scores, alone.scores, rtol=1e-5, atol=1e-5)


def test_whisper_hears_and_its_text_is_explained() -> None:
    model = built(t.WhisperForConditionalGeneration, t.WhisperConfig(**WHISPER, num_mel_bins=4))
    heard = {"input_features": torch.randn(1, 4, 20, dtype=torch.float64)}
    found = explain(model, byte_level(), "The quick", continuation=" brown fox", kwargs=heard)
    assert found.attributions[:, : found.split].abs().sum() > 0
    other = explain(model, byte_level(), "The quick", continuation=" brown fox", kwargs={
        "input_features": torch.randn(1, 4, 20, dtype=torch.float64)
    })  # fmt: skip
    assert not torch.allclose(found.attributions, other.attributions)


@pytest.mark.parametrize("method", ["attnlrp", "occlusion"])
def test_each_prompt_has_its_row_of_what_else_the_model_is_given(method: Any) -> None:
    model, tokenizer = (
        built(t.WhisperForConditionalGeneration, t.WhisperConfig(**WHISPER, num_mel_bins=4)),
        byte_level(),
    )
    heard = torch.randn(2, 4, 20, dtype=torch.float64)
    said = [" it was", " day"]
    both = explain_all(
        model, tokenizer, PROMPTS, continuations=said, method=method, kwargs={"input_features": heard}, of="log_prob"
    )
    for i, (one, prompt) in enumerate(zip(both, PROMPTS, strict=True)):
        alone = explain(
            model,
            tokenizer,
            prompt,
            continuation=said[i],
            method=method,
            kwargs={"input_features": heard[i : i + 1]},
            of="log_prob",
        )
        assert one.rows == alone.rows
        torch.testing.assert_close(one.attributions, alone.attributions, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"generate\(\) does not go on from what it was given"):
        explain(model, tokenizer, PROMPTS[0], generate=2, kwargs={"input_features": heard[:1]})
    with pytest.raises(
        ValueError, match=r"explain\(kwargs=\{'input_features': ...\}\): expected a row for each of 1 prompts"
    ):
        explain(model, tokenizer, PROMPTS[0], kwargs={"input_features": heard})


@pytest.mark.parametrize("name", sweep(("mixtral", "qwen2_moe"), quick={"mixtral"}))
def test_deep_lift_of_experts_is_refused_by_name(name: str) -> None:
    tokenizer, _ = given(name)
    with pytest.raises(UnsupportedOperationError, match=r"no rule for\s+topk in 'model.layers.0.mlp.gate'"):
        explain(ALL[name](), tokenizer, PROMPTS[0], method="deep_lift")
