"""RISE: random masks, averaged with the score that the model gives to the input under each."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...attribution.activation import Activation, activated
from ...attribution.example_dims import ExampleDims
from ...attribution.question import Model, Question, ask, own
from ...attribution.separate_copies import copies_of
from ...attribution.targets import Target, score
from ...batch import merged, parted
from ...sampling.draws import Generator, integers, seed_from, uniform
from ...sampling.loops import chunk_for, loop, positive, wide
from ..features import spatial_size

BLOCK = 256
"""Masks whose scores for all classes are added up at once."""


def rise(
    model: Model,
    x: Tensor,
    target: Target = None,
    *,
    samples: int = 8000,
    cells: int = 7,
    p: float = 0.5,
    activation: Activation | None = "sigmoid",
    normalize_by_p: bool = False,
    masks: Tensor | None = None,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> Tensor:
    """RISE: the mean of random masks, each weighted by the score of the input that it lets through.

    S = 1/n sum_i sigmoid(f(x * m_i)) m_i

    The masks are the same for all examples of a batch.

    Args:
        model: A module, a `FunctionalModel` or a callable; called as `model(x, *args, **kwargs)`. Not modified.
        x: Input, [N, C, *spatial] once its examples are in front, with any number of spatial dimensions.
        target: As in `gradient`, of the activated output; or None for the maps of all classes of an output [N, K]
            (which take memory for N * K maps).
        samples: Number of masks, n.
        cells: Number of cells of the random grid along each spatial dimension.
        p: Probability that a cell is kept.
        activation: What makes a score of the output: "sigmoid", "softmax" (over dimension 1), or None for the output.
        normalize_by_p: Divide by p, the mean of a mask, as the paper does in section 3.1.
        masks: The masks themselves, [n, *spatial], in place of `samples` and `cells`; see `rise_masks`.
        generator: A seed, or a `torch.Generator` from which one is drawn.
        chunk_size: Masks that run at once; by default so many that 16 examples do. It changes no mask.
        progress: Whether to show a progress bar.
        output, args, kwargs, example_dims: As in `gradient`.

    Returns:
        Maps, [N, 1, *spatial], or [N, K, *spatial] without a target; with `example_dims` the examples are where x has
        them: [1, *spatial] for one. A map sums to the mean of score times the mask's
        sum; there is no baseline that it adds up from.

    Raises:
        ValueError: If `samples`, `cells`, `p`, `activation` or a shape is not as documented above.
        TypeError: If `x` or `masks` are not floating point, or a number is of the wrong kind.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 5))
        >>> funcattr.rise(model, torch.rand(2, 3, 8, 8), 1, samples=20).shape
        torch.Size([2, 1, 8, 8])

    References:
        Petsiuk et al., 2018, arXiv:1806.07421; numerics of TorchRay (Fong et al., 2019, arXiv:1910.08485).
    """
    question = ask("rise", model, x, target, output=output, args=args, kwargs=kwargs, example_dims=example_dims)
    call, x, masks = question.call, question.x, own(masks)
    size = spatial_size(call, x)
    _check(call, cells, p)
    count = positive(call, "samples", samples) if masks is None else _checked(call, masks, x)
    masks = None if masks is None else masks.to(x.device)
    seed = seed_from(call, generator)
    chunk = chunk_for(question, chunk_size, count)
    # Sums over thousands of masks: half precision is too coarse for them.
    dtype = torch.promote_types(x.dtype, torch.float32)

    def body(total: Any, index: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        chosen = masks[index] if masks is not None else _drawn(index, size, cells, p, seed, dtype)
        chosen = chosen.to(x.dtype)

        def few(carry: tuple[()], part: Tensor) -> tuple[tuple[()], tuple[Tensor, ...]]:
            copies = merged(x.unsqueeze(1) * chosen[part].unsqueeze(1))
            return carry, (parted(_scores(copies_of(question, copies), activation), len(part)).transpose(0, 1).clone(),)

        _, (found,) = loop(call, few, (), len(index), chunk, device=x.device)
        added = torch.einsum("snk,sp->nkp", found.to(dtype), chosen.flatten(1).to(dtype))
        return added if total is None else total + added, ()

    # A pass over the maps of a thousand classes takes as long as some forwards: one for several chunks. Compiled code
    # would have to write the chunks of a block out.
    several = target is None and not torch.compiler.is_dynamo_compiling()
    block = min(count, chunk * max(1, BLOCK // chunk)) if several else chunk
    total, _ = loop(call, body, None, count, block, device=x.device, progress=progress)
    mean = total / (count * p if normalize_by_p else count)
    return question.as_given(mean.unflatten(2, size).to(x.dtype))


def rise_masks(
    samples: int,
    size: tuple[int, ...],
    *,
    cells: int = 7,
    p: float = 0.5,
    generator: Generator = 0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """The random masks of RISE: a grid of cells that are kept or not, enlarged linearly and shifted by parts of a cell.

    Args:
        samples: Number of masks.
        size: Spatial size of the input; any number of dimensions.
        cells, p, generator: As in `rise`, which draws the same masks.
        dtype, device: Of the masks; by default torch's dtype and the CPU.

    Returns:
        Masks between 0 and 1, whose mean is p. [samples, *size]

    Raises:
        ValueError: If a number is out of its range.
        TypeError: If a number is of the wrong kind.

    Example:
        >>> import torch, funcattr
        >>> masks = funcattr.masks.rise_masks(100, (32, 32), p=0.3)
        >>> masks.shape, bool((masks >= 0).all() and (masks <= 1).all())
        (torch.Size([100, 32, 32]), True)

    References:
        Petsiuk et al., 2018, arXiv:1806.07421, section 3.2.
    """
    call = "rise_masks"
    _check(call, cells, p)
    if not isinstance(size, tuple) or not size:
        raise TypeError(f"{call}(size={size!r}): expected a tuple of ints, such as (224, 224).")
    size = tuple(positive(call, "size", length) for length in size)
    index = torch.arange(positive(call, "samples", samples), device=device)
    return _drawn(index, size, cells, p, seed_from(call, generator), dtype or torch.get_default_dtype())


def enlarged(grids: Tensor, shifts: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """Grids of cells, reflected by one cell at the border, enlarged linearly, shifted and cut to the input's size.

    With up = size + ceil(size / n), a cell is enlarged to c = ceil(up / n) pixels. Pixel u of a grid shifted by s lies
    at (s + u + 1/2) / c + 1/2 on the reflected grid, and takes of its neighbours there in proportion to their nearness.

    Args:
        grids: [S, n, ..., n], a dimension for each of `size`.
        shifts: For each dimension the shift in pixels, from 0 to below ceil(size / n). Each [S]
        size: The input's size.

    Returns:
        [S, *size]
    """
    cells, masks = grids.shape[1], grids
    nodes = torch.arange(cells + 2, device=grids.device)
    reflected = cells - 1 - (cells - 1 - (nodes - 1).abs()).abs()  # 1, 0, ..., n - 1, n - 2
    for length, shift in zip(size, shifts, strict=True):
        scale = math.ceil((length + math.ceil(length / cells)) / cells)
        pixels = torch.arange(length, dtype=grids.dtype, device=grids.device)
        places = (shift.to(grids).unsqueeze(1) + pixels + 0.5) / scale + 0.5
        nearness = (1 - (places.unsqueeze(2) - nodes).abs()).clamp(min=0)  # [S, length, n + 2]
        # Takes the first dimension that is left and puts it last, so that they end in their order.
        masks = torch.einsum("sk...,slk->s...l", masks.index_select(1, reflected), nearness)
    return masks


def _drawn(index: Tensor, size: tuple[int, ...], cells: int, p: float, seed: int, dtype: torch.dtype) -> Tensor:
    """The masks of some samples. [c] -> [c, *size]"""
    # In single precision whatever the masks are: a seed means the same cells for all dtypes.
    single = torch.empty((), dtype=torch.float32, device=index.device)
    kept = uniform(index, (cells,) * len(size), single, seed) < p
    steps = [math.ceil(length / cells) for length in size]
    shifts = [integers(index, step, seed=seed, stream=1 + axis) for axis, step in enumerate(steps)]
    # Half precision is too coarse for places on a grid.
    return enlarged(kept.to(wide(dtype)), shifts, size).to(dtype)


def _scores(copies: Question, activation: Activation | None) -> Tensor:
    """The activated target, or all activated classes. [N * c, ...] -> [N * c, 1 or K]"""
    found = activated(copies.call, copies.outputs(), activation)
    if copies.target is not None:
        return score(copies.call, found, copies.target).unsqueeze(1)
    if found.ndim > 2:
        raise ValueError(
            f"rise(target=None): expected an output [N, K] for the maps of all classes, got shape {list(found.shape)}. "
            "Give a target: a class, or a function of the output."
        )
    return found if found.ndim == 2 else found.unsqueeze(1)


def _check(call: str, cells: int, p: float) -> None:
    # The border reflects the cell beside it.
    if positive(call, "cells", cells) < 2:
        raise ValueError(f"{call}(cells={cells}): expected at least 2.")
    if isinstance(p, bool) or not isinstance(p, int | float):
        raise TypeError(f"{call}(p=...): expected a number, got {type(p).__name__}.")
    if not 0 < p < 1:
        raise ValueError(f"{call}(p={p}): expected a probability between 0 and 1, both excluded.")


def _checked(call: str, masks: Tensor, x: Tensor) -> int:
    """The number of the masks given."""
    if not isinstance(masks, Tensor) or not masks.is_floating_point():
        got = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"{call}(masks=...): expected a floating-point tensor, got {got}.")
    if masks.shape[1:] != x.shape[2:] or len(masks) == 0:
        expected = ["n", *x.shape[2:]]
        raise ValueError(f"{call}(masks=...): expected shape {expected}, got {list(masks.shape)}.")
    return len(masks)
