"""Derivatives of operations such as fused attention that torch does not know or has wrong, by what they stand for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..attention import multi_head_attention_forward, scaled_dot_product_attention
from ..calls.call import Call
from ..calls.dense_mask import with_dense_mask
from ..calls.operations import canonical
from ..rulebook.rulebook import Rulebook
from .distances import cdist, pdist
from .norms import batch_norm, instance_norm, layer_norm

_WRITTEN: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: partial(multi_head_attention_forward, attend=scaled_dot_product_attention),
    torch.cdist: cdist,
    F.pdist: pdist,
    F.layer_norm: layer_norm,
    F.batch_norm: batch_norm,
    F.instance_norm: instance_norm,
}


def _written_as(function: Callable[..., Any]) -> Callable[[Call, Any], tuple[Tensor, ...]]:
    def rule(call: Call, cotangent: Any) -> tuple[Tensor, ...]:
        return call.vjp(cotangent, of=lambda *args, **kwargs: function(**call.by_name(args, kwargs)))

    return rule


TWICE = Rulebook({f: _written_as(written) for f, written in _WRITTEN.items()}, name="gradient")
"""The rulebook of the plain gradient, for passes whose pullbacks are differentiated again."""


class WrittenOut(TorchFunctionMode):
    """Runs the same operations as what they are written out, for derivatives in forward mode."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            args, kwargs = with_dense_mask(canonical("scaled_dot_product_attention"), args, kwargs)
        return _WRITTEN.get(func, func)(*args, **kwargs)
