"""How each kind of block is drawn: arguments valid for the map that arrives, and the map that leaves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from hypothesis import strategies as st

from .blocks import ACTIVATIONS, RELUS, RELUS_IN_PLACE, ROUND_TRIPS, SLICES, Block

MAX_CHANNELS = 6


@dataclass(frozen=True)
class Rules:
    """What the caller asks of a network."""

    only_relu: bool  # every nonlinearity is a relu or a max-pool
    bias: bool  # False: no term is constant in the input
    write_views: bool  # in-place calls may write through a view
    kinds: frozenset[str]


@dataclass(frozen=True)
class Map:
    """The shape [N, channels, *sizes] between two blocks, and whether an in-place call may change it."""

    channels: int
    sizes: tuple[int, ...]
    # autograd forbids to overwrite the input, or an output that its own backward pass needs (relu, tanh)
    owned: bool = False
    view: bool = False

    @property
    def spatial(self) -> int:
        return len(self.sizes)

    def to(self, channels: int | None = None, sizes: tuple[int, ...] | None = None) -> "Map":
        """Return a fresh map of other shape."""
        return Map(channels or self.channels, sizes or self.sizes, owned=True)

    def writable(self, rules: Rules) -> bool:
        """Whether the next block may work in place."""
        return self.owned and (rules.write_views or not self.view)


Drawn = tuple[Block, Map]


def _windowed(size: int, window: tuple[int, ...], ceil: bool = False) -> int:
    """Return the size after a convolution or a pool; 0 if the window does not fit."""
    kernel, stride, padding, dilation = window
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if span < 0:
        return 0
    out = (span + stride - 1 if ceil else span) // stride + 1
    # with `ceil` a last window that would lie in the padding alone is left out
    return out - 1 if ceil and (out - 1) * stride >= size + padding else out


def _fitting(sizes: tuple[int, ...], windows: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Keep the (kernel, stride, padding, dilation) which fit every size."""
    return [window for window in windows if all(_windowed(size, window) > 0 for size in sizes)]


def _conv(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    choices = _fitting(before.sizes, product((1, 2, 3), (1, 2), (0, 1, 2), (1, 2)))
    kernel, stride, padding, dilation = window = draw(st.sampled_from(choices))
    groups = draw(st.sampled_from([g for g in (1, 2, 3, before.channels) if before.channels % g == 0]))
    after = groups * draw(st.integers(1, max(1, MAX_CHANNELS // groups)))
    modes = ["zeros", "replicate"] + ["circular", "reflect"] * (padding < min(before.sizes))
    mode = draw(st.sampled_from(modes)) if padding else "zeros"
    functional = mode == "zeros" and draw(st.booleans())
    # an even kernel with "same" warns of a copy
    same = stride == 1 and mode == "zeros" and kernel % 2 == 1 and draw(st.booleans())
    sizes = tuple(_windowed(size, window) for size in before.sizes)
    block = Block(
        "conv",
        spatial=before.spatial,
        functional=functional,
        in_channels=before.channels,
        out_channels=after,
        kernel_size=kernel,
        stride=stride,
        padding="same" if same else padding,
        dilation=dilation,
        groups=groups,
        bias=rules.bias and draw(st.booleans()),
        padding_mode=mode,
    )
    return block, before.to(after, before.sizes if same else sizes)


def _relu(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    in_place = before.writable(rules) and draw(st.booleans())  # drawn apart: few maps allow it
    spellings = list(RELUS_IN_PLACE if in_place else RELUS)
    return Block("relu", how=draw(st.sampled_from(spellings))), replace(before, owned=False, view=False)


def _activation(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    how = draw(st.sampled_from(list(ACTIVATIONS)))
    return Block("activation", how=how), replace(before, owned=False, view=False)


def _pool(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    kind = draw(st.sampled_from(["max", "avg", "adaptive_max", "adaptive_avg"]))
    head = {"spatial": before.spatial, "kind": kind, "functional": draw(st.booleans())}
    if kind.startswith("adaptive"):
        size = draw(st.integers(1, min((3, *before.sizes))))
        return Block("pool", **head, output_size=size), before.to(sizes=(size,) * before.spatial)
    dilations = (1, 2) if kind == "max" else (1,)
    choices = _fitting(before.sizes, product((1, 2, 3), (1, 2), (0, 1), dilations))
    # torch: padding at most half of the kernel, and avg_pool3d checks the kernel without the padding
    choices = [c for c in choices if c[2] <= c[0] // 2 and c[0] <= min(before.sizes)]
    kernel, stride, padding, dilation = window = draw(st.sampled_from(choices))
    ceil = draw(st.booleans())
    sizes = tuple(_windowed(size, window, ceil) for size in before.sizes)
    args = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil}
    args |= {"dilation": dilation} if kind == "max" else {"count_include_pad": draw(st.booleans())}
    return Block("pool", **head, **args), before.to(sizes=sizes)


def _norm(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    kinds = ["batch"]
    if not rules.only_relu and prod(before.sizes) >= 4:  # a variance needs some values
        kinds += ["group", "layer", "instance"]
    args = {"spatial": before.spatial, "channels": before.channels, "sizes": before.sizes}
    return Block("norm", kind=draw(st.sampled_from(kinds)), **args), before.to()


def _residual(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    how = draw(st.sampled_from(["+", "+=", "torch.add", "add_"]))
    return Block("residual", spatial=before.spatial, channels=before.channels, how=how), before.to()


def _concat(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    keep = before.channels < MAX_CHANNELS and draw(st.booleans())
    after = draw(st.integers(1, MAX_CHANNELS - before.channels if keep else MAX_CHANNELS // 2))
    block = Block("concat", spatial=before.spatial, channels=before.channels, after=after, keep=keep)
    return block, before.to(after + before.channels if keep else 2 * after)


def _reused(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    inplace = draw(st.booleans())
    block = Block("reused", spatial=before.spatial, channels=before.channels, inplace=inplace)
    return block, replace(before, owned=False, view=False)


def _arithmetic(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    spellings = ["*", "/"]
    if before.writable(rules):
        spellings += ["mul_", "*="] + ["add_"] * rules.bias
    how = draw(st.sampled_from(spellings))
    number = draw(st.sampled_from([2.0, 0.5, -1.5]))
    after = before.to() if how in ("*", "/") else before
    return Block("arithmetic", how=how, number=number), after


def _gate(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    return Block("gate", channels=before.channels, how=draw(st.sampled_from(["*", "torch.mul"]))), before.to()


def _attention(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    return Block("attention", channels=before.channels, fused=draw(st.booleans())), before.to()


def _linear(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    after = draw(st.integers(1, MAX_CHANNELS))
    return Block("linear", channels=before.channels, after=after), replace(before.to(after), view=True)


def _round_trip(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    how = draw(st.sampled_from(list(ROUND_TRIPS)))
    fresh = how in ("roll", "flip", "split", "stack", "pad")
    after = replace(before, owned=fresh or before.owned, view=not fresh or how == "pad")
    return Block("round_trip", how=how), after


def _slice(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    how = draw(st.sampled_from(list(SLICES)))
    *others, last = before.sizes
    last = (last + 1) // 2 if how == "[..., ::2]" else last - 1
    return Block("slice", how=how), replace(before, sizes=(*others, last), view=True)


def _nothing(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    return Block("nothing", how=draw(st.sampled_from(["identity", "dropout"]))), before


DRAWS: dict[str, Callable[[st.DrawFn, Map, Rules], Drawn]] = {
    "conv": _conv,
    "relu": _relu,
    "linear": _linear,
    "pool": _pool,
    "norm": _norm,
    "residual": _residual,
    "concat": _concat,
    "reused": _reused,
    "arithmetic": _arithmetic,
    "round_trip": _round_trip,
    "slice": _slice,
    "nothing": _nothing,
    "activation": _activation,
    "gate": _gate,
    "attention": _attention,
}
_NOT_ONLY_RELU = frozenset({"activation", "gate", "attention"})


def draw_block(draw: st.DrawFn, before: Map, rules: Rules) -> Drawn:
    """Draw one block that fits the map."""
    kinds = [kind for kind in DRAWS if kind in rules.kinds]
    if rules.only_relu:
        kinds = [kind for kind in kinds if kind not in _NOT_ONLY_RELU]
    if before.sizes[-1] < 2:
        kinds = [kind for kind in kinds if kind != "slice"]
    return DRAWS[draw(st.sampled_from(kinds or ["nothing"]))](draw, before, rules)


@st.composite
def block_lists(draw: st.DrawFn, before: Map, rules: Rules, most: int) -> tuple[list[Block], Map]:
    """Draw from 1 to `most` blocks in a row, and the map after them.

    Recursive, because hypothesis shrinks by putting an inner draw in the place of the outer one: that takes
    away the first block. With a loop it rarely can, for the blocks consume unequal numbers of choices.
    """
    block, after = draw_block(draw, before, rules)
    if most > 1 and draw(st.integers(0, 4)):
        rest, after = draw(block_lists(after, rules, most - 1))
        return [block, *rest], after
    return [block], after
