"""Images as networks trained on ImageNet take them, by Pillow; torchvision's numbers without torchvision."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...errors import warn
from ...extras import needed

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageTransform:
    """Makes a normalised tensor [3, H, W] of an image by steps on the image."""

    def __init__(self, *steps: Callable[["Image"], "Image"]) -> None:
        self.steps = steps

    def __call__(self, image: "Image") -> Tensor:
        for step in self.steps:
            image = step(image)
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0).float() / 255
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
        return (pixels - mean) / std


class Resize:
    """Makes the shorter side of an image as long as `size`."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: "Image") -> "Image":
        resampling = needed("Resize", "PIL.Image", ".[plot]", "Pillow").Resampling
        shorter = min(image.size)
        width, height = (self.size if side == shorter else int(self.size * side / shorter) for side in image.size)
        return image.resize((width, height), resampling.BILINEAR)


class CenterCrop:
    """Cuts a square out of the middle of an image; black is added to a smaller one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: "Image") -> "Image":
        left, top = (_begin(side, self.size) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


def _begin(side: int, size: int) -> int:
    return -((size - side) // 2) if side < size else round((side - size) / 2)


def imagenet_transform(resize: int = 256, crop_size: int = 224) -> ImageTransform:
    """The usual transform: the shorter side to `resize`, the middle square of `crop_size`, mean and spread of ImageNet.

    Returns:
        A function of an image of Pillow's: `[3, crop_size, crop_size]`.
    """
    return ImageTransform(Resize(resize), CenterCrop(crop_size))


class ImageFolder(Dataset[tuple[Any, int]]):
    """Images in folders, one for each class, with the class's place among the sorted names: (image, class) pairs."""

    def __init__(self, root: str | Path, transform: Callable[["Image"], Any] | None = None) -> None:
        self.root, self.transform = str(root), transform
        folders = sorted(folder for folder in Path(root).iterdir() if folder.is_dir())
        self.classes = [folder.name for folder in folders]
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self.samples = [
            (str(file), index)
            for index, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in ENDINGS
        ]
        self.targets = [index for _, index in self.samples]
        if not self.samples:
            raise FileNotFoundError(f"get_imagenet_folder({self.root!r}): there are no images in folders of classes.")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, label = self.samples[index]
        with needed("ImageFolder", "PIL.Image", ".[plot]", "Pillow").open(file) as opened:
            image = opened.convert("RGB")
        return (image if self.transform is None else self.transform(image)), label


def get_imagenet_folder(path: str | Path, image_size: int = 224, transform: Any = "default") -> ImageFolder:
    """A data set of images in folders of classes, such as ImageNet's validation set.

    Args:
        path: Of the folder with a folder for each class.
        image_size: Side of the images: the middle 256 x 256 pixels, resized.
        transform: Another function of an image; None for none.

    Raises:
        FileNotFoundError: If there are no images.
    """
    if transform == "default":
        transform = ImageTransform(CenterCrop(256), Resize(image_size))
    return ImageFolder(path, transform)


def tensor_to_np_img(img_t: Tensor) -> np.ndarray:
    """The image that a normalised tensor was made of. [3, H, W] -> [H, W, 3]"""
    mean, std = (
        torch.tensor(numbers, dtype=img_t.dtype, device=img_t.device)[:, None, None] for numbers in (MEAN, STD)
    )
    return (img_t * std + mean).detach().cpu().movedim(0, -1).numpy()


def load_monkeys(center_crop: bool = True, size: int | tuple[int, int] | None = 224, pil: bool = False) -> Any:
    """A photograph for examples, and its class: the cat of scikit-image, 285, in place of the monkeys.

    The photograph of the monkeys is somebody's on Flickr; the package of the paper downloads it.

    Args:
        center_crop: Whether to take the middle square.
        size: Its size, or (width, height); None for the photograph's own.
        pil: Whether to return the whole photograph, an image of Pillow's.

    Returns:
        (image [height, width, 3], uint8, or a Pillow image; class of ImageNet)

    Raises:
        ImportError: If scikit-image or Pillow are not installed.
    """
    warn("load_monkeys: the monkeys are not part of this package. This is scikit-image's cat, class 285.")
    data = needed("load_monkeys", "skimage.data", ".[demo]", "scikit-image")
    image = needed("load_monkeys", "PIL.Image", ".[demo]", "Pillow").fromarray(data.chelsea())
    if pil:
        return image, 285
    if center_crop:
        image = CenterCrop(min(image.size))(image)
    if size is not None:
        image = image.resize((size, size) if isinstance(size, int) else size)
    return np.array(image), 285
