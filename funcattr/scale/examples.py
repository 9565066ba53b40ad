"""The examples of a data set: read one by one, each with its id, and one that cannot be read is known by its error."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .description import described
from .seeds import seed_at, sow

CPU = torch.device("cpu")


class Example(NamedTuple):
    """What a method is asked about.

    Attributes:
        x: One input, or a mapping of inputs by keyword, without a dimension of examples.
        target: The example's own, or None.
    """

    x: Tensor | dict[str, Tensor]
    target: int | tuple[int, ...] | None

    @property
    def form(self) -> Any:
        """What examples of one batch have in common."""
        kind = len(self.target) if isinstance(self.target, tuple) else type(self.target)
        if isinstance(self.x, Tensor):
            return kind, self.x.shape, self.x.dtype
        return kind, *((name, part.shape, part.dtype) for name, part in self.x.items())


class Failure(NamedTuple):
    """An example that cannot be read or explained."""

    error: Exception

    @property
    def text(self) -> str:
        """As it stands in the file."""
        return f"{type(self.error).__name__}: {self.error}"[:2000]


class Examples:
    """A data set as a run reads it.

    Args:
        data: With a length and an item for each position: x or (x, target), where x is a tensor, an array or a mapping
            of them.
        ids: One for each position, all ints or all texts; by default those of the data (`data.ids`), or the positions.
        seed: Of the run: what an item draws is a function of it and of the position.

    Raises:
        TypeError: If the data has no length or no items, or an id is of another kind.
        ValueError: If there are no examples, or ids are not as many or not distinct.
    """

    def __init__(self, data: Any, ids: Sequence[int] | Sequence[str] | None, seed: int) -> None:
        if isinstance(data, str | bytes) or hasattr(data, "joinpath"):
            raise TypeError(
                f"run(data={str(data)!r}): expected a data set, got a path. Say how the model takes images: "
                "scale.ImageFolder(folder, transform)."
            )
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or isinstance(data, Mapping):
            raise TypeError(
                f"run(data=...): expected a data set with a length and items by position, got {type(data).__name__}. "
                "Of a DataLoader give the data set; an iterator has to be put into files or a list first."
            )
        if not len(data):
            raise ValueError("run(data=...): expected at least one example, got none.")
        self.data, self.seed = data, seed
        self.ids = _checked_ids(data, ids)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, position: int) -> Example | Failure:
        """The example at a position, whatever the state of the random generators."""
        sow(seed_at(self.seed, "read", position), CPU)
        try:
            return _example(self.data[position])
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a user's data raises is of this example
            return Failure(error)

    def described(self) -> dict[str, Any]:
        """How many there are, their ids, and the first, middle and last of them: others are not looked at."""
        digest = hashlib.sha256(repr(type(self.ids[0])).encode())
        if isinstance(self.ids, range):
            digest.update(repr(self.ids).encode())
        else:
            for each in self.ids:
                digest.update(f"{each}\0".encode())
        count = len(self)
        some = [self.read(position) for position in sorted({0, count // 2, count - 1})]
        looks = [s.text if isinstance(s, Failure) else described((s.x, s.target), "run(data=...)") for s in some]
        return {"count": count, "ids": digest.hexdigest(), "examples": looks}


def _checked_ids(data: Any, ids: Any) -> Sequence[int] | Sequence[str]:
    if ids is None:
        ids = getattr(data, "ids", None)
    if ids is None:
        return range(len(data))
    if len(ids) != len(data):
        raise ValueError(f"run(ids=...): expected one for each of {len(data)} examples, got {len(ids)}.")
    if isinstance(ids, range):
        return ids
    ids = [each.item() if isinstance(each, np.generic | Tensor) else each for each in ids]
    kind = type(ids[0])
    if kind not in (int, str) or any(type(each) is not kind for each in ids):
        got = sorted({type(each).__name__ for each in ids})
        raise TypeError(f"run(ids=...): expected ints or texts, all of one kind, got {', '.join(got)}.")
    places: dict[Any, int] = {}
    for place, each in enumerate(ids):
        if places.setdefault(each, place) != place:
            raise ValueError(f"run(ids=...): expected distinct ids, got {each!r} at {places[each]} and at {place}.")
    return ids


def _example(item: Any) -> Example:
    if isinstance(item, Tensor):
        return Example(item, None)
    x, target = item, None
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        x, target = item if len(item) == 2 else (item[0], None)
    if isinstance(x, Tensor):
        return Example(x, _target(target))
    if isinstance(x, Mapping):
        return Example({str(name): _tensor(part) for name, part in x.items()}, _target(target))
    return Example(_tensor(x), _target(target))


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    raise TypeError(
        f"expected x or (x, target) with a tensor, an array or a mapping of them for x, got {type(value).__name__}"
    )


def _target(value: Any) -> int | tuple[int, ...] | None:
    if value is None or type(value) is int:
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _target(value.tolist())
    if isinstance(value, list | tuple) and all(type(part) is int for part in value):
        return tuple(value)
    raise TypeError(f"expected a class or an index of ints for the target, got {value!r}")


def in_batch(examples: Sequence[Example], device: torch.device) -> Any:
    """The inputs of examples of one form. each [N, ...]"""
    parts: Any = [example.x for example in examples]
    if isinstance(parts[0], Tensor):
        return torch.stack(parts).detach().to(device)
    return {name: torch.stack([part[name] for part in parts]).detach().to(device) for name in parts[0]}
