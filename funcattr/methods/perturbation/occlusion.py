"""Occlusion: what the score loses when a window of the input is covered."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import pytree
from ...attribution.example_dims import ExampleDims
from ...attribution.inputs import as_dict
from ...attribution.question import Inputs, Model, Question, ask
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target
from ...batch import merged, parted, repeated
from ...sampling.baselines import Baseline, baseline_like
from ...sampling.loops import chunk_for, loop, positive
from .coalitions import precise

Sizes = tuple[int, ...]


def occlusion(
    model: Model,
    x: Inputs,
    target: Target = None,
    *,
    window: Sizes | tuple[Sizes, ...] | dict[str, Sizes],
    stride: int | Sizes | tuple[Sizes, ...] | dict[str, Sizes] = 1,
    baseline: Baseline = 0.0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Inputs:
    """Occlusion: what the score loses when a window of the input is covered, averaged over the windows on each value.

    A_i = mean_{w on i} (f(x) - f(x with window w at the baseline))

    Windows begin at multiples of the stride, up to the first that reaches the border, where it is cut.

    Args:
        model, x, target, baseline, output, args, kwargs, example_dims: As in `feature_ablation`.
        window: Size of the window in the trailing dimensions of x; dimensions before them are covered as a whole. For
            images [N, C, H, W], `(h, w)` covers all channels at once, `(1, h, w)` one, and `()` the whole example. Of
            several inputs one is covered at a time; give one window for all, or a structure of them.
        stride: Step of the window, at most its size: one number for all dimensions of the window, or one for each; for
            several inputs also a structure of them. There are as many forwards as windows.
        chunk_size: Windows that are covered at once; by default so many that 16 examples run.
        progress: Whether to show a progress bar.

    Returns:
        Attributions in units of the score, structured and shaped as `x`. Where windows do not overlap and the score is
        a sum of functions of one window each, the windows' numbers sum to f(x) - f(baseline).

    Raises:
        ValueError: If a window is larger than the input or smaller than its stride, or another number or shape is not
            as documented above.
        TypeError: If a size is no int, or an argument is of the wrong kind.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> funcattr.occlusion(model, torch.rand(2, 3, 8, 8), 1, window=(4, 4), stride=2).shape
        torch.Size([2, 3, 8, 8])

    References:
        Zeiler & Fergus, 2014, arXiv:1311.2901, section 4.2.
    """
    question = ask(
        "occlusion",
        model,
        x,
        target,
        output=output,
        args=args,
        kwargs=kwargs,
        example_dims=example_dims,
        forward_only=True,
    )
    call = question.call
    covers = pytree.tree_leaves(baseline_like(call, question.x, question.laid(baseline)))
    leaves, structure = pytree.tree_flatten(question.x)
    windows, strides = (_for_each(call, *given, structure) for given in (("window", window), ("stride", stride)))
    grids = [_grid(call, v, w, s) for v, w, s in zip(leaves, windows, strides, strict=True)]
    whole = precise(question.scores()).unsqueeze(1)
    chunk_sizes = [chunk_for(question, chunk_size, grid.windows) for grid in grids]
    found = [
        _of_input(question, covers[i], i, grid, whole, chunk, progress)
        for i, (grid, chunk) in enumerate(zip(grids, chunk_sizes, strict=True))
    ]
    return question.as_given(pytree.tree_unflatten(found, structure))


class _Grid(NamedTuple):
    """The windows of one input.

    Attributes:
        sizes: Of the dimensions that the window has a size in.
        window, stride: In each of them.
    """

    sizes: Sizes
    window: Sizes
    stride: Sizes

    @property
    def counts(self) -> Sizes:
        """The number of windows along each dimension."""
        return tuple(-(-(n - w) // s) + 1 for n, w, s in zip(*self, strict=True))

    @property
    def windows(self) -> int:
        """The number of windows."""
        return math.prod(self.counts)

    def along(self, dim: int, position: Tensor) -> Tensor:
        """Which values of a dimension the windows at some positions cover. [c] -> [c, size]"""
        values = torch.arange(self.sizes[dim], device=position.device) - (position * self.stride[dim]).unsqueeze(1)
        return (values >= 0) & (values < self.window[dim])

    def covered(self, index: Tensor) -> Tensor:
        """Which values some windows cover. [c] -> [c, *sizes]"""
        counts, rank = self.counts, len(self.sizes)
        result = torch.ones((len(index), *[1] * rank), dtype=torch.bool, device=index.device)
        for dim in range(rank):
            line = self.along(dim, index // math.prod(counts[dim + 1 :]) % counts[dim])
            result = result & line.reshape(-1, *[1] * dim, self.sizes[dim], *[1] * (rank - dim - 1))
        return result

    def often(self, device: torch.device) -> Tensor:
        """How many windows cover each value. [*sizes]"""
        result = torch.ones((), dtype=torch.long, device=device)
        for dim, count in enumerate(self.counts):
            result = result.unsqueeze(-1) * self.along(dim, torch.arange(count, device=device)).sum(0)
        return result


def _of_input(
    question: Question, cover: Tensor, which: int, grid: _Grid, whole: Tensor, chunk: int, progress: bool
) -> Tensor:
    """The attributions of one of the inputs."""
    leaves, structure = pytree.tree_flatten(question.x)
    value = leaves[which]
    leading = [1] * (value.ndim - 1 - len(grid.sizes))

    def body(total: Tensor, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        times, covered = len(index), grid.covered(index)
        copies = list(repeated(leaves, len(value), times))
        mask = covered.reshape(times, *leading, *grid.sizes)
        copies[which] = merged(torch.where(mask, cover.unsqueeze(1), value.unsqueeze(1)))
        lost = whole - parted(precise(copies_of(question, pytree.tree_unflatten(copies, structure)).scores()), times)
        return total + lost @ covered.reshape(times, -1).to(lost), ()

    total = whole.new_zeros(len(value), math.prod(grid.sizes))
    total, _ = loop(question.call, body, total, grid.windows, chunk, device=value.device, progress=progress)
    mean = total.reshape(-1, *leading, *grid.sizes) / grid.often(value.device)
    return mean.expand(value.shape).to(value.dtype if value.is_floating_point() else mean.dtype).clone()


def _for_each(call: str, name: str, given: Any, structure: Any) -> list[Any]:
    """The sizes of each input's window, from sizes for all or a structure of them."""

    def is_one(part: Any) -> bool:
        return isinstance(part, tuple) and all(isinstance(size, int) for size in part)

    parts, found = pytree.tree_flatten(as_dict(given), is_leaf=is_one)
    if len(parts) == 1 and parts[0] is given:
        return parts * structure.num_leaves
    if found != structure:
        raise ValueError(
            f"{call}({name}={given!r}): expected a tuple of ints, or {structure.num_leaves} of them structured as x."
        )
    return parts


def _grid(call: str, x: Tensor, window: Any, stride: Any) -> _Grid:
    if not isinstance(window, tuple):
        raise TypeError(f"{call}(window={window!r}): expected a tuple of ints, such as (16, 16).")
    rank = len(window)
    if rank >= x.ndim:
        raise ValueError(
            f"{call}(window={window}): expected at most {x.ndim - 1} sizes for an input of shape {list(x.shape)}, "
            f"whose first dimension is the batch, got {rank}."
        )
    stride = stride if isinstance(stride, tuple) else (stride,) * rank
    if len(stride) != rank:
        raise ValueError(f"{call}(stride={stride}): expected one number, or {rank} as the window has.")
    sizes = tuple(x.shape[x.ndim - rank :])
    for size, length, step in zip(sizes, window, stride, strict=True):
        if positive(call, "window", length) > size:
            raise ValueError(f"{call}(window={window}): larger than the input, whose trailing sizes are {list(sizes)}.")
        if positive(call, "stride", step) > length:
            raise ValueError(f"{call}(stride={stride}): larger than the window {window}, so that it misses values.")
    return _Grid(sizes, window, stride)
