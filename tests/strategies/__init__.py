"""Hypothesis strategies: small networks of every spelling, valid by construction, and targets.

    @given(networks(only_relu=True, bias=False))
    def test_...(net):
        net.model(net.x)

A falsifying example prints as `Network(Description(...))`, an expression that builds the same network again.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ..zoo.seeding import settle, uniform
from .blocks import Block as Block
from .blocks import build
from .draws import DRAWS, Map, Rules, block_lists

KINDS = tuple(DRAWS)
_LARGEST = {1: 9, 2: 7, 3: 4}  # sizes, so that an example takes milliseconds
_HEADS = ("flat", "mean", "mlp", "conv")


@dataclass(frozen=True)
class Description:
    """All that a network depends on."""

    shape: tuple[int, ...]  # [N, C, *S]
    blocks: tuple[Block, ...]
    head: Block
    layer: str
    seed: int
    bias: bool
    dtype: torch.dtype


class Network:
    """A drawn model with an input: `model(x)` is [N, classes]."""

    def __init__(self, description: Description) -> None:
        self.description = description
        self.layer = description.layer
        self.model = settle(self._module, seed=description.seed, dtype=description.dtype)
        if not description.bias:
            _remove_constants(self.model)
        self.x = uniform(*description.shape, seed=description.seed + 1, dtype=description.dtype)

    def _module(self) -> nn.Module:
        blocks = nn.Sequential(*(build(block) for block in self.description.blocks))
        parts = OrderedDict[str, nn.Module](blocks=blocks, head=build(self.description.head))
        return nn.Sequential(parts)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of block inside, but for the head."""
        return frozenset(block.kind for block in self.description.blocks)

    @property
    def output_shape(self) -> tuple[int, int]:
        """[N, classes]"""
        return self.description.shape[0], self.description.head.args["classes"]

    def __repr__(self) -> str:
        return f"Network({self.description!r})"


def _remove_constants(model: nn.Module) -> None:
    """Make every block homogeneous: no bias, no running mean."""
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                value.zero_()


@st.composite
def networks(
    draw: st.DrawFn,
    spatial: int = 2,
    dtype: torch.dtype = torch.float64,
    *,
    only_relu: bool = False,
    bias: bool = True,
    write_views: bool = True,
    kinds: Iterable[str] = KINDS,
    max_blocks: int = 6,
) -> Network:
    """Draw a network and an input.

    Args:
        spatial: Number of dimensions after the channels: 1, 2 or 3.
        dtype: Of parameters and input.
        only_relu: Every nonlinearity is a relu or a max-pool: the network is piecewise linear.
        bias: False removes all that is constant in the input; with `only_relu`, f(a x) = a f(x) for a > 0.
        write_views: In-place calls may write through a view of the value that they change.
        kinds: The kinds of block to draw from, of `KINDS`.
        max_blocks: At most so many blocks before the head.
    """
    rules = Rules(only_relu, bias, write_views, frozenset(kinds))
    if unknown := rules.kinds - set(KINDS):
        raise ValueError(f"networks(kinds=...): no such kind: {sorted(unknown)}. Known: {', '.join(KINDS)}.")
    sizes = tuple(draw(st.integers(2, _LARGEST[spatial])) for _ in range(spatial))
    here = Map(draw(st.integers(1, 4)), sizes)
    shape = (draw(st.integers(1, 3)), here.channels, *sizes)
    blocks, here = draw(block_lists(here, rules, max_blocks))
    layer = draw(st.sampled_from([f"blocks.{i}" for i in range(len(blocks))]))
    seed = draw(st.integers(0, 2**16))
    return Network(Description(shape, tuple(blocks), _draw_head(draw, here), layer, seed, bias, dtype))


def _draw_head(draw: st.DrawFn, here: Map) -> Block:
    how = draw(st.sampled_from(_HEADS))
    features = here.channels * prod(here.sizes) if how in ("flat", "mlp") else here.channels
    classes = draw(st.integers(2, 4))
    return Block("head", spatial=here.spatial, features=features, classes=classes, how=how)


def targets(output_shape: tuple[int, int]) -> st.SearchStrategy[int | list[int] | Tensor]:
    """Draw a class for all examples, or one for each as a list or a LongTensor. output_shape: [N, K]"""
    batch, classes = output_shape
    each = st.lists(st.integers(0, classes - 1), min_size=batch, max_size=batch)
    return st.integers(0, classes - 1) | each | each.map(torch.tensor)
