"""Photographs, two side by side: where is the cat, where is the espresso?

Which half of an image is the right answer is known (the grid pointing game of Boehle et al., 2021, arXiv:2104.00032).
"""

from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..metrics.datasets.photos import MEAN, PHOTOS, STD, load_pixels
from .tour import Questions

SIDE = 144
"""Height and width of a photograph in pixels. At this size the network has both objects of each pair among its first
three classes."""

PAIRED = tuple(photo for photo in PHOTOS if photo.thing in ("cat", "espresso", "tripod"))


def as_input(pixels: Tensor) -> Tensor:
    """The square in the middle of a photograph, as the network takes it. [1, 3, H, W] -> [1, 3, SIDE, SIDE]"""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    return (interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1) - MEAN) / STD


def load_questions() -> Questions:
    """For each ordered pair of photographs, where each of its two things is; the first pair is cat and espresso.

    Raises:
        ImportError: If the extra "demo" is not installed.
    """
    squares = [as_input(load_pixels(photo)) for photo in PAIRED]
    images, classes, boxes, things = [], [], [], []
    for pair in permutations(range(len(PAIRED)), 2):
        image = torch.cat([squares[i] for i in pair], 3)
        for half, i in enumerate(pair):
            images.append(image)
            classes.append(PAIRED[i].number)
            boxes.append([0, half * SIDE, SIDE, (half + 1) * SIDE])
            things.append(PAIRED[i].thing)
    return Questions(torch.cat(images), torch.tensor(classes), torch.tensor(boxes), tuple(things))
