"""The forward pass of a method on record, whatever is then done with it."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from .conditions import Conditions
from .functional import FunctionalModel
from .pairing import Pairing
from .rulebook import Rulebook
from .stabilizer import stabilized
from .targets import pick_output, score
from .vjp import Record, record

Seed = Literal["one", "logit"]


class Options(NamedTuple):
    """What a reverse pass is told, beside the model, its inputs and the target."""

    rules: Rulebook
    layer: str | None = None
    output: str | int | None = None
    seed: Seed | None = None
    conditions: Conditions | None = None
    reference: Any = None


def forward(
    call: str,
    model: FunctionalModel,
    x: Any,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    strict: bool = True,
    keep: bool = False,
    through: Callable[[Tensor], Tensor] | None = None,
    final: bool = False,
) -> Record:
    """Run the model once, and before that at the reference, if there is one.

    `strict` raises for operations that the rulebook does not know, `keep` keeps all values; a target
    that the output goes `through` is on record too; nobody asks for a derivative of what is `final`.
    """
    rules, layer, conditions = options.rules, options.layer, options.conditions
    if options.seed not in (None, "one", "logit"):
        raise ValueError(f"{call}(seed=...): expected 'one' or 'logit', got {options.seed!r}.")
    if rules.entries or layer is not None or conditions is not None:
        model = model.ready()
    inputs, spec = pytree.tree_flatten(x)
    check_inputs(call, model, inputs)

    def explained(*tensors: Tensor) -> Tensor:
        positional, keyword = call_arguments(pytree.tree_unflatten(list(tensors), spec), args, kwargs)
        value = pick_output(call, model(*positional, **keyword), options.output)
        return value if through is None else score(call, value, through)

    marks = () if conditions is None else tuple(conditions.masks)
    if options.reference is None:
        given = (rules, layer, call, model.sites, marks, strict, keep)
        return record(explained, tuple(inputs), *given, final=final)
    reference, given = pytree.tree_flatten(options.reference)
    shapes = [[list(getattr(v, "shape", ())) for v in values] for values in (inputs, reference)]
    if given != spec or shapes[0] != shapes[1]:
        expected = f"inputs structured and shaped as x, {shapes[0]}"
        raise ValueError(f"{call}(reference=...): expected {expected}, got {shapes[1]}.")
    pairing = Pairing(call)
    roots = record(explained, tuple(reference), rules, layer, call, model.sites, marks, strict, pairing=pairing).roots
    passed = record(explained, tuple(inputs), rules, layer, call, model.sites, marks, strict, keep, pairing)
    return passed._replace(reference=roots, pull=lambda *g, **told: pairing.valid(passed.pull(*g, **told)))


def weighted(cotangent: Tensor, output: Tensor, options: Options) -> Tensor:
    """The cotangent of the target, as the relevance that `seed` asks for."""
    if options.seed is None:
        return cotangent
    if options.rules.space == "relevance":
        return cotangent if options.seed == "one" else cotangent * output
    return cotangent if options.seed == "logit" else cotangent / stabilized(output)


def call_arguments(x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How the model is called: positional and keyword inputs."""
    if isinstance(x, Mapping):
        return args, {**kwargs, **x}
    return (*(x if isinstance(x, tuple) else (x,)), *args), kwargs


def check_inputs(call: str, model: FunctionalModel, inputs: list[Any]) -> None:
    """Raise for inputs that are no tensors, have no batch, or are on another device than the model."""
    devices = {p.device for p in model.params.values()}
    for value in inputs:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{call}(x=...): expected a tensor, a tuple or a dict of tensors, got {type(value).__name__}."
            )
        if value.ndim == 0 or value.shape[0] == 0:
            raise ValueError(f"{call}(x=...): expected a batch of at least one example, got shape {list(value.shape)}.")
        if devices and value.device not in devices:
            raise ValueError(
                f"{call}(x=...): the input is on {value.device}, the model on {', '.join(sorted(map(str, devices)))}. "
                "Move one of them."
            )


def warn_if_training(call: str, model: FunctionalModel, stacklevel: int) -> None:
    """Warn once where batch norm or dropout make the output depend on the batch or on chance."""
    if model.training and not torch.compiler.is_dynamo_compiling():
        warnings.warn(
            f"{call}: the model is in training mode, so batch norm or dropout make its output depend on the batch "
            "or on chance. Call model.eval() first, unless this is meant.",
            stacklevel=stacklevel + 1,
        )
