"""What `funcattr.language.explain` returns: tokens, numbers, and what the model would have said."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..show.tokens import ColoredTokens
from ..show.tokens import tokens as colored
from .texts import Tokens, units_of


class Explanation(NamedTuple):
    """What each part of a text counts for each part of what the model says.

    Attributes:
        columns: The parts of the prompt, and of what was said before the last token: what gets a number.
        rows: The explained parts of the continuation; for a classifier, the classes.
        attributions: The numbers, in units of the scores. What comes after a row's token counts 0. [rows, columns]
        scores: The number that each row explains: its tokens' logits or log-probabilities, less those of the contrast.
        log_probs: The logarithm of the probability that the model gives each row. [rows]
        said: What the model would have said in place of each row's first token: its most probable token, or class.
        said_log_probs: The logarithm of the probability of that. [rows]
        split: How many of the columns are of the prompt.
        source: The tokens that the columns are.
    """

    columns: list[str]
    rows: list[str]
    attributions: Tensor
    scores: Tensor
    log_probs: Tensor
    said: list[str]
    said_log_probs: Tensor
    split: int
    source: tuple[Tokens, ...]

    def words(self) -> "Explanation":
        """The same, with the sum over each word's tokens.

        Raises:
            ValueError: If the columns are no tokens (any more), or the tokenizer does not tell where its tokens are.
        """
        if sum(len(tokens.ids) for tokens in self.source) != len(self.columns):
            raise ValueError("Explanation.words(): expected a number for each token. Ask for words: per='word'.")
        texts, groups, split = grouped("Explanation.words", self.source, "word")
        return self._replace(columns=texts, attributions=summed(self.attributions, groups), split=split, source=())

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each row the k columns of the largest magnitude, with their numbers.

        Raises:
            ValueError: If k is below 1.
        """
        if k < 1:
            raise ValueError(f"Explanation.top(k={k}): expected at least 1.")
        order = self.attributions.abs().argsort(dim=1, descending=True, stable=True)[:, :k]
        values = self.attributions.tolist()
        return [[(self.columns[j], values[i][j]) for j in row] for i, row in enumerate(order.tolist())]

    def show(self, *, quantile: float = 1.0) -> ColoredTokens:
        """Coloured words, a line for each row: HTML for notebooks and pages, ANSI for terminals.

        A row's title is its text, and in brackets what the model would have said, where that is another token.

        Args:
            quantile: As in `show.tokens`.
        """
        titles = [row if row.strip() == said.strip() else f"{row} ({said})" for row, said in zip(self.rows, self.said)]
        return colored(self.columns, self.attributions.detach(), titles=titles, quantile=quantile)

    def _repr_html_(self) -> str:
        return self.show().html


def grouped(call: str, source: tuple[Tokens, ...], per: str) -> tuple[list[str], list[list[int]], int]:
    """The units of several texts beside each other: their texts, their tokens, and how many are of the first text."""
    texts, groups, start, split = list[str](), list[list[int]](), 0, 0
    for number, tokens in enumerate(source):
        units = units_of(call, tokens, per)
        texts += units.texts
        groups += [[start + i for i in group] for group in units.members]
        start += len(tokens.ids)
        split = len(groups) if number == 0 else split
    return texts, groups, split


def summed(values: Tensor, groups: list[list[int]]) -> Tensor:
    """Sums over the columns of each group. [R, C] -> [R, groups]"""
    return torch.stack([values[:, group].sum(1) for group in groups], 1)
