"""Explanations of texts, against the methods of the package on embeddings, one token at a time."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import funcattr
from funcattr import language
from funcattr.language import Explanation, explain, explain_all

from ..benchmarks.language import measured
from ..sweeps import long, sweep
from .models import TEMPLATE, built, byte_level, llama, small, word_pieces

PROMPT, SAID = "The quick brown fox", " jumps over the lazy dog"
slow_under_vmap = pytest.mark.filterwarnings("ignore:There is a performance drop")
quiet = pytest.mark.filterwarnings("ignore:.*padding tokens in `inputs_embeds`.*")


def ids_of(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor([tokenizer(text)["input_ids"]])


def embedded(model: Any, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids).detach()


def by_token(model: Any, tokenizer: Any, method: str, of: str = "logit", **options: Any) -> Tensor:
    """A loop: for each token that is said one call of a method, whose target is a function of the logits. [R, T]"""
    start, ids = len(tokenizer(PROMPT)["input_ids"]), ids_of(tokenizer, PROMPT + SAID)
    x, rows = embedded(model, ids[:, :-1]), []
    for place in range(start - 1, ids.shape[1] - 1):
        token = int(ids[0, place + 1])

        def score(y: Tensor, place: int = place, token: int = token) -> Tensor:
            return (y if of == "logit" else y.log_softmax(-1))[:, place, token]

        given = {"inputs_embeds": x}
        baseline = {"baseline": {"inputs_embeds": zeros_but_for_the_first(x)}} if options else {}
        more = {k: v for k, v in options.items() if v is not None}
        found = getattr(funcattr, method)(model, given, score, kwargs={"use_cache": False}, **baseline, **more)
        found = found["inputs_embeds"][0]
        rows.append(found.norm(dim=-1) if method == "gradient" else found.sum(-1))
    return torch.stack(rows)


def zeros_but_for_the_first(x: Tensor) -> Tensor:
    """<s> is special, and stays."""
    return torch.cat([x[:, :1], torch.zeros_like(x[:, 1:])], 1)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Up to a share of the largest number: these models' norms run in float32."""
    expected = expected.detach()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=tolerance * float(expected.abs().max()))


OPTIONS: dict[str, dict[str, Any]] = {"integrated_gradients": {"steps": 5}, "deep_lift": {"steps": None}}
"""Of methods with a baseline."""
LOOPS = [
    (m, of) for m in ("attnlrp", "cp_lrp", "gradient", "input_x_gradient", *OPTIONS) for of in ("logit", "log_prob")
]


@pytest.mark.parametrize(
    ("method", "of"), sweep(LOOPS, quick={"attnlrp-logit", "gradient-log_prob", "integrated_gradients-logit"})
)
def test_the_matrix_is_a_loop_over_tokens(method: Any, of: Any) -> None:
    model, tokenizer, options = llama(), byte_level(), OPTIONS.get(method, {})
    expected = by_token(model, tokenizer, method, of, **options)
    found = explain(model, tokenizer, PROMPT, continuation=SAID, method=method, of=of, chunk_size=4, **{
        name: value for name, value in options.items() if value is not None
    })  # fmt: skip
    close(found.attributions, expected)
    assert found.split == len(tokenizer(PROMPT)["input_ids"]) < len(found.columns) == expected.shape[1]
    assert found.columns[0] == "<s>" and "".join(found.rows).replace(" ", "") == SAID.replace(" ", "")


def test_what_comes_after_a_token_counts_nothing_for_it() -> None:
    found = explain(llama(), byte_level(), PROMPT, continuation=SAID)
    later = torch.arange(len(found.columns)) > torch.arange(len(found.rows)).unsqueeze(1) + found.split - 1
    assert found.attributions[later].count_nonzero() == 0
    assert found.attributions[~later].count_nonzero() > 0


def test_the_scores_and_what_the_model_would_have_said() -> None:
    model, tokenizer = llama(), byte_level()
    ids = ids_of(tokenizer, PROMPT + SAID)
    start = len(tokenizer(PROMPT)["input_ids"])
    with torch.no_grad():
        logits = model(ids).logits[0, start - 1 : -1]
    said = ids[0, start:]
    log_probs = logits.log_softmax(-1)
    measures: dict[Any, Tensor] = {"logit": logits, "log_prob": log_probs}
    for of, values in measures.items():
        found = explain(model, tokenizer, PROMPT, continuation=SAID, of=of)
        close(found.scores, values.gather(1, said.unsqueeze(1)).squeeze(1))
        close(found.log_probs, log_probs.gather(1, said.unsqueeze(1)).squeeze(1))
        close(found.said_log_probs, log_probs.max(-1).values)
        assert found.said == [tokenizer.decode([i]) for i in logits.argmax(-1).tolist()]


def test_by_default_the_next_token_is_explained_and_generated_ones_are_the_models_own() -> None:
    model, tokenizer = llama(), byte_level()
    one = explain(model, tokenizer, PROMPT)
    with torch.no_grad():
        token = int(model(ids_of(tokenizer, PROMPT)).logits[0, -1].argmax())
    assert one.rows == one.said == [tokenizer.decode([token])] and one.split == len(one.columns)
    close(one.attributions, explain(model, tokenizer, PROMPT, continuation=[token]).attributions)
    several = explain(model, tokenizer, PROMPT, generate=4)
    assert several.rows == several.said and 1 <= len(several.rows) <= 4
    close(several.attributions[:1, : one.split], one.attributions)


def test_the_whole_is_the_sum_of_its_tokens_and_words_are_sums_too() -> None:
    model, tokenizer = llama(), byte_level()
    each = explain(model, tokenizer, PROMPT, continuation=SAID, of="log_prob")
    whole = explain(model, tokenizer, PROMPT, continuation=SAID, of="log_prob", rows="whole")
    close(whole.attributions, each.attributions.sum(0, keepdim=True))
    close(whole.scores, each.scores.sum(0, keepdim=True))
    assert whole.rows == [SAID.strip()]
    words = explain(model, tokenizer, PROMPT, continuation=SAID, of="log_prob", rows="word", per="word")
    assert words.rows == SAID.split() and words.columns[: words.split] == ["<s>", *PROMPT.split()]
    close(words.attributions.sum((0, 1)), each.attributions.sum((0, 1)))
    close(whole.words().attributions[:, : words.split], words.attributions.sum(0, keepdim=True)[:, : words.split])
    close(each.words().attributions.sum(1), each.attributions.sum(1))


def test_a_contrast_is_the_difference_of_the_matrices() -> None:
    model, tokenizer = llama(), byte_level()
    said = tokenizer(SAID, add_special_tokens=False)["input_ids"][:2]
    other = [5, 7]
    measures: list[Any] = ["logit", "log_prob"]
    for of in measures:
        found = explain(model, tokenizer, PROMPT, continuation=said, contrast=other, of=of)
        first = explain(model, tokenizer, PROMPT, continuation=said[:1])
        instead = explain(model, tokenizer, PROMPT, continuation=other[:1])
        close(found.attributions[:1, : first.split], first.attributions - instead.attributions)
        close(found.scores[:1], first.scores - instead.scores)
    same = explain(model, tokenizer, PROMPT, continuation=said, contrast=said[0])
    close(
        same.attributions[1:],
        explain(model, tokenizer, PROMPT, continuation=said, contrast=[3, said[0]]).attributions[1:],
    )
    assert same.attributions[0].abs().max() < 1e-9


@long
def test_integrated_and_expected_gradients_and_deep_lift_sum_to_the_difference() -> None:
    model, tokenizer = llama(), byte_level()
    ids = ids_of(tokenizer, PROMPT + SAID)[:, :-1]
    start = len(tokenizer(PROMPT)["input_ids"])
    vector = torch.randn(16, dtype=torch.float64)
    with torch.no_grad():
        x = embedded(model, ids)
        behind = torch.cat([x[:, :1], vector.expand_as(x[:, 1:])], 1)
        empty = model(inputs_embeds=behind).logits[0, start - 1 :]
    said = ids_of(tokenizer, PROMPT + SAID)[0, start:]
    asked: list[tuple[dict[str, Any], float]] = [
        ({"method": "integrated_gradients", "steps": 100}, 1e-3),
        ({"method": "deep_lift"}, 1e-5),
        ({"method": "expected_gradients", "samples": 200}, 0.4),
    ]
    for options, tolerance in asked:
        found = explain(model, tokenizer, PROMPT, continuation=SAID, baseline=vector, rows="whole", **options)
        expected = found.scores - empty.gather(1, said.unsqueeze(1)).sum()
        close(found.attributions.sum(1), expected, tolerance)
        assert found.attributions[0, 0] == 0  # <s> stays


@long
def test_expected_gradients_draw_a_row_for_each_token_and_a_seed_tells_which() -> None:
    model, tokenizer = llama(), byte_level()
    rows = funcattr.distribution(embedded(model, torch.arange(3, 40)))
    given: dict[str, Any] = {"continuation": SAID, "method": "expected_gradients", "baseline": rows, "samples": 6}
    one = explain(model, tokenizer, PROMPT, **given)
    for chunk_size in (1, 5):
        close(explain(model, tokenizer, PROMPT, **given, chunk_size=chunk_size).attributions, one.attributions)
    other = explain(model, tokenizer, PROMPT, **given, generator=1)
    assert not torch.allclose(other.attributions, one.attributions)
    only = funcattr.distribution(embedded(model, torch.tensor([7])))
    lines = explain(model, tokenizer, PROMPT, **{**given, "baseline": only, "samples": 150}, rows="whole")
    path = explain(model, tokenizer, PROMPT, continuation=SAID, method="integrated_gradients", rows="whole",
                   baseline=embedded(model, torch.tensor(7)), steps=30)  # fmt: skip
    close(lines.attributions, path.attributions, 0.3)


# --- leaving out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["occlusion", "shapley"])
@pytest.mark.parametrize("baseline", [0.0, "ver"])
def test_leaving_words_out_is_an_ablation_of_groups_of_embeddings(method: Any, baseline: Any) -> None:
    model, tokenizer = llama(), byte_level()
    found = explain(model, tokenizer, PROMPT, continuation=SAID, method=method, per="word", baseline=baseline)
    ids, start = ids_of(tokenizer, PROMPT + SAID), len(tokenizer(PROMPT)["input_ids"])
    x = embedded(model, ids[:, :-1])
    token = tokenizer.convert_tokens_to_ids(baseline) if isinstance(baseline, str) else None
    nothing = 0.0 if token is None else embedded(model, torch.tensor([[token]]))
    words = [None, *tokenizer(PROMPT, return_offsets_mapping=True)["offset_mapping"][1:]]
    owner, number = [], -1
    for place in words:
        begins = place is not None and (place[0] == 0 or PROMPT[place[0]] == " ")
        number += int(begins)
        owner.append(number)
    count = number + 1
    owner = [count if place is None else o for place, o in zip(words, owner, strict=True)]
    mask = torch.tensor(owner + [count] * (x.shape[1] - start)).reshape(1, -1, 1)
    behind = torch.where(mask == count, x, x * 0 + nothing)
    by_row = []
    for place in range(start - 1, ids.shape[1] - 1):
        ablate = funcattr.feature_ablation if method == "occlusion" else funcattr.shapley_values
        target = (place, int(ids[0, place + 1]))
        attributions = ablate(
            lambda e: model(inputs_embeds=e, use_cache=False).logits, x, target, feature_mask=mask, baseline=behind
        )
        by_row.append(torch.stack([attributions[0, owner.index(word), 0] for word in range(count)]))
    assert found.columns[: found.split] == ["<s>", *PROMPT.split()]
    close(found.attributions[:, 1 : found.split], torch.stack(by_row))
    assert found.attributions[:, found.split :].count_nonzero() == found.attributions[:, 0].count_nonzero() == 0


@long
def test_shapley_values_of_many_words_are_sampled_and_sum_to_the_difference() -> None:
    model, tokenizer = llama(), byte_level()
    text = "The quick brown fox jumps over the lazy dog. It was a sunny day"
    given: dict[str, Any] = {"method": "shapley", "per": "word", "baseline": "ver"}
    found = explain(model, tokenizer, text, **given, samples=3)
    sentences = explain(model, tokenizer, text, **{**given, "per": "sentence"})
    assert len(found.columns) > 12 and sentences.columns == ["<s>", text[:44], text[45:]]
    close(found.attributions.sum(1), sentences.attributions.sum(1))
    many = explain(model, tokenizer, text, **given, samples=60)
    again = explain(model, tokenizer, text, **given, samples=60, generator=4)
    close(many.attributions, again.attributions, 0.5)


# --- batches ---------------------------------------------------------------------------------------------------------


SEEN: list[int] = []
"""How many examples each forward of a `Counting` had."""


class Counting(nn.Module):
    """A language model that notes how it is called; a list of its own would be the call's copy."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = llama()
        self.config = self.model.config

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def can_generate(self) -> bool:
        return True

    def forward(self, input_ids: Any = None, inputs_embeds: Any = None, attention_mask: Any = None) -> Any:
        SEEN.append(len(inputs_embeds if input_ids is None else input_ids))
        return self.model(input_ids, attention_mask, inputs_embeds=inputs_embeds, use_cache=False)


PROMPTS = ["The quick", "The quick brown fox jumps over", "A kitten"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_in_one_batch_are_each_alone(side: str) -> None:
    model, tokenizer = llama(), byte_level()
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        said = [" brown fox", " the lazy dog", " is"]
        found = explain_all(model, tokenizer, PROMPTS, continuations=said, contrast=5)
        for one, prompt, continuation in zip(found, PROMPTS, said, strict=True):
            alone = explain(model, tokenizer, prompt, continuation=continuation, contrast=5)
            close(one.attributions, alone.attributions)
            close(one.scores, alone.scores)
            assert (one.columns, one.rows, one.said, one.split) == (alone.columns, alone.rows, alone.said, alone.split)
    finally:
        tokenizer.padding_side = before


def test_a_batch_is_one_forward_and_every_row_comes_from_it() -> None:
    SEEN.clear()
    explain_all(Counting(), byte_level(), PROMPTS, continuations=[" brown fox", " the lazy dog", " is"])
    assert SEEN == [3, 1]  # the second is the check


@quiet
def test_a_model_that_padding_disturbs_is_asked_one_by_one() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 330, "n_positions": 64}
    config = GPT2Config(**sizes, pad_token_id=0)
    model, tokenizer = built(GPT2ForSequenceClassification, config), byte_level()
    for one, prompt in zip(explain_all(model, tokenizer, PROMPTS), PROMPTS, strict=True):
        with torch.no_grad():
            logits = model(ids_of(tokenizer, prompt)).logits[0]
        close(one.scores, logits.max().reshape(1))
        close(one.attributions, explain(model, tokenizer, prompt).attributions)


# --- other kinds of models -------------------------------------------------------------------------------------------


def bert(kind: str, **more: Any) -> Any:
    import transformers

    config = transformers.BertConfig(**small(vocab_size=120, **more))
    return built(getattr(transformers, kind), config)


def test_classes_by_number_and_label() -> None:
    model, tokenizer = (
        bert("BertForSequenceClassification", num_labels=3, id2label={0: "a", 1: "b", 2: "c"}),
        word_pieces(),
    )
    found = explain(model, tokenizer, PROMPT, target=["b", 2], contrast="a")
    ids = ids_of(tokenizer, PROMPT)
    x = embedded(model, ids)
    for row, k in enumerate((1, 2)):
        expected = funcattr.attnlrp(model, {"inputs_embeds": x}, funcattr.contrast(k, 0))["inputs_embeds"]
        close(found.attributions[row], expected[0].sum(-1))
    with torch.no_grad():
        best = int(model(ids).logits.argmax())
    assert found.rows == ["b", "c"] and found.said == ["abc"[best]] * 2
    assert found.columns[0] == "[CLS]" and found.columns[-1] == "[SEP]"
    own = explain(model, tokenizer, PROMPT)
    assert own.rows == ["abc"[best]] and len(own.columns) == ids.shape[1]


def test_masks_are_filled() -> None:
    model, tokenizer = bert("BertForMaskedLM"), word_pieces()
    text = "the [MASK] brown [MASK] jumps"
    ids = ids_of(tokenizer, text)
    places = (ids[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    found = explain(model, tokenizer, text, continuation=["the", "of"], method="input_x_gradient")
    for row, (place, token) in enumerate(zip(places, tokenizer.convert_tokens_to_ids(["the", "of"]), strict=True)):
        expected = funcattr.input_x_gradient(model, {"inputs_embeds": embedded(model, ids)}, (place, token))
        close(found.attributions[row], expected["inputs_embeds"][0].sum(-1))
    own = explain(model, tokenizer, text)
    assert own.rows == own.said and len(own.rows) == 2


def test_an_encoder_and_a_decoder_beside_each_other() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {"vocab_size": 120, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = T5Config(**{**sizes, "decoder_start_token_id": 0})
    model, tokenizer = built(T5ForConditionalGeneration, config), word_pieces(end_only=True)
    found = explain(model, tokenizer, PROMPT, continuation="jumps over", method="input_x_gradient")
    ids, said = ids_of(tokenizer, PROMPT), ids_of(tokenizer, "jumps over")
    read = torch.cat([torch.zeros(1, 1, dtype=torch.long), said[:, :-1]], 1)
    given = {"inputs_embeds": embedded(model, ids), "decoder_inputs_embeds": embedded(model, read)}
    for place in range(said.shape[1]):
        target = (place, int(said[0, place]))
        each = funcattr.input_x_gradient(model, given, target, output="logits", kwargs={"use_cache": False})
        expected = torch.cat([each[name][0].sum(-1) for name in given])
        close(found.attributions[place], expected)
    assert found.split == ids.shape[1] and found.columns[found.split] == "[PAD]"
    assert explain(model, tokenizer, PROMPT, generate=3, of="log_prob").rows


class IdsOnly(nn.Module):
    """A language model that takes no embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = llama()
        self.config = self.model.config

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def can_generate(self) -> bool:
        return True

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, use_cache=False).logits


@pytest.mark.parametrize("method", ["attnlrp", "input_x_gradient", "integrated_gradients", "deep_lift", "occlusion"])
def test_a_model_that_takes_no_embeddings_is_explained_at_their_site(method: Any) -> None:
    given: dict[str, Any] = {"continuation": SAID, "method": method, "baseline": "ver", "steps": 3}
    found = explain(IdsOnly(), byte_level(), PROMPT, **given)
    close(found.attributions, explain(llama(), byte_level(), PROMPT, **given).attributions)


@slow_under_vmap
def test_experts_in_float32_have_the_relevance_of_those_in_a_loop() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    options = small(num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2)
    exact, grouped = (
        built(MixtralForCausalLM, MixtralConfig(**{**options, "experts_implementation": how}))
        for how in ("eager", "grouped_mm")
    )
    grouped = grouped.float()
    methods: list[Any] = ["attnlrp", "cp_lrp", "input_x_gradient"]
    for method in methods:
        one, other = (
            explain(model, byte_level(), PROMPT, continuation=" jumps", method=method) for model in (exact, grouped)
        )
        torch.testing.assert_close(other.attributions.double(), one.attributions, rtol=1e-3, atol=1e-4)


def test_a_chat_is_written_by_the_tokenizers_template() -> None:
    model, tokenizer = llama(), byte_level()
    chat = [{"role": "user", "content": "Where is the fox"}]
    text = "<s>user: Where is the fox\n<s>assistant:"
    assert tokenizer.chat_template == TEMPLATE
    found = explain(model, tokenizer, chat, per="word")
    assert found.columns == ["<s>", "user", ":", "Where", "is", "the", "fox", "\n", "<s>", "assistant", ":"]
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    token = tokenizer(" The", add_special_tokens=False)["input_ids"][0]
    x = embedded(model, ids)
    expected = funcattr.attnlrp(model, {"inputs_embeds": x}, (-1, token), kwargs={"use_cache": False})
    each = explain(model, tokenizer, chat, continuation=[token])
    close(each.attributions[0], expected["inputs_embeds"][0].sum(-1))


# --- the answer ------------------------------------------------------------------------------------------------------


def test_top_and_show() -> None:
    found: Explanation = explain(llama(), byte_level(), PROMPT, continuation=SAID, per="word", rows="word")
    top = found.top(2)
    for row, each in zip(found.attributions.tolist(), top, strict=True):
        assert [abs(value) for _, value in each] == sorted(map(abs, row), reverse=True)[:2]
        assert all(found.columns[row.index(value)] == text for text, value in each)
    shown = found.show()
    assert all(word in shown.html and word in shown.ansi for word in found.columns[1:])
    assert shown.html.count("<b ") == len(found.rows) and found._repr_html_() == shown.html
    with pytest.raises(ValueError, match=r"Explanation.top\(k=0\): expected at least 1"):
        found.top(0)
    with pytest.raises(ValueError, match=r"Explanation.words\(\): expected a number for each token"):
        found.words()


def test_nothing_of_the_users_is_touched_and_threads_agree() -> None:
    model, tokenizer = llama(), byte_level()
    before = [dict(vars(module)) for module in model.modules()]
    expected = explain(model, tokenizer, PROMPT, continuation=SAID).attributions
    assert not expected.requires_grad
    found: list[Tensor] = []

    def run() -> None:
        found.append(explain(model, tokenizer, PROMPT, continuation=SAID).attributions)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        close(one, expected)
    assert all(vars(m)[k] is v for m, old in zip(model.modules(), before, strict=True) for k, v in old.items())
    assert all(p.grad is None for p in model.parameters())


@long
def test_no_grad_is_honoured_and_does_not_matter() -> None:
    model, tokenizer = llama(), byte_level()
    for method in ("attnlrp", "integrated_gradients", "deep_lift"):
        given: dict[str, Any] = {"continuation": SAID, "method": method, "steps": 3}
        with torch.no_grad():
            found = explain(model, tokenizer, PROMPT, **given)
        close(found.attributions, explain(model, tokenizer, PROMPT, **given).attributions)


def test_the_benchmark_compares_the_matrix_with_its_loop() -> None:
    found = measured("cp_lrp", prompt=9, said=3, width=8, layers=1, rounds=1)
    assert found.difference < 1e-6
    assert min(found.speedup, found.span, found.passes) > 0


def test_language_is_part_of_the_package() -> None:
    assert funcattr.language is language
