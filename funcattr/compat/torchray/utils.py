"""TorchRay's tools for images, as `torchray.utils`: smoothing, resampling, reading and drawing."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import FuncattrError, maps
from ...maps import LEAST_SIGMA


def get_device(gpu: int | None = 0) -> torch.device:
    """The GPU of that number if there is one, else the CPU; None means the CPU."""
    return torch.device(f"cuda:{gpu}" if gpu is not None and torch.cuda.is_available() else "cpu")


def xmkdir(path: str) -> None:
    """Make a folder, and those above it, unless it is there."""
    os.makedirs(path, exist_ok=True)


def imsmooth(
    tensor: Tensor,
    sigma: float,
    stride: int = 1,
    padding: int = 0,
    padding_mode: str = "constant",
    padding_value: float = 0,
) -> Tensor:
    """Gaussian smoothing of images, `funcattr.maps.smooth` with a stride and more padding.

    f_i = exp(-(i / (sqrt(2) sigma + 1.19e-7))^2), i = -w..w, w = ceil(4 sigma), normalised to sum 1

    Args:
        tensor: Images. [N, C, H, W]
        sigma: Standard deviation in pixels; 0 smooths nothing.
        stride: Distance of the pixels that are kept, from the first on.
        padding: Pixels on each side of the result beside those of the image.
        padding_mode: "constant", "replicate", "reflect" or "circular": what lies around the image.
        padding_value: Around the image, with "constant".

    Returns:
        [N, C, ceil((H + 2 padding) / stride), ceil((W + 2 padding) / stride)]

    Raises:
        FuncattrError: If there are no four dimensions, or a number is out of its range.

    Example:
        >>> imsmooth(torch.ones(1, 1, 6, 6), sigma=1, stride=2, padding=1, padding_value=1).shape
        torch.Size([1, 1, 4, 4])
    """
    if tensor.ndim != 4:
        raise FuncattrError(f"imsmooth(tensor=...): expected images [N, C, H, W], got shape {list(tensor.shape)}.")
    if not 0 <= sigma < math.inf or stride < 1 or padding < 0:
        raise FuncattrError(
            f"imsmooth(sigma={sigma}, stride={stride}, padding={padding}): expected sigma >= 0, stride >= 1, padding "
            ">= 0."
        )
    # Less smooths nothing: the weight of a neighbour is then below exp(-50).
    sigma = sigma if sigma >= LEAST_SIGMA else 0.0
    width = math.ceil(4 * sigma)
    around = (width + padding,) * 4
    value = padding_value if padding_mode == "constant" else None
    wide = F.pad(tensor, around, mode=padding_mode, value=value)
    # What is cut off is all that the zeros around the padded image reach.
    smooth = maps.smooth(wide, sigma, padding="constant")
    return smooth[..., width : wide.shape[-2] - width : stride, width : wide.shape[-1] - width : stride]


def resample(source: Tensor, target_size: tuple[int, int], transform: Any) -> Tensor:
    """Images moved and scaled, bilinear, with zeros around.

    u' = s_u u - t_u, v' = s_v v - t_v: where the point (u, v) of the source lies in the target, in pixels from the
    upper left corner of the image, so that the first pixel's centre is (1/2, 1/2)

    TorchRay's documentation adds the offsets, its code subtracts them; here they are subtracted too.

    Args:
        source: [N, C, H, W]
        target_size: (height, width).
        transform: [[s_u, t_u], [s_v, t_v]], u across and v down.

    Returns:
        [N, C, *target_size]

    Raises:
        FuncattrError: If the transform is not of that shape, or a scale is not above 0.

    Example:
        >>> resample(torch.arange(4.0).reshape(1, 1, 1, 4), (1, 2), [[1, 2], [1, 0]]).flatten()
        tensor([2., 3.])
    """
    scales = torch.as_tensor(transform, dtype=source.dtype, device=source.device)
    if scales.shape != (2, 2) or not bool((scales[:, 0] > 0).all()):
        raise FuncattrError(
            f"resample(transform=...): expected [[s_u, t_u], [s_v, t_v]] with scales above 0, got {scales.tolist()}."
        )
    (height, width), (rows, columns) = source.shape[-2:], target_size
    axes = []
    for (scale, shift), length, wanted in zip(scales, (width, height), (columns, rows), strict=True):
        pixels = torch.arange(wanted, dtype=source.dtype, device=source.device) + 0.5
        axes.append((pixels + shift) / scale * 2 / length - 1)
    across, down = axes
    grid = torch.stack(torch.broadcast_tensors(across[None, :], down[:, None]), -1)
    return F.grid_sample(source, grid.expand(len(source), -1, -1, -1), align_corners=False)


def imsc(
    img: Any, *args: Any, quiet: bool = False, lim: Any = None, interpolation: str = "lanczos", **kwargs: Any
) -> tuple[Tensor, Any]:
    """An image in the range 0 to 1, drawn with pyplot.

    Args:
        img: [3, H, W] or [1, H, W], of any range; or an image of PIL.
        quiet: Draw nothing.
        lim: The values that become 0 and 1; the image's lowest and highest by default.
        interpolation: As in `pyplot.imshow`.
        *args, **kwargs: For `pyplot.imshow`.

    Returns:
        The image, (img - min) / (max - min) between 0 and 1, zeros if it is constant, [C, H, W]; and what
        `pyplot.imshow` returns, None if `quiet`.

    Raises:
        FuncattrError: If it is no image.

    Example:
        >>> imsc(torch.tensor([[[2.0, 4.0]]]), quiet=True)
        (tensor([[[0., 1.]]]), None)
    """
    image = img if isinstance(img, Tensor) else pil_to_tensor(img)
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise FuncattrError(f"imsc(img=...): expected an image [3, H, W] or [1, H, W], got shape {list(image.shape)}.")
    image = image.detach()
    low, high = (float(end) for end in (lim or (image.min(), image.max())))
    scaled = ((image - low) / (high - low)).clamp(0, 1) if high > low else torch.zeros_like(image)
    if quiet:
        return scaled, None
    from matplotlib import pyplot

    handle = pyplot.imshow(im_to_numpy(scaled), *args, interpolation=interpolation, **kwargs)
    pyplot.gca().axis("off")
    return scaled, handle


def imarraysc(
    tiles: Tensor, spacing: int = 0, quiet: bool = False, lim: Any = None, interpolation: str = "lanczos"
) -> tuple[Tensor, Any]:
    """Images in one picture, row by row, drawn with pyplot.

    Args:
        tiles: [K, 3, H, W] or [K, 1, H, W]
        spacing: Pixels between them.
        quiet, lim, interpolation: As in `imsc`, which is called for each tile.

    Returns:
        The picture: ceil(sqrt(K)) images in a row, each in the range 0 to 1, and zeros between them, [C, H', W']; and
        what `pyplot.imshow` returns, None if `quiet`.

    Raises:
        FuncattrError: If they are no images.

    Example:
        >>> imarraysc(torch.rand(3, 1, 4, 5), spacing=1, quiet=True)[0].shape
        torch.Size([1, 9, 11])
    """
    if tiles.ndim != 4:
        raise FuncattrError(f"imarraysc(tiles=...): expected images [K, C, H, W], got shape {list(tiles.shape)}.")
    count, channels, height, width = tiles.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    picture = tiles.new_zeros(channels, rows * (height + spacing) - spacing, columns * (width + spacing) - spacing)
    for k, tile in enumerate(tiles):
        top, left = k // columns * (height + spacing), k % columns * (width + spacing)
        picture[:, top : top + height, left : left + width] = imsc(tile, quiet=True, lim=lim)[0]
    return imsc(picture, quiet=quiet, interpolation=interpolation)


def im_to_numpy(tensor: Tensor) -> Any:
    """An image of one or three channels as an array of three. [C, H, W] -> [H, W, 3]"""
    return tensor.expand(3, *tensor.shape[1:]).movedim(0, -1).detach().cpu().numpy()


def imread(file: Any, as_pil: bool = False, resize: float | Sequence[int] | None = None, to_rgb: bool = False) -> Any:
    """An image from a file.

    Args:
        file: A path, or a file that is open. Nothing is downloaded.
        as_pil: Return the image of PIL.
        resize: The length of its smaller side, or (width, height).
        to_rgb: Make three channels of whatever it has.

    Returns:
        The image in 0..1, [C, H, W], or that of PIL.
    """
    from PIL import Image

    image = Image.open(file)
    image.load()
    if to_rgb:
        image = image.convert("RGB")
    if resize is not None:
        if isinstance(resize, int | float):
            scale = resize / min(image.size)
            resize = (round(image.size[0] * scale), round(image.size[1] * scale))
        width, height = resize
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image if as_pil else pil_to_tensor(image)


def pil_to_tensor(pil_image: Any) -> Tensor:
    """An image of PIL as a tensor in 0..1. [C, H, W]"""
    pixels = np.array(pil_image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


def tensor_to_im(tensor: Tensor) -> Tensor:
    """Tensors as images of one channel each. [N, C, H, W] -> [N * C, 1, H, W]"""
    return tensor.reshape(-1, 1, *tensor.shape[2:])
