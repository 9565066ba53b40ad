"""A readout bottleneck for the network of digits, packaged with the library; made by `examples/train_readout.py`."""

from importlib.resources import as_file, files

import torch.nn.functional as F
from torch import Tensor, nn

from ..methods.bottleneck.readout import ReadoutBottleneck
from ..metrics.datasets.digits import CLASSES, DigitNet
from ..model.sites import site

BOTTLENECK = "features.6"
"""The convolutional site of `DigitNet` for information bottlenecks, before its ReLU: [N, 64, 16, 16]."""


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


def load_readout() -> ReadoutBottleneck:
    """The readout bottleneck of `AskedDigitNet` at `BOTTLENECK`, with the statistics of that layer."""
    with as_file(files("funcattr.demo") / "data" / "readout.safetensors") as path:
        return ReadoutBottleneck.load(path)
