"""The result of edges: scores, what they leave unexplained, and the model with some edges only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...batch import repeated
from ...model.editing import CallEdit
from ...model.functional import FunctionalModel
from .passes import Asked
from .stream import with_tensor


@dataclass(frozen=True, eq=False, repr=False)
class Edges:
    """Edges between sites, the result of `funcattr.edges`.

    Attributes:
        sources, sinks: Names of the sites.
        scores: Of each source to each sink, in units of the target. [S, K, N, *positions]
        unexplained: What the listed sources leave of each sink's. [K, N]
        coefficients: Of each source in the sum that a sink's value is; 0 where it is no term of it. [S, K]
    """

    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    scores: Tensor
    unexplained: Tensor
    coefficients: Tensor
    _asked: Asked
    _against: list[Tensor]

    def __repr__(self) -> str:
        count = int(self.coefficients.count_nonzero())
        return f"Edges({len(self.sources)} sources, {len(self.sinks)} sinks, {count} edges on streams)"

    def totals(self) -> Tensor:
        """The mean over examples of the scores' sums over positions. [S, K]"""
        return self.scores.unsqueeze(-1).flatten(3).sum(3).mean(2)

    def strongest(self, count: int) -> list[tuple[str, str]]:
        """The `count` edges on streams whose `totals` are largest in magnitude, as (source, sink), strongest first.

        Raises:
            ValueError: If there are fewer.
        """
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"Edges.strongest(count=...): expected an int, got {type(count).__name__}.")
        every = self._all()
        if not 0 <= count <= len(every):
            raise ValueError(
                f"Edges.strongest(count={count}): expected a number from 0 to {len(every)}, the edges on streams."
            )
        strengths: Any = self.totals().abs().tolist()
        ranked = sorted(every, key=lambda pair: -strengths[pair[0]][pair[1]])
        return [(self.sources[i], self.sinks[j]) for i, j in ranked[:count]]

    def prune(self, chosen: "int | Sequence[tuple[str, str]]", *, keep: bool = True) -> FunctionalModel:
        """The model in which only some edges carry values of x; by the others sinks see those of x'.

        s_v + sum_u c_uv (a_u(x') - a_u),  over the edges u -> v that are cut;  a_u as it is in this run

        Terms of a sink that are no listed source stay.

        Args:
            chosen: How many edges, the strongest; or some, as `strongest` gives them.
            keep: Whether these stay and all others are cut; False: these are cut.

        Returns:
            A model for the examples that the edges were found for, or copies of them (as methods run them).

        Raises:
            ValueError: If there are fewer edges, or a pair is none on a stream; or if there is a direct effect, which
                no edit of a sink can cut.

        Example:
            >>> import torch, funcattr
            >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
            >>> x = torch.randn(5, 3)
            >>> found = funcattr.edges(model, x, 1, sources="0", sinks="1@input", against=0 * x)
            >>> torch.allclose(found.prune(0)(x), model(0 * x)), torch.allclose(found.prune(1)(x), model(x))
            (True, True)
        """
        self._require_streams()
        pairs = self.strongest(chosen) if isinstance(chosen, int) else list(chosen)
        edges = {(self.sources[i], self.sinks[j]): (i, j) for i, j in self._all()}
        for pair in pairs:
            if pair not in edges:
                raise ValueError(f"Edges.prune: {pair!r} is no edge on a stream. List them with Edges.strongest.")
        cut = [place for pair, place in edges.items() if (pair in pairs) is not keep]
        coefficients: Any = self.coefficients.tolist()
        noted = {self.sources[i] for i, _ in cut}
        edits: dict[str, Any] = {}
        for site in noted | {self.sinks[j] for _, j in cut}:
            terms = [
                _Term(self.sources[i], coefficients[i][j], self._against[i]) for i, j in cut if self.sinks[j] == site
            ]
            edits[site] = CallEdit(_Cut(site, tuple(terms), site in noted))
        return self._asked.question.model.edited(edits)

    def faithfulness(self, chosen: "Sequence[int | Sequence[tuple[str, str]]]", *, keep: bool = True) -> Tensor:
        """The share of the target's rise from x' to x that is there with some edges only.

        (y(pruned) - y(x')) / (y(x) - y(x')),  one forward pass for each choice

        Args:
            chosen: The choices of edges, each as in `prune`.
            keep: As in `prune`.

        Returns:
            Shares, 1 at x and 0 at x'. [len(chosen), N]

        Raises:
            ValueError: As in `prune`.
        """
        question = self._asked.question
        with torch.no_grad():
            full, none = question.scores(), self._asked.at(1).scores()
            models = [self.prune(each, keep=keep) for each in chosen]
            scores = [question._replace(model=model).scores() for model in models]
            return torch.stack([(score - none) / (full - none) for score in scores])

    def _all(self) -> list[tuple[int, int]]:
        """The rows and columns of the edges on streams."""
        rows, columns = self.coefficients.nonzero(as_tuple=True)
        return list(zip(rows.tolist(), columns.tolist(), strict=True))

    def _require_streams(self) -> None:
        # Not the totals, in which positions may cancel.
        direct = (self.coefficients == 0) & (self.scores.flatten(2) != 0).any(2)
        for i, j in direct.nonzero().tolist():
            raise ValueError(
                f"Edges.prune: {self.sources[i]!r} is no term of the sum at {self.sinks[j]!r}, but has a direct effect "
                "on it, which no edit of the sink can cut. List sinks on the stream, before the norm say."
            )


class _Term(NamedTuple):
    """A term of a sink that is to be that of the other inputs."""

    source: str
    coefficient: float
    against: Tensor


class _Cut:
    """The edit of a site: some of its terms are those of the other inputs, and its value is noted for later sinks."""

    def __init__(self, site: str, terms: tuple[_Term, ...], is_noted: bool) -> None:
        self.site, self.terms, self.is_noted = site, terms, is_noted

    def __call__(self, value: Any, notes: dict[str, Tensor]) -> Any:
        def change(tensor: Tensor) -> Tensor:
            changed = tensor
            for source, coefficient, against in self.terms:
                now = tensor if source == self.site else notes[source]
                copies = repeated(against, len(against), max(1, len(now) // len(against)))
                changed = changed + coefficient * (copies - now)
            if self.is_noted:
                notes[self.site] = changed.clone()  # as it is now, whatever the model writes there
            return changed

        return with_tensor(value, change, "Edges.prune", self.site)
