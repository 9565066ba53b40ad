"""Maps at the size of the image that they are drawn on."""

from collections.abc import Sequence

import numpy as np
import torch

from ..maps import resize
from .arrays import Numbers, finite


def one_map(call: str, name: str, values: Numbers, rank: int) -> np.ndarray:
    """A map without its channel, in double precision. [1, *spatial] or [*spatial] -> [*spatial]"""
    array = finite(call, name, values)
    if array.ndim == rank + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == rank and array.size:
        return array
    space = {1: "T", 2: "H, W", 3: "D, H, W"}[rank]
    if array.ndim == rank + 2:
        fix = f"Give the map of one example: {name}[0]."
    elif array.ndim == rank + 1:
        fix = "Reduce the channels first: funcattr.maps.sum(attributions), or max_abs, and of that one example."
    else:
        fix = "A map of tokens becomes one of places by funcattr.maps.from_tokens."
    raise ValueError(f"{call}({name}=...): expected one map, [1, {space}] or [{space}], got {list(array.shape)}. {fix}")


def fitted(call: str, name: str, values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A map enlarged to a size, if it has the proportions of it. [*spatial] -> [*size]

    Proportions fit where one stride explains all dimensions, each of them rounded up or down: 8 x 11 of 250 x 333.

    Raises:
        ValueError: If they do not, or the map is larger.
    """
    if values.shape == tuple(size):
        return values
    strides = [
        (whole / (part + 1), whole / max(part - 1, 1e-9)) for part, whole in zip(values.shape, size, strict=True)
    ]
    proportionate = max(low for low, _ in strides) < min(high for _, high in strides)
    larger = any(part > whole for part, whole in zip(values.shape, size, strict=True))
    if larger or not proportionate:
        was = "larger" if larger else "not proportionate"
        raise ValueError(
            f"{call}({name}=...): expected a map of the image's size {list(size)}, or a smaller one of its "
            f"proportions, got {list(values.shape)}, which is {was}. Draw it on the image that the model saw, or say "
            f"what is meant: funcattr.maps.resize({name}, {tuple(size)})."
        )
    return resize(torch.from_numpy(values)[None, None], tuple(size))[0, 0].numpy()
