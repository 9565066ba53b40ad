"""Maps of bits, and their picture."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...bottleneck import to_saliency_map as spread_bits
from ...extras import needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = np.array([0.2125, 0.7154, 0.0721])
"""Luminance of red, green and blue (ITU-R BT.709)."""


def to_saliency_map(capacity: np.ndarray, shape: Sequence[int] | None = None) -> np.ndarray:
    """The bits at each pixel, from nats of each feature.

    Bits are summed over channels and spread over the pixels by linear interpolation, which mirrors the map at its
    border, as scikit-image's `resize` does. `funcattr.bottleneck.to_saliency_map`, which keeps the sum of bits instead,
    does it where a map becomes smaller.

    Args:
        capacity: In nats. [C, h, w]
        shape: (height, width) of the image; None for that of the map.

    Returns:
        Bits per pixel. [H, W]

    Raises:
        ValueError: If the capacity has another number of dimensions.

    Example:
        >>> bits = to_saliency_map(np.full((3, 4, 4), np.log(2)), (8, 8))
        >>> bits.shape, float(bits.sum().round())
        ((8, 8), 48.0)
    """
    if capacity.ndim != 3:
        raise ValueError(
            f"to_saliency_map(capacity=...): expected [channels, height, width], got {list(capacity.shape)}. "
            'Other layers have mode="capacity".'
        )
    bits = np.nansum(capacity, 0) / math.log(2)
    if shape is None:
        return bits
    given = torch.from_numpy(bits)
    height, width = shape
    if height < bits.shape[0] or width < bits.shape[1]:
        return spread_bits(given[None, None], (height, width))[0, 0].numpy()
    rows, columns = (_mirrored(length, size, given) for length, size in zip(bits.shape, (height, width), strict=True))
    return (rows @ (given * (bits.size / (height * width))) @ columns.T).numpy()


def _mirrored(length: int, size: int, like: Tensor) -> Tensor:
    """Linear interpolation of a line that is mirrored about its first and last element, as a matrix. [size, length]"""
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5
    # |p - k| for the element k, and for its mirror images -k and 2 (length - 1) - k
    places = torch.arange(length, dtype=torch.float64)
    images = [places, -places, 2 * (length - 1) - places]
    images = images if length > 1 else images[:1]
    hats = [(1 - (at[:, None] - image).abs()).clamp(min=0) for image in images]
    inner = places.eq(0), places.eq(length - 1)
    for hat, border in zip(hats[1:], inner, strict=False):  # an end is its own mirror image
        hat[:, border] = 0
    total = torch.stack(hats).sum(0)
    return (total if length > 1 else torch.ones_like(total)).to(like.dtype)


def to_unit_interval(x: Any) -> Any:
    """(x - min) / (max - min), an array or a tensor.

    Example:
        >>> to_unit_interval(np.array([2.0, 4.0, 3.0]))
        array([0. , 1. , 0.5])
    """
    return (x - x.min()) / (x.max() - x.min())


def plot_saliency_map(
    saliency_map: np.ndarray,
    img: np.ndarray | None = None,
    ax: "Axes | None" = None,
    colorbar_label: str = "Bits / Pixel",
    colorbar_fontsize: int = 14,
    min_alpha: float = 0.2,
    max_alpha: float = 0.7,
    vmax: float | None = None,
    colorbar_size: float = 0.3,
    colorbar_pad: float = 0.08,
) -> "Axes":
    """Draw a map in red over its image in grey, with a colour bar.

    Args:
        saliency_map: Bits per pixel. [H, W]
        img: The image below, in 0..1. [H, W, 3]
        ax: Axes of matplotlib; None for those of a new figure of pyplot.
        colorbar_label, colorbar_fontsize, colorbar_size, colorbar_pad: Of the colour bar; sizes in inches.
        min_alpha, max_alpha: How much the map hides of the image where it is 0 and where it is strongest.
        vmax: The number of full colour; None for the map's largest.

    Returns:
        The axes.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    pyplot = needed("plot_saliency_map", "matplotlib.pyplot", ".[plot]")
    colors = needed("plot_saliency_map", "matplotlib.colors", ".[plot]")
    mappable = needed("plot_saliency_map", "matplotlib.cm", ".[plot]").ScalarMappable
    grid = needed("plot_saliency_map", "mpl_toolkits.axes_grid1", ".[plot]")
    axes: Any = pyplot.subplots(figsize=(5.5, 4.0))[1] if ax is None else ax
    norm = colors.Normalize(0, float(saliency_map.max()) if vmax is None else vmax)
    shades = pyplot.get_cmap("seismic")(np.linspace(0.5, 1, 256))
    shades[:, 3] = np.linspace(0.2, 1, 256)
    scale = colors.ListedColormap(shades)
    picture = scale(norm(saliency_map))
    if img is not None:
        axes.imshow(np.repeat((img @ _GREY)[..., None], 3, 2).clip(0, 1))
        picture[..., 3] = min_alpha + (max_alpha - min_alpha) * np.clip(norm(saliency_map), 0, 1)
    axes.imshow(picture, alpha=max_alpha)
    fixed = [grid.Size.Fixed(size) if isinstance(size, float) else size for size in (colorbar_size, colorbar_pad)]
    bar = grid.make_axes_locatable(axes).append_axes("right", size=fixed[0], pad=fixed[1])
    axes.figure.colorbar(mappable(norm, scale), cax=bar).set_label(colorbar_label, fontsize=colorbar_fontsize)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.set_frame_on(False)
    return axes
