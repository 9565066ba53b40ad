"""What forward-only methods run: the model's output, and the target's number in it, for copies of the examples."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from .examples import batch_of, repeated, repeated_target
from .functional import FunctionalModel, Structure, functionalize
from .passes import call_arguments, check_inputs, warn_if_training
from .targets import Target, pick_output, score

Model = Callable[..., Any] | nn.Module | FunctionalModel


class Scores(NamedTuple):
    """A model and what of its output is explained, to be asked about perturbed copies of a batch.

    Attributes:
        call: First words of errors.
        model: The functional model.
        examples: N, the size of the batch.
        target, output, args, kwargs: As the method was given them, for that batch.
    """

    call: str
    model: FunctionalModel
    examples: int
    target: Target
    output: str | int | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def outputs(self, x: Any) -> Tensor:
        """The explained tensor of the model's output, for copies of the batch (neighbours). [N * S, ...]"""
        times = batch_of(self.call, x) // self.examples
        args, kwargs = repeated((self.args, self.kwargs), self.examples, times)
        # Copies, so that a model which writes into its input never reaches the user's tensor.
        positional, keyword = call_arguments(pytree.tree_map(torch.clone, x), args, kwargs)
        return pick_output(self.call, self.model(*positional, **keyword), self.output)

    def __call__(self, x: Any) -> Tensor:
        """The target's number for each copy of an example. [N * S]"""
        times = batch_of(self.call, x) // self.examples
        return score(self.call, self.outputs(x), repeated_target(self.call, self.target, self.examples, times))


def scores_of(
    call: str,
    model: Model,
    x: Any,
    target: Target,
    output: str | int | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
) -> Scores:
    """The `Scores` of a method's arguments, with its inputs checked."""
    fm = as_functional(model)
    examples = batch_of(call, x)
    check_inputs(call, fm, pytree.tree_leaves(x))
    warn_if_training(call, fm, stacklevel=3)
    return Scores(call, fm, examples, target, output, args, dict(kwargs or {}))


def as_functional(model: Model) -> FunctionalModel:
    """`functionalize(model)`, in compiled code too, where modules cannot be copied."""
    if torch.compiler.is_dynamo_compiling() and isinstance(model, nn.Module):
        return FunctionalModel(Structure(model))
    return functionalize(model)


def example_size(x: Any) -> int:
    """The number of values of one example of the inputs."""
    return sum(math.prod(leaf.shape[1:]) for leaf in pytree.tree_leaves(x))
