"""Tensors saved for a pullback, which nobody may write in place until then."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._torch import version
from ..errors import AliasedWriteError


def written(path: str) -> AliasedWriteError:
    """The error for a tensor that a call in the module `path` read, and that was written before its pullback."""
    return AliasedWriteError(
        f"in the module {path!r}, a tensor of the model or its input was written in place between the "
        "call that read it and the pullback of that call. Write out of place, or pull back before."
    )


class MadeAgain:
    """Makes a tensor that was gathered for a call once more, so that nobody has to save the whole of it.

    Args:
        make: Makes it.
        source: What it is made of, which may not be written until then.
        count: How often the source was written.
        path: The module that owns it.
    """

    __slots__ = ("_before", "_count", "_make", "_path", "_source")

    def __init__(self, make: Callable[[], Tensor], source: Tensor, count: Callable[[Tensor], int], path: str) -> None:
        self._make, self._source, self._count, self._path = make, source, count, path
        self._before = count(source)

    def __call__(self) -> Tensor:
        if self._count(self._source) != self._before:
            raise written(self._path)
        return self._make()

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor, which says of itself that it can be made again."""
        tensor.made_again = self  # pyright: ignore[reportAttributeAccessIssue]
        return tensor


def made_again(tensor: Tensor) -> MadeAgain | None:
    """What makes a tensor again, None where it has to be saved."""
    return getattr(tensor, "made_again", None)


class Saved:
    """A tensor that the pullback of a call in the module `path` will read."""

    __slots__ = ("_again", "_before", "_path", "_tensor")

    def __init__(self, tensor: Tensor, path: str) -> None:
        self._again = again = made_again(tensor)
        self._path, self._before = path, version(tensor)
        self._tensor = tensor if again is None else None

    def __call__(self) -> Tensor:
        if self._tensor is None:
            assert self._again is not None
            return self._again()
        if version(self._tensor) != self._before:
            raise written(self._path)
        return self._tensor


class Deferred:
    """A value of a call in the module `path`, computed when a rule asks for it; its `sources` may not change."""

    def __init__(self, make: Callable[[], Any], sources: Iterable[Any], path: str) -> None:
        self._make = make
        self._saved = [Saved(t, path) for t in sources if isinstance(t, Tensor)]

    @property
    def sources(self) -> list[Tensor]:
        return [saved() for saved in self._saved]

    def make(self) -> Any:
        sources = self.sources
        device = sources[0].device.type if sources else "cpu"
        if not torch.is_autocast_enabled(device):
            return self._make()
        with torch.autocast(device, enabled=False):  # off where the call was recorded, too
            return self._make()
