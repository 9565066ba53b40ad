"""A trained network and cluttered canvases: which handwritten digits are present, and where?

Both are made by `examples/train_digits.py` and are packaged with the library.
"""

from importlib.resources import files
from typing import NamedTuple

import torch
from safetensors.torch import load
from torch import Tensor, nn

from .located import Located

LAYER = "features.9"
"""The last convolutional site of `DigitNet`, after its ReLU: [N, 64, 16, 16]."""

CLASSES = 10


class DigitNet(nn.Module):
    """Says which of the ten digits are present: ten independent logits.

    Each quarter of the image votes with the strongest evidence in it, and the votes are summed. (With one
    maximum over the whole image hardly any method could miss; a mean is lost in the clutter.)
    No layer has a bias, so the network is positively homogeneous: `x * gradient` sums to the logit exactly,
    and whatever a method does not conserve is the method's own loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(8)
        self.classifier = nn.Linear(64, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 64, 64] -> [N, 10]"""
        votes = self.pool(self.features(x))  # [N, 64, 16, 16] -> [N, 64, 2, 2]
        return self.classifier(votes.sum(dim=(2, 3)))


class Canvases(NamedTuple):
    """Held-out images and where their digits are."""

    images: Tensor
    """Float32 in 0..1. [M, 1, 64, 64]"""
    boxes: Tensor
    """(top, left, bottom, right) of each digit's ink in pixels, ends exclusive; -1 if absent. [M, 10, 4]"""
    present: Tensor
    """Which digits are on the canvas, bool. [M, 10]"""


def load_model() -> DigitNet:
    """The trained network, in evaluation mode, on the CPU."""
    with torch.random.fork_rng(devices=[]):  # the layers begin with random weights
        model = DigitNet()
    model.load_state_dict(_read("digit_net.safetensors"))
    return model.eval()


def load_canvases() -> Canvases:
    """The 300 held-out canvases, drawn from handwritten digits that the network was not trained on."""
    data = _read("canvases.safetensors")
    boxes = data["boxes"].long()
    return Canvases(images=data["images"].float() / 255, boxes=boxes, present=boxes[..., 0] >= 0)


def digits() -> Located:
    """A trained network, 300 canvases that it has not seen, and a question for each digit on them: where is it?

    Canvases have two to four digits in clutter. The network has learned from labels which digits are present, so it
    can be right for a reason of its own; it hardly ever is wrong.

    Returns:
        A `DigitNet`, canvases [N, 1, 64, 64], and the boxes of the digits' ink [N, 4]; `layer` is `LAYER`.

    Example:
        >>> import funcattr
        >>> model, x, target, regions, layer, things = digits()
        >>> found = funcattr.maps.resize(funcattr.grad_cam(model, x[:50], target[:50], layer=layer), x)
        >>> assert funcattr.metrics.pointing_game(found, regions[:50]).float().mean() > 0.9
    """
    images, boxes, present = load_canvases()
    canvas, digit = present.nonzero().unbind(1)
    things = tuple(map(str, digit.tolist()))
    return Located(load_model(), images[canvas], digit, boxes[canvas, digit], LAYER, things)


def _read(name: str) -> dict[str, Tensor]:
    return load((files("funcattr.metrics.datasets") / "data" / name).read_bytes())
