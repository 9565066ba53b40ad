"""Tensors, arrays and lists as arrays of finite numbers, or an error that says where they are not."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..torch_state import can_look_at

Numbers = Tensor | np.ndarray | Sequence[Any]
"""Anything that holds numbers: a tensor on any device, an array, or a list."""


def as_array(call: str, name: str, values: Numbers) -> np.ndarray:
    """The values in their own dtype. A tensor's history and device are left behind; short floats become float32.

    Raises:
        RuntimeError: If the values cannot be looked at, as inside `vmap`.
        TypeError: If they are complex numbers, or no numbers.
    """
    if isinstance(values, Tensor):
        if not can_look_at(values):
            raise RuntimeError(
                f"{call}({name}=...): expected values that can be looked at; inside vmap, grad or compiled code there "
                "are none. Return the tensor, and draw it outside."
            )
        values = values.detach().cpu().resolve_conj().resolve_neg()
        if values.is_floating_point() and values.dtype != torch.float64:
            values = values.float()  # numpy knows neither bfloat16 nor those of 8 bits
        array = values.numpy()
    else:
        if isinstance(values, Sequence) and any(isinstance(part, Tensor) for part in values):
            values = [as_array(call, name, part) for part in values]
        try:
            array = np.asarray(values)
        except ValueError as error:  # rows of unlike lengths
            got = type(values).__name__
            raise TypeError(f"{call}({name}=...): expected numbers in rows of one length, got a {got}.") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{call}({name}=...): expected real numbers, got {array.dtype}.")
    return array


def finite(call: str, name: str, values: Numbers) -> np.ndarray:
    """The values in double precision.

    Raises:
        ValueError: If one is NaN or infinite; the message says where the first is.
        RuntimeError, TypeError: As in `as_array`.
    """
    array = as_array(call, name, values).astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0]
        raise ValueError(
            f"{call}({name}=...): expected finite numbers, got {array[tuple(first)]} at {first.tolist()}, and "
            f"{int(bad.sum())} such of {array.size}. Shape {list(array.shape)}."
        )
    return array
