"""The demo's network and images: which digits are present on a cluttered canvas?

Both are made by `examples/train_digits.py` and are packaged with the library, as is a readout bottleneck, which is made
by `examples/train_readout.py`.
"""

from importlib.resources import as_file, files
from typing import NamedTuple

import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from ..methods.bottleneck.readout import ReadoutBottleneck
from ..model.sites import site

LAYER = "features.9"
"""The last convolutional site of `DigitNet`, after its ReLU: [N, 64, 16, 16]."""

BOTTLENECK = "features.6"
"""The convolutional site of `DigitNet` for information bottlenecks, before its ReLU: [N, 64, 16, 16]."""

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


class AskedDigitNet(DigitNet):
    """The same network, which is also told the digit that it is asked for. It makes nothing of it, but has a site
    "asked" that says so, for a readout bottleneck to read.

    Args:
        net: The network; its layers are shared.
    """

    def __init__(self, net: DigitNet) -> None:
        nn.Module.__init__(self)
        self.features, self.pool, self.classifier = net.features, net.pool, net.classifier

    def forward(self, x: Tensor, digit: Tensor | None = None) -> Tensor:
        """[N, 1, 64, 64], [N] -> [N, 10]"""
        if digit is not None:
            site(F.one_hot(digit, CLASSES).to(x.dtype), "asked")
        return super().forward(x)


def missed(logits: Tensor, digit: Tensor) -> Tensor:
    """The cross-entropy of "this digit is there". [N, 10], [N] -> [N]"""
    return F.softplus(-logits.gather(1, digit[:, None])[:, 0])


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
    model = DigitNet()
    model.load_state_dict(_read("digit_net.safetensors"))
    return model.eval()


def load_canvases() -> Canvases:
    """The 300 held-out canvases, drawn from handwritten digits that the network was not trained on."""
    data = _read("canvases.safetensors")
    boxes = data["boxes"].long()
    return Canvases(images=data["images"].float() / 255, boxes=boxes, present=boxes[..., 0] >= 0)


def load_readout() -> ReadoutBottleneck:
    """The readout bottleneck of `AskedDigitNet` at `BOTTLENECK`, with the statistics of that layer."""
    with as_file(files("funcattr.demo") / "data" / "readout.safetensors") as path:
        return ReadoutBottleneck.load(path)


def _read(name: str) -> dict[str, Tensor]:
    return load((files("funcattr.demo") / "data" / name).read_bytes())
