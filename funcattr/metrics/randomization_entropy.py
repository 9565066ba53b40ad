"""Whether a map becomes more complex when the model that it explains is made random."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attribution.question import Model
from ..attribution.targets import Target
from ..batch import batch_of
from ..model.functional import FunctionalModel, as_functional
from ..sampling.draws import Generator, seed_from
from ..sampling.loops import positive
from .players import as_vectors, by_rows, refuse_example_dims
from .random_models import RandomParameters, maps_of


def randomization_entropy(
    method: Callable[..., Any],
    model: Model,
    x: Any,
    target: Target = None,
    *,
    bins: int = 100,
    absolute: bool = False,
    samples: int = 1,
    generator: Generator = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """How much more complex a map becomes when all parameters of the model are random (efficient MPRT): more is better.

    (H(A(f_theta')) - H(A(f_theta))) / H(A(f_theta)),  H = -sum over bins of p log p

    p is the share of an example's attributions in each of equally wide bins from its least to its largest one. A
    random model has nothing to show, so that its map should be without structure. All parameters get new numbers, as
    in `randomization`, at once: no layers are ordered, and no maps are compared pixel by pixel.

    Args:
        method: `(model, x, target) -> attributions`, such as `gradient`.
        model, x, target: As the method takes them.
        bins: How many bins the histogram has.
        absolute: Whether it is of magnitudes.
        samples: How many times new numbers are drawn. The rise is the mean over them.
        generator, chunk_size, progress, options: As in `randomization`.

    Returns:
        The rise. [N] 0 for a map that stays; -1 if the random model's map is constant. Not a number where the map
        itself is constant, or one of both has a NaN or is infinite.

    Raises:
        ValueError: If a number is below 1, the model has no parameters, or the attributions have not one row for each
            example.
        TypeError: If `example_dims` is given.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> funcattr.metrics.randomization_entropy(lambda model, x, target: x, model, torch.randn(2, 6), 1)
        tensor([0., 0.], dtype=torch.float64)

    References:
        Hedström et al., 2024, arXiv:2401.06465 (efficient MPRT).
    """
    call = "randomization_entropy"
    refuse_example_dims(call, options)
    count, width = positive(call, "samples", samples), positive(call, "bins", bins)
    fm, examples = as_functional(model), batch_of(call, x)
    parameters = RandomParameters(call, fm, seed_from(call, generator))

    def of(model: FunctionalModel) -> Tensor:
        """The attributions as vectors. [N, values]"""
        found = as_vectors(by_rows(call, method(model, x, target, **options), examples)).detach()
        return found.abs() if absolute else found

    whole = histogram_entropy(of(fm), width)
    changes = (parameters.drawn(sample) for sample in range(count))
    every = maps_of(call, of, fm, parameters, changes, count, x, examples, chunk_size, progress)
    random = torch.stack([histogram_entropy(found, width) for found in every]).mean(0)
    return torch.where(whole > 0, (random - whole) / whole, torch.nan)


def histogram_entropy(values: Tensor, bins: int) -> Tensor:
    """The entropy of each row's histogram, in nats. [N, P] -> [N]

    The bins are equally wide, from the least to the largest value. 0 for a row whose values are all equal, but for the
    rounding of their computation; not a number for one with a value that is not finite.
    """
    least = 32 * torch.finfo(values.dtype).eps * values.abs().amax(1)
    values = values.to(torch.float64).contiguous()
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    edges = low + torch.arange(1, bins, device=values.device) * ((high - low) / bins)
    place = torch.searchsorted(edges, values, right=True)
    counts = values.new_zeros(len(values), bins).scatter_add(1, place, torch.ones_like(values))
    shares = counts / values.shape[1]
    entropy = torch.where((high - low).squeeze(1) > least, -torch.xlogy(shares, shares).sum(1), 0.0)
    return torch.where(values.isfinite().all(1), entropy, torch.nan)
