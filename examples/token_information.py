"""How many bits of each word does the answer need? `python examples/token_information.py`.

The task of `token_relevance.py` (a sentence's class is the animal that comes first), learnt by a small BERT of Hugging
Face's in some ten seconds on one CPU core. An information bottleneck after the first encoder layer then closes every
token as far as the answer allows: beta is small, and nothing is smoothed, because neighbouring tokens have nothing in
common. The result is bits per token: many for the animal that decides, fewer for those that it is compared with, and
hardly any for other words. Needs transformers.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from token_relevance import ANIMALS, LENGTH, WORDS, coloured, draw, train
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import funcattr

LAYERS = {"before": "bert.embeddings", "behind": "bert.encoder.layer.0.output"}
"""Before and behind the first encoder layer: [N, 12, 32] both."""


def build() -> nn.Module:
    """A BERT of two layers, with random weights."""
    options: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": len(WORDS) + 1,
        "max_position_embeddings": LENGTH,
        "pad_token_id": len(WORDS),
        "num_labels": len(ANIMALS),
        "hidden_dropout_prob": 0.0,
    }
    return BertForSequenceClassification(BertConfig(**options))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, look at the features, explain, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beta", type=float, default=0.1, help="weight of the information")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # sums in the same order on every machine

    model = build()
    train(model, torch.Generator().manual_seed(options.seed), steps=300)
    model.eval()
    tokens, labels, decisive = draw(200, torch.Generator().manual_seed(options.seed + 1))
    with torch.no_grad():
        answers: Any = model(tokens).logits.argmax(1)
    print(f"right answers: {(answers == labels).float().mean():.1%} of {len(tokens)} new sentences")

    others = draw(2000, torch.Generator().manual_seed(options.seed + 2)).tokens
    for where, layer in LAYERS.items():
        statistics = funcattr.bottleneck.feature_statistics(model, others.split(100), layer=layer)
        bits = funcattr.iba(model, tokens, labels, statistics=statistics, beta=options.beta, sigma=None, steps=30)
        print(f"\n{where}, {bits.sum(1).mean():.0f} bits a sentence:")
        for row in range(3):
            print(coloured(tokens[row].tolist(), bits[row].tolist()), "->", ANIMALS[labels[row]])
        share, animals = bits / bits.sum(1, keepdim=True), tokens < len(ANIMALS)
        decides = torch.arange(LENGTH) == decisive[:, None]
        first = animals.gather(1, bits.argmax(1, keepdim=True))
        print(f"  {where}, most bits are an animal's: {first.float().mean():.1%}")
        print(f"  {where}, share of the deciding word: {share[decides].mean():.1%}")
        print(f"  {where}, share of another animal: {share[animals & ~decides].mean():.1%}")
        print(f"  {where}, share of another word: {share[~animals].mean():.1%}")


if __name__ == "__main__":
    main()
