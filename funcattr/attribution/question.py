"""The question that a method is asked: a model, its inputs, and the number of the output that is explained."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .._torch import pytree
from ..batch import batch_of, inputs_of, repeated
from ..errors import warn
from ..model.access import values_at
from ..model.functional import FunctionalModel, Site, as_functional
from .inputs import read_inputs
from .targets import Target, pick_output, read_target, repeated_target, score

Inputs = TypeVar("Inputs", Tensor, tuple[Tensor, ...], Mapping[str, Tensor])
Model = Callable[..., Any] | nn.Module | FunctionalModel
Layer = Site


class Question(NamedTuple):
    """A model, its inputs, and which number of its output is explained.

    Attributes:
        call: Name of the method, the first words of errors.
        model: The model, as a function.
        x: Input [N, ...], or a tuple or dict of inputs.
        target: What is explained, as the user gave it.
        layer: Name of the site that is attributed to; None for the inputs.
        output: Key, index or attribute of the explained tensor among several outputs.
        args, kwargs: More inputs of the model.
    """

    call: str
    model: FunctionalModel
    x: Any
    target: Target
    layer: str | None
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def examples(self) -> int:
        """N, the number of examples."""
        return batch_of(self.call, self.x)

    @property
    def example_size(self) -> int:
        """The number of values of one example of the inputs."""
        return sum(math.prod(leaf.shape[1:]) for leaf in pytree.tree_leaves(self.x))

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return pytree.tree_leaves(self.x)[0].device

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword inputs of the model's call."""
        return call_arguments(self.x, self.args, self.kwargs)

    def of_copies(self, x: Any) -> "Question":
        """The same question about `x`, copies of the examples (neighbours): the rest is repeated along. [N * S, ...]"""
        examples = self.examples
        times = batch_of(self.call, x) // examples
        args, kwargs = repeated((self.args, self.kwargs), examples, times)
        target = repeated_target(self.call, self.target, examples, times)
        return self._replace(x=x, target=target, args=args, kwargs=kwargs)

    def outputs(self) -> Tensor:
        """The explained tensor of the model's output, without a record. [N, ...]"""
        # Copies, so that a model which writes into its input never reaches the user's tensor.
        positional, keyword = call_arguments(pytree.tree_map(torch.clone, self.x), self.args, self.kwargs)
        return pick_output(self.call, self.model(*positional, **keyword), self.output)

    def scores(self) -> Tensor:
        """The number that is explained, for each example. [N]"""
        return score(self.call, self.outputs(), self.target)

    def root(self) -> Any:
        """The tensors that are attributed to: the inputs, or the value at the layer. Each [N, ...]

        Raises:
            TypeError: If the layer's value is no floating-point tensor.
        """
        if self.layer is None:
            return self.x
        where = f"{self.call}(layer={self.layer!r})"
        value = values_at(where, self.model, (self.layer,), self.arguments)[self.layer]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{where}: expected a floating-point tensor as the site's value.")
        return value


def ask(
    call: str,
    model: Model,
    x: Any,
    target: Target = None,
    *,
    layer: Layer | None = None,
    output: str | int | None = None,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Question:
    """The question of a method's arguments, checked, in the forms that the package reads.

    A mapping x becomes a dict. Beside floating-point inputs its integer and boolean tensors are constants of the call:
    they go to the model by keyword, repeated with the examples, and no result has a part for them (see `read_inputs`).
    The target is read as `read_target` says. In compiled code tensors are copies of their own (see `own`).

    Raises:
        TypeError: If the model is not callable, or an input is no tensor.
        ValueError: If an input has no batch, or is on another device than the model.
    """
    fm = as_functional(model)
    site = None if layer is None else fm.site_name(call, layer)
    x, constants = read_inputs(x)
    _check_devices(call, fm, inputs_of(call, x))
    if fm.training and not torch.compiler.is_dynamo_compiling():
        warn(
            f"{call}: the model is in training mode, so batch norm or dropout make its output depend on the batch "
            "or on chance. Call model.eval() first, unless this is meant."
        )
    given = {**(kwargs or {}), **constants}
    question = Question(call, fm, x, read_target(call, target), site, output, args, given)
    return question._replace(**own({name: getattr(question, name) for name in ("x", "target", "args", "kwargs")}))


def own(tree: Any) -> Any:
    """In compiled code, copies of a tree's tensors: a loop, which is a `scan` there, takes none that share memory."""
    return pytree.tree_map_only(Tensor, torch.clone, tree) if torch.compiler.is_dynamo_compiling() else tree


def call_arguments(x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of a model: a mapping of inputs goes by keyword."""
    if isinstance(x, Mapping):
        return args, {**kwargs, **x}
    return (*(x if isinstance(x, tuple) else (x,)), *args), kwargs


def _check_devices(call: str, model: FunctionalModel, inputs: list[Tensor]) -> None:
    devices = {p.device for p in model.params.values()}
    for value in inputs:
        if devices and value.device not in devices:
            raise ValueError(
                f"{call}(x=...): the input is on {value.device}, the model on {', '.join(sorted(map(str, devices)))}. "
                "Move one of them."
            )
