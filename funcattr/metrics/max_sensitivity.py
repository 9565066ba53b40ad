"""How far attributions move when the input moves a little."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._torch import pytree
from ..attribution.targets import Target
from ..batch import batch_of
from ..sampling.draws import Generator, seed_from, uniform
from ..sampling.loops import positive, with_bar
from .players import as_vectors, by_rows, refuse_example_dims


def max_sensitivity(
    method: Callable[..., Any],
    x: Any,
    target: Target = None,
    *,
    radius: float = 0.02,
    samples: int = 10,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """The largest relative change of attributions in a small box around the input: small is good.

    max_s |A(x + d_s) - A(x)| / |A(x)|,  d_s uniform in [-radius, radius]

    Args:
        method: `(x, target) -> attributions`, any method with its model bound, `functools.partial(gradient, model)`.
        x: Inputs. [N, ...], or a tuple or dict of them
        target: As the method takes it.
        radius: Of the box, in units of x.
        samples: How many points of it, S; the same steps for each example.
        generator: A seed, or a `torch.Generator` from which one is drawn. The points do not depend on `chunk_size`.
        chunk_size: Points that run at once, under `torch.vmap`; by default all. 1 runs them one by one without it, for
            methods that cannot be mapped.
        progress: Whether to show a progress bar.
        options: More keywords of the method.

    Returns:
        The change in units of the attributions' norm, over all inputs. [N] Not a number where all attributions are 0.

    Raises:
        ValueError: If `radius` or `samples` is out of its range, or the attributions have not one row for each example.
        TypeError: If x is no tensor, tuple or dict of floating-point tensors, or `example_dims` is given.

    Example:
        >>> import torch, funcattr
        >>> from functools import partial
        >>> x = torch.ones(1, 3)
        >>> funcattr.metrics.max_sensitivity(partial(funcattr.gradient, torch.nn.Linear(3, 2)), x, 1)
        tensor([0.])

    References:
        Yeh et al., 2019, arXiv:1901.09392; the division by the norm as in Captum.
    """
    call = "max_sensitivity"
    examples, count = batch_of(call, x), positive(call, "samples", samples)
    if isinstance(radius, bool) or not isinstance(radius, int | float):
        raise TypeError(f"{call}(radius=...): expected a number, got {type(radius).__name__}.")
    if not 0 < radius < float("inf"):
        raise ValueError(f"{call}(radius={radius}): expected a number above 0.")
    leaves, structure = pytree.tree_flatten(x)
    if any(not leaf.is_floating_point() for leaf in leaves):
        raise TypeError(f"{call}(x=...): expected floating-point tensors, got {[leaf.dtype for leaf in leaves]}.")
    refuse_example_dims(call, options)
    seed = seed_from(call, generator)

    def moved(index: Tensor) -> Any:
        """The inputs at some points. Each [c, N, ...]"""
        steps = [2 * uniform(index, leaf.shape[1:], leaf, seed, stream) - 1 for stream, leaf in enumerate(leaves)]
        points = [leaf + radius * d.unsqueeze(1) for leaf, d in zip(leaves, steps, strict=True)]
        return pytree.tree_unflatten(points, structure)

    def of(x: Any) -> Tensor:
        """The attributions at one point, as vectors. [N, values]"""
        return as_vectors(by_rows(call, method(x, target, **options), examples))

    here = of(x)
    size = torch.linalg.vector_norm(here, dim=1)
    most = torch.zeros_like(size)
    chunk = count if chunk_size is None else min(count, positive(call, "chunk_size", chunk_size))
    chunks = torch.arange(count, device=leaves[0].device).split(chunk)
    for index in with_bar(call, chunks, progress):
        points = moved(index)
        first = pytree.tree_map(lambda v: v[0], points)
        there = torch.vmap(of)(points) if chunk > 1 else of(first).unsqueeze(0)
        most = most.maximum(torch.linalg.vector_norm(there - here, dim=2).amax(0))
    return torch.where(size > 0, most / size, torch.nan)
