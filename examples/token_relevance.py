"""Which word decided? Coloured tokens by AttnLRP: `python examples/token_relevance.py`.

A sentence is twelve random words, four of them animals; its class is the animal that comes first. A small Llama of
Hugging Face's learns that from random sentences, in some five seconds on one CPU core; nothing is downloaded. Then the
answer to "which word decided?" is known for every sentence, and the script counts how often it gets the highest
relevance. Needs transformers.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

import funcattr

try:
    from transformers import LlamaConfig, LlamaForSequenceClassification
except ImportError:
    raise SystemExit("This example needs Hugging Face's models: pip install transformers") from None

ANIMALS = ("cat", "dog", "owl", "fox")
WORDS = (*ANIMALS, "a", "the", "saw", "by", "ran", "near", "old", "big", "red", "and")
LENGTH = 12
LAYER = "model.embed_tokens"
"""The root: token indices have no relevance, their embeddings have."""
METHODS: dict[str, Callable[..., Tensor]] = {
    "attnlrp": funcattr.attnlrp,
    "cp_lrp": funcattr.cp_lrp,
    "lrp, epsilon": partial(funcattr.lrp, rules="epsilon"),
    "input_x_gradient": funcattr.input_x_gradient,
}


class Sentences(NamedTuple):
    """Sentences with a known answer."""

    tokens: Tensor
    """Indices of `WORDS`. [N, 12]"""
    labels: Tensor
    """Index of the animal that comes first. [N]"""
    decisive: Tensor
    """Its position. [N]"""


def draw(count: int, generator: torch.Generator) -> Sentences:
    """Random sentences: each animal once, in any order and at any place."""
    tokens = torch.randint(len(ANIMALS), len(WORDS), (count, LENGTH), generator=generator)
    places = torch.rand(count, LENGTH, generator=generator).argsort(1)[:, : len(ANIMALS)].sort(1).values
    animals = torch.rand(count, len(ANIMALS), generator=generator).argsort(1)
    tokens.scatter_(1, places, animals)
    return Sentences(tokens, animals[:, 0], places[:, 0])


def build() -> nn.Module:
    """A Llama of two layers, with random weights."""
    options: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(WORDS) + 1,
        "pad_token_id": len(WORDS),
        "num_labels": len(ANIMALS),
    }
    return LlamaForSequenceClassification(LlamaConfig(**options))


def train(model: nn.Module, generator: torch.Generator, *, steps: int, batch: int = 128) -> None:
    """AdamW with a one-cycle learning rate on the cross-entropy, new sentences at each step."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="training", leave=False):
        tokens, labels, _ = draw(batch, generator)
        loss = F.cross_entropy(model(tokens).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def coloured(tokens: Sequence[int], relevance: Sequence[float]) -> str:
    """The words on a background: orange speaks for the class, blue against it; white is none."""
    largest = max(map(abs, relevance)) or 1.0
    words = []
    for token, value in zip(tokens, relevance, strict=True):
        fade = 1 - abs(value) / largest
        full = (255, 140, 0) if value > 0 else (60, 120, 255)
        r, g, b = (round(c + (255 - c) * fade) for c in full)
        words.append(f"\x1b[48;2;{r};{g};{b}m\x1b[30m {WORDS[token]:<4}\x1b[0m")
    return "".join(words)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, explain, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args(argv).seed
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums in the same order on every machine

    model = build()
    train(model, torch.Generator().manual_seed(seed), steps=200)
    model.eval()
    tokens, labels, decisive = draw(500, torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        answers: Any = model(tokens).logits.argmax(1)
    print(f"right answers: {(answers == labels).float().mean():.1%} of {len(tokens)} new sentences")

    # One number per token: the sum over the width of its embedding. [N, 12, 32] -> [N, 12]
    relevance = {name: f(model, tokens, labels, layer=LAYER).sum(-1) for name, f in METHODS.items()}
    for row in range(5):
        print(coloured(tokens[row].tolist(), relevance["attnlrp"][row].tolist()), "->", ANIMALS[labels[row]])
    print("how often the word that decides has the highest relevance:")
    for name, values in relevance.items():
        print(f"  {name:<16} {(values.argmax(1) == decisive).float().mean():.1%}")


if __name__ == "__main__":
    main()
