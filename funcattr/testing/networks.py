"""Hypothesis strategies: small networks of every spelling, valid by construction, inputs, layers and targets.

    @given(networks(only_relu=True, bias=False))
    def test_...(net):
        net.model(net.x)

A falsifying example prints as `Network(Description(...))`, an expression that builds the same network again.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

from ..model.access import copied
from ..model.functional import FunctionalModel, functionalize
from ..model.sites import Reader
from .blocks import Block, build
from .draws import DRAWS, Map, Rules, block_lists
from .seeding import settle, uniform

KINDS = tuple(DRAWS)
_LARGEST = {1: 9, 2: 7, 3: 4}  # sizes, so that an example takes milliseconds
_HEADS = ("flat", "mean", "mlp", "conv")

DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
"""Where networks are drawn: on the CPU, and on CUDA where there is one."""

# What torch itself gets wrong, so that no method can be compared there. Each entry has a test that torch still does.
KNOWN_UPSTREAM = {
    "instance norm, strided cotangent": "On the CPU, torch's backward of instance_norm is wrong for a permuted "
    "cotangent and a batch of one (test_upstream.py shows it against finite differences).",
    "group norm of a permuted tensor, mapped": "torch.vmap refuses group_norm in a memory format of its own "
    "(test_upstream.py).",
}


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
        kinds: The kinds of block to draw from, of `funcattr.testing.networks.KINDS`.
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


def draw_comparable(data: st.DataObject, *, mapped: bool = False, **options: Any) -> Network:
    """A network on one of the machine's devices, with nothing of `KNOWN_UPSTREAM`.

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


def targets(output_shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Draw a target of an output [N, K, ...]: for all examples or for each, in the spellings that people use.

    A class for an output [N, K]; an index into the trailing dimensions for one with more.

    Args:
        output_shape: Of the model's output.
    """
    batch, *sizes = output_shape
    if len(sizes) == 1:
        each = st.lists(st.integers(0, sizes[0] - 1), min_size=batch, max_size=batch)
        return st.integers(0, sizes[0] - 1) | each | each.map(torch.tensor)
    index = st.tuples(*(st.integers(-size, size - 1) for size in sizes))
    rows = st.lists(index, min_size=batch, max_size=batch)
    return index | rows | rows.map(torch.tensor)


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> st.SearchStrategy[Tensor]:
    """Draw an input of a shape, with values in [-2, 2).

    Args:
        shape: [N, ...]
        dtype: Floating point.
    """
    return st.integers(0, 2**16).map(lambda seed: uniform(*shape, seed=seed, dtype=dtype))


def layers(model: nn.Module | FunctionalModel, *inputs: Any) -> st.SearchStrategy[str]:
    """Draw the name of a site that a call of the model passes, with a floating-point tensor there.

    Args:
        model: A module or a `FunctionalModel`.
        inputs: Of the call.

    Raises:
        ValueError: If there is none below the root.
    """
    fm = functionalize(model).ready()
    with torch.no_grad(), Reader(fm.sites) as reader:
        fm(*copied(inputs))
    names = [name for name, v in reader.values.items() if isinstance(v, Tensor) and v.is_floating_point()]
    if not names:
        raise ValueError("layers(model=...): a call of the model passes no site below its root.")
    return st.sampled_from(names)


class Smooth(nn.Module):
    """Relu inside smooth functions, so that every method has a derivative that is not zero. [N, 2, H, W] -> [N, 2]"""

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
