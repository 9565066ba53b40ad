"""Attention weights as sites: where somebody asks for them, attention is computed in simple operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .. import attention
from .sites import WEIGHTS, SiteMode, site, site_modes

_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: attention.scaled_dot_product_attention,
    F.multi_head_attention_forward: attention.multi_head_attention_forward,
}
_SOFTMAX = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}


class AttentionWeights(TorchFunctionMode):
    """Shows the weights of attention in the modules whose weights are asked for.

    They are what a softmax gives there, of a model that calls one, or what the fused kernel has inside.
    """

    def __init__(self, modes: list[SiteMode]) -> None:
        super().__init__()
        self._modes = modes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        written_out = _WRITTEN_OUT.get(func)
        if written_out is None and func not in _SOFTMAX:
            return func(*args, **kwargs)
        name = self._modes[0].path + WEIGHTS
        if not any(mode.wants(name) for mode in self._modes):
            return func(*args, **kwargs)
        if written_out is None:
            return site(func(*args, **kwargs), name)
        return written_out(*args, **kwargs, shown=lambda weights: site(weights, name))


@contextmanager
def shown_weights() -> Iterator[None]:
    """Attention weights are sites within, if any of the active modes asks for some."""
    modes = site_modes()
    if not any(mode.asks_weights for mode in modes):
        yield
        return
    if torch.compiler.is_dynamo_compiling():
        raise NotImplementedError(
            "attention weights cannot be read or edited inside torch.compile, which chooses the kernel itself. Do it "
            "outside; methods of gradients (layer=...) can be compiled."
        )
    with AttentionWeights(modes):
        yield
