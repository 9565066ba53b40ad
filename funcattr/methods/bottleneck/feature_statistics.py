"""Mean and spread of a layer's values over a data set: the noise of an information bottleneck."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ...attribution.each_layer import at_layers
from ...attribution.example_dims import ExampleDims, layout_of
from ...attribution.question import Layer, Model, ask
from ...batch import NO_DIM
from ...errors import warn
from ...model.access import values_at
from ...model.functional import as_functional
from ...sampling.loops import chunk_of, positive, wide

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
        """The value that replaces an element, without its noise: its mean, or 0 for "relu". [...]"""
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

    @staticmethod
    def of(
        values: Tensor, *, layer: str = "", estimator: Estimator = "gaussian", threshold: float = 0.01
    ) -> "FeatureStatistics":
        """Of values that are at hand, one row for each example. [N, ...]

        Raises:
            TypeError: If they are no floating-point tensor [N, ...].
            ValueError: If there is no such estimator.
        """
        rows = len(values) if isinstance(values, Tensor) and values.ndim else 1
        check_value("FeatureStatistics.of", layer, values, rows)
        _check_estimator("FeatureStatistics.of", estimator)
        return _of_batch(layer, values, estimator, threshold)

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
        """Read a file of `save`.

        Raises:
            ValueError: If the file is another.
        """
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("feature_statistics")
            if about is None:
                raise ValueError(f"FeatureStatistics.load({str(path)!r}): the file holds no feature statistics.")
            return FeatureStatistics(**json.loads(about), **{name: file.get_tensor(name) for name in TENSORS})

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The plain values and tensors of which `FeatureStatistics(**about, **tensors)` is the same."""
        about = {name: getattr(self, name) for name in ("layer", "estimator", "count", "threshold")}
        return about, {name: getattr(self, name).contiguous() for name in TENSORS}


def _weights(of: FeatureStatistics) -> Tensor:
    """How many values count for each element. [...]"""
    weights = torch.full_like(of.nonzero, of.count) if of.estimator == "gaussian" else of.nonzero
    return weights.to(of.centre.dtype)


@at_layers
def feature_statistics(
    model: Model,
    batches: Any,
    *,
    layer: Layer,
    examples: int | None = 10_000,
    estimator: Estimator = "gaussian",
    threshold: float = 0.01,
    progress: bool = False,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    example_dims: ExampleDims = 0,
) -> FeatureStatistics:
    """Mean and spread of a layer's values over a data set, element by element, in one pass over it.

    n = n_a + n_b;  m = m_a + (m_b - m_a) n_b / n;  s = s_a + s_b + (m_b - m_a)^2 n_a n_b / n

    for each batch b, and for statistics of several workers, which are added with `+`. Only the part of the model up to
    the layer runs. Sums are in single precision or better.

    Args:
        model: A module, a `FunctionalModel` or a callable. Not modified.
        batches: A DataLoader or another iterable of batches; of a batch that is a tuple or list the first item counts
            (images, not labels), a dict holds keyword inputs. Or one tensor [M, ...], which is cut into batches along
            its dimension of examples.
        layer: The site, such as "features.17", or "features.17@input" for the input of that module; or several of them,
            a list.
        examples: How many of them to look at, at most; None for all. Fewer than 1000 warn.
        estimator: "gaussian", or "relu": the mean is 0 and the spread that of the values that are not 0.
        threshold: An element that is not 0 in no more than this share of the examples is not active: a bottleneck
            leaves it out (not with "relu").
        progress: Whether to show a progress bar.
        args, kwargs: More inputs of the model, the same for every batch.
        example_dims: As in `gradient`, of each batch; the dimension of "layer" is that of the site. None: each batch is
            one example.

    Returns:
        The `FeatureStatistics`, shaped as the layer's value for one example; a dict of them by site, for several.

    Raises:
        ValueError: If there are fewer than 2 examples, or all are the same at the layer.
        TypeError: If a batch or the layer's value is no floating-point tensor with a row for each example.
        UnknownSiteError: If there is no such layer.

    Example:
        >>> import torch, funcattr
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> statistics = funcattr.bottleneck.feature_statistics(model, torch.randn(1000, 3), layer="1")
        >>> statistics.count, statistics.mean.shape
        (1000, torch.Size([4]))

    References:
        Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample variance", equation 2.1;
        Schulz et al., 2020, arXiv:2001.00396, section 3.1.
    """
    call, fm = "feature_statistics", as_functional(model)
    _check_estimator(call, estimator)
    several = fm.site_names(call, layer)
    names = several or (fm.site_name(call, layer),)
    most = None if examples is None else positive(call, "examples", examples)
    found: dict[str, FeatureStatistics] = {}
    seen = 0
    with tqdm(total=most, disable=not progress, desc=call, unit="example", leave=False) as bar, torch.no_grad():
        for batch in _batches(call, batches, example_dims):
            question = ask(call, fm, batch, args=args, kwargs=kwargs, example_dims=example_dims)
            count = question.examples if most is None else min(question.examples, most - seen)
            for name, value in values_at(call, fm, names, question.arguments).items():
                value = question._replace(layer=name).at_layer(value) if isinstance(value, Tensor) else value
                check_value(call, name, value, question.examples)
                part = _of_batch(name, value[:count], estimator, threshold)
                found[name] = found[name] + part if name in found else part
            seen += count
            bar.update(count)
            if seen == most:
                break
    _check(call, found, seen)
    each: Any = {name: found[name] for name in names} if several else found[names[0]]
    return each


def _batches(call: str, batches: Any, example_dims: ExampleDims) -> Iterable[Any]:
    """The inputs of each batch."""
    if isinstance(batches, Tensor):
        layout = layout_of(call, example_dims, batches, (), {})
        dim = 0 if layout is None else layout.x
        if dim == NO_DIM:
            raise ValueError(
                f"{call}(batches=..., example_dims=...): a tensor is cut into batches along its dimension of examples, "
                "and it has none. Give a list of examples."
            )
        examples = batches.shape[dim]
        size = chunk_of(call, None, max(1, examples), batches.numel() // max(1, examples))
        yield from batches.split(size, dim)
        return
    if isinstance(batches, Mapping) or not isinstance(batches, Iterable):
        raise TypeError(
            f"{call}(batches=...): expected a tensor or an iterable of batches, got {type(batches).__name__}."
        )
    for batch in cast(Iterable[Any], batches):
        yield batch[0] if isinstance(batch, tuple | list) and batch else batch


def _of_batch(name: str, value: Tensor, estimator: Estimator, threshold: float) -> FeatureStatistics:
    value = value.to(wide(value.dtype))
    counted = value != 0
    nonzero = counted.sum(0)
    if estimator == "gaussian":
        centre = value.sum(0) / max(1, len(value))  # of a worker without examples, 0
        squares = ((value - centre) ** 2).sum(0)
    else:
        centre = value.sum(0) / nonzero.clamp(min=1)
        squares = torch.where(counted, (value - centre) ** 2, 0.0).sum(0)
    return FeatureStatistics(name, estimator, len(value), nonzero, centre, squares, threshold)


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


def _check_estimator(call: str, estimator: Any) -> None:
    if estimator not in get_args(Estimator):
        raise ValueError(f"{call}(estimator={estimator!r}): expected 'gaussian' or 'relu'.")


def _check(call: str, found: Mapping[str, FeatureStatistics], seen: int) -> None:
    if seen < 2:
        raise ValueError(f"{call}(batches=...): expected 2 examples or more, got {seen}: their spread is not known.")
    for name, statistics in found.items():
        if not bool(statistics.squares.isfinite().all()):
            raise ValueError(f"{call}(layer={name!r}): the values are not finite.")
        rounding = 8 * torch.finfo(statistics.std.dtype).eps * statistics.centre.abs()
        if not bool((statistics.std > rounding).any()):
            raise ValueError(
                f"{call}(layer={name!r}): all {seen} examples have the same values, so no information about them "
                "passes the layer. Give different examples, or another layer (a relu that is never on?)."
            )
    if seen < FEW:
        warn(f"{call}: {seen} examples are few for means and spreads; some {FEW} or more are better.")
