"""The gradients that a reverse pass starts with, and the maps that are made of those that it ends with."""

from typing import Any

import torch
from torch import Tensor

from .... import FuncattrError, maps
from ....maps import LEAST_SIGMA


def get_backward_gradient(pred_y: Tensor, y: Any) -> Tensor:
    """A cotangent of the output: y itself if it has the output's shape, else one-hot in the channels.

    Args:
        pred_y: Output of the model. [N, K, ...]
        y: A class, one for each example, or a tensor of the output's shape.

    Returns:
        Of the output's shape; a class is 1 at every position in space. [N, K, ...]

    Raises:
        FuncattrError: If the classes are not one for each example, or there is no such class.

    Example:
        >>> get_backward_gradient(torch.zeros(2, 3), 1)
        tensor([[0., 1., 0.],
                [0., 1., 0.]])
    """
    y = torch.as_tensor(y, device=pred_y.device)
    if y.shape == pred_y.shape:
        return y.to(pred_y.dtype)
    classes, n, k = y.long().reshape(-1), *pred_y.shape[:2]
    if len(classes) not in (1, n):
        raise FuncattrError(
            f"get_backward_gradient(y=...): expected a class, one for each of {n} examples, or a tensor of shape "
            f"{list(pred_y.shape)}, got shape {list(y.shape)}."
        )
    if not bool(((classes >= 0) & (classes < k)).all()):
        raise FuncattrError(
            f"get_backward_gradient(y={classes.tolist()}): expected classes between 0 and {k - 1}, for the output has "
            f"shape {list(pred_y.shape)}."
        )
    index = classes.expand(n).reshape(n, 1, *[1] * (pred_y.ndim - 2)).expand(n, 1, *pred_y.shape[2:])
    return torch.zeros_like(pred_y).scatter(1, index, 1.0)


def get_pointing_gradient(pred_y: Tensor, y: int, normalize: bool = True) -> Tensor:
    """The pointing game's cotangent of an output of one example: exp(y_c) at its class, zero elsewhere.

    Args:
        pred_y: Output of the model. [1, K, ...]
        y: The class.
        normalize: Whether it sums to 1 over space: the spatial softmax of the class, which is 1 without space.

    Returns:
        Of the output's shape.

    Raises:
        FuncattrError: If there are several examples.

    Example:
        >>> get_pointing_gradient(torch.zeros(1, 2, 1, 2), 1).flatten()
        tensor([0.0000, 0.0000, 0.5000, 0.5000])
    """
    if len(pred_y) != 1:
        raise FuncattrError(
            f"get_pointing_gradient(pred_y=...): expected one example, got {len(pred_y)}. For several, give "
            "funcattr.pointing(classes) as a target of funcattr's methods."
        )
    own = pred_y.detach()[0, y]
    flat = own.flatten().softmax(0) if normalize else own.flatten().exp()
    found = torch.zeros_like(pred_y)
    found[0, y] = flat.reshape(own.shape)
    return found


def gradient_of(call: str, x: Tensor) -> Tensor:
    """The gradient of an activation."""
    if x.grad is None:
        raise FuncattrError(
            f"{call}: the tensor has no gradient. Ask for one before the forward pass (x.requires_grad_(True), or a "
            "Probe for a layer), and call backward() first."
        )
    return x.grad


def gradient_to_saliency(x: Tensor) -> Tensor:
    """max_c |dx_c| of an activation with its gradient in `x.grad`. [N, C, H, W] -> [N, 1, H, W]"""
    return gradient_of("gradient_to_saliency", x).abs().amax(1, keepdim=True)


def resize_saliency(tensor: Tensor, saliency: Tensor, size: Any, mode: str) -> Tensor:
    """A map at another size.

    Args:
        tensor: What size True takes its spatial size from. [N, C, H, W]
        saliency: The map. [N, 1, H', W']
        size: False for the map as it is, True for the tensor's size, or (width, height).
        mode: As in `torch.nn.functional.interpolate`; corners are not aligned.

    Returns:
        [N, 1, *size]

    Example:
        >>> resize_saliency(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 2, 2), (4, 6), "nearest").shape
        torch.Size([1, 1, 6, 4])
    """
    if size is False:
        return saliency
    spatial = tuple(tensor.shape[2:]) if size is True else tuple(size)[::-1]
    return maps.resize(saliency, spatial, mode=mode)


def smoothed(saliency: Tensor, sigma: float, padding: str) -> Tensor:
    """A map after Gaussian smoothing; a sigma that smooths nothing is none."""
    return maps.smooth(saliency, sigma if sigma >= LEAST_SIGMA else 0.0, padding=padding)
