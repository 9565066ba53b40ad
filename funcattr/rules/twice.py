"""The ordinary adjoint of operations whose own adjoint torch cannot differentiate, by what they are written out."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..calls.call import Call
from ..rulebook.rulebook import Rulebook
from .attention import multi_head_attention_forward, scaled_dot_product_attention
from .distances import cdist, pdist


def _written_as(function: Callable[..., Any]) -> Callable[[Call, Any], tuple[Tensor, ...]]:
    def rule(call: Call, cotangent: Any) -> tuple[Tensor, ...]:
        return call.vjp(cotangent, of=function)

    return rule


TWICE = Rulebook(
    {f.__name__: _written_as(f) for f in (scaled_dot_product_attention, multi_head_attention_forward, cdist, pdist)},
    name="gradient",
)
"""The rulebook of the plain gradient, for passes whose pullbacks are differentiated again."""
