"""Networks for the contract: drawn ones that torch itself handles, and a fixed one whose derivatives are not zero."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from .contract import DEVICES, ROWS, Row
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


def on_drawn_networks(
    rows: Iterable[Row] = ROWS, **strategies: st.SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Callable[[Row], None]]:
    """A test of each row on as many drawn examples as the profile of hypothesis says, times the row's share.

    Args:
        rows: Of the contract.
        strategies: Of the test's arguments, but for `row`.
    """

    def of_test(test: Callable[..., None]) -> Callable[[Row], None]:
        @pytest.mark.parametrize("row", rows, ids=repr)
        def of_row(row: Row) -> None:
            def example(**drawn: Any) -> None:
                test(row=row, **drawn)

            example.__name__ = test.__name__  # which the first draws depend on
            count = math.ceil(row.share * settings.get_profile(settings.get_current_profile_name()).max_examples)
            settings(max_examples=count)(given(**strategies)(example))()

        of_row.__name__, of_row.__doc__ = test.__name__, test.__doc__
        return of_row

    return of_test


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
