"""The information bottleneck of a feature map: its capacity, and the model behind it."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attribution.example_dims import ExampleDims, layer_dim_of
from ...attribution.question import Layer, Model
from ...batch import back, merged, moved, repeated
from ...model.functional import FunctionalModel, functionalize
from ...sampling.baselines import broadcasts
from ...sampling.draws import Generator, normal, seed_from
from ...sampling.loops import wide
from ...torch_state import is_plain_eager
from .feature_statistics import FeatureStatistics


class Prior(NamedTuple):
    """The statistics of a layer, ready to compute with. Each [...], as the layer's value for one example."""

    mean: Tensor
    std: Tensor
    active: Tensor
    rectified: bool


class RestrictedFlow(NamedTuple):
    """What a bottleneck makes of a layer's value.

    Attributes:
        value: z, which goes on. [N, ...]
        capacity: Bits that each element lets through, in single precision or better. [N, ...]
    """

    value: Tensor
    capacity: Tensor


class Gate(NamedTuple):
    """The share of each element that goes on, lambda, and 1 - lambda to full precision. Each [N, ...]"""

    keep: Tensor
    drop: Tensor


def capacity(value: Tensor, keep: Tensor, statistics: FeatureStatistics, *, min_std: float = 0.01) -> Tensor:
    """How much information each element of a layer lets through when a share of it is replaced by noise, in bits.

    KL(N(mu_z, var_z) || N(0, 1)) / ln 2 = -1/2 (1 + log var_z - mu_z^2 - var_z) / ln 2
    mu_z = lambda (R - mean) / std;  var_z = (1 - lambda)^2

    of the active elements; the others let nothing through. Infinite at lambda = 1 by the formula, here log var_z stays
    above that of the smallest normal number of the dtype (some 125 bits in single precision).

    Args:
        value: R, the layer's value. [N, ...]
        keep: lambda, the share of each element that goes on, in [0, 1]. Shape of `value`, or one that broadcasts to it.
        statistics: Of that layer.
        min_std: Smallest standard deviation of an element that is divided by.

    Returns:
        At least 0, up to rounding. [N, ...]

    Raises:
        ValueError: If the shapes do not fit, a share is beyond [0, 1], or the statistics hold NaN, or zeros with
            `min_std=0`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="0")
        >>> funcattr.bottleneck.capacity(torch.ones(1, 4), torch.zeros(1, 4), statistics)
        tensor([[0., 0., 0., 0.]])

    References:
        Schulz et al., 2020, arXiv:2001.00396, equation 6.
    """
    prior = prior_of("capacity", statistics, value, min_std)
    if not isinstance(keep, Tensor) or not broadcasts(keep.shape, value.shape) or not value.is_floating_point():
        got = list(keep.shape) if isinstance(keep, Tensor) else type(keep).__name__
        raise ValueError(
            f"capacity(keep=...): expected floating-point tensors, of a shape that broadcasts to {list(value.shape)}, "
            f"got {got}."
        )
    wide_value = value.to(prior.mean.dtype)
    return in_bits(information(wide_value, _given_gate("capacity", keep, wide_value), prior)).to(value.dtype)


def restrict(
    value: Tensor,
    alpha: Tensor,
    statistics: FeatureStatistics,
    *,
    sigma: float | None = 1.0,
    spatial: Sequence[int] | None = None,
    min_std: float = 0.01,
    relu: bool = False,
    noise: Tensor | None = None,
    generator: Generator = 0,
) -> RestrictedFlow:
    """Send a layer's value through a bottleneck: the one step behind `iba` and `restrict_flow`, for loops of your own.

    z = lambda R + (1 - lambda) (mean + std e), e ~ N(0, 1), for active elements and 0 for the others
    lambda = the smoothed sigmoid(alpha)

    Args:
        value: R, the layer's value. [N, ...]
        alpha: [N, ...], or [1, ...] for all of them.
        statistics: Of that layer.
        sigma, spatial, min_std, relu: As in `iba`.
        noise: e, [N or 1, ...]; drawn by default, for each of the N its own.
        generator: A seed, or a `torch.Generator` from which one is drawn.

    Returns:
        A `RestrictedFlow`: z, and its capacity in bits. Both can be differentiated by value and alpha.

    Raises:
        ValueError: If the shapes do not fit, or the statistics hold NaN, or zeros with `min_std=0`.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="0")
        >>> flow = funcattr.bottleneck.restrict(torch.ones(2, 4), torch.full((1, 4), -40.0), statistics)
        >>> flow.value.shape, flow.capacity.sum()
        (torch.Size([2, 4]), tensor(0.))

    References:
        Schulz et al., 2020, arXiv:2001.00396, equations 1 and 6.
    """
    call = "restrict"
    prior = prior_of(call, statistics, value, min_std, relu)
    for name, given in (("alpha", alpha), ("noise", noise)):
        if given is not None and not _fits(given, value):
            got = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{call}({name}=...): expected shape {list(value.shape)}, or 1 in front, got {got}.")
    dtype = prior.mean.dtype
    wide_value = value.to(dtype)
    gate = gate_of(call, alpha.to(wide_value), sigma, spatial)
    if noise is None:
        rows = torch.arange(len(value), device=value.device)
        noise = normal(rows, value.shape[1:], wide_value, seed_from(call, generator))
    z, nats = behind(wide_value, gate, noise.to(wide_value), prior), information(wide_value, gate, prior)
    return RestrictedFlow(z.to(value.dtype), in_bits(nats))


def to_saliency_map(
    capacity: Tensor, size: Sequence[int] | None = None, *, spatial: Sequence[int] | None = None
) -> Tensor:
    """Bits at each position of an image (or for each token, or each element of a vector), from bits at a layer.

    map = sum over channels of capacity, spread over the pixels so that the total of each example stays.

    Args:
        capacity: In bits: images [N, C, h, w] (or any number of spatial dimensions from two on), tokens [N, T, D] or
            vectors [N, D].
        size: Spatial size of the map, (H, W); by default that of the layer.
        spatial: Spatial dimensions of `capacity`, if they are others: (2,) for sequences [N, C, L], (1, 2) for
            images [N, h, w, C].

    Returns:
        Bits. [N, 1, H, W], or [N, T] of tokens, [N, D] of vectors. Interpolated linearly; sums to the sum of capacity.

    Raises:
        ValueError: If a shape does not fit.

    Example:
        >>> import torch, funcattr
        >>> bits = funcattr.bottleneck.to_saliency_map(torch.ones(1, 8, 4, 4), (32, 32))
        >>> bits.shape, bits.sum().round()
        (torch.Size([1, 1, 32, 32]), tensor(128.))

    References:
        Schulz et al., 2020, arXiv:2001.00396, section 3.2.
    """
    axes = spatial_axes("to_saliency_map", capacity, spatial)
    if not axes:
        if size is not None:
            raise ValueError(
                f"to_saliency_map(size={tuple(size)}): a value of shape {list(capacity.shape)} has no spatial "
                "dimensions. Say which are: spatial=(1,) for instance."
            )
        return capacity.flatten(2).sum(2) if capacity.ndim > 2 else capacity
    sizes = [capacity.shape[axis] for axis in axes] if size is None else list(size)
    if len(sizes) != len(axes) or min(sizes) < 1:
        raise ValueError(f"to_saliency_map(size={tuple(sizes)}): expected {len(axes)} sizes of at least 1.")
    others = [axis for axis in range(1, capacity.ndim) if axis not in axes]
    summed = capacity.permute(0, *axes, *others).flatten(1 + len(axes)).sum(-1)
    for axis, length in enumerate(sizes, start=1):
        summed = along(summed, _spreading(summed.shape[axis], length, summed), axis)
    return summed.unsqueeze(1)


def restrict_flow(
    model: Model,
    *,
    statistics: FeatureStatistics,
    alpha: Tensor | None = None,
    keep: Tensor | None = None,
    layer: Layer | None = None,
    sigma: float | None = 1.0,
    spatial: Sequence[int] | None = None,
    min_std: float = 0.01,
    relu: bool = False,
    noise: Tensor | None = None,
    generator: Generator = 0,
    example_dims: ExampleDims = 0,
) -> FunctionalModel:
    """The model behind a bottleneck: a share of its features at a layer is replaced by noise that looks like them.

    z = lambda R + (1 - lambda) (mean + std e), e ~ N(0, 1), for active elements and 0 for the others
    lambda = the smoothed sigmoid(alpha)

    Args:
        model: A module, a `FunctionalModel` or a callable. Not modified.
        statistics: Of the layer.
        alpha: As `iba_search` gives it. [N, ...]
        keep: lambda itself, in place of alpha. [N, ...]
        layer: The site; by default that of the statistics.
        sigma, spatial, min_std, relu: As in `iba`.
        noise: e, [N or 1, ...], the same for all copies of an example; drawn by default, the same for all N examples.
        generator: A seed, or a `torch.Generator` from which one is drawn.
        example_dims: As `iba_search` was given it. Of alpha, keep and the layer's value, the dimension of "layer"
            counts; the noise has its examples in front.

    Returns:
        A `FunctionalModel` for N examples, or for copies of them (neighbours), with drawn noise of their own.

    Raises:
        ValueError: If neither or both of alpha and keep are given, or a shape does not fit or a share is beyond [0, 1]
            (by the call of the model).

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="1")
        >>> closed = funcattr.bottleneck.restrict_flow(model, statistics=statistics, keep=torch.zeros(1, 4))
        >>> torch.allclose(closed(torch.randn(1, 3)), closed(torch.randn(1, 3)))  # nothing of x is left
        True

    References:
        Schulz et al., 2020, arXiv:2001.00396, equation 1.
    """
    call = "restrict_flow"
    if (alpha is None) == (keep is None) or not all(isinstance(t, Tensor | None) for t in (alpha, keep, noise)):
        raise ValueError(f"{call}: expected one of alpha= and keep=, a tensor.")
    model = functionalize(model)
    site = layer_of(call, model, layer, statistics)
    dim = layer_dim_of(call, example_dims)
    shared: Any = alpha if keep is None else keep
    given = moved(shared, dim)
    seed = seed_from(call, generator)

    def bottleneck(at_site: Any) -> Tensor:
        value = moved(at_site, dim) if isinstance(at_site, Tensor) else at_site
        prior = prior_of(call, statistics, value, min_std, relu)
        if given.shape[1:] != value.shape[1:] or len(value) % len(given) != 0:
            raise ValueError(
                f"{call}: alpha or keep has shape {list(given.shape)}, the value at {site!r} {list(value.shape)}."
            )
        wide_value = value.to(prior.mean.dtype)
        gate = (
            gate_of(call, given.to(wide_value), sigma, spatial)
            if keep is None
            else _given_gate(call, given, wide_value)
        )
        gate = repeated(gate, len(given), len(value) // len(given))
        if noise is None:
            drawn = normal(torch.arange(len(value) // len(given)), value.shape[1:], wide_value, seed)
            drawn = merged(drawn.expand(len(given), *drawn.shape))
        else:
            drawn = _of_copies(noise.to(wide_value), len(given), value)
        return back(behind(wide_value, gate, drawn, prior).to(value.dtype), dim)

    return model.edited({site: bottleneck})


def layer_of(call: str, model: FunctionalModel, layer: Layer | None, statistics: Any) -> str:
    """The site of the bottleneck, and a check that the statistics are of it."""
    if not isinstance(statistics, FeatureStatistics):
        raise TypeError(
            f"{call}(statistics=...): expected FeatureStatistics, got {type(statistics).__name__}. "
            "They come from feature_statistics(model, batches, layer=...)."
        )
    if layer is not None and (name := model.site_name(call, layer)) != statistics.layer:
        raise ValueError(f"{call}(statistics=...): they are of the layer {statistics.layer!r}, not of {name!r}.")
    return statistics.layer


def prior_of(call: str, statistics: FeatureStatistics, value: Tensor, min_std: float, relu: bool = False) -> Prior:
    """The statistics in the dtype to compute with, checked against a layer's value."""
    if not isinstance(value, Tensor) or value.shape[1:] != statistics.shape:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{call}(statistics=...): they are of values of shape {['N', *statistics.shape]} at "
            f"{statistics.layer!r}, got {got}."
        )
    if not 0 <= min_std < math.inf:
        raise ValueError(f"{call}(min_std={min_std}): expected a number of at least 0.")
    if is_plain_eager():
        if not bool(statistics.centre.isfinite().all() and statistics.squares.isfinite().all()):
            raise ValueError(f"{call}(statistics=...): means or standard deviations are NaN or infinite.")
        if min_std == 0 and bool((statistics.std == 0).any()):
            raise ValueError(f"{call}(min_std=0): some elements have a standard deviation of zero.")
    dtype, device = wide(value.dtype), value.device
    mean, std = (tensor.to(device, dtype) for tensor in (statistics.mean, statistics.std))
    rectified = relu or statistics.estimator == "relu"
    return Prior(mean, std.clamp(min=min_std), statistics.active.to(device), rectified)


def _given_gate(call: str, keep: Tensor, like: Tensor) -> Gate:
    """The gate of shares that are given, which may be integers or booleans, on the device and in the dtype of `like`.

    Raises:
        ValueError: If one is beyond [0, 1], by more than rounding.
    """
    slack = 4 * torch.finfo(keep.dtype).eps if keep.is_floating_point() else 0
    if is_plain_eager() and not bool(((keep >= -slack) & (keep <= 1 + slack)).all()):
        low, high = float(keep.min()), float(keep.max())
        raise ValueError(f"{call}(keep=...): expected shares from 0 to 1, got {low:.4g} to {high:.4g}.")
    keep = keep.to(like)
    return Gate(keep, (1 - keep).clamp(min=0))


def _of_copies(noise: Tensor, examples: int, value: Tensor) -> Tensor:
    """The noise of each copy of an example, [N or 1, ...], for a value of all copies."""
    if noise.shape[1:] != value.shape[1:] or len(noise) not in (1, examples, len(value)):
        raise ValueError(
            f"restrict_flow(noise=...): expected shape {[f'{examples} or 1', *value.shape[1:]]}, got "
            f"{list(noise.shape)}."
        )
    return repeated(noise, examples, len(value) // examples) if len(noise) == examples else noise


def _fits(given: object, value: Tensor) -> bool:
    return isinstance(given, Tensor) and given.shape[1:] == value.shape[1:] and len(given) in (1, len(value))


def spatial_axes(call: str, value: Tensor, spatial: Sequence[int] | None) -> tuple[int, ...]:
    """The spatial dimensions of a layer's value: those from 2 on, if there are two or more of them."""
    if spatial is None:
        return tuple(range(2, value.ndim)) if value.ndim > 3 else ()
    if not isinstance(spatial, Sequence) or not all(0 < axis < value.ndim for axis in spatial):
        raise ValueError(f"{call}(spatial={spatial}): expected dimensions of the value, from 1 to {value.ndim - 1}.")
    if len(set(spatial)) != len(spatial) or len(spatial) == value.ndim - 1:
        raise ValueError(f"{call}(spatial={tuple(spatial)}): expected each once, and one dimension left for channels.")
    return tuple(spatial)


def gate_of(call: str, alpha: Tensor, sigma: float | None, spatial: Sequence[int] | None) -> Gate:
    """Lambda = sigmoid(alpha), smoothed over space. 1 - lambda is smoothed too, and not a difference."""
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"{call}(sigma={sigma}): expected pixels above 0, or None for no smoothing.")
    keep, drop = torch.sigmoid(alpha), torch.sigmoid(-alpha)
    if sigma is None:
        return Gate(keep, drop)
    for axis in spatial_axes(call, alpha, spatial):
        matrix = _smoothing(alpha.shape[axis], sigma, alpha)
        keep, drop = along(keep, matrix, axis), along(drop, matrix, axis)
    return Gate(keep, drop)


def in_bits(nats: Tensor) -> Tensor:
    """Information in bits."""
    return nats / math.log(2)


def information(value: Tensor, gate: Gate, prior: Prior) -> Tensor:
    """The capacity behind a gate in nats, as the loss weighs it, in the prior's dtype. [N, ...]"""
    mean = gate.keep * (value - prior.mean) / prior.std
    smallest = torch.finfo(gate.drop.dtype).tiny
    log_variance = 2 * gate.drop.clamp(min=smallest).log()
    nats = 0.5 * (mean**2 + gate.drop**2 - 1 - log_variance)
    return torch.where(prior.active, nats, 0.0)


def behind(value: Tensor, gate: Gate, noise: Tensor, prior: Prior) -> Tensor:
    """The value z that goes on from the layer. All of one shape, [M, ...], or broadcast to it."""
    z = gate.keep * value + gate.drop * (prior.std * noise + prior.mean)
    z = torch.where(prior.active, z, 0.0)
    return z.clamp(min=0) if prior.rectified else z


def along(value: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A linear map of one dimension. [..., l, ...], [L, l] -> [..., L, ...]"""
    return (value.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


def _smoothing(length: int, sigma: float, like: Tensor) -> Tensor:
    """Gaussian smoothing with 2 round(2 sigma) + 1 taps and reflection at the ends, as a matrix. [length, length]"""
    width = round(2 * sigma)
    offsets = torch.arange(-width, width + 1, device=like.device)
    taps = torch.exp(-((offsets.to(like.dtype) / sigma) ** 2) / 2)
    period = max(1, 2 * (length - 1))
    # A triangle wave, so that maps smaller than the kernel are reflected more than once.
    at = (torch.arange(length, device=like.device)[:, None] + offsets) % period
    at = torch.minimum(at, period - at) if length > 1 else at * 0
    hit = at[:, :, None] == torch.arange(length, device=like.device)  # [length, taps, length]
    return (hit.to(like.dtype) * (taps / taps.sum())[:, None]).sum(1)


def _spreading(length: int, size: int, like: Tensor) -> Tensor:
    """Linear interpolation as a matrix whose columns sum to 1: each element is dealt out in full. [size, length]"""
    if size == length:
        return torch.eye(length, dtype=like.dtype, device=like.device)
    eye = torch.eye(length, dtype=wide(like.dtype), device=like.device)[None, None]
    weights = F.interpolate(eye, size=(size, length), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    return (weights / weights.sum(0)).to(like.dtype)
