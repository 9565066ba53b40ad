"""The bases of Captum's attribution classes, and the way of Captum's arguments to the package's."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import funcattr

from .assertions import asserting


class Given(NamedTuple):
    """What an `attribute` is given, as the package takes it.

    Attributes:
        x: The inputs, always a tuple.
        target: What is explained.
        args: More inputs of the model.
        is_tuple: Whether the inputs were a tuple, so that the result is one.
    """

    x: tuple[Tensor, ...]
    target: Any
    args: tuple[Any, ...]
    is_tuple: bool

    @staticmethod
    def of(inputs: Any, target: Any = None, additional_forward_args: Any = None) -> "Given":
        """The arguments of an `attribute`."""
        args = () if additional_forward_args is None else as_tuple(additional_forward_args)
        x = tuple(x.detach() if isinstance(x, Tensor) else x for x in as_tuple(inputs))
        return Given(x, as_target(target), args, isinstance(inputs, tuple))

    @property
    def every(self) -> dict[str, Any]:
        """The keywords that every method takes."""
        return {"target": self.target, "args": self.args}

    @property
    def inputs(self) -> tuple[Any, ...]:
        """All inputs of the model."""
        return (*self.x, *self.args)

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self.x[0])

    def times(self, copies: int) -> "Given":
        """The same for copies of each example, which are neighbours."""
        x, args = (repeated(values, self.examples, copies) for values in (self.x, self.args))
        return self._replace(x=x, args=args, target=repeated(self.target, self.examples, copies))

    def result(self, attributions: Sequence[Tensor]) -> Any:
        """Attributions as Captum returns them: without a graph, and a tuple only where the inputs are one."""
        return formatted(attributions, self.is_tuple)


def as_tuple(value: Any) -> tuple[Any, ...]:
    """One or several, as several."""
    return value if isinstance(value, tuple) else (value,)


def apart(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs for a call of the model itself, which may write into them."""
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def formatted(attributions: Sequence[Tensor], is_tuple: bool) -> Any:
    """Attributions without a graph: a tuple of them, or the only one."""
    found = tuple(a.detach() for a in attributions)
    return found if is_tuple else found[0]


def as_target(target: Any) -> Any:
    """A target of the package: Captum's tensor of one integer is a class for all examples."""
    if not isinstance(target, Tensor) or target.numel() != 1:
        return target
    return target if target.is_floating_point() or target.dtype == torch.bool else int(target)


def as_baseline(baselines: Any, x: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """A baseline for each input, 0 by default."""
    if baselines is None:
        return (0,) * len(x)
    each = as_tuple(baselines)
    if len(each) != len(x):
        raise ValueError(
            f"attribute(baselines=...): expected one for each of {len(x)} inputs, in a tuple, got {len(each)}."
        )
    return tuple(b.detach() if isinstance(b, Tensor) else b for b in each)


def full_baseline(baselines: Any, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A baseline of each input's shape."""
    return tuple(torch.as_tensor(b).to(v).expand_as(v) for b, v in zip(as_baseline(baselines, x), x, strict=True))


def as_rows(baselines: Any, given: Given) -> tuple[Tensor, ...]:
    """The rows of a distribution of baselines, or those that a function gives, of the inputs or of nothing."""
    if callable(baselines):
        wants_inputs = len(inspect.signature(baselines).parameters) > 0
        baselines = baselines(*([given.x if given.is_tuple else given.x[0]] if wants_inputs else []))
    rows = as_tuple(baselines)
    if not all(isinstance(row, Tensor) for row in rows):
        raise funcattr.FuncattrError(
            "attribute(baselines=...): expected tensors whose rows are baselines, or a function that gives them. One "
            "number is for methods with a single baseline, such as IntegratedGradients."
        )
    return tuple(row.detach() for row in rows)


def repeated(value: Any, examples: int, copies: int) -> Any:
    """Tensors and lists of one row for each example, with each row repeated; inside of tuples too."""
    if isinstance(value, Tensor) and value.ndim and len(value) == examples:
        return value.repeat_interleave(copies, 0)
    if isinstance(value, list) and len(value) == examples:
        return [row for row in value for _ in range(copies)]
    if type(value) is tuple:
        return tuple(repeated(part, examples, copies) for part in value)
    return value


class Attribution:
    """The base of all attribution classes.

    Args:
        forward_func: The model: a module, or a function of tensors.

    Attributes:
        draws: Whether a call draws from the global generators, so that one call for all samples of a noise tunnel, as
            Captum makes, has other numbers than one for each.
    """

    draws = False

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        # A scripted module has no parts to copy; as a function its plain gradients and its outputs are served.
        is_scripted = isinstance(forward_func, torch.jit.ScriptModule)
        self.forward_func = (lambda *inputs: forward_func(*inputs)) if is_scripted else forward_func

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in {"__init__", "attribute", "compute_convergence_delta"} & vars(cls).keys():
            setattr(cls, name, asserting(vars(cls)[name]))

    def attribute(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The attributions of `inputs`; each class says how."""
        raise NotImplementedError(f"{type(self).__name__}.attribute: a subclass says how to attribute.")

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a model here returns tensors and no futures."""
        raise funcattr.UnsupportedOperationError(
            f"{type(self).__name__}.attribute_future: models that return futures are not served. Call attribute() with "
            "a model that waits for its result."
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are contributions, and not slopes."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` takes return_convergence_delta."""
        return False

    def compute_convergence_delta(self, attributions: Any, *args: Any) -> Tensor:
        """By how much attributions miss what they should sum to."""
        raise NotImplementedError(f"{type(self).__name__}.compute_convergence_delta: its attributions sum to nothing.")

    @classmethod
    def get_name(cls) -> str:
        """The class's name in words."""
        return "".join(c if c.islower() or i == 0 else f" {c}" for i, c in enumerate(cls.__name__))


class GradientAttribution(Attribution):
    """The base of methods that take gradients."""

    def compute_convergence_delta(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attributions: Any,
        start_point: Any,
        end_point: Any,
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """The sum of each example's attributions less the output's rise from `start_point` to `end_point`. [N]"""
        given = Given.of(end_point, target, additional_forward_args)
        start = as_baseline(start_point, given.x)
        found = funcattr.metrics.completeness(
            self.forward_func, given.x, given.target, as_tuple(attributions), baseline=start, args=given.args
        )
        return found.detach()


class PerturbationAttribution(Attribution):
    """The base of methods that run the model on changed inputs."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Their attributions are differences of outputs."""
        return True


class InternalAttribution(Attribution):
    """The base of methods with a layer.

    Args:
        forward_func: The model.
        layer: A module of the model (for some methods a list of them).
        device_ids: Of no use: a model runs where it is.
    """

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: Any = None) -> None:
        super().__init__(forward_func)
        self.layer, self.device_ids = layer, device_ids


class LayerAttribution(InternalAttribution):
    """The base of methods that attribute to a layer's value."""

    @staticmethod
    def interpolate(layer_attribution: Tensor, interpolate_dims: Any, interpolate_mode: str = "nearest") -> Tensor:
        """Maps [N, C, *spatial] at another size, by `torch.nn.functional.interpolate`."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class NeuronAttribution(InternalAttribution):
    """The base of methods that attribute a neuron of a layer to the inputs."""


def require_module(method: object, model: Any) -> None:
    """Raise where Captum wants a module: it attaches hooks to its parts."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(method).__name__}(model=...): expected a module, got {type(model).__name__}.")
