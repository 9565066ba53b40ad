"""Sentences whose class is the animal that comes first, and a model with attention that is constructed by hand."""

import torch
from torch import Tensor, nn

from ...sampling import draws
from ...sampling.draws import Generator, seed_from
from ...sampling.loops import positive
from .located import Located

ANIMALS = ("cat", "dog", "owl", "fox")
WORDS = (*ANIMALS, "a", "the", "saw", "by", "ran", "near", "old", "big", "red", "and")
LENGTH = 12


class FirstAnimal(nn.Module):
    """Attends to the first animal of a sentence and says which one it is.

    Words and places are one-hot vectors. The attention's scores are high for animals and fall from place to place, so
    each animal gets less than a fiftieth of the attention of the one before it.
    """

    def __init__(self) -> None:
        super().__init__()
        width = len(WORDS) + LENGTH
        self.embedding = nn.Embedding(len(WORDS), width)
        self.score = nn.Linear(width, 1, bias=False)
        self.value = nn.Linear(width, len(ANIMALS), bias=False)

        one_hot, score = torch.eye(width), torch.zeros(1, width)
        score[0, : len(ANIMALS)] = 60.0
        score[0, len(WORDS) :] = -4.0 * torch.arange(LENGTH)
        self.embedding.weight = nn.Parameter(one_hot[: len(WORDS)].clone())
        self.places = nn.Parameter(one_hot[len(WORDS) :].clone())
        self.score.weight, self.value.weight = nn.Parameter(score), nn.Parameter(one_hot[: len(ANIMALS)].clone())

    def forward(self, tokens: Tensor) -> Tensor:
        """Indices of `WORDS`. [N, 12] -> [N, 4]"""
        words = self.embedding(tokens) + self.places
        attention = self.score(words).softmax(1)  # [N, 12, 1]
        return (attention.transpose(1, 2) @ self.value(words)).squeeze(1)


def deciding_word(*, samples: int = 100, generator: Generator = 0) -> Located:
    """Sentences of twelve words, four of them animals; the class is the first animal: which word decides?

    The third animal is the first one again. So it does not suffice to look for the word that the class is named
    after, and a map that ignores order finds two.

    Args:
        samples: Number of sentences N.
        generator: Seed, or generator, of the sentences; a sentence is the same whatever the number of others.

    Returns:
        A `FirstAnimal` and indices of `WORDS` [N, 12]. The region is a mask of words, a map of one row [N, 1, 12];
        `layer` is the site of the embeddings, where words have attributions.

    Raises:
        ValueError: If `samples` < 1.

    Example:
        >>> import funcattr
        >>> model, x, target, regions, layer, _ = deciding_word(samples=20)
        >>> found = funcattr.attnlrp(model, x, target, layer=layer).sum(-1)[:, None]  # [N, 1, 12]
        >>> funcattr.metrics.pointing_game(found, regions).all()
        tensor(True)
    """
    numbers, seed = torch.arange(positive("deciding_word", "samples", samples)), seed_from("deciding_word", generator)
    others = len(WORDS) - len(ANIMALS)
    tokens = draws.integers(numbers, others, (LENGTH,), seed=seed) + len(ANIMALS)
    animals = draws.permutations(numbers, len(ANIMALS), seed=seed, stream=1)
    animals[:, 2] = animals[:, 0]
    places = draws.permutations(numbers, LENGTH, seed=seed, stream=2)[:, : len(ANIMALS)].sort(1).values
    tokens = tokens.scatter(1, places, animals)

    target = animals[:, 0]
    regions = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, places[:, :1], True)[:, None]
    things = tuple(ANIMALS[number] for number in target.tolist())
    with torch.random.fork_rng(devices=[]):  # the layers begin with random weights
        model = FirstAnimal().eval()
    return Located(model, tokens, target, regions, "embedding", things)
