"""An image with two things in it, a network, and a plot, for TorchRay's examples."""

from typing import Any

import torch
from torch import Tensor, nn

from .... import FuncattrError
from ..utils import imsc
from .models import get_model, get_transform

CAT, ESPRESSO = 285, 967
"""Classes of ImageNet."""


def get_example_data(arch: str = "vgg16", shape: int | tuple[int, int] = 224) -> tuple[nn.Module, Tensor, int, int]:
    """A network trained on ImageNet, an image of a cat (left) and an espresso (right), and their two classes.

    Not TorchRay's image, which is not ours to give: the photographs are scikit-image's.

    Args:
        arch: As in `get_model`.
        shape: Of the image: its side, or (height, width).

    Returns:
        The network, the image [1, 3, H, W], and the classes of what is left and what is right.

    Raises:
        FuncattrError: If torchvision or scikit-image is not installed.
    """
    return get_model(arch, "imagenet"), example_image(shape), CAT, ESPRESSO


def example_image(shape: int | tuple[int, int] = 224) -> Tensor:
    """The image of `get_example_data`, normalised. [1, 3, H, W]"""
    try:
        from PIL import Image
        from skimage import data
    except ImportError as error:
        raise FuncattrError(
            "get_example_data: it needs scikit-image: pip install '.[demo]' in a clone of funcattr."
        ) from error
    height, width = (shape, shape) if isinstance(shape, int) else shape
    halves = []
    for photo, wide in ((data.chelsea(), width // 2), (data.coffee(), width - width // 2)):
        image = Image.fromarray(photo)
        scale = min(image.size[0] / wide, image.size[1] / height)
        left, top = (image.size[0] - wide * scale) / 2, (image.size[1] - height * scale) / 2
        part = image.resize((wide, height), resample=2, box=(left, top, left + wide * scale, top + height * scale))
        halves.append(get_transform(size=(height, wide))(part))
    return torch.cat(halves, 2)[None]


def plot_example(
    input: Tensor,
    saliency: Tensor,
    method: str,
    category_id: Any,
    show_plot: bool = False,
    save_path: str | None = None,
) -> None:
    """Draw images beside their maps, with pyplot.

    Args:
        input: [N, 3, H, W]
        saliency: [N, 1, H', W']
        method: For the title.
        category_id: A class, or one for each example.
        show_plot: Call `pyplot.show()`.
        save_path: Where the figure is saved, if anywhere.

    Raises:
        FuncattrError: If there are not as many maps as images.
    """
    from matplotlib import pyplot

    if len(input) != len(saliency):
        raise FuncattrError(f"plot_example: expected a map for each of {len(input)} images, got {len(saliency)}.")
    classes = torch.as_tensor(category_id).reshape(-1).expand(len(input)).tolist()
    figure = pyplot.figure(figsize=(6, 3 * len(input)))
    for n, class_id in enumerate(classes):
        for side, (image, title) in enumerate(
            ((input[n], "input image"), (saliency[n], f"{method}, category {class_id}"))
        ):
            figure.add_subplot(len(input), 2, 2 * n + side + 1)
            imsc(image.detach().cpu(), interpolation="lanczos" if side == 0 else "none")
            pyplot.title(title)
    figure.tight_layout()
    if save_path is not None:
        figure.savefig(save_path)
    if show_plot:
        pyplot.show()
