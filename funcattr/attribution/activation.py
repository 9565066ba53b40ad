"""What makes scores of a model's outputs, before the target is read from them."""

from typing import Literal

import torch
from torch import Tensor

Activation = Literal["sigmoid", "softmax"]


def activated(call: str, output: Tensor, activation: Activation | None) -> Tensor:
    """The output itself, its sigmoid, or its softmax over the classes, which are in dimension 1. [N, ...]

    Sigmoid and softmax are in single precision or better: bfloat16 has no number between 0.996 and 1, so that the
    losses of a model that is sure would be 0.

    Raises:
        ValueError: If there are not two classes to take the softmax over, or the word is another one.
    """
    if activation is None:
        return output
    precise = output.to(torch.promote_types(output.dtype, torch.float32))
    if activation == "sigmoid":
        return precise.sigmoid()
    if activation != "softmax":
        raise ValueError(f"{call}(activation={activation!r}): expected 'sigmoid', 'softmax' or None.")
    if output.ndim < 2:
        raise ValueError(f"{call}(activation='softmax'): expected an output [N, K], got shape {list(output.shape)}.")
    if output.shape[1] == 1:
        raise ValueError(
            f"{call}(activation='softmax'): expected two classes or more, got shape {list(output.shape)}: that "
            "of one class is always 1. Say activation='sigmoid', or None for the output itself."
        )
    return precise.softmax(1)
