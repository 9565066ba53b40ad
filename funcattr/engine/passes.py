"""The forward pass of a method on record, whatever is then done with it."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch.utils._pytree as pytree
from torch import Tensor

from .conditions import Conditions
from .functional import FunctionalModel
from .rulebook import Rulebook
from .stabilizer import stabilized
from .targets import pick_output
from .vjp import Record, record

Seed = Literal["one", "logit"]


class Options(NamedTuple):
    """What a reverse pass is told, beside the model, its inputs and the target."""

    rules: Rulebook
    layer: str | None = None
    output: str | int | None = None
    seed: Seed | None = None
    conditions: Conditions | None = None


def forward(
    call: str,
    model: FunctionalModel,
    x: Any,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    strict: bool = True,
    keep: bool = False,
) -> Record:
    """Run the model once; `strict` raises for operations that the rulebook does not know, `keep` keeps all values."""
    rules, layer, conditions = options.rules, options.layer, options.conditions
    if options.seed not in (None, "one", "logit"):
        raise ValueError(f"{call}(seed=...): expected 'one' or 'logit', got {options.seed!r}.")
    if rules.entries or layer is not None or conditions is not None:
        model = model.ready()
    inputs, spec = pytree.tree_flatten(x)
    _check_inputs(call, model, inputs)

    def explained(*tensors: Tensor) -> Tensor:
        positional, keyword = call_arguments(pytree.tree_unflatten(list(tensors), spec), args, kwargs)
        return pick_output(call, model(*positional, **keyword), options.output)

    marks = () if conditions is None else tuple(conditions.masks)
    return record(explained, tuple(inputs), rules, layer, call, model.sites, marks, strict, keep)


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


def _check_inputs(call: str, model: FunctionalModel, inputs: list[Any]) -> None:
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
