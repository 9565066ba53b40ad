"""Networks for the contract: drawn ones that torch itself handles, and a fixed one whose derivatives are not zero."""

from collections import OrderedDict
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

from .contract import DEVICES
from .strategies import Network, networks

# What torch itself gets wrong, so that no method can be compared there. Each entry has a test that torch still does.
KNOWN_UPSTREAM = {
    "instance norm, strided cotangent": "On the CPU, torch's backward of instance_norm is wrong for a permuted "
    "cotangent and a batch of one (test_upstream.py shows it against finite differences).",
    "group norm of a permuted tensor, mapped": "torch.vmap refuses group_norm in a memory format of its own "
    "(test_upstream.py).",
}


def draw(data: st.DataObject, *, mapped: bool = False, **options: Any) -> Network:
    """A network on one of the machine's devices, with nothing of KNOWN_UPSTREAM.

    Args:
        data: Of hypothesis.
        mapped: Whether it will run inside `torch.vmap`.
        options: Of `networks`.
    """
    net, device = data.draw(networks(**options)), data.draw(st.sampled_from(DEVICES))
    net.model, net.x = net.model.to(device), net.x.to(device)
    if len(net.description.blocks) > 1:
        norms = {block.args.get("kind") for block in net.description.blocks if block.kind == "norm"}
        assume("instance" not in norms)
        assume("group" not in norms or not mapped)
    return net


class Smooth(nn.Module):
    """Relu inside smooth functions, so that every method has a derivative that is not zero."""

    layer = "blocks.first"

    def __init__(self) -> None:
        super().__init__()
        blocks = OrderedDict[str, nn.Module](
            first=nn.Conv2d(2, 4, 3, padding=1), tanh=nn.Tanh(), relu=nn.ReLU(), second=nn.Conv2d(4, 3, 3)
        )
        self.blocks = nn.Sequential(blocks)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).sigmoid().mean((2, 3))).exp()
