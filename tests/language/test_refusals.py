"""What cannot be explained is said by name: other tokenizers, long texts, models that hide or look ahead."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr.language import explain, explain_all

from .models import built, byte_level, llama, small, word_pieces
from .test_explain import IdsOnly

PROMPT = "The quick brown fox"


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"method": "lime"}, ValueError, r"explain\(method='lime'\): expected one of 'gradient'"),
        ({"per": "letter"}, ValueError, r"explain\(per='letter'\): expected 'token', 'word' or 'sentence'"),
        ({"rows": "all"}, ValueError, r"explain\(rows='all'\)"),
        ({"of": "prob"}, ValueError, r"explain\(of='prob'\): expected 'logit' or 'log_prob'"),
        ({"prompt": ""}, ValueError, r"explain\(prompt=''\): expected a text with something in it"),
        ({"prompt": " \n"}, ValueError, "expected a text with something in it"),
        ({"prompt": []}, ValueError, "expected at least one message"),
        ({"prompt": ["a", "b"]}, TypeError, "Several prompts: explain_all"),
        ({"prompt": 3}, TypeError, "expected a text, or a chat, .* got int"),
        ({"continuation": ""}, ValueError, r"continuation=''\): expected at least one token"),
        ({"continuation": []}, TypeError, "a text, or a list of at least one token's number"),
        ({"continuation": [1.5]}, TypeError, "a text, or a list of at least one"),
        (
            {"continuation": [400]},
            ValueError,
            r"the token 400 is none of the model's, which embeds 330 tokens, 0 to 329",
        ),
        ({"continuation": [5, -1]}, ValueError, r"explain\(continuation=...\): the token -1 is none of the model's"),
        ({"continuation": " a", "generate": 2}, ValueError, r"explain\(generate=2, continuation=...\): expected one"),
        ({"generate": 0}, ValueError, r"explain\(generate=0\): expected at least 1"),
        ({"generate": 60}, ValueError, r"have \d\d tokens, the model has 64 positions"),
        ({"prompt": "fox " * 40}, ValueError, r"explain\(prompt=...\): .* \d+ tokens, the model has 64 positions"),
        ({"target": 1}, ValueError, r"explain\(target=...\): it is for classifiers"),
        ({"contrast": ["a", "b"]}, ValueError, r"explain\(contrast=...\): expected one token, or 1"),
        ({"contrast": "The quick"}, ValueError, r"explain\(contrast='The quick'\): expected a text that is one token"),
        ({"contrast": 400}, ValueError, r"explain\(contrast=...\): the token 400 is none of the model's"),
        ({"baseline": [0.0]}, TypeError, r"explain\(baseline=...\): expected a number or a vector"),
        ({"baseline": torch.zeros(3)}, ValueError, r"a vector of the embeddings' size 16, got shape \[3\]"),
        ({"baseline": "The quick"}, ValueError, r"explain\(baseline='The quick'\)"),
        ({"baseline": funcattr.distribution(torch.zeros(2, 16))}, ValueError, "it is for method='expected_gradients'"),
        ({"generator": "a"}, TypeError, r"explain\(generator=...\)"),
        ({"kwargs": {"past_key_values": 3}}, ValueError, "a cache holds tokens that get no number"),
        ({"tokenizer": "gpt2"}, TypeError, r"explain\(tokenizer=...\): expected a tokenizer .* got str"),
        ({"model": nn.Linear(2, 2)}, TypeError, r"explain\(model=...\): expected a module with get_input_embeddings"),
    ],
)
def test_bad_input_says_what_was_expected(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments = {"model": llama(), "tokenizer": byte_level(), "prompt": PROMPT, **given}
    with pytest.raises(kind, match=message):
        explain(**arguments)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = built(LlamaForCausalLM, LlamaConfig(**small(vocab_size=120)))
    asked: list[dict[str, Any]] = [{}, {"generate": 2}, {"continuation": " fox"}, {"method": "occlusion"}]
    for given in asked:
        with pytest.raises(
            ValueError, match=r"the tokenizer has 330 tokens, the model embeds 120. Is it that of another"
        ):
            explain(model, byte_level(), PROMPT, **given)


class Wrapped(IdsOnly):
    """A language model of one's own, around a Llama."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Tensor:
        return self.model(input_ids, inputs_embeds=inputs_embeds, use_cache=False).logits


class ReadsNumbersElsewhere(Wrapped):
    """It scales its answer by the token numbers, which embeddings do not tell."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Tensor:
        scale = 1.0 if input_ids is None else input_ids.double().mean()
        return scale * super().forward(input_ids, inputs_embeds)


class LooksAhead(Wrapped):
    """A bag of words: each position sees the whole text."""

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Tensor:
        logits = super().forward(input_ids, inputs_embeds)
        return logits + logits.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [ReadsNumbersElsewhere, LooksAhead])
@pytest.mark.parametrize("method", ["attnlrp", "occlusion"])
def test_a_model_whose_embeddings_tell_another_story_is_refused(kind: Any, method: Any) -> None:
    message = r"explain\(model=...\): the model gives other numbers from embeddings than from token numbers, or looks"
    with pytest.raises(funcattr.UnsupportedOperationError, match=message):
        explain(kind(), byte_level(), PROMPT, continuation=" jumps over", method=method)
    explain(Wrapped(), byte_level(), PROMPT, continuation=" jumps over", method=method)


class Cumulates(IdsOnly):
    """A sum of embeddings in double precision, with a little more for token numbers, or a part in single precision."""

    def __init__(self, more: float, single: bool) -> None:
        super().__init__()
        self.more, self.single = more, single

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None) -> Tensor:
        table = self.model.get_input_embeddings()
        x = table(input_ids) if inputs_embeds is None else inputs_embeds
        x = x.float().double() if self.single else x
        return x.cumsum(1) @ table.weight.T * (1.0 if input_ids is None else 1.0 + self.more)


def test_double_precision_is_expected_where_a_model_computes_in_it_throughout() -> None:
    def run(more: float, single: bool) -> Any:
        return explain(Cumulates(more, single), byte_level(), PROMPT, continuation=" jumps", method="input_x_gradient")

    run(0.0, False)
    run(1e-6, True)
    with pytest.raises(funcattr.UnsupportedOperationError, match="other numbers from embeddings"):
        run(1e-6, False)
    with pytest.raises(funcattr.UnsupportedOperationError, match="other numbers from embeddings"):
        run(1e-2, True)


def test_a_bidirectional_model_that_is_said_to_generate_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    model = built(BertLMHeadModel, BertConfig(**small(vocab_size=120), is_decoder=False))
    with pytest.raises(funcattr.UnsupportedOperationError, match="looks ahead at what it is to say"):
        explain(model, word_pieces(), PROMPT, continuation=[7, 8, 9])


def test_deep_lift_at_a_baseline_that_divides_by_nothing_is_refused() -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    options = {"layer_types": ["full_attention"], "num_hidden_layers": 1, "head_dim": 8, "query_pre_attn_scalar": 8}
    model = built(Gemma3ForCausalLM, Gemma3TextConfig(**small(num_key_value_heads=1, **options)))
    with pytest.raises(ValueError, match=r"explain\(method='deep_lift'\): the attributions do not sum to the diff"):
        explain(model, byte_level(), PROMPT, method="deep_lift")
    explain(model, byte_level(), PROMPT, method="deep_lift", baseline="ver")


def test_a_batch_of_nothing_or_with_too_few_continuations_is_refused() -> None:
    model, tokenizer = llama(), byte_level()
    with pytest.raises(ValueError, match=r"explain_all\(prompts=...\): expected a list of at least one prompt"):
        explain_all(model, tokenizer, [])
    with pytest.raises(ValueError, match="expected a list of at least one prompt"):
        explain_all(model, tokenizer, PROMPT)
    with pytest.raises(ValueError, match=r"explain_all\(continuations=...\): expected a list of 2, .* got 1"):
        explain_all(model, tokenizer, [PROMPT, PROMPT], continuations=[" jumps"])
    with pytest.raises(ValueError, match=r"explain_all\(prompt=''\)"):
        explain_all(model, tokenizer, [PROMPT, ""])


def test_texts_without_a_mask_and_models_without_words_to_say_are_refused() -> None:
    from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

    config = BertConfig(**small(vocab_size=120))
    filling = built(BertForMaskedLM, config)
    with pytest.raises(ValueError, match=r"the model fills masks; expected '\[MASK\]' in it"):
        explain(filling, word_pieces(), PROMPT)
    with pytest.raises(ValueError, match=r"expected 1 tokens, one for each mask, got 2"):
        explain(filling, word_pieces(), "the [MASK] fox", continuation=["a", "b"])
    with pytest.raises(ValueError, match=r"explain\(generate=2\): the model says nothing after a text"):
        explain(filling, word_pieces(), "the [MASK] fox", generate=2)
    with pytest.raises(ValueError, match="it is for classifiers of whole texts"):
        explain(filling, word_pieces(), "the [MASK] fox", target=1)
    with pytest.raises(ValueError, match=r"it has 2 scores for each token, and says no tokens"):
        explain(built(BertForTokenClassification, config), word_pieces(), PROMPT)
    classifier = built(BertForSequenceClassification, config)
    for target in ("LABEL_7", 2, -1, [0, 5], 0.5):
        with pytest.raises(ValueError, match=r"explain\(target=.*\): expected a class, 0 to 1, or its label"):
            explain(classifier, word_pieces(), PROMPT, target=target)
    with pytest.raises(ValueError, match=r"explain\(contrast=...\): expected one class, or 1, one for each target"):
        explain(classifier, word_pieces(), PROMPT, target=1, contrast=[0, 1])


def test_a_prompt_of_special_tokens_has_nothing_to_leave_out() -> None:
    with pytest.raises(ValueError, match="expected a text with something in it that can be left out"):
        explain(llama(), byte_level(), "<s></s>", method="occlusion")


def test_a_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"explain\(prompt=\[...\]\): the tokenizer has no chat template"):
        explain(llama(vocab_size=330), word_pieces(), [{"role": "user", "content": "a"}])


def test_a_model_in_training_mode_is_warned_of() -> None:
    from transformers import BertConfig, BertForMaskedLM

    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = built(BertForMaskedLM, BertConfig(**small(vocab_size=120, **options))).train()
    with pytest.warns(UserWarning, match="explain: the model is in training mode"):
        explain(model, word_pieces(), "the [MASK] fox")
