"""Texts as a model takes them: the embeddings of their tokens."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .command_error import CommandError, refusing

EMBEDS = "inputs_embeds"
_ENOUGH = 1_000_000
"""Tokenizers without a limit give a number beyond it."""


class Words(NamedTuple):
    """A text that is explained, or a pair of texts."""

    words: tuple[str, ...]
    """One for each token, as it stands in the text; special tokens as the tokenizer calls them."""


def read_texts(texts: Sequence[str], module: nn.Module, tokenizer: Any) -> tuple[dict[str, Tensor], Words, str]:
    """The model's input with the tokens' embeddings [1, T, D], the words, and what was done.

    Raises:
        CommandError: If there is no text or more than a pair, it is too long, or the model gives another answer when it
            gets embeddings in place of tokens.
    """
    if not 1 <= len(texts) <= 2 or not all(text.strip() for text in texts):
        raise CommandError(f"--text: expected a text, or a pair of them, got {[text[:20] for text in texts]}.")
    with refusing("--text: the model's tokenizer: "):
        found = tokenizer(*texts, return_tensors="pt", return_offsets_mapping=bool(tokenizer.is_fast))
    offsets = found.pop("offset_mapping", None)
    ids = found["input_ids"]
    _check_length(ids.shape[1], module, tokenizer)
    device = next(module.parameters()).device
    tokens = {name: value.to(device) for name, value in found.items()}
    with refusing("the model: "), torch.no_grad():
        embeds: Any = module.get_input_embeddings()(tokens["input_ids"])  # pyright: ignore[reportCallIssue]
        x = {EMBEDS: embeds, **{name: value for name, value in tokens.items() if name != "input_ids"}}
        by_ids, by_embeds = module(**tokens).logits, module(**x).logits
    if not torch.allclose(by_ids, by_embeds, rtol=1e-3, atol=1e-4):
        difference = float((by_ids - by_embeds).abs().max())
        raise CommandError(
            f"--text: expected the same answer for the embeddings of tokens as for tokens, got one that differs by "
            f"{difference:.2g}: this model does more with tokens. Explain it in Python, with layer= at its embedding."
        )
    count = f"{ids.shape[1]} tokens" + (" of a pair of texts" if len(texts) == 2 else "")
    return x, Words(_words(texts, ids[0].tolist(), offsets, found, tokenizer)), count


def _check_length(count: int, module: nn.Module, tokenizer: Any) -> None:
    config: Any = module.config
    limits = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    most = min((int(limit) for limit in limits if limit and 0 < limit < _ENOUGH), default=count)
    if count > most:
        raise CommandError(
            f"--text: expected at most {most} tokens, which is what the model takes, got {count}. Shorten it."
        )


def _words(texts: Sequence[str], ids: list[int], offsets: Any, found: Any, tokenizer: Any) -> tuple[str, ...]:
    """Each token as it stands in its text, without the white space around it."""
    tokens: list[str] = tokenizer.convert_ids_to_tokens(ids)
    if offsets is None:
        return tuple(tokens)
    words = []
    for token, (start, end), text in zip(tokens, offsets[0].tolist(), found.sequence_ids(0), strict=True):
        part = "" if text is None else str(texts[text])[start:end].strip()
        words.append(part or token)
    return tuple(words)
