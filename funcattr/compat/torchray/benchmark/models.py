"""Networks and their transforms, as `torchray.benchmark.models`."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .... import FuncattrError
from ..utils import pil_to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, in 0..1."""
CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Of red, green and blue in 0..255, for networks that come from Caffe."""


def get_model(arch: str = "vgg16", dataset: str = "voc", convert_to_fully_convolutional: bool = False) -> nn.Module:
    """A network of torchvision's with its weights for ImageNet, in evaluation mode, for what they have elsewhere.

    Args:
        arch: Name of the network, such as "vgg16" or "resnet50".
        dataset: "imagenet". TorchRay's own weights for "voc" and "coco" are not free for all uses, and are not here.
        convert_to_fully_convolutional: False; True is refused.

    Returns:
        The network; torchvision downloads its weights once.

    Raises:
        FuncattrError: For other data sets, or if torchvision is not installed.
    """
    call = f"get_model(arch={arch!r}, dataset={dataset!r})"
    if dataset != "imagenet":
        raise FuncattrError(
            f"{call}: TorchRay's weights for it are under CC BY-NC and no part of funcattr. Build the network, load "
            "the weights with model.load_state_dict, and give it to any method; get_model(dataset='imagenet') has "
            "torchvision's."
        )
    if convert_to_fully_convolutional:
        raise FuncattrError(
            f"{call}: convert_to_fully_convolutional=True is refused. Write the head of the network with nn.Conv2d; "
            "a class of a spatial output is its sum over space, funcattr.pointing its spatial softmax."
        )
    try:
        from torchvision import models  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise FuncattrError(
            f"{call}: it needs torchvision: pip install torchvision. Or give a network of your own to the methods."
        ) from error
    return models.get_model(arch, weights="IMAGENET1K_V1").eval()


def get_transform(dataset: str = "imagenet", size: int | tuple[int, int] = 224) -> Callable[[Any], Tensor]:
    """From an image of PIL to the input of a network: its size, and its mean and standard deviation.

    For "imagenet": 0..1, less the mean of ImageNet's pixels, by their standard deviation. For "voc" and "coco", as
    networks of Caffe want it: 0..255, less a mean.

    Args:
        dataset: A name that begins with "imagenet", "voc" or "coco".
        size: Length of the smaller side, or (height, width).

    Returns:
        `image -> [3, H, W]`

    Raises:
        FuncattrError: For another data set.
    """
    kind = dataset.partition("_")[0]
    if kind not in ("imagenet", "voc", "coco"):
        raise FuncattrError(f"get_transform(dataset={dataset!r}): expected 'imagenet', 'voc' or 'coco'.")

    def transform(image: Any) -> Tensor:
        image = image.convert("RGB")
        height, width = _resized(image.size, size)
        if kind == "imagenet":
            mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
            return (pil_to_tensor(image.resize((width, height), resample=2)) - mean) / std
        pixels = F.interpolate(pil_to_tensor(image)[None], (height, width), mode="bilinear", align_corners=False)[0]
        return (pixels - torch.tensor(CAFFE_MEAN)[:, None, None] / 255) * 255

    return transform


def _resized(image: tuple[int, int], size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image of some (width, height), resized."""
    if not isinstance(size, int):
        return size
    smaller = min(image)
    return int(size * image[1] / smaller), int(size * image[0] / smaller)
