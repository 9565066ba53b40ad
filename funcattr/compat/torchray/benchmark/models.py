"""Networks and their transforms, as `torchray.benchmark.models`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .... import FuncattrError
from ..utils import pil_to_tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, in 0..1."""


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


def get_transform(dataset: str = "imagenet", size: int | None = None) -> Callable[[Any], Tensor]:
    """From an image of PIL to the input of a network: smaller side, 0..1, ImageNet's mean and standard deviation.

    Args:
        dataset: "imagenet", "voc" or "coco", which have the same.
        size: Length of the smaller side; None leaves the image as it is.

    Returns:
        `image -> [3, H, W]`

    Raises:
        FuncattrError: For another data set.
    """
    if dataset.partition("_")[0] not in ("imagenet", "voc", "coco"):
        raise FuncattrError(f"get_transform(dataset={dataset!r}): expected 'imagenet', 'voc' or 'coco'.")

    def transform(image: Any) -> Tensor:
        image = image.convert("RGB")
        if size is not None:
            scale = size / min(image.size)
            image = image.resize((round(image.size[0] * scale), round(image.size[1] * scale)), resample=2)
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return (pil_to_tensor(image) - mean) / std

    return transform
