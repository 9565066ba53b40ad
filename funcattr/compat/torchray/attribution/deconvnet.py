"""Deconvolution, as `torchray.attribution.deconvnet`."""

from typing import Any

import torch
from torch import Tensor

from .... import rules
from .contexts import RuledContext
from .driver import saliency


class DeConvNetContext(RuledContext):
    """Deconvolution for one's own forward and backward pass.

    Example:
        >>> import torch
        >>> x = torch.tensor([-1.0, 2.0], requires_grad=True)
        >>> with DeConvNetContext():
        ...     torch.relu(x).backward(torch.tensor([3.0, -4.0]))
        >>> x.grad
        tensor([3., 0.])
    """

    rulebook = rules.deconvnet_backprop()


class DeConvNetReLU:
    """The relu of deconvolution."""

    @staticmethod
    def apply(x: Tensor) -> Tensor:
        """max(x, 0)"""
        with DeConvNetContext():
            return torch.relu(x)


def deconvnet(*args: Any, context_builder: Any = DeConvNetContext, **kwargs: Any) -> Any:
    """Deconvolution, by the arguments of `common.saliency`."""
    return saliency(*args, context_builder=context_builder, **kwargs)
