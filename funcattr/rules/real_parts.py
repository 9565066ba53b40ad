"""Linear maps of complex numbers as what they are to a rule: linear maps of twice as many real numbers.

(A + iB)(u + iv) = (A u - B v) + i (B u + A v)
"""

import copy
from typing import Any

import torch
from torch import Tensor

from ..calls.call import Call
from ..calls.linear_map import LinearMap
from ..calls.operations import CONVOLUTIONS
from ..errors import UnsupportedOperationError


class RealParts:
    """The map of real and imaginary parts, one behind the other among the channels (or features).

    Attributes:
        layer: The map.

    Raises:
        UnsupportedOperationError: If the call is no linear layer and no convolution of one group.
    """

    def __init__(self, call: Call, layer: LinearMap) -> None:
        groups = call.named().get("groups", 1)
        if not (layer.op == "linear" and call.tracks("input")) and (layer.op not in CONVOLUTIONS or groups != 1):
            raise UnsupportedOperationError(
                f"a rule for linear maps at {call.op!r} in {call.path!r}: of complex numbers, only linear layers and "
                "convolutions of one group have one. Write it with real and imaginary parts, or give it GRADIENT."
            )
        transposed = layer.op in CONVOLUTIONS and CONVOLUTIONS[layer.op][1]
        dim = layer.channel_dim
        assert dim is not None, "linear layers and convolutions have one"
        self._dim = dim
        self.layer = copy.copy(layer)
        self.layer.x, self.layer.is_nonnegative = self.of(layer.x), False
        w = layer.weight.resolve_conj()
        # The dimension of the outputs is the first, but for transposed convolutions.
        back = w.imag if transposed else -w.imag
        self.layer.weight = torch.cat([torch.cat([w.real, back], 1), torch.cat([-back, w.real], 1)], 0)
        if layer.bias is not None:
            self.layer.bias = torch.cat([layer.bias.real, layer.bias.imag])
        self.layer.take_output(lambda: self.of(call.output))

    def of(self, value: Tensor) -> Tensor:
        """The real and imaginary parts of the map's input or output."""
        value = value.resolve_conj()
        parts = [value.real, value.imag] if value.is_complex() else [value, torch.zeros_like(value)]
        return torch.cat(parts, self._dim)

    def together(self, parts: Tensor) -> Any:
        """The inverse of `of`."""
        return torch.complex(*parts.chunk(2, self._dim))
