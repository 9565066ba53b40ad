"""How alike two images look: structural similarity."""

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 11
"""Height and width of the window that is slid over the images."""


def structural_similarity(a: Tensor, b: Tensor, width: float) -> Tensor:
    """Structural similarity of two batches of images, with the Gaussian window of the paper. Two of [N, C, H, W] -> [N]

    mean of (2 m_a m_b + c1) (2 v_ab + c2) / ((m_a^2 + m_b^2 + c1) (v_a + v_b + c2)),  c = (0.01 L)^2, (0.03 L)^2

    with the means m and the covariances v in a window of 11 x 11 pixels (sigma 1.5). The mean is over channels and over
    the windows that lie inside the image.

    Args:
        a, b: At least 11 x 11 pixels.
        width: L, the largest value less the smallest one that images can have.

    References:
        Wang et al., 2004, Image quality assessment: from error visibility to structural similarity.
    """
    places = torch.arange(SIDE, device=a.device, dtype=a.dtype) - SIDE // 2
    weights = torch.softmax(-(places**2) / (2 * 1.5**2), 0)

    def mean(values: Tensor) -> Tensor:
        """In each window. [N, C, H, W] -> [N, C, H - 10, W - 10]"""
        rows = F.conv2d(values.flatten(0, 1).unsqueeze(1), weights.reshape(1, 1, -1, 1))
        return F.conv2d(rows, weights.reshape(1, 1, 1, -1)).unflatten(0, values.shape[:2]).squeeze(2)

    mean_a, mean_b = mean(a), mean(b)
    spread = mean(a**2) + mean(b**2) - mean_a**2 - mean_b**2
    shared = mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    alike = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (spread + c2))
    return alike.mean((1, 2, 3))
