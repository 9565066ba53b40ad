"""A value of one's own in the description of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Own:
    """A value of one's own, which stands in a run's description by a name and a version.

    What a run computes has to be told from its description. A function of one's own has none that can be trusted: its
    code may call anything. So its author says when it is another one. It may stand for the method, the model, the
    target, for an option, or for a value in one.

    Args:
        value: A function, a rulebook with rules of one's own, a model that is a function, or any other value.
        name: For people.
        version: Another one whenever the value computes something else.

    Raises:
        TypeError: If the name or the version is no text, or empty.

    Example:
        >>> import torch
        >>> from funcattr import scale
        >>> def plain(model, x, target):
        ...     return torch.ones_like(x)
        >>> scale.Own(plain, name="ones", version="1")
        Own('ones', version '1')
    """

    value: Any
    name: str
    version: str

    def __post_init__(self) -> None:
        for word in ("name", "version"):
            said = getattr(self, word)
            if not isinstance(said, str) or not said:
                raise TypeError(f"Own({word}=...): expected a text, got {said!r}.")

    def __repr__(self) -> str:
        return f"Own({self.name!r}, version {self.version!r})"


def released(value: Any) -> Any:
    """The value with what stands in each `Own` in its place."""
    if isinstance(value, Own):
        return value.value
    if isinstance(value, Mapping):
        return {name: released(part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(released(part) for part in value)
    return value
