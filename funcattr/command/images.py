"""Photographs as a model takes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..extras import needed
from ..scale.image_folder import MODES
from .command_error import CommandError, refusing

if TYPE_CHECKING:
    from PIL.Image import Image


_SLACK = 0.02
"""How far outside 0..1 a pixel may lie by rounding and interpolation."""


class Transform(NamedTuple):
    """How a model takes a photograph."""

    apply: "Callable[[Image], Tensor]"
    """RGB -> [1, C, H, W]"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of (pixel - mean) / std, a number each or one for each channel; pixels are in 0..1."""
    says: str


class Photo(NamedTuple):
    """An image that is explained."""

    pixels: Tensor
    """What the model saw, in 0..1. [C, H, W]"""
    bounds: tuple[tuple[float, ...], tuple[float, ...]]
    """What black and white are to the model. 2 x [C]"""


def plain_transform(
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], *, grey: bool = False, says: str = ""
) -> Transform:
    """The largest part in the middle with the proportions of `size`, (height, width), resized; (pixel - mean) / std."""
    height, width = (size[0], size[0]) if len(size) == 1 else size

    def apply(photo: "Image") -> Tensor:
        import numpy as np
        from PIL import Image, ImageOps

        fitted = ImageOps.fit(photo.convert("L") if grey else photo, (width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(fitted)).float() / 255
        pixels = pixels[None] if grey else pixels.movedim(-1, 0)
        return ((pixels - _each(mean)) / _each(std))[None]

    how = f"the middle, resized to {height} x {width}; (pixel - {_text(mean)}) / {_text(std)}"
    return Transform(apply, tuple(mean), tuple(std), f"{says}: {how}" if says else how)


def read_photo(file: Path, transform: Transform) -> tuple[Tensor, Photo, str]:
    """The model's input [1, C, H, W], the photo as the model sees it, and what was done, in words."""
    photo, notes = _open(file)
    size = f"{photo.width} x {photo.height}"
    x = transform.apply(photo)
    if x.ndim != 4 or len(x) != 1 or x.shape[1] not in (1, 3):
        raise CommandError(
            f"{file}: expected [1, C, H, W] with 1 or 3 channels from the model's own transform, got {list(x.shape)}. "
            f"{_SAY}"
        )
    mean, std = _each(transform.mean), _each(transform.std)
    pixels = x[0] * std + mean
    if not (pixels.min() >= -_SLACK and pixels.max() <= 1 + _SLACK):
        raise CommandError(
            f"{file}: expected pixels in 0..1 after x * std + mean, got {pixels.min():.3g}..{pixels.max():.3g}: the "
            f"model's own transform is another. {_SAY}"
        )
    black, white = (((end - mean) / std).flatten().expand(x.shape[1]).tolist() for end in (0, 1))
    bounds = tuple(black), tuple(white)
    says = f"{file.name}, {size} pixels -> {list(x.shape)} ({transform.says}{notes})"
    return x, Photo(pixels.clamp(0, 1), bounds), says


_SAY = "Say how it takes images: --size, --mean and --std."


def _open(file: Path) -> "tuple[Image, str]":
    """An RGB image that stands upright, and notes."""
    with refusing():
        needed(str(file), "PIL", ".[plot]", "Pillow")
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            opened.load()
    except FileNotFoundError as error:
        raise CommandError(f"{file}: no such file.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise CommandError(
            f"{file}: expected an image, got a file that Pillow cannot read ({type(error).__name__})."
        ) from error
    if opened.mode not in MODES:
        raise CommandError(
            f"{file}: expected 8 bits for each value, got Pillow's mode {opened.mode!r}. Convert it to RGB first."
        )
    photo = ImageOps.exif_transpose(opened)
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        paper = Image.new("RGBA", photo.size, "white")
        return Image.alpha_composite(paper, photo).convert("RGB"), "; transparent parts on white"
    return photo.convert("RGB"), ""


def _each(numbers: Sequence[float]) -> Tensor:
    """[C or 1, 1, 1]"""
    return torch.tensor(list(numbers))[:, None, None]


def _text(numbers: Sequence[float]) -> str:
    return (
        ", ".join(f"{n:.4g}" for n in numbers) if len(numbers) == 1 else f"[{', '.join(f'{n:.4g}' for n in numbers)}]"
    )


def numbers_of(values: Any) -> tuple[float, ...]:
    """A number or several, as libraries give mean and std."""
    return tuple(float(v) for v in values) if hasattr(values, "__iter__") else (float(values),)
