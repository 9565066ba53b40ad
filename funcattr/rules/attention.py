"""Attention as rulebooks take it apart, or as the one call that it is where their rules only scale its adjoint."""

from typing import Any

from torch import Tensor

from .. import attention
from ..attention import glu as glu
from ..attention import multi_head_attention_forward as multi_head_attention_forward
from ..calls.declarations import runs_in_one
from .whole_attention import in_one_call


@runs_in_one(in_one_call)
def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Tensor:
    """As that of `funcattr.attention`, with the same arguments."""
    return attention.scaled_dot_product_attention(*args, **kwargs)
