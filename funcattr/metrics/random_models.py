"""Models with random numbers in place of what they have learned, and the maps that a method draws of them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..model.functional import FunctionalModel
from ..sampling.draws import normal
from ..sampling.loops import MOST_ELEMENTS, chunk_of, with_bar

Params = dict[str, Tensor]


class RandomParameters:
    """A model's floating-point parameters, and normal numbers of the mean and the spread of each.

    Args:
        call: First words of errors.
        fm: The model.
        seed: Of the numbers.

    Raises:
        ValueError: If it has none.
    """

    def __init__(self, call: str, fm: FunctionalModel, seed: int) -> None:
        self.own = {name: p.detach() for name, p in fm.params.items() if p.is_floating_point()}
        if not self.own:
            raise ValueError(f"{call}(model=...): expected a model with floating-point parameters.")
        self._seed = seed
        self._ends = {name: (p.mean(), p.std(correction=0)) for name, p in self.own.items()}

    def drawn(self, sample: int) -> Params:
        """New numbers for each parameter."""
        found: Params = {}
        for stream, (name, p) in enumerate(self.own.items()):
            mean, std = self._ends[name]
            index = torch.full((1,), sample, device=p.device)
            found[name] = mean + std * normal(index, p.shape, p, self._seed, stream)[0]
        return found

    @property
    def count(self) -> int:
        """How many numbers they hold."""
        return sum(p.numel() for p in self.own.values())


def maps_of(
    call: str,
    of: Callable[[FunctionalModel], Tensor],
    fm: FunctionalModel,
    parameters: RandomParameters,
    changes: Iterable[Params],
    count: int,
    x: Any,
    examples: int,
    chunk_size: int | None,
    progress: bool,
) -> Iterator[Tensor]:
    """The map of each changed model, several at once under `torch.vmap`.

    By default so many as make 16 examples or 4 million parameters; a method that cannot be mapped is then called for
    one model after the other.

    Args:
        call: First words of errors.
        of: The map of a model.
        fm, parameters: The model, and its own parameters.
        changes: The parameters that are not its own, of each changed model.
        count: How many models there are.
        x, examples: The inputs, and how many examples they hold.
        chunk_size: How many run at once; None for the default.
        progress: Whether to show a progress bar.
    """
    size = sum(leaf.numel() for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)) // examples
    chunk = chunk_of(call, chunk_size, count, size, examples)
    if chunk_size is None:
        chunk = max(1, min(chunk, MOST_ELEMENTS // parameters.count))
    rest = iter(with_bar(call, changes, progress, unit="model", total=count))
    while part := list(islice(rest, chunk)):
        names = dict.fromkeys(name for change in part for name in change)
        found = None
        if len(part) > 1:
            own = parameters.own
            stacked = {name: torch.stack([change.get(name, own[name]) for change in part]) for name in names}
            try:
                found = torch.vmap(lambda params: of(fm.bind(params)))(stacked)
            except Exception:
                # What is wrong with the method itself is raised again by the loop below.
                if chunk_size is not None:
                    raise
                chunk = 1
        yield from [of(fm.bind(change)) for change in part] if found is None else found
