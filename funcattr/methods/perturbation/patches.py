"""Square patches of images as features."""

import torch
from torch import Tensor

from ...sampling.loops import positive


def patches(x: Tensor, side: int) -> Tensor:
    """Number the square patches of images, for `feature_mask=`: the patch that each pixel is in.

    Args:
        x: Images. [N, C, H, W]
        side: Height and width of a patch in pixels. Where it does not divide the image, the last patches of a row or a
            column are smaller.

    Returns:
        Integers from 0, in reading order, on the images' device. [1, 1, H, W]

    Raises:
        ValueError: If x is not [N, C, H, W], or `side` is less than 1.
        TypeError: If `side` is no int.

    Example:
        >>> import torch, funcattr
        >>> funcattr.masks.patches(torch.zeros(1, 3, 4, 5), 2)[0, 0].tolist()
        [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5], [3, 3, 4, 4, 5]]
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"patches(x=...): expected images [N, C, H, W], got {got}.")
    positive("patches", "side", side)
    height, width = x.shape[2:]
    rows, columns = (torch.arange(length, device=x.device) // side for length in (height, width))
    return (rows[:, None] * -(-width // side) + columns)[None, None]
