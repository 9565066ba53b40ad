"""Boxes as pixels."""

import torch
from torch import Tensor


def inside(boxes: Tensor, x: Tensor) -> Tensor:
    """The pixels of boxes (top, left, bottom, right), ends exclusive. [N, 4] -> bool [N, 1, H, W]"""
    rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
    top, left, bottom, right = boxes[:, :, None, None].unbind(1)
    return ((top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)).unsqueeze(1)
