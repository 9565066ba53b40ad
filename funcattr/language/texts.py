"""Texts as tokens: which part of a text each token is, and which tokens a word or a sentence is made of."""

import inspect
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

Per = Literal["token", "word", "sentence"]
"""What gets a number."""

WORD = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")
SENTENCE = re.compile(r"\S.*?(?:[.!?\u2026\u3002\uff01\uff1f]+[\"'\u201d\u2019)\]]*(?=\s|$)|\n|$)", re.DOTALL)


class Tokens(NamedTuple):
    """A text's tokens.

    Attributes:
        ids: Their numbers in the vocabulary.
        texts: What each is in the text; of a special token, its name.
        places: Where each is in the text, (start, end); None for a special token. None in place of the list: the
            tokenizer does not tell.
        text: The text.
    """

    ids: list[int]
    texts: list[str]
    places: list[tuple[int, int] | None] | None
    text: str

    def part(self, start: int, end: int) -> "Tokens":
        """Some neighbouring tokens."""
        places = self.places if self.places is None else self.places[start:end]
        return Tokens(self.ids[start:end], self.texts[start:end], places, self.text)


def tokenized(tokenizer: Any, text: str, special: bool = True, target: bool = False) -> Tokens:
    """The tokens of a text, as the tokenizer makes them, with its special tokens if `special`.

    A `target` is what an encoder-decoder is to say, which some tokenizers mark otherwise: with the other language.
    """
    has_places = bool(getattr(tokenizer, "is_fast", False))
    more = {"return_offsets_mapping": True} if has_places else {}
    tells_targets = "text_target" in inspect.signature(type(tokenizer).__call__).parameters
    text_of = partial(tokenizer, text_target=text) if target and tells_targets else partial(tokenizer, text)
    encoded = text_of(add_special_tokens=special, return_attention_mask=False, **more)
    ids = [int(i) for i in encoded["input_ids"]]
    if not has_places:
        return Tokens(ids, list(tokenizer.convert_ids_to_tokens(ids)), None, text)
    marked = special_ids(tokenizer)
    places = [None if i in marked else _trimmed(text, *place) for i, place in zip(ids, encoded["offset_mapping"])]
    return Tokens(ids, _texts(tokenizer, ids, places, text), places, text)


def special_ids(tokenizer: Any) -> set[int]:
    """The tokens that are no part of any text: marks of a beginning, an end, a mask; an unknown word is a part."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return {int(number) for number in getattr(tokenizer, "all_special_ids", ()) if number != unknown}


def of_ids(tokenizer: Any, ids: Sequence[int]) -> Tokens:
    """Tokens that a model generated; their places are those in the text that the tokenizer makes of them.

    Whatever the tokenizer does at a token's edges, the text up to each token is that of the tokens up to it.
    """
    marked = special_ids(tokenizer)
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    ends = [len(tokenizer.decode(list(ids[: i + 1]), **options)) for i in range(len(ids))]
    text = tokenizer.decode(list(ids), **options)
    starts = [0, *ends[:-1]]
    places = [
        None if number in marked else _trimmed(text, min(start, end), end)
        for number, start, end in zip(ids, starts, ends, strict=True)
    ]
    return Tokens(list(ids), _texts(tokenizer, ids, places, text), places, text)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A place without the white space at its ends, if there is anything else in it."""
    inside = text[start:end]
    if not inside.strip():
        return start, end
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def _texts(tokenizer: Any, ids: Sequence[int], places: Sequence[Any], text: str) -> list[str]:
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [text[p[0] : p[1]] or str(name) if p else str(name) for p, name in zip(places, names, strict=True)]


class Units(NamedTuple):
    """Groups of neighbouring tokens: words, say.

    Attributes:
        texts: What each is in the text.
        members: The tokens of each.
        special: Which of them are special tokens.
    """

    texts: list[str]
    members: list[list[int]]
    special: list[bool]


def units_of(call: str, tokens: Tokens, per: str) -> Units:
    """The tokens, words or sentences of a text.

    A word is a run of letters and digits, or one other sign, with the space before it. A special token is a unit of its
    own; a token that is part of two words joins them.

    Raises:
        ValueError: If the tokenizer does not tell where in the text its tokens are.
    """
    if per not in ("token", "word", "sentence"):
        raise ValueError(f"{call}(per={per!r}): expected 'token', 'word' or 'sentence'.")
    count = len(tokens.ids)
    if per == "token":
        special = [False] * count if tokens.places is None else [place is None for place in tokens.places]
        return Units(tokens.texts, [[i] for i in range(count)], special)
    if tokens.places is None:
        raise ValueError(
            f"{call}(per={per!r}): the tokenizer does not tell where in the text its tokens are. Take a fast one "
            "(AutoTokenizer.from_pretrained(..., use_fast=True)), or per='token'."
        )
    pattern = WORD if per == "word" else SENTENCE
    parts = [found.span() for found in pattern.finditer(tokens.text)]
    members, special, spaces, last = list[list[int]](), list[bool](), list[int](), -1
    for i, place in enumerate(tokens.places):
        touched = [] if place is None else [k for k, (a, b) in enumerate(parts) if a < place[1] and place[0] < b]
        if place is not None and not touched:
            spaces.append(i)
            continue
        if touched and members and touched[0] <= last and not special[-1]:
            members[-1] += [*spaces, i]
        else:
            if place is None and spaces:
                members.append(spaces)
                special.append(False)
                spaces = []
            members.append([*spaces, i])
            special.append(place is None)
        spaces, last = [], max([last, *touched])
    if spaces:
        members.append(spaces)
        special.append(False)
    texts = list[str]()
    for group in members:
        places = [place for i in group if (place := tokens.places[i]) is not None]
        text = tokens.text[places[0][0] : places[-1][1]] if places else tokens.texts[group[0]]
        texts.append(text.strip(" ") or text or tokens.texts[group[0]])
    return Units(texts, members, special)


def prompt_text(call: str, tokenizer: Any, prompt: Any) -> tuple[str, bool]:
    """The text of a prompt, and whether its special tokens are still to be added.

    A chat, a list of messages, is written by the tokenizer's template, up to where the model answers.

    Raises:
        TypeError: If it is neither a text nor a list of messages.
        ValueError: If it is empty, or there is no template.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ValueError(f"{call}(prompt={prompt!r}): expected a text with something in it.")
        return prompt, True
    is_chat = isinstance(prompt, Sequence) and all(isinstance(m, Mapping) and "content" in m for m in prompt)
    if not is_chat:
        raise TypeError(
            f"{call}(prompt=...): expected a text, or a chat, a list of messages "
            f"{{'role': ..., 'content': ...}}; got {type(prompt).__name__}. Several prompts: explain_all."
        )
    if not prompt:
        raise ValueError(f"{call}(prompt=[]): expected at least one message.")
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(f"{call}(prompt=[...]): the tokenizer has no chat template. Set tokenizer.chat_template.")
    text = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    return text, False


def continued(call: str, tokenizer: Any, prompt: Tokens, continuation: str, special: bool) -> Tokens:
    """The tokens of a continuation, where prompt and continuation are tokenised as one text.

    Raises:
        ValueError: If the prompt's tokens are others then, or nothing is added.
    """
    both = tokenized(tokenizer, prompt.text + continuation, special)
    count = len(prompt.ids)
    if both.ids[:count] != prompt.ids:
        at = next((i for i in range(count) if both.ids[i : i + 1] != prompt.ids[i : i + 1]), count)
        raise ValueError(
            f"{call}(continuation={continuation!r}): joined with the prompt, its text is tokenised otherwise from "
            f"token {at} ({prompt.texts[at]!r}) on. Begin it where a token begins (with a space, say), or give "
            "its tokens as a list of ints."
        )
    if len(both.ids) == count:
        raise ValueError(f"{call}(continuation={continuation!r}): expected at least one token.")
    return both.part(count, len(both.ids))


def one_token(call: str, tokenizer: Any, value: Any, name: str) -> int:
    """The number of a token that is given as a number, or as a text of one token.

    Raises:
        TypeError, ValueError: If it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{call}({name}=...): expected a token, its text or number, got {type(value).__name__}.")
    if isinstance(value, int):
        return value
    found = tokenizer.convert_tokens_to_ids(value)
    if isinstance(found, int) and tokenizer.convert_ids_to_tokens([found]) == [value]:
        return found
    ids = tokenized(tokenizer, value, special=False).ids
    # What is no word of the vocabulary is some token for unknown ones, which the tokenizer need not name.
    known = tokenizer.decode(ids).strip().casefold() == value.strip().casefold()
    if len(ids) != 1 or not known:
        raise ValueError(
            f"{call}({name}={value!r}): expected a text that is one token of the vocabulary, got {len(ids)} tokens "
            f"{tokenizer.convert_ids_to_tokens(ids)}. Give a number, or another text (with a space before, say)."
        )
    return ids[0]
