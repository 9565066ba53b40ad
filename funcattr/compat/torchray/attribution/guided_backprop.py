"""Guided backpropagation, as `torchray.attribution.guided_backprop`."""

from typing import Any

import torch
from torch import Tensor

from .... import Rulebook, rules
from .contexts import RuledContext
from .driver import saliency


def guided_at_zero(call: rules.Call, p: Tensor) -> Tensor:
    """TorchRay's rule: p 1[x >= 0] 1[p > 0]; at x == 0, where the paper blocks p, it lets p pass."""
    return torch.where(call.operands[0] == 0, p.clamp(min=0), rules.guided(call, p))


class GuidedBackpropContext(RuledContext):
    """Guided backpropagation for one's own forward and backward pass.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> with GuidedBackpropContext():
        ...     torch.relu(x).backward(torch.tensor([3.0, 4.0]))
        >>> x.grad
        tensor([0., 4.])
    """

    rulebook = Rulebook({"relu": guided_at_zero}, name="TorchRay's guided backprop", expects=("relu",))


class GuidedBackpropReLU:
    """The relu of guided backpropagation."""

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        """max(x, 0)"""
        with GuidedBackpropContext():
            return torch.relu(x)


def guided_backprop(*args: Any, context_builder: Any = GuidedBackpropContext, **kwargs: Any) -> Any:
    """Guided backpropagation, by the arguments of `common.saliency`."""
    return saliency(*args, context_builder=context_builder, **kwargs)
