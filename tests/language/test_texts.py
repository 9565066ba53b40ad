"""Tokens, words and sentences: what each is in the text, and how continuations join it."""

from typing import Any

import pytest

from funcattr.language.texts import Tokens, Units, continued, of_ids, one_token, tokenized, units_of

from .models import byte_level, word_pieces

TEXT = "The fox's lazy dog didn't care: it was day. \"Who?\" It slept..."
TOKENIZERS = {"byte level": byte_level, "word pieces": word_pieces}
each_tokenizer = pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)


def shown(units: Units) -> list[str]:
    return [text for text, special in zip(units.texts, units.special, strict=True) if not special]


@each_tokenizer
def test_every_token_is_in_one_unit_in_order(make: Any) -> None:
    tokens = tokenized(make(), TEXT)
    for per in ("token", "word", "sentence"):
        units = units_of("f", tokens, per)
        assert [i for group in units.members for i in group] == list(range(len(tokens.ids)))
        assert units.special[0] and len(units.special) == len(units.members) == len(units.texts)


@each_tokenizer
def test_words_and_sentences_whatever_the_tokenizer(make: Any) -> None:
    tokens = tokenized(make(), "The quick fox isn't lazy, is it? No. It jumps!")
    words = ["The", "quick", "fox", "isn't", "lazy", ",", "is", "it", "?", "No", ".", "It", "jumps", "!"]
    assert shown(units_of("f", tokens, "word")) == words
    assert shown(units_of("f", tokens, "sentence")) == ["The quick fox isn't lazy, is it?", "No.", "It jumps!"]


def test_a_sentence_ends_at_a_line_and_not_in_a_number() -> None:
    tokens = tokenized(byte_level(), 'It is 3.5 degrees\nShe said "no." Then she left')
    assert shown(units_of("f", tokens, "sentence")) == ["It is 3.5 degrees\n", 'She said "no."', "Then she left"]


def test_a_token_that_is_part_of_two_words_joins_them() -> None:
    places = [None, (0, 3), (3, 6), (6, 9), (9, 10)]
    tokens = Tokens([0, 1, 2, 3, 4], ["<s>", "ab ", "cd ", "ef.", "!"], places, "ab cd ef.!")
    assert units_of("f", tokens, "word").members == [[0], [1], [2], [3], [4]]
    joined = tokens._replace(places=[None, (0, 4), (4, 6), (6, 9), (9, 10)])
    assert units_of("f", joined, "word").members == [[0], [1, 2], [3], [4]]
    assert units_of("f", joined, "word").texts == ["<s>", "ab cd", "ef.", "!"]


def test_characters_of_several_tokens_stay_together() -> None:
    text = "the 🙂 über fox"
    tokens = tokenized(byte_level(), text)
    units = units_of("f", tokens, "word")
    assert shown(units) == text.split()
    assert max(len(group) for group in units.members) > 2


def test_a_tokenizer_that_does_not_tell_places_has_tokens_only() -> None:
    class Slow:
        all_special_ids = ()
        is_fast = False

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [1, 2]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [f"t{i}" for i in ids]

    tokens = tokenized(Slow(), "a b")
    assert units_of("f", tokens, "token").texts == ["t1", "t2"]
    with pytest.raises(ValueError, match=r"f\(per='word'\): the tokenizer does not tell where in the text"):
        units_of("f", tokens, "word")


def test_a_translation_is_marked_as_the_tokenizer_marks_targets() -> None:
    from transformers import MBart50Tokenizer

    words = "a cow says moo eine kuh sagt muh".split()
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{w}", -1.0) for w in words)]
    tokenizer = MBart50Tokenizer(vocab=vocabulary, src_lang="en_XX", tgt_lang="de_DE")
    said = tokenizer(text_target="eine kuh")["input_ids"]
    assert tokenized(tokenizer, "eine kuh", target=True).ids == said
    assert tokenized(tokenizer, "eine kuh", target=True).texts == ["de_DE", "eine", "kuh", "</s>"]
    assert tokenized(tokenizer, "a cow").texts == ["en_XX", "a", "cow", "</s>"]


@each_tokenizer
def test_generated_tokens_have_the_places_of_their_text(make: Any) -> None:
    tokenizer = make()
    ids = tokenizer("jumps over the lazy dog", add_special_tokens=False)["input_ids"]
    tokens = of_ids(tokenizer, ids)
    assert tokens.ids == ids and tokens.text == "jumps over the lazy dog"
    assert shown(units_of("f", tokens, "word")) == "jumps over the lazy dog".split()
    ended = of_ids(tokenizer, [*ids, tokenizer.eos_token_id or tokenizer.sep_token_id])
    assert ended.places is not None and ended.places[-1] is None


def test_a_continuation_is_what_the_joined_text_adds() -> None:
    tokenizer = byte_level()
    prompt = tokenized(tokenizer, "The quick")
    said = continued("f", tokenizer, prompt, " brown fox", True)
    assert [*prompt.ids, *said.ids] == tokenizer("The quick brown fox")["input_ids"]
    assert "".join(said.texts).replace(" ", "") == "brownfox"


def test_a_continuation_that_changes_the_prompts_tokens_is_refused() -> None:
    tokenizer = byte_level()
    prompt = tokenized(tokenizer, "The qu")
    assert tokenizer("The quick")["input_ids"][: len(prompt.ids)] == prompt.ids
    short = tokenized(tokenizer, "The q")
    message = r"f\(continuation='uick'\): joined with the prompt, its text is tokenised otherwise from token \d"
    with pytest.raises(ValueError, match=message):
        continued("f", tokenizer, short, "uick", True)


def test_one_token_by_number_name_or_text() -> None:
    tokenizer = byte_level()
    number = tokenizer.convert_tokens_to_ids("ver")
    assert one_token("f", tokenizer, "ver", "x") == one_token("f", tokenizer, number, "x") == number
    assert one_token("f", tokenizer, "<pad>", "x") == 0
    for value in ("The quick brown", "", 1.5, None, True):
        with pytest.raises((ValueError, TypeError), match=r"f\(x="):
            one_token("f", tokenizer, value, "x")
    with pytest.raises(ValueError, match=r"f\(x='zzz'\): expected a text that is one token"):
        one_token("f", word_pieces(), "zzz", "x")
    assert one_token("f", word_pieces(), "The", "x") == word_pieces().convert_tokens_to_ids("the")


def test_a_word_outside_of_a_vocabulary_that_names_no_unknown_token_is_refused() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<pad>": 0, "dog": 1}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    assert one_token("f", tokenizer, "dog", "x") == 1
    with pytest.raises(ValueError, match=r"f\(x='cat'\): expected a text that is one token of the vocabulary"):
        one_token("f", tokenizer, "cat", "x")
