"""A model, with what is known of how it takes inputs and of its classes."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .classes import Classes
from .images import Transform


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode."""

    module: nn.Module
    says: str
    """Which it is, for people."""
    transform: Transform | None = None
    """Its own, of photographs."""
    tokenizer: Any = None
    """Its own, of texts."""
    classes: Classes | None = None
    """Its own names of its outputs."""
