"""Mean and spread of a layer's values over a data set: what an information bottleneck takes for no information."""

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args, overload

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..engine.examples import batch_of
from ..engine.loops import chunk_of, positive, wide
from ..engine.parts import values_at
from ..engine.passes import call_arguments, check_inputs, warn_if_training
from ..engine.scores import Model, as_functional, example_size

CALL = "feature_statistics"
Estimator = Literal["gaussian", "relu"]
FEW = 1000
TENSORS = ("nonzero", "centre", "squares")


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Statistics of each element of a layer's value, over examples. They add up: `a + b` is of both data sets.

    Attributes:
        layer: The site that they are of.
        estimator: "gaussian", or "relu": of the values that are not 0 only.
        count: n, the number of examples.
        nonzero: How many of them were not 0, int64. [...]
        centre: Mean of the values that count. [...]
        squares: Sum of the squared distances of these from their mean. [...]
        threshold: Share of the examples in which an active element is more often not 0.
    """

    layer: str
    estimator: Estimator
    count: int
    nonzero: Tensor
    centre: Tensor
    squares: Tensor
    threshold: float = 0.01

    @property
    def mean(self) -> Tensor:
        """What an element is replaced by, without its noise: its mean, or 0 for "relu". [...]"""
        return self.centre if self.estimator == "gaussian" else torch.zeros_like(self.centre)

    @property
    def std(self) -> Tensor:
        """sqrt(squares / (n - 1)), the unbiased standard deviation; 0 of a single value. [...]"""
        return (self.squares / (_weights(self) - 1).clamp(min=1)).sqrt()

    @property
    def active(self) -> Tensor:
        """Which elements carry information at all: those not 0 often enough, or all for "relu". Bool. [...]"""
        if self.estimator == "relu":
            return torch.ones_like(self.nonzero, dtype=torch.bool)
        return self.nonzero / self.count > self.threshold

    @property
    def shape(self) -> torch.Size:
        """Of the layer's value for one example."""
        return self.centre.shape

    def __add__(self, other: "FeatureStatistics") -> "FeatureStatistics":
        if not isinstance(other, FeatureStatistics):
            return NotImplemented
        mine, theirs = ((s.layer, s.estimator, s.threshold, s.shape) for s in (self, other))
        if mine != theirs:
            raise ValueError(f"FeatureStatistics: those of {mine} and {theirs} do not add up.")
        weights, others = _weights(self), _weights(other)
        share = others / (weights + others).clamp(min=1)
        distance = other.centre - self.centre
        return replace(
            self,
            count=self.count + other.count,
            nonzero=self.nonzero + other.nonzero,
            centre=self.centre + share * distance,
            squares=self.squares + other.squares + weights * share * distance**2,
        )

    def to(self, *device_or_dtype: Any) -> "FeatureStatistics":
        """The same on another device, or in another dtype of single precision or better; as `Tensor.to`."""
        moved = [tensor.to(*device_or_dtype) for tensor in (self.centre, self.squares)]
        if torch.finfo(moved[0].dtype).bits < 32:  # too coarse for sums over a data set
            moved = [tensor.to(moved[0].device, torch.float32) for tensor in (self.centre, self.squares)]
        nonzero = self.nonzero.to(moved[0].device)
        return replace(self, nonzero=nonzero, centre=moved[0], squares=moved[1])

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        about, tensors = self.packed()
        save_file(tensors, path, metadata={"feature_statistics": json.dumps(about)})

    @staticmethod
    def load(path: str | Path) -> "FeatureStatistics":
        """Read what `save` wrote.

        Raises:
            ValueError: If the file is another.
        """
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("feature_statistics")
            if about is None:
                raise ValueError(f"FeatureStatistics.load({str(path)!r}): the file holds no feature statistics.")
            return FeatureStatistics(**json.loads(about), **{name: file.get_tensor(name) for name in TENSORS})

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `FeatureStatistics(**about, **tensors)` makes the same of: plain values, and tensors."""
        about = {name: getattr(self, name) for name in ("layer", "estimator", "count", "threshold")}
        return about, {name: getattr(self, name).contiguous() for name in TENSORS}


def _weights(of: FeatureStatistics) -> Tensor:
    """How many values count for each element. [...]"""
    weights = torch.full_like(of.nonzero, of.count) if of.estimator == "gaussian" else of.nonzero
    return weights.to(of.centre.dtype)


@overload
def feature_statistics(
    model: Model,
    batches: Any,
    *,
    layer: str,
    samples: int | None = 10_000,
    estimator: Estimator = "gaussian",
    threshold: float = 0.01,
    progress: bool = False,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> FeatureStatistics: ...
@overload
def feature_statistics(
    model: Model,
    batches: Any,
    *,
    layer: list[str] | tuple[str, ...],
    samples: int | None = 10_000,
    estimator: Estimator = "gaussian",
    threshold: float = 0.01,
    progress: bool = False,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[FeatureStatistics, ...]: ...
def feature_statistics(
    model: Model,
    batches: Any,
    *,
    layer: str | list[str] | tuple[str, ...],
    samples: int | None = 10_000,
    estimator: Estimator = "gaussian",
    threshold: float = 0.01,
    progress: bool = False,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Mean and spread of a layer's values over a data set, element by element, in one pass over it.

    n = n_a + n_b;  m = m_a + (m_b - m_a) n_b / n;  s = s_a + s_b + (m_b - m_a)^2 n_a n_b / n

    for each batch b, and for statistics of several workers, which are added with `+`. Only the part of the model up to
    the layer runs. Sums are in single precision or better.

    Args:
        model: A module, a `FunctionalModel` or a callable. Not modified.
        batches: A DataLoader or another iterable of batches; of a batch that is a tuple or list the first item counts
            (images, not labels), a dict holds keyword inputs. Or one tensor [M, ...], which is cut into batches.
        layer: The site, such as "features.17", or "features.17@input" for what goes into that module. Several sites,
            in a list, are looked at in the same passes.
        samples: How many examples to look at, at most; None for all. Fewer than 1000 warn.
        estimator: "gaussian", or "relu": the mean is 0 and the spread that of the values that are not 0.
        threshold: An element that is not 0 in no more than this share of the examples is not active: a bottleneck
            leaves it out (not with "relu").
        progress: Whether to show a progress bar.
        args, kwargs: More inputs of the model, the same for every batch.

    Returns:
        The `FeatureStatistics`, shaped as the layer's value for one example; a tuple of them for a list of layers.

    Raises:
        ValueError: If there are fewer than 2 examples, or all are the same at the layer.
        TypeError: If a batch or the layer's value is no floating-point tensor with a row for each example.
        UnknownSiteError: If there is no such layer.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.feature_statistics(model, torch.randn(1000, 3), layer="1")
        >>> statistics.count, statistics.mean.shape
        (1000, torch.Size([4]))

    References:
        Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance", equation 2.1;
        Schulz et al., 2020, arXiv:2001.00396, section 3.1.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"{CALL}(estimator={estimator!r}): expected 'gaussian' or 'relu'.")
    layers = (layer,) if isinstance(layer, str) else tuple(layer) if isinstance(layer, list | tuple) else ()
    if not layers or not all(isinstance(name, str) for name in layers):
        raise TypeError(f"{CALL}(layer={layer!r}): expected the name of a site, or a list of names.")
    most = None if samples is None else positive(CALL, "samples", samples)
    fm = as_functional(model)
    warn_if_training(CALL, fm, stacklevel=2)
    found: dict[str, FeatureStatistics] = {}
    seen = 0
    with tqdm(total=most, disable=not progress, desc=CALL, unit="example", leave=False) as bar, torch.no_grad():
        for batch in _batches(batches):
            x = batch if most is None else _first(batch, most - seen)
            examples = batch_of(CALL, x)
            check_inputs(CALL, fm, list(x.values()) if isinstance(x, Mapping) else [*x] if _several(x) else [x])
            values = values_at(CALL, fm, layers, call_arguments(x, args, dict(kwargs or {})))
            for name, value in values.items():
                part = _of_batch(name, value, examples, estimator, threshold)
                found[name] = found[name] + part if name in found else part
            seen += examples
            bar.update(examples)
            if seen == most:
                break
    _check(found, seen, most)
    result = tuple(found[name] for name in layers)
    return result[0] if isinstance(layer, str) else result


def _several(x: Any) -> bool:
    return isinstance(x, tuple)


def _batches(batches: Any) -> Iterable[Any]:
    """The inputs of each batch."""
    if isinstance(batches, Tensor):
        size = chunk_of(CALL, None, max(1, len(batches)), example_size(batches))
        yield from batches.split(size)
        return
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"{CALL}(batches=...): expected a tensor or an iterable of batches, got {type(batches).__name__}."
        )
    for batch in cast(Iterable[Any], batches):
        yield batch[0] if isinstance(batch, tuple | list) and batch else batch


def _first(x: Any, count: int) -> Any:
    """The first `count` examples of the inputs."""
    if isinstance(x, Mapping):
        return {name: value[:count] for name, value in x.items()}
    return tuple(value[:count] for value in x) if _several(x) else x[:count]


def _of_batch(name: str, value: Any, examples: int, estimator: Estimator, threshold: float) -> FeatureStatistics:
    check_value(CALL, name, value, examples)
    value = value.to(wide(value.dtype))
    counted = value != 0
    nonzero = counted.sum(0)
    if estimator == "gaussian":
        centre = value.mean(0)
        squares = ((value - centre) ** 2).sum(0)
    else:
        centre = value.sum(0) / nonzero.clamp(min=1)
        squares = torch.where(counted, (value - centre) ** 2, 0.0).sum(0)
    return FeatureStatistics(name, estimator, examples, nonzero, centre, squares, threshold)


def check_value(call: str, layer: str, value: Any, examples: int) -> None:
    """Raise unless a layer's value is a floating-point tensor [N, ...]."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{call}(layer={layer!r}): expected a floating-point tensor at the site, got {got}.")
    if value.ndim < 2 or len(value) != examples:
        raise TypeError(
            f"{call}(layer={layer!r}): expected a value with one row for each of the {examples} examples, "
            f"got shape {list(value.shape)}."
        )


def _check(found: Mapping[str, FeatureStatistics], seen: int, most: int | None) -> None:
    if seen < 2:
        raise ValueError(f"{CALL}(batches=...): expected 2 examples or more, got {seen}: their spread is not known.")
    for name, statistics in found.items():
        if not bool(statistics.squares.isfinite().all()):
            raise ValueError(f"{CALL}(layer={name!r}): the values are not finite.")
        rounding = 8 * torch.finfo(statistics.std.dtype).eps * statistics.centre.abs()
        if not bool((statistics.std > rounding).any()):
            raise ValueError(f"{CALL}(layer={name!r}): all {seen} examples have the same values: give different ones.")
    if seen < FEW:
        warnings.warn(
            f"{CALL}: {seen} examples are few for means and spreads; some {FEW} or more are better.", stacklevel=4
        )
